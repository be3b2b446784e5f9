"""In-place changes of models and pipelines: each declares what it applies to, and applies it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

#: All changes whose modules have been imported, by name.
CHANGES: dict[str, 'InPlaceChange'] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class InPlaceChange:
    """A change that is made in place to a built model, head or pipeline.

    Only the given instance changes, never its class. ``tests/speedups/test_changes.py`` compares
    the outputs before and after every registered change, and checks that objects to which it does
    not apply stay unchanged.

    Attributes:
        name: Unique name.
        applies: Returns whether an object is exactly of a kind for which the change is known to
            be correct, and has not been changed yet. It must not raise for any model, head or
            pipeline.
        apply: Changes an object to which the change applies.
    """

    name: str
    applies: Callable[[Any], bool]
    apply: Callable[[Any], object]


def register(change: InPlaceChange) -> InPlaceChange:
    """Add a change to :data:`CHANGES`, and return it.

    Raises:
        ValueError: Another change has the same name.
    """
    if change.name in CHANGES:
        raise ValueError(f'{change.name!r} is registered already')
    CHANGES[change.name] = change
    return change


def apply_changes(target: Any, changes: Iterable[InPlaceChange]) -> list[str]:
    """Apply, in order, all given changes that are applicable to an object.

    Returns:
        The names of the changes that were applied.
    """
    applied = []
    for change in changes:
        if change.applies(target):
            change.apply(target)
            applied.append(change.name)
    return applied
