"""Access to fields of configs, and one-line descriptions of errors of libraries."""

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
    """Return the class name of a config's ``type``, which is a class or a name with any scope."""
    return kind.split('.')[-1] if isinstance(kind, str) else getattr(kind, '__name__', None)


def find_field(cfg: AnyConfig, path: str) -> Any:
    """Return the value at a path of dotted keys in a config; None if a key is missing."""
    value: Any = cfg
    for key in path.split('.'):
        value = value.get(key) if isinstance(value, Config | Mapping) else None
    return value


def reason(error: BaseException) -> str:
    """Describe an error of any library in one line.

    The line has the class and the text of the error. If the text is empty, as for a bare
    ``assert``, it has the line of code that raised the error.
    """
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    text = ' '.join(str(text).split())
    if found := re.search(r'(\S+) is not in the (\S+ registry)', text):
        return f'no {found[1].lstrip(chr(39))} in the {found[2]}; {REGISTERED}'
    if 'must contain the key "type"' in text:
        return 'one of its parts has no type'
    if not text and (frames := traceback.extract_tb(error.__traceback__)):
        text = f'{frames[-1].line} ({osp.basename(frames[-1].filename)}:{frames[-1].lineno})'
    kind = [] if type(error) is ValueError else [type(error).__name__]
    return shorten(': '.join(filter(None, [*kind, text])), 300, placeholder=' ...')


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Turn errors of libraries in a block into one line that begins with ``what``.

    Raises:
        ValueError: Replaces any exception except MemoryError; the exception becomes its cause.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # a config is code, which may raise any error
        raise ValueError(f'{what}: {reason(error)}') from error
