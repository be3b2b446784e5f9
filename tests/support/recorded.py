"""Recorded outputs of upstream MMPose, so that the tests need not compute them each time.

A record contains the outputs of upstream's inferencer for one model with random weights, and how
far its values move when the weights are nudged. It is valid only for the versions, config, images
and seed that it was made with; otherwise, or if outputs differ from it, upstream runs. After a
change of these, ``pytest tests/test_fidelity.py -m "" --record-upstream`` records all again.
"""

import ast
import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from mmengine.config import Config

FOLDER = Path(__file__).with_name('recorded')
PACKAGES = ('torch', 'mmpose', 'mmdet', 'mmengine', 'mmcv', 'numpy', 'opencv-python-headless')

Prediction = dict[str, np.ndarray]


@dataclass(frozen=True)
class Outputs:
    """Outputs of upstream.

    Attributes:
        expected: Predictions for each image.
        spreads: Index of an image to the maximum by which its values move with nudged weights.
    """

    expected: list[Prediction]
    spreads: dict[int, Prediction]

    def reruns(self, index: int) -> Iterable[Prediction]:
        """The argument ``reruns`` of :class:`fidelity.Comparison`: all runs merged into one."""
        return [self.spreads[index]] if index in self.spreads else []


class Record:
    """A file of recorded outputs.

    Args:
        name: Name of the file, without suffix.
        key: Digest of everything that the outputs depend on.

    Attributes:
        reason: Why the record cannot be used.
    """

    def __init__(self, name: str, key: str) -> None:
        self.name = name
        self.reason = 'nothing is recorded'
        self._key = key
        self._path = FOLDER / f'{name}.npz'

    def load(self) -> Outputs | None:
        """Read the outputs; None if there is no record with this key."""
        if not self._path.exists():
            return None
        with np.load(self._path, allow_pickle=False) as file:
            if str(file['key']) != self._key:
                self.reason = 'recorded with other versions or settings'
                return None
            expected = [{} for _ in range(int(file['images']))]
            spreads: dict[int, Prediction] = {}
            for entry in file.files:
                kind, _, rest = entry.partition('/')
                index, _, name = rest.partition('/')
                if kind == 'expected':
                    expected[int(index)][name] = file[entry]
                elif kind == 'spread':
                    spreads.setdefault(int(index), {})[name] = file[entry]
        return Outputs(expected, spreads)

    def write(self, expected: list[Prediction], spreads: dict[int, Prediction]) -> None:
        """Replace the file."""
        entries = {
            f'expected/{index}/{name}': values
            for index, prediction in enumerate(expected)
            for name, values in prediction.items()
        }
        entries |= {
            f'spread/{index}/{name}': values.astype(np.float32)
            for index, prediction in spreads.items()
            for name, values in prediction.items()
        }
        FOLDER.mkdir(exist_ok=True)
        np.savez_compressed(self._path, key=self._key, images=len(expected), **entries)


def key_of(
    cfg: Config,
    images: Sequence[np.ndarray],
    bboxes: Sequence[np.ndarray] | None,
    settings: object,
    making: Sequence[Callable],
) -> str:
    """Digest of everything that outputs of upstream depend on.

    Args:
        cfg: Config of the model.
        images, bboxes: Inputs.
        settings: All other settings, serialisable as JSON.
        making: Functions that create the weights.
    """
    parts = [
        json.dumps({name: version(name) for name in PACKAGES}),
        json.dumps(cfg.to_dict(), default=str, sort_keys=True),
        json.dumps(settings, sort_keys=True),
        *map(_code_of, making),
    ]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode())
    for array in (*images, *(bboxes or ())):
        digest.update(f'{array.shape} {array.dtype}'.encode() + array.tobytes())
    return digest.hexdigest()


def _code_of(function: Callable) -> str:
    """Source code of a function without comments and docstring."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    definition = tree.body[0]
    if ast.get_docstring(definition) is not None:
        definition.body = definition.body[1:]
    return ast.unparse(tree)
