"""Declaration of options: fields of a dataclass, with the metadata for a command line."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

Function = TypeVar('Function', bound=Callable)


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """The declaration of an option; name, type and default are those of its field.

    Attributes:
        help: Description for ``--help``.
        metavar: Name of the value in ``--help``.
        choices: Accepted values; empty for any.
        minimum: Minimum of an integer option; None without a minimum.
        auto: Whether ``'auto'`` is accepted too.
        flag: Name on the command line; None for the name of the field.
    """

    help: str
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    auto: bool = False
    flag: str | None = None


def option(default: Any, text: str, **declared: Any) -> Any:
    """A dataclass field with the declaration of an option as metadata."""
    return field(default=default, metadata={'option': Option(help=text, **declared)})


def declared(options: type) -> dict[str, Option]:
    """Names and declarations of the options of a class, in order."""
    return {f.name: f.metadata['option'] for f in fields(options) if 'option' in f.metadata}


def with_keywords(options: type) -> Callable[[Function], Function]:
    """Decorator that makes ``inspect.signature`` show the fields of a class for ``**options``.

    Each is a keyword with default None, which leaves the choice to a config or to the class.
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
