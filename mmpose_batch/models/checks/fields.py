"""Fields of configs, and errors of libraries as one line."""

import os.path as osp
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from textwrap import shorten
from typing import Any

from mmengine.config import Config, ConfigDict

AnyConfig = Config | ConfigDict | dict

PIPELINE = 'test_dataloader.dataset.pipeline'
# Advice for names that are not in a registry.
REGISTERED = 'check the name, install its package, or import its module by custom_imports'


def type_name(kind: str | type | None) -> str | None:
    """The class name in a config's ``type``, which is a name, maybe with a scope, or a class."""
    return kind.split('.')[-1] if isinstance(kind, str) else getattr(kind, '__name__', None)


def find_field(cfg: AnyConfig, path: str) -> Any:
    """The value at dotted keys of a config; None if one of them is missing."""
    value: Any = cfg
    for key in path.split('.'):
        value = value.get(key) if isinstance(value, Config | Mapping) else None
    return value


def reason(error: BaseException) -> str:
    """Describe an error of any library in one line.

    It is the type and the text of the error, or, without a text as for a bare
    ``assert``, the line of code that raised it.
    """
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    text = ' '.join(str(text).split())
    if found := re.search(r'(\S+) is not in the (\S+ registry)', text):
        return f'no {found[1].lstrip(chr(39))} in the {found[2]}; {REGISTERED}'
    if 'must contain the key "type"' in text:
        return 'a part of it has no type'
    if not text and (frames := traceback.extract_tb(error.__traceback__)):
        text = f'{frames[-1].line} ({osp.basename(frames[-1].filename)}:{frames[-1].lineno})'
    kind = [] if type(error) is ValueError else [type(error).__name__]
    return shorten(': '.join(filter(None, [*kind, text])), 300, placeholder=' ...')


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Turn errors of libraries in a block into one line that begins with ``what``.

    Raises:
        ValueError: In place of any other exception, which becomes its cause; MemoryError passes.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # a config is code, which may raise anything
        raise ValueError(f'{what}: {reason(error)}') from error
