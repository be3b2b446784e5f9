"""Registry of sources, each of which opens one kind of input.

A source is a module that calls :func:`register`. Those of this package are imported here; other
packages register theirs when they are imported, for example by ``custom_imports`` in a config.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from .base import Source


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceSpec:
    """A kind of input.

    Attributes:
        name: Unique name.
        help: Description of such an input, used in the documentation.
        recognises: Returns whether an input is of this kind, without opening it. It is called
            with any object that the user passes; paths are strings.
        open: Opens an input of this kind. Raises :class:`mmpose_batch.SourceError` if it
            cannot be used.
        has_videos: Whether such an input may contain video files. Then ``open`` takes a
            :class:`mmpose_batch.config.VideoOptions` as its second argument.
    """

    name: str
    help: str
    recognises: Callable[[Any], bool]
    open: Callable[..., Source]
    has_videos: bool = False


# Module to source name of this package, in the order in which inputs are tried: strings that no
# other source recognises are files, and strings are iterable too.
_OWN = {'live': 'webcam', 'video': 'video', 'files': 'files', 'arrays': 'arrays'}

# Name to source, registered so far; :func:`specs` imports all.
SOURCES: dict[str, SourceSpec] = {}


def register(spec: SourceSpec) -> SourceSpec:
    """Add a source.

    Raises:
        ValueError: Another source has the same name.
    """
    if spec.name in SOURCES:
        raise ValueError(f'source: {spec.name!r} is registered already')
    SOURCES[spec.name] = spec
    return spec


def specs() -> dict[str, SourceSpec]:
    """Name to source, in the order in which they are tried: those of other packages first."""
    _import_own()
    others = [name for name in SOURCES if name not in _OWN.values()]
    return {name: SOURCES[name] for name in (*others, *_OWN.values())}


@cache
def _import_own() -> None:
    for module in _OWN:
        import_module(f'{__package__}.{module}')
