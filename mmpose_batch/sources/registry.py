"""The sources there are, and which of them opens an input.

A source is one file that calls :func:`register`. Those of this package are imported here; others
register when they are imported, by ``custom_imports`` in a config, say.
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
        help: Description of such an input, as in the documentation.
        recognises: Whether an input is of this kind; called with whatever the user passes, a
            path as a string. It opens and reads nothing.
        open: Opens an input of this kind. Raises :class:`mmpose_batch.SourceError` if it
            cannot be used.
    """

    name: str
    help: str
    recognises: Callable[[Any], bool]
    open: Callable[[Any], Source]


# Modules and, in the order in which they are asked, names of the sources of this package: a
# string is a list of files unless it is something else, and strings are iterable, too.
_OWN = {'live': 'webcam', 'video': 'video', 'files': 'files', 'arrays': 'arrays'}

# Name to what was registered so far; :func:`specs` has all.
SOURCES: dict[str, SourceSpec] = {}


def register(spec: SourceSpec) -> SourceSpec:
    """Add a source.

    Raises:
        ValueError: Another has its name.
    """
    if spec.name in SOURCES:
        raise ValueError(f'source: {spec.name!r} is registered already')
    SOURCES[spec.name] = spec
    return spec


def specs() -> dict[str, SourceSpec]:
    """Name to source, in the order in which they are asked: those of other packages first."""
    _import_own()
    others = [name for name in SOURCES if name not in _OWN.values()]
    return {name: SOURCES[name] for name in (*others, *_OWN.values())}


@cache
def _import_own() -> None:
    for module in _OWN:
        import_module(f'{__package__}.{module}')
