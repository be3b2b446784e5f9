"""The images of a round, with person boxes if these are given."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from mmpose_batch.errors import AnnotationError
from mmpose_batch.evaluation.annotations import ImageIds, read_annotations


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """One image of a round.

    Attributes:
        path: Path of the file.
        bboxes: Person boxes (N, 4) as x1, y1, x2, y2 in pixels, float32; None for the boxes
            of a detector.
    """

    path: str
    bboxes: np.ndarray | None = None


def repeat(paths: Sequence[str], count: int) -> list[str]:
    """Repeat the paths until there are ``count``."""
    return list(islice(cycle(paths), count))


def with_annotated_persons(paths: Sequence[str], ann_file: str) -> list[Image]:
    """The images with the person boxes of COCO annotations, without crowds.

    Raises:
        AnnotationError: The file cannot be used, or an image is not in it.
    """
    content = read_annotations(ann_file)
    ids = ImageIds(content['images'])
    found: defaultdict[int, list[list[float]]] = defaultdict(list)
    for annotation in content['annotations']:
        x, y, width, height = annotation['bbox']
        if width > 0 and height > 0 and not annotation.get('iscrowd'):
            found[annotation['image_id']].append([x, y, x + width, y + height])
    images = []
    for path in paths:
        image_id = ids.find(path)
        if image_id is None:
            raise AnnotationError(f'{ann_file}: {path} has no annotation, or several')
        boxes = np.array(found[image_id], dtype=np.float32).reshape(-1, 4)
        images.append(Image(path, boxes))
    return images
