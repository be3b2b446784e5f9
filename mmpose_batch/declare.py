"""How an option is declared: as the field of a dataclass, with what a command line shows of it."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

Function = TypeVar('Function', bound=Callable)


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """The declaration of an option, besides its name, type and default, which its field has.

    Attributes:
        help: Its meaning, as ``--help`` shows it.
        metavar: What ``--help`` calls its value.
        choices: The values that it takes; empty for any.
        minimum: The smallest whole number that it takes; None where it takes no number, or any.
        auto: Whether it also takes ``'auto'``.
    """

    help: str
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    auto: bool = False


def option(default: Any, text: str, **declared: Any) -> Any:
    """A field of a class of options, declared by :class:`Option`."""
    return field(default=default, metadata={'option': Option(help=text, **declared)})


def declared(options: type) -> dict[str, Option]:
    """Name to declaration of the options in a class, in order."""
    return {f.name: f.metadata['option'] for f in fields(options) if 'option' in f.metadata}


def with_keywords(options: type) -> Callable[[Function], Function]:
    """Have ``help`` and ``inspect.signature`` show the fields of a class for ``**options``.

    Each is a keyword that may be None, which leaves the choice to a config or to the class.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        *given, _ = signature.parameters.values()
        kind = inspect.Parameter.KEYWORD_ONLY
        keywords = [
            inspect.Parameter(f.name, kind, default=None, annotation=f.type | None)
            for f in fields(options)
        ]
        function.__signature__ = signature.replace(parameters=[*given, *keywords])
        return function

    return decorate
