"""What the user names becomes a stream of numbered frames."""

import mimetypes
import os
import os.path as osp
import re
from collections.abc import Iterable, Sequence
from urllib.parse import urlparse

import numpy as np

from ..errors import SourceError
from .base import Source, in_chunks
from .files import list_inputs
from .live import open_camera
from .numbering import advice_on, number
from .video import open_video


def open_source(inputs: str | os.PathLike | np.ndarray | Iterable) -> Source:
    """Turn the inferencer's ``inputs`` into frames.

    Args:
        inputs: A folder (walked recursively, sorted), an image file or URL, a
            glob, a video file, ``'webcam:ID'``, an array, or any iterable of
            image paths and arrays. Arrays are used as they are where they come in a
            list or tuple (do not change them before their results arrive), and are
            otherwise copied, so that an iterator may use one buffer again and again.

    Raises:
        SourceError: A path that does not exist, or an input of another type.
    """
    if isinstance(inputs, os.PathLike):
        inputs = os.fspath(inputs)
    if isinstance(inputs, str):
        return _open_string(inputs)
    if isinstance(inputs, np.ndarray):
        inputs = [inputs]
    if not isinstance(inputs, Iterable) or advice_on(inputs):
        raise SourceError(
            'inputs: expected a path, an array, or an iterable of these, '
            f'found {type(inputs).__name__}{advice_on(inputs)}'
        )
    frames = number(inputs)
    if isinstance(inputs, Sequence):
        return Source(in_chunks(frames), len(inputs))
    return Source(frames)


def _open_string(text: str) -> Source:
    if re.fullmatch(r'webcam(:?\d+)?', text) or (
        text.startswith('webcam') and not osp.lexists(text)
    ):
        return open_camera(text)
    if (mimetypes.guess_type(text)[0] or '').startswith('video') and osp.isfile(text):
        return open_video(text)
    if urlparse(text).scheme in ('http', 'https', 's3', 'petrel'):
        paths = [text]
    else:
        paths = list_inputs([text])
    return Source(in_chunks(number(paths)), len(paths))
