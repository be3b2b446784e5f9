"""What is inferred: files, and the persons in them where these are given."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """One image of a round.

    Attributes:
        path: The file.
        bboxes: Persons (N, 4) as x1, y1, x2, y2 in pixels, float32; None leaves them
            to a detector.
    """

    path: str
    bboxes: np.ndarray | None = None


def repeat(paths: Sequence[str], count: int) -> list[str]:
    """The paths over and over, until there are so many."""
    return list(islice(cycle(paths), count))


def annotated_bboxes(ann_file: Path) -> dict[str, np.ndarray]:
    """File name to the boxes (N, 4) of its persons, from COCO annotations."""
    data = json.loads(ann_file.read_text(encoding='utf-8'))
    names = {image['id']: image['file_name'] for image in data['images']}
    found: dict[str, list[list[float]]] = {name: [] for name in names.values()}
    for annotation in data['annotations']:
        x, y, width, height = annotation['bbox']
        found[names[annotation['image_id']]].append([x, y, x + width, y + height])
    return {name: np.array(boxes, dtype=np.float32).reshape(-1, 4) for name, boxes in found.items()}


def with_bboxes(images: Sequence[Image], bboxes: Sequence[np.ndarray]) -> list[Image]:
    """The images, each with its persons."""
    return [
        Image(image.path, np.asarray(found[:, :4], dtype=np.float32))
        for image, found in zip(images, bboxes, strict=True)
    ]
