"""COCO annotations, as dicts and files, and matching predictions."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmpose_batch.evaluation.metric import PARTS


def annotations(
    images: int = 4,
    persons: int = 3,
    category: int = 1,
    *,
    categories: Sequence[str] = (),
    whole_body: bool = False,
    crowding: bool = False,
) -> dict[str, Any]:
    """COCO annotations of persons of two sizes, with random keypoints in their boxes.

    Args:
        images: Number of images.
        persons: Number of persons in each image.
        category: Id of the only category, or of the first of several.
        categories: Names of several categories, assigned to the persons in turn.
        whole_body: Whether to add the fields of COCO-WholeBody.
        crowding: Whether to add the fields of CrowdPose; crowding grows from image to image.
    """
    rng = np.random.default_rng(0)
    entries = []
    for number in range(images * persons):
        size = 50 if number % 2 else 200
        corner = rng.uniform(0, 300, 2)
        entry = {
            'id': number + 1,
            'image_id': number // persons,
            'category_id': category + number % max(len(categories), 1),
            'bbox': [*corner, size, size],
            'area': float(size**2),
            'iscrowd': 0,
            'num_keypoints': 17,
        }
        for name, count in PARTS.items() if whole_body else [('keypoints', 17)]:
            points = corner + rng.uniform(0, size, (count, 2))
            entry[name] = np.column_stack((points, np.full(count, 2))).ravel().tolist()
        entries.append(entry)
    names = categories or ['person']
    return {
        'images': [
            {'id': number, 'file_name': f'{number:012}.jpg', 'width': 640, 'height': 640}
            | ({'crowdIndex': number / max(images - 1, 1)} if crowding else {})
            for number in range(images)
        ],
        'annotations': entries,
        'categories': [
            {'id': number, 'name': name, 'keypoints': [], 'skeleton': []}
            for number, name in enumerate(names, category)
        ],
    }


def without_area(content: dict[str, Any]) -> dict[str, Any]:
    """Annotations without ``area``, like those of CrowdPose and AIC."""
    for entry in content['annotations']:
        del entry['area']
    return content


def with_gaps(content: dict[str, Any]) -> dict[str, Any]:
    """Annotations with some crowds and some persons without labelled keypoints, or only few."""
    for entry in content['annotations'][::5]:
        entry.update(keypoints=[0] * len(entry['keypoints']), num_keypoints=0)
    for entry in content['annotations'][1::6]:
        entry['iscrowd'] = 1
    for entry in content['annotations'][2::4]:
        for name in PARTS.keys() & entry.keys():
            entry[name][2:-9:3] = [0] * len(entry[name][2:-9:3])
    return content


def written(folder: Path, content: object) -> str:
    path = folder / 'file.json'
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def predictions(
    truth: dict[str, Any], copies: int, jitter: float, missed: int = 0, own_category: bool = False
) -> list[dict[str, Any]]:
    """Records of a run that found the annotated persons with some errors.

    Args:
        truth: Result of :func:`annotations`.
        copies: Number of instances for each person, the first with the best score.
        jitter: Standard deviation of keypoints, as a fraction of the person's width.
        missed: Every ``missed``-th person is not found; 0 to find all.
        own_category: Whether instances have the category of their annotation.
    """
    rng = np.random.default_rng(1)
    records = []
    for image in truth['images']:
        instances = []
        for entry in truth['annotations']:
            if entry['image_id'] != image['id'] or (missed and entry['id'] % missed == 0):
                continue
            points = np.concatenate([entry[n] for n in PARTS if n in entry]).reshape(-1, 3)[:, :2]
            for copy_number in range(copies):
                x, y, width, height = entry['bbox']
                found = {
                    'keypoints': (points + rng.normal(0, jitter * width, points.shape)).tolist(),
                    'keypoint_scores': rng.uniform(0, 1, len(points)).tolist(),
                    'bbox': [x, y, x + width, y + height],
                    'bbox_score': float(rng.uniform(0.3, 1)) / (copy_number + 1),
                }
                if own_category:
                    found['category_id'] = entry['category_id']
                instances.append(found)
        records.append({'image': image['file_name'], 'instances': instances})
    return records
