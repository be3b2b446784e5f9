"""Opens the source for the inputs of the inferencer."""

import os
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ..config import VideoOptions
from ..errors import SourceError
from .base import Source
from .numbering import advice_on
from .registry import specs


def open_source(
    inputs: str | os.PathLike | np.ndarray | Iterable, options: VideoOptions | None = None
) -> Source:
    """Open the first registered source that recognises the inferencer's ``inputs``.

    Args:
        inputs: A folder (walked recursively, sorted), an image or video file, the URL of an
            image, a glob, ``'webcam:ID'``, an array, or any iterable of
            image paths and arrays; a list of paths without arrays may contain videos. Arrays of
            a list or tuple are used without a copy (do not change them before their results
            arrive); others are copied, so that an iterator may reuse one buffer. Other packages
            may register further sources, see :mod:`mmpose_batch.sources.registry`.
        options: Which frames of videos are used.

    Raises:
        SourceError: A path does not exist, or the input has another type.
        ValueError: There are options although the input has no videos.
    """
    options = options or VideoOptions()
    if isinstance(inputs, os.PathLike):
        inputs = os.fspath(inputs)
    for spec in specs().values():
        if spec.recognises(inputs):
            if spec.has_videos:
                source = spec.open(inputs, options)
            elif replace(options, track=False) == VideoOptions():
                source = spec.open(inputs)
            else:
                raise ValueError('vid_stride, start, end: only possible for video files')
            if options.track and not (source.sequential or source.live):
                raise ValueError('track: only possible for videos and cameras')
            return source
    raise SourceError(
        'inputs: expected a path, an array, or an iterable of these, '
        f'found {type(inputs).__name__}{advice_on(inputs)}'
    )
