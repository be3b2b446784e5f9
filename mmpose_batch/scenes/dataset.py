"""Scenes as files: a folder of JPEGs and one COCO annotation file."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from rich.progress import track

from ..cores import available_cores
from .body import KEYPOINTS, SKELETON
from .scene import Scene, SceneOptions, draw_scene

T = TypeVar('T')
JPEG_QUALITY = 90
# This many scenes are drawn faster than worker processes start.
_FEW = 100


def write_scenes(
    folder: str | os.PathLike,
    count: int,
    seed: int,
    options: SceneOptions | None = None,
    num_workers: int | None = None,
    quiet: bool = False,
) -> Path:
    """Write the scenes 0 to ``count - 1`` of a seed as ``<folder>/<index>.jpg``.

    The files depend only on the seed, the options and the versions of NumPy and
    OpenCV, not on the number of processes.

    Args:
        folder: Output folder, created if it is missing.
        count: Number of scenes.
        seed: Seed of the series.
        options: Contents of the scenes.
        num_workers: Number of processes; None uses one per core.
        quiet: Whether to hide the progress bar.

    Returns:
        The annotation file, ``<folder>/annotations.json``, in COCO's format.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    work = partial(_write_scene, folder, seed, options)
    entries = in_processes(work, count, num_workers if count > _FEW else 1, chunk=16)
    return save(folder, track(entries, description='Drawing scenes', total=count, disable=quiet))


def in_processes(
    work: Callable[[int], T], count: int, num_workers: int | None, chunk: int
) -> Iterator[T]:
    """Results of a function for 0 to ``count - 1``, in this order.

    Args:
        work: The function, which can be pickled.
        count: Number of calls.
        num_workers: Number of processes; None uses one per core. One is this process.
        chunk: Number of calls that a process is sent together.
    """
    workers = min(count, available_cores() if num_workers is None else num_workers)
    if workers <= 1:
        yield from map(work, range(count))
        return
    with ProcessPoolExecutor(workers, mp_context=_clean_processes()) as pool:
        yield from pool.map(work, range(count), chunksize=chunk)


def _clean_processes() -> BaseContext:
    """A start method other than fork, since OpenCV or torch may have running threads.

    A forked process lacks these threads and would deadlock.
    """
    if 'forkserver' not in get_all_start_methods():  # Windows
        return get_context('spawn')
    context = get_context('forkserver')
    context.set_forkserver_preload([__name__])
    return context


def _write_scene(
    folder: Path, seed: int, options: SceneOptions | None, index: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    cv2.setNumThreads(1)
    scene = draw_scene(seed, index, options)
    name = f'{index:06}.jpg'
    _, data = cv2.imencode('.jpg', scene.image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    (folder / name).write_bytes(data.tobytes())
    return annotate(scene, index, name)


def annotate(
    scene: Scene, index: int, name: str, **more: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """COCO's entry of an image, and those of its annotations.

    Args:
        scene: The image.
        index: Id of the image.
        name: Name of the file.
        **more: Further values of the image's entry.
    """
    height, width = scene.image.shape[:2]
    image = {'id': index, 'file_name': name, **more, 'width': width, 'height': height}
    annotations = [
        {
            'image_id': index,
            'category_id': 1,
            'iscrowd': 0,
            'bbox': person.bbox.tolist(),
            'area': person.area,
            'num_keypoints': int(np.count_nonzero(person.keypoints[:, 2])),
            'keypoints': np.round(person.keypoints, 2).ravel().tolist(),
            **({} if person.track_id is None else {'track_id': person.track_id}),
        }
        for person in scene.persons
    ]
    return image, annotations


def save(folder: Path, entries: Iterable[tuple[dict, list[dict]]]) -> Path:
    """Write the entries of :func:`annotate` as ``<folder>/annotations.json``; returns its path."""
    images, annotations = [], []
    for image, persons in entries:
        images.append(image)
        annotations += persons
    annotations = [{'id': number, **each} for number, each in enumerate(annotations, 1)]
    category = {
        'id': 1,
        'name': 'person',
        'supercategory': 'person',
        'keypoints': list(KEYPOINTS),
        'skeleton': [list(pair) for pair in SKELETON],
    }
    document = {'images': images, 'annotations': annotations, 'categories': [category]}
    path = folder / 'annotations.json'
    path.write_text(json.dumps(document), encoding='utf-8')
    return path
