"""Inputs of the command `infer`: photos, their annotations, and invalid files."""

import json
from pathlib import Path
from typing import Any

from .factories import write_photos
from .tiny import picture, save

# Files of :func:`write_tree`, in the order in which they are read.
NAMES = [*(f'{number:012}.jpg' for number in range(3)), 'a/same.jpg', 'b/same.png']


def write_tree(folder: Path) -> None:
    """Write three photos, and two more in subfolders."""
    write_photos(folder, 3)
    save(folder / 'a' / 'same.jpg', picture(100, 80, 7))
    save(folder / 'b' / 'same.png', picture(80, 100, 8))


def person(image: int, number: int) -> dict[str, Any]:
    """An annotation whose keypoints depend on its number."""
    return {
        'id': number + 1,
        'image_id': image,
        'category_id': 1,
        'bbox': [0, 0, 100, 100],
        'area': 10_000,
        'iscrowd': 0,
        'num_keypoints': 17,
        'keypoints': [10 + number, 10, 2] * 17,
    }


def annotated(folder: Path, **changes: Any) -> Path:
    """Write a file of annotations of the photos, with one person in each; returns its path."""
    content = {
        'images': [{'id': number, 'file_name': name} for number, name in enumerate(NAMES)],
        'annotations': [person(number, number) for number in range(5)],
        'categories': [{'id': 1, 'name': 'person'}],
    }
    path = folder / 'annotations.json'
    path.write_text(json.dumps({**content, **changes}))
    return path


def write_wrong_files(folder: Path) -> None:
    """Write files that are invalid in some way."""
    (folder / 'empty').mkdir()
    hand = {**person(0, 0), 'keypoints': [1, 2, 2] * 21}
    for name, text in {
        'empty.txt': '',
        'other.py': 'answer = 42',
        'syntax.py': 'model = (',
        'base.py': "_base_ = 'nowhere.py'",
        'object.json': '{}',
        'list.json': '[]',
        'yolo.json': '[{"image_id": 0, "category_id": 0, "bbox": [1, 2, 3, 4], "score": 0.9}]',
    }.items():
        (folder / name).write_text(text)
    annotated(folder, annotations=[hand]).rename(folder / 'hands.json')
    annotated(folder, annotations=[person(0, 0)] * 2).rename(folder / 'twice.json')
    others = [{'id': 0, 'file_name': 'other.jpg'}]
    annotated(folder, images=others, annotations=[]).rename(folder / 'others.json')
