"""COCO annotations, files of them, and predictions of the persons in them."""

import json
from pathlib import Path
from typing import Any

import numpy as np


def annotations(images: int = 4, persons: int = 3, category: int = 1) -> dict[str, Any]:
    """COCO annotations of persons with keypoints all over their boxes, of two sizes."""
    rng = np.random.default_rng(0)
    entries = []
    for number in range(images * persons):
        size = 50 if number % 2 else 200
        corner = rng.uniform(0, 300, 2)
        points = np.column_stack((corner + rng.uniform(0, size, (17, 2)), np.full(17, 2)))
        entries.append(
            {
                'id': number + 1,
                'image_id': number // persons,
                'category_id': category,
                'bbox': [*corner, size, size],
                'area': float(size**2),
                'iscrowd': 0,
                'num_keypoints': 17,
                'keypoints': points.ravel().tolist(),
            }
        )
    return {
        'images': [
            {'id': number, 'file_name': f'{number:012}.jpg', 'width': 640, 'height': 640}
            for number in range(images)
        ],
        'annotations': entries,
        'categories': [{'id': category, 'name': 'person', 'keypoints': [], 'skeleton': []}],
    }


def written(folder: Path, content: object) -> str:
    path = folder / 'file.json'
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def predictions(truth: dict[str, Any], copies: int, jitter: float) -> list[dict[str, Any]]:
    """Records as of a run: every person some times, moved more or less, with scores."""
    rng = np.random.default_rng(1)
    records = []
    for image in truth['images']:
        instances = []
        for entry in truth['annotations']:
            if entry['image_id'] != image['id']:
                continue
            for copy_number in range(copies):
                points = np.reshape(entry['keypoints'], (17, 3))[:, :2]
                x, y, width, height = entry['bbox']
                instances.append(
                    {
                        'keypoints': (points + rng.normal(0, jitter * width, (17, 2))).tolist(),
                        'keypoint_scores': rng.uniform(0, 1, 17).tolist(),
                        'bbox': [x, y, x + width, y + height],
                        'bbox_score': float(rng.uniform(0.3, 1)) / (copy_number + 1),
                    }
                )
        records.append({'image': image['file_name'], 'instances': instances})
    return records
