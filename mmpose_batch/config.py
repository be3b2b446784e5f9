"""What a user can choose, checked when it is built."""

from dataclasses import dataclass, field, fields, replace
from math import isnan
from numbers import Integral, Real
from typing import Any

import torch

from .cores import available_cores, default_threads, parse_cores
from .engines.base import EngineOptions
from .engines.registry import AUTO, PRECISIONS, choices, resolve_precision, specs

CALIB_IMAGES = 64
# What may be measured.
_MEASURED = ('batch_size', 'det_batch_size')
_LEAST = {
    **{'batch_size': 1, 'det_batch_size': 1, 'calib_images': 1},
    **{'num_workers': 0, 'num_threads': 1},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchOptions:
    """How an inferencer batches. None means: chosen for the model, the device and the engine.

    Attributes:
        batch_size: Instances in one pass of the pose network: persons for a
            top-down model, images for any other; 1 has an engine finish each one as
            soon as it can; ``'auto'`` takes what is fastest
            on this machine, found by a short measurement before the first result.
        det_batch_size: Images in one pass of the person detector, or ``'auto'``.
        precision: Of both networks: ``fp32``, ``fp16`` (not on a CPU), ``bf16``,
            ``int8`` (OpenVINO and ONNX Runtime), or ``auto``, the fastest that the
            hardware computes natively, ``int8`` left out.
        calib_images: Images of the input that show ``int8`` the range of every
            value.
        engine: What computes both networks: ``torch``, ``torch-compile``,
            ``onnxruntime``, ``openvino``, or ``auto``, the fastest of those that
            are installed and match PyTorch's outputs; or another that is registered.
        engine_device: OpenVINO's device (``CPU``, ``GPU``, ``NPU``), or ONNX
            Runtime's execution providers with commas between; None takes the CPU.
        engine_file: ONNX file of the pose network, exported elsewhere, for
            ``onnxruntime`` and ``openvino``; None has it exported.
        engine_cache: Keep what an engine builds on disk, for the next start.
        self_check: Reject an engine whose outputs for the first images deviate too
            much from PyTorch's in fp32.
        flip_test: Whether a model that tests each person mirrored too does so;
            None as its config says. Without, its network has half the work.
        rect: Pad the inputs of one-stage models and detectors to the next stride
            instead of to a square.
        num_workers: Threads that read and prepare images; 0 for none.
        num_threads: Threads that compute a network on a CPU; PyTorch's number is
            set to it, for the whole process.
        cpu_affinity: Cores that the whole process is bound to, such as ``2``,
            ``0-3`` or ``0,2-3``; what is chosen by itself fits these.
        on_error: ``record`` gives a bad input a failure record in its place,
            ``raise`` ends the run with an :class:`InputError`.
        no_person: What a top-down model does where nobody is found: ``empty``
            gives an empty result, ``whole_image`` takes the whole image for a
            person, as stock does.
    """

    batch_size: int | str | None = None
    det_batch_size: int | str | None = None
    precision: str = 'fp32'
    calib_images: int | None = None
    engine: str = 'torch'
    engine_device: str | None = None
    engine_file: str | None = None
    engine_cache: bool = True
    self_check: bool = True
    flip_test: bool | None = None
    rect: bool = False
    num_workers: int | None = None
    num_threads: int | None = None
    cpu_affinity: str | None = None
    on_error: str = 'record'
    no_person: str = 'empty'

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is None or (value == 'auto' and name in _MEASURED):
                continue
            # NumPy has integers of its own, and True is one of Python's.
            if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
                raise ValueError(f'{name}: expected a whole number from {least}, found {value!r}')
            object.__setattr__(self, name, int(value))
        _check_choice('on_error', self.on_error, ('record', 'raise'))
        _check_choice('no_person', self.no_person, ('empty', 'whole_image'))
        _check_choice('precision', self.precision, PRECISIONS)
        _check_choice('engine', self.engine, choices())
        if self.cpu_affinity is not None:
            parse_cores(self.cpu_affinity)
        if self.calib_images is not None and self.precision != 'int8':
            raise ValueError(f'calib_images: int8 takes them, not {self.precision}')
        with_file = [spec.name for spec in specs().values() if spec.takes_file]
        if self.engine_file is not None and self.engine not in (*with_file, AUTO):
            raise ValueError(
                f'engine_file: {", ".join(with_file)} or auto run it, not engine {self.engine}'
            )
        if self.engine_file is not None and self.rect:
            raise ValueError('engine_file: its inputs have one size, with rect they have many')
        with_device = [spec.name for spec in specs().values() if spec.takes_device]
        if self.engine_device is not None and self.engine not in with_device:
            raise ValueError(
                f'engine_device: for {" and ".join(with_device)}, not for engine {self.engine}'
            )
        for name in ('engine_cache', 'self_check', 'rect', 'flip_test'):
            value = getattr(self, name)
            if type(value) is not bool and (name, value) != ('flip_test', None):
                raise ValueError(f'{name}: expected True or False, found {value!r}')

    def resolved(self, device: str | torch.device) -> 'BatchOptions':
        """Fill in None and settle ``auto`` for one device.

        Batch sizes are left: how many inputs are best depends on their size
        (:func:`mmpose_batch.engines.batch_size.default_batch_size`).

        Raises:
            ValueError: The device cannot do the precision.
        """
        return replace(
            self,
            precision=resolve_precision(self.precision, device, self.engine, self.engine_device),
            calib_images=self.calib_images or (CALIB_IMAGES if self.precision == 'int8' else None),
            num_workers=min(available_cores(), 8) if self.num_workers is None else self.num_workers,
            num_threads=self.num_threads or default_threads(),
        )

    @property
    def of_engine(self) -> EngineOptions:
        """What concerns the engine of a network, once it is resolved."""
        return EngineOptions(
            engine=self.engine,
            precision=self.precision,
            device=self.engine_device,
            cache=self.engine_cache,
            self_check=self.self_check,
            latency=self.batch_size == 1,
        )

    @property
    def of_detector(self) -> EngineOptions:
        """The same of a detector, which has batches of its own."""
        return replace(self.of_engine, latency=(self.det_batch_size or self.batch_size) == 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class CallOptions:
    """What one call of the inferencer asks for, with stock's names and defaults.

    Attributes:
        batch_size: As in :class:`BatchOptions`, for this call.
        bbox_thr: Least score of a detected person (top-down) or of an instance
            (one-stage).
        nms_thr: IoU for the suppression of detected boxes or instances.
        select_thr: Instances must score above this to be kept; -1 keeps all.
        merge_results: One data sample per image instead of one per person.
        pose_based_nms: Suppress instances whose keypoints nearly coincide.
        test_cfg: The model's test settings during this call.
        keep_images: Hand the decoded image on with its result, for drawing.
        keep_labels: Hand the detector's label on with each instance.
    """

    batch_size: int | str
    bbox_thr: float = 0.3
    nms_thr: float = 0.3
    select_thr: float = -1
    merge_results: bool = True
    pose_based_nms: bool = False
    test_cfg: dict[str, Any] = field(default_factory=dict)
    keep_images: bool = False
    keep_labels: bool = False

    def __post_init__(self) -> None:
        for name in ('bbox_thr', 'nms_thr', 'select_thr'):
            value = getattr(self, name)
            if not isinstance(value, Real) or isinstance(value, bool) or isnan(value):
                raise ValueError(f'{name}: expected a number, found {value!r}')


BATCH_SETTINGS = tuple(field.name for field in fields(BatchOptions))
# What a config's inferencer=dict(...) may say beside its type.
SETTINGS = (
    *('weights', 'device', 'scope', 'det_model', 'det_weights', 'det_cat_ids', 'show_progress'),
    *BATCH_SETTINGS,
)


def merge_settings(own: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Complete the arguments that were given by a config's ``inferencer=dict(...)``.

    Args:
        own: The config's.
        given: Arguments; None counts as left out.

    Raises:
        ValueError: The config names something that is no setting.
    """
    own = {key: value for key, value in own.items() if key != 'type' and value is not None}
    unknown = sorted(own.keys() - set(SETTINGS))
    if unknown:
        raise ValueError(
            f'inferencer: expected some of {", ".join(SETTINGS)}, found {", ".join(unknown)}'
        )
    given = {key: value for key, value in given.items() if value is not None}
    # What only goes with another choice of the config goes with it.
    for choice, dependent in (
        ('precision', ('calib_images',)),
        ('engine', ('engine_device', 'engine_file')),
    ):
        if given.get(choice, own.get(choice)) != own.get(choice):
            own = {key: value for key, value in own.items() if key not in dependent}
    return {**own, **given}


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f'{name}: expected one of {", ".join(choices)}, found {value!r}')
