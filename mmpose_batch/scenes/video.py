"""Synthetic videos as files: a folder of H.264 videos and one COCO annotation file."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from rich.progress import track

from ..pyav import import_av
from .clip import ClipOptions, draw_clip
from .dataset import annotate, in_processes, save
from .scene import Scene

T = TypeVar('T')
# One thread, since the number of threads changes the bytes of a file; players seek by key frames,
# of which one comes at least every 50 frames.
_ENCODER = {'preset': 'veryfast', 'crf': '20', 'g': '50', 'threads': '1'}


def write_videos(
    folder: str | os.PathLike,
    count: int,
    seed: int,
    options: ClipOptions | None = None,
    num_workers: int | None = None,
    quiet: bool = False,
) -> Path:
    """Write the videos 0 to ``count - 1`` of a seed as ``<folder>/<index>.mp4``.

    In the annotations, an image is a frame, with ``file_name`` of its video, ``frame`` from 0, and
    ``time`` in seconds. Each annotation has a ``track_id``, unique in its video. The files depend
    only on the seed, the options and the versions of NumPy, OpenCV and PyAV, not on the number of
    processes.

    Args:
        folder: Output folder, created if it is missing.
        count: Number of videos.
        seed: Seed of the series.
        options: Contents of the videos.
        num_workers: Number of processes; None uses one per core. Each draws complete videos.
        quiet: Whether to hide the progress bar.

    Returns:
        The annotation file, ``<folder>/annotations.json``, in COCO's format.

    Raises:
        ImportError: PyAV is not installed.
    """
    import_av()
    options = options or ClipOptions()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    work = partial(_write_video, folder, seed, options)
    if count == 1 or num_workers == 1:
        videos = map(work, range(count))  # as generators, so that each frame shows as progress
    else:
        videos = in_processes(partial(_list, work), count, num_workers, chunk=1)
    frames = chain.from_iterable(videos)
    total = count * options.frames
    return save(folder, track(frames, description='Drawing videos', total=total, disable=quiet))


def _list(work: Callable[[int], Iterator[T]], index: int) -> list[T]:
    return list(work(index))


def _write_video(
    folder: Path, seed: int, options: ClipOptions, index: int
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Write one video; yields the entries of each frame as it is encoded."""
    cv2.setNumThreads(1)
    name = f'{index:06}.mp4'
    scenes = encode(folder / name, draw_clip(seed, index, options), options)
    for frame, scene in enumerate(scenes):
        number = index * options.frames + frame
        time = float(frame / options.rate)
        yield annotate(scene, number, name, frame=frame, time=time)


def encode(
    path: str | os.PathLike, scenes: Iterator[Scene], options: ClipOptions
) -> Iterator[Scene]:
    """Encode frames as an H.264 video, and pass them on."""
    av = import_av()
    with av.open(os.fspath(path), 'w') as container:
        stream = container.add_stream('libx264', rate=options.rate, options=_ENCODER)
        stream.width, stream.height = options.size
        stream.pix_fmt = 'yuv420p'
        for number, scene in enumerate(scenes):
            pixels = np.ascontiguousarray(scene.image[..., ::-1])  # no copy: drawn as RGB
            frame = av.VideoFrame.from_ndarray(pixels, format='rgb24')
            frame.pts, frame.time_base = number, 1 / options.rate
            container.mux(stream.encode(frame))
            yield scene
        container.mux(stream.encode(None))
