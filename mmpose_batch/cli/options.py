"""Command line arguments made from declared options."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from ..config import BatchOptions, CallOptions, ModelOptions
from ..declare import Option
from ..engines.names import AUTO

# Arguments of benchmarks, which apply to all rows.
RECT = {
    'action': 'store_true',
    'help': 'pad inputs to the next multiple of the stride instead of to a square',
}
CORES = {'help': 'cores of all contenders, e.g. 2 or 0-1'}
# A config may set these options too, so their default on the command line is None.
OPEN = (BatchOptions, CallOptions)


def add_option(
    group: argparse._ActionsContainer,
    owner: type,
    name: str,
    strict: bool = True,
    **changes: Any,
) -> None:
    """Add the argument of a declared option to a parser or one of its groups.

    Args:
        group: Parser or group to add to.
        owner: Class that declares the option.
        name: Name of its field.
        strict: Whether the parser checks the range of a number; otherwise the class does.
        changes: Keywords of ``add_argument`` that replace the declared ones.
    """
    entry = {**_declared_entry(owner, name, strict), **changes}
    flag = entry.pop('flag') or name
    group.add_argument(f'--{flag.replace("_", "-")}', dest=name, **entry)


def add_options(
    group: argparse._ActionsContainer, owner: type, **entries: Mapping[str, Any]
) -> None:
    """Add the arguments of several options, with keywords that replace the declared ones."""
    for name, changes in entries.items():
        add_option(group, owner, name, **changes)


def add_number(
    group: argparse._ActionsContainer,
    flag: str,
    text: str,
    default: int | None = None,
    minimum: int = 1,
) -> None:
    """Add an argument that is an integer of at least ``minimum``; its help shows the default."""
    shown = text if default is None else f'{text} (default: {default})'
    group.add_argument(flag, type=number(minimum), default=default, metavar='N', help=shown)


def add_model_options(group: argparse._ActionsContainer) -> None:
    """Add the options that select the models and the device."""
    for each in fields(ModelOptions):
        add_option(group, ModelOptions, each.name)


def _declared_entry(owner: type, name: str, strict: bool) -> dict[str, Any]:
    """Keywords of ``add_argument`` for an option."""
    (found,) = (each for each in fields(owner) if each.name == name)
    declared: Option = found.metadata['option']
    kind, several = _kind(found.type)
    default = None if owner in OPEN else found.default
    entry: dict[str, Any] = {'help': declared.help, 'default': default, 'flag': declared.flag}
    if kind is bool:
        entry['action'] = 'store_true' if default is False else argparse.BooleanOptionalAction
        return entry
    if several:
        entry |= {'nargs': '+', 'default': default and list(default)}
    if declared.choices:
        entry['choices'] = declared.choices
    elif kind is not str:
        entry['type'] = _parser(kind, declared, strict)
    return entry | ({'metavar': declared.metavar} if declared.metavar else {})


def _kind(annotation: Any) -> tuple[type, bool]:
    """Type of one value, and whether an option takes several; of a union, the first type counts."""
    kind = annotation
    if get_origin(kind) is UnionType:
        kind = next(each for each in get_args(kind) if each is not NoneType)
    return (get_args(kind)[0], True) if get_origin(kind) is Sequence else (kind, False)


def _parser(kind: type, declared: Option, strict: bool) -> Callable[[str], Any]:
    if declared.auto:
        return size_from(declared.minimum) if strict else size
    return number(declared.minimum) if strict and declared.minimum is not None else kind


def number(minimum: int) -> Callable[[str], int]:
    """Argument type: an integer of at least ``minimum``."""

    def parse(text: str) -> int:
        found = _integer(text)
        if found is None or found < minimum:
            raise argparse.ArgumentTypeError(f'expected an integer >= {minimum}, found {text}')
        return found

    return parse


def size(text: str) -> int | str:
    """Argument type: a batch size, which is an integer or ``auto``."""
    found = text if text == AUTO else _integer(text)
    if found is None:
        raise argparse.ArgumentTypeError(f'expected an integer or auto, found {text}')
    return found


def size_from(minimum: int) -> Callable[[str], int | str]:
    """Argument type: a batch size of at least ``minimum``, or ``auto``."""
    return lambda text: text if text == AUTO else number(minimum)(text)


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:  # '²' too, which is a digit, and more digits than Python converts
        return None


def system_name(text: str) -> str:
    """Argument type: a system of ``--against``; ``stock`` is the older spelling of ``upstream``."""
    return 'upstream' if text == 'stock' else text


def take(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """The named arguments as keywords."""
    return {name: getattr(args, name) for name in names}
