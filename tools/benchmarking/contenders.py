"""Who is timed: this package in one setting, stock MMPose, or another way to get poses."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device

from mmpose_batch.config import BATCH_SETTINGS, BatchOptions, merge_settings
from mmpose_batch.errors import one_line
from mmpose_batch.models.names import load_config

OURS, STOCK, RTMLIB, DETECTOR = 'ours', 'stock', 'rtmlib', 'detector'
# Simple ways to run the crops of a top-down model through ONNX Runtime.
CROPS = ('crop-by-crop', 'padded-batches', 'thread-pool')
OTHERS = (STOCK, RTMLIB, *CROPS)
# They take boxes that somebody else found.
NEED_BOXES = (RTMLIB, *CROPS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Models:
    """What every contender runs.

    Attributes:
        pose2d, pose2d_weights, det_model, det_weights, det_cat_ids, device: As
            :func:`mmpose_batch.build_inferencer` takes them.
        flip_test: Whether mirrored images are tested too; None as the config says.
        given_boxes: Whether persons are given with every image, and nobody runs a
            detector.
    """

    pose2d: str
    pose2d_weights: str | None = None
    det_model: str | None = None
    det_weights: str | None = None
    det_cat_ids: Sequence[int] | None = None
    device: str | None = None
    flip_test: bool | None = None
    given_boxes: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """One row of the table.

    Attributes:
        system: ``ours`` or one of :data:`OTHERS`.
        models: What it runs.
        settings: Of this package: ``engine``, ``precision``, ``batch_size``,
            ``num_workers``, ``rect``, ...
        num_threads: Of the network; None as many as there are cores.
        cpu_affinity: Cores that its process is bound to; None for all.
    """

    system: str
    models: Models
    settings: dict[str, Any] = field(default_factory=dict)
    num_threads: int | None = None
    cpu_affinity: str | None = None

    @property
    def name(self) -> str:
        """What tells it from the others in a table."""
        parts = [self.system]
        if self.system == OURS:
            parts = [f'{self.settings["engine"]} {self.settings["precision"]}']
            for key, text in (('batch_size', 'batch'), ('num_workers', 'workers')):
                if self.settings.get(key) is not None:
                    parts.append(f'{text} {self.settings[key]}')
            parts += ['rect'] if self.settings.get('rect') else []
        if self.num_threads is not None:
            parts.append(f'{self.num_threads} threads')
        return ', '.join(parts)


@lru_cache  # of a name from MMPose's metafiles it takes seconds, and every row asks
def read_config(pose2d: str) -> Config:
    """The config of a pose model, to be read only.

    Raises:
        ValueError: Nothing goes by that name, or the config cannot be read.
    """
    try:
        return load_config(pose2d)[0]
    except ValueError:
        raise
    except Exception as error:  # a config is code, and MMEngine passes on all that it raises
        raise ValueError(f'{pose2d}: {one_line(error)}') from error


def check_settings(contender: Contender) -> None:
    """Check the settings of this package as its inferencer will, without a model.

    Raises:
        ValueError: Settings that do not go together, or that the device cannot do.
    """
    if contender.system != OURS:
        return
    given = {'num_threads': contender.num_threads, **contender.settings}
    own = read_config(contender.models.pose2d).get('inferencer', {})
    merged = merge_settings(own, {'device': contender.models.device, **given})
    options = BatchOptions(**{name: merged[name] for name in BATCH_SETTINGS if name in merged})
    options.resolved(merged.get('device') or get_device())


def sweep(
    models: Models,
    against: Sequence[str],
    axes: dict[str, Sequence[Any]],
    num_threads: Sequence[int | None] = (None,),
    cpu_affinity: str | None = None,
    **settings: Any,
) -> Iterator[Contender]:
    """Every combination of settings, after those that they are compared with.

    Args:
        models: What all run.
        against: Some of :data:`OTHERS`.
        axes: Settings of this package to vary, and their values.
        num_threads: Of everybody's network.
        cpu_affinity: Everybody's.
        settings: Of this package, for all combinations.
    """
    for threads in num_threads:
        common = {'models': models, 'num_threads': threads, 'cpu_affinity': cpu_affinity}
        for system in against:
            yield Contender(system=system, **common)
        for values in product(*axes.values()):
            varied = dict(zip(axes, values, strict=True))
            yield Contender(system=OURS, settings={**settings, **varied}, **common)


def references(contenders: Sequence[Contender], system: str | None) -> Mapping[str, str]:
    """Name to the name that ratios are taken to: a system with as many threads."""
    named = {c.num_threads: c.name for c in contenders if c.system == system}
    return {c.name: named[c.num_threads] for c in contenders if c.num_threads in named}
