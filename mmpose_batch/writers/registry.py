"""Registry of output formats, and the formats that a run writes.

A format is a module that calls :func:`register`. Those of this package are imported
automatically; another package must import its module before the options of a run are created.
The modules of this package import heavy libraries only when they write, so that the command
line lists the formats without delay.
"""

import pkgutil
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .base import WriterSpec

if TYPE_CHECKING:
    from .options import RunOptions

# Name to format, registered so far; :func:`specs` imports all.
WRITERS: dict[str, WriterSpec] = {}


def register(spec: WriterSpec) -> WriterSpec:
    """Add an output format.

    Raises:
        ValueError: Another format has the same name, file or folder, or both are the journal.
    """
    for other in WRITERS.values():
        shared = {*spec.files, spec.folder} & {*other.files, other.folder} - {''}
        if shared:
            raise ValueError(f'format: {spec.name}: {other.name} writes {shared.pop()} already')
        if spec.name == other.name or (spec.journal and other.journal):
            raise ValueError(f'format: {other.name!r} is registered already')
    WRITERS[spec.name] = spec
    return spec


def specs() -> dict[str, WriterSpec]:
    """Name to format: first the journal, then formats written image by image, then derived ones."""
    _import_own()
    found = sorted(WRITERS.values(), key=_place)
    return {spec.name: spec for spec in found}


def _place(spec: WriterSpec) -> tuple[Any, ...]:
    return not spec.journal, spec.derived, not spec.per_image, spec.name


@cache
def _import_own() -> None:
    package = import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f'{__package__}.{module.name}')


def names() -> tuple[str, ...]:
    """Values of ``--format``: all formats without an option of their own."""
    return tuple(spec.name for spec in specs().values() if not spec.option)


def default() -> tuple[str, ...]:
    """The formats that every run writes."""
    return tuple(spec.name for spec in specs().values() if spec.journal)


def requested(options: 'RunOptions') -> list[WriterSpec]:
    """The formats that a run writes, the journal first."""
    return [spec for spec in specs().values() if spec.is_requested(options)]
