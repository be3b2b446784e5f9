"""The one rule for changing a model or a pipeline in place: does a change apply, then apply it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

#: Every change of the package by its name, as far as its module has been imported.
CHANGES: dict[str, 'InPlaceChange'] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class InPlaceChange:
    """One change of a built model, head or pipeline in place.

    Only the given instance changes, never its class. ``tests/speedups/test_changes.py`` compares
    the outputs before and after every registered change, and checks that it leaves alone what it
    does not apply to.

    Attributes:
        name: Unique name.
        applies: Whether an object is of the exact kind that the change is known to be right for,
            and has not been changed yet. It raises for no model, head or pipeline.
        apply: Changes an object that it applies to.
    """

    name: str
    applies: Callable[[Any], bool]
    apply: Callable[[Any], object]


def register(change: InPlaceChange) -> InPlaceChange:
    """Add a change to :data:`CHANGES`.

    Raises:
        ValueError: Another change has its name.
    """
    if change.name in CHANGES:
        raise ValueError(f'{change.name!r} is registered already')
    CHANGES[change.name] = change
    return change


def apply_changes(target: Any, changes: Iterable[InPlaceChange]) -> list[str]:
    """Apply those changes that apply to an object, in order.

    Returns:
        Their names.
    """
    applied = []
    for change in changes:
        if change.applies(target):
            change.apply(target)
            applied.append(change.name)
    return applied
