"""The systems to measure: this package with given settings, upstream MMPose, and others."""

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

OURS, UPSTREAM, RTMLIB, DETECTOR = 'ours', 'upstream', 'rtmlib', 'detector'
# Simple baselines that run the crops of a top-down model through ONNX Runtime.
CROPS = ('crop-by-crop', 'padded-batches', 'thread-pool')
OTHERS = (UPSTREAM, RTMLIB, *CROPS)
# Systems that need precomputed boxes.
NEED_BOXES = (RTMLIB, *CROPS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Models:
    """The models that every contender runs.

    Attributes:
        pose2d, pose2d_weights, det_model, det_weights, det_cat_ids, device: Arguments of
            :func:`mmpose_batch.build_inferencer`.
        flip_test: Whether to use the flip test; None uses the setting of the config.
        given_boxes: Whether every image comes with person boxes, so that no contender runs
            a detector.
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
        models: The models that it runs.
        settings: Settings of this package: ``engine``, ``precision``, ``batch_size``,
            ``num_workers``, ``rect``, ...
        num_threads: Threads of the network; None for the number of cores.
        cpu_affinity: Cores that its process is bound to; None for all.
    """

    system: str
    models: Models
    settings: dict[str, Any] = field(default_factory=dict)
    num_threads: int | None = None
    cpu_affinity: str | None = None

    @property
    def name(self) -> str:
        """Name of the row, unique in a table."""
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


@lru_cache  # every row reads it, and a name from MMPose's metafiles takes seconds
def read_config(pose2d: str) -> Config:
    """The config of a pose model; callers must not change it.

    Raises:
        ValueError: The name is unknown, or the config cannot be read.
    """
    try:
        return load_config(pose2d)[0]
    except ValueError:
        raise
    except Exception as error:  # a config is code, and MMEngine passes on all that it raises
        raise ValueError(f'{pose2d}: {one_line(error)}') from error


def check_settings(contender: Contender) -> None:
    """Check the settings of this package as its inferencer does, without a model.

    Raises:
        ValueError: Settings cannot be combined, or the device does not support them.
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
    """The systems to compare with, followed by every combination of settings of this package.

    Args:
        models: Models of all contenders.
        against: Systems to compare with, of :data:`OTHERS`.
        axes: Settings of this package to vary, and their values.
        num_threads: Numbers of threads of the network; each is used for all contenders.
        cpu_affinity: Cores of all contenders.
        settings: Settings of this package, for all combinations.
    """
    for threads in num_threads:
        common = {'models': models, 'num_threads': threads, 'cpu_affinity': cpu_affinity}
        for system in against:
            yield Contender(system=system, **common)
        for values in product(*axes.values()):
            varied = dict(zip(axes, values, strict=True))
            yield Contender(system=OURS, settings={**settings, **varied}, **common)


def references(contenders: Sequence[Contender], system: str | None) -> Mapping[str, str]:
    """Name of each contender to that of its reference: ``system`` with as many threads."""
    named = {c.num_threads: c.name for c in contenders if c.system == system}
    return {c.name: named[c.num_threads] for c in contenders if c.num_threads in named}
