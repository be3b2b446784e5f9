"""The options of users: each is declared once, with its default, check and help.

The declarations define the keywords of the inferencer, the arguments of the command lines, the
reference of options, and the settings in ``run.json``. No large library is imported, since
``--help`` reads them too.
"""

import os.path as osp
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from math import inf, isnan
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from .declare import declared, option
from .engines.names import AUTO, OWN_ENGINES, PRECISIONS

if TYPE_CHECKING:
    import numpy as np
    import torch

    from .engines.base import EngineOptions

CALIB_IMAGES = 64


def check_keywords(owner: type, given: dict[str, Any]) -> None:
    """Check that the keywords for a constructor are fields of :class:`BatchOptions`.

    Raises:
        TypeError: A keyword is not.
    """
    for name in given:
        if name not in BATCH_SETTINGS:
            raise TypeError(
                f'{owner.__name__}.__init__() got an unexpected keyword argument {name!r}'
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOptions:
    """Options that select the models and the device.

    Attributes:
        pose2d: Config file, name or alias of the pose model.
        pose2d_weights: Path or URL of its checkpoint, or ``'none'``.
        det_model: Config file or name of the person detector, or ``'whole_image'``.
        det_weights: Path or URL of its checkpoint, or ``'none'``.
        det_cat_ids: Detector category ids to keep.
        device: PyTorch device.
    """

    pose2d: str = option(
        'demo',
        'config file, or name or alias of a pose model (default: %(default)s, which only '
        'works on synthetic scenes; for photos use rtmo-s, human, ...)',
        metavar='MODEL',
    )
    pose2d_weights: str | None = option(
        None,
        'path or URL of the checkpoint (default: the checkpoint of the model name or config); '
        "'none': random weights",
        metavar='FILE',
    )
    det_model: str | None = option(
        None,
        'person detector of a top-down model: config file or name of an MMDetection model, '
        'or whole_image to treat each image as one person (default: the detector of the config, '
        "else MMPose's default for the dataset)",
        metavar='MODEL',
    )
    det_weights: str | None = option(
        None,
        'path or URL of the detector checkpoint (default: the checkpoint of the model name or '
        "config); 'none': random weights",
        metavar='FILE',
    )
    det_cat_ids: Sequence[int] | None = option(
        None,
        'detector category ids to keep (default: those of the default detector; 0 for any other '
        'detector)',
        metavar='ID',
    )
    device: str | None = option(None, 'cpu, cuda:0, ... (default: the best available)')


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchOptions:
    """Options of batching and engines. None selects a value by model, device and engine.

    Attributes:
        batch_size: Instances per forward pass of the pose network: persons for a top-down
            model, images for any other. 1 makes an engine optimize for latency. ``'auto'``
            selects the size that is fastest on this machine by a short measurement before
            the first result.
        det_batch_size: Images per forward pass of the person detector, or ``'auto'``.
        det_interval: The detector runs on every so many frames of a video, and between them
            only where persons cannot be matched; boxes in between are interpolated. 1 runs it on
            every frame. Images are always detected.
        precision: Precision of both networks: ``fp32``, ``fp16`` (not on a CPU), ``bf16`` (not on
            NVIDIA GPUs before Ampere), ``int8`` (OpenVINO and ONNX Runtime), or ``auto``, the
            fastest that the hardware computes natively, but never ``int8``.
        calib_images: Input images that calibrate the value ranges of ``int8``.
        engine: Library that runs both networks: ``torch``, ``torch-compile``,
            ``onnxruntime``, ``openvino``, another registered engine, or ``auto``, the fastest
            installed engine whose outputs match PyTorch's.
        engine_device: OpenVINO's device (``CPU``, ``GPU``, ``NPU``), or ONNX Runtime's
            execution providers separated by commas; None selects the CPU for OpenVINO, and the
            provider of ``device`` for ONNX Runtime.
        engine_file: External ONNX file of the pose network, for ``onnxruntime`` and
            ``openvino``; None exports the network.
        engine_cache: Whether the files that an engine builds are cached on disk.
        self_check: Whether an engine is rejected if its outputs for the first images
            deviate from PyTorch's in fp32 beyond tolerance.
        tf32: Whether fp32 convolutions are computed in TF32, which NVIDIA GPUs have since Ampere:
            faster, and as accurate as fp16. It is set for the complete process. None uses PyTorch's
            setting, which is True by default, in upstream MMPose too. Only on an NVIDIA GPU.
        flip_test: Whether a model that supports the flip test uses it (run each person mirrored
            too, twice the work); None uses the setting of the config.
        rect: Whether the inputs of one-stage models and detectors are padded to the next
            multiple of the stride instead of to a square.
        num_workers: Threads that read and preprocess images; 0 for none.
        num_threads: Threads that run the networks on a CPU. It is set as PyTorch's number of
            threads, for the complete process. None uses PyTorch's current number and does not
            change it.
        cpu_affinity: Cores that the complete process is bound to, such as ``2``, ``0-3`` or
            ``0,2-3``; the defaults of ``num_threads`` and ``num_workers`` follow their number.
        on_error: ``record`` writes a failure record for an unusable input, ``raise`` ends the
            run with an :class:`InputError`.
        no_person: Behaviour of a top-down model without detections: ``empty`` returns an empty
            result, ``whole_image`` treats the complete image as one person, as upstream does.

    Raises:
        ValueError: A value is out of range, or options cannot be combined.
    """

    batch_size: int | str | None = option(
        None,
        'persons (top-down) or images per forward pass; auto measures which size is fastest '
        'on this machine (default: by device, engine and input size)',
        metavar='N',
        minimum=1,
        auto=True,
    )
    det_batch_size: int | str | None = option(
        None,
        'images per forward pass of the detector, or auto (default: by device, engine and '
        'input size)',
        metavar='N',
        minimum=1,
        auto=True,
    )
    det_interval: int = option(
        1,
        'in videos, detect on every Nth frame and interpolate boxes in between; detect more where '
        'persons cannot be matched (default: 1, every frame)',
        metavar='N',
        minimum=1,
    )
    precision: str = option(
        'fp32',
        'precision of the networks (default: fp32); auto selects the fastest one that the '
        'hardware computes natively, but never int8',
        choices=PRECISIONS,
    )
    calib_images: int | None = option(
        None,
        f'input images that calibrate the value ranges of int8 (default: {CALIB_IMAGES})',
        metavar='N',
        minimum=1,
    )
    engine: str = option(
        'torch',
        f'library that runs the networks: {", ".join((*OWN_ENGINES, AUTO))}, or one that the '
        'config registers (default: torch); auto selects the fastest installed one whose outputs '
        'match those of torch',
        metavar='NAME',
    )
    engine_device: str | None = option(
        None,
        "OpenVINO's device (CPU, GPU, NPU; default: CPU), or ONNX Runtime's execution providers "
        'separated by commas, the preferred one first (default: that of --device)',
        metavar='NAME',
    )
    engine_file: str | None = option(
        None,
        'external ONNX file of the pose network, from MMDeploy, rtmlib or tools/export.py; its '
        'network must be that of --pose2d (default: export the network of --pose2d)',
        metavar='FILE',
    )
    engine_cache: bool = option(
        True, 'cache the files that an engine builds, for later runs (default: yes)'
    )
    self_check: bool = option(
        True,
        'reject an engine whose outputs on the first images deviate from those of torch '
        'beyond the tolerance of its precision (default: yes)',
    )
    tf32: bool | None = option(
        None,
        'on an NVIDIA GPU, compute fp32 convolutions in TF32, which is faster and as accurate as '
        "fp16 (default: PyTorch's setting, which is yes, as in upstream MMPose)",
    )
    flip_test: bool | None = option(
        None,
        'use the flip test (run each person mirrored too, twice the work; default: the setting '
        'of the config)',
    )
    rect: bool = option(
        False,
        'pad the inputs of one-stage models and detectors to the next multiple of the stride '
        'instead of to a square: less work, slightly different outputs (default: no)',
    )
    num_workers: int | None = option(
        None,
        'threads that read and preprocess images (default: number of cores, at most 8)',
        metavar='N',
        minimum=0,
    )
    num_threads: int | None = option(
        None,
        "threads that run the networks on a CPU (default: PyTorch's number, at most the number of "
        'available cores)',
        metavar='N',
        minimum=1,
    )
    cpu_affinity: str | None = option(
        None, 'use only these cores, e.g. 2, 0-3 or 0,2-3', metavar='CORES'
    )
    on_error: str = option(
        'record',
        'what to do with an unusable input: write a failure record (default) or end the run',
        choices=('record', 'raise'),
    )
    no_person: str = option(
        'empty',
        'what a top-down model does if there are no detections: give an empty result '
        '(default) or use the complete image as one person',
        choices=('empty', 'whole_image'),
    )

    def __post_init__(self) -> None:
        for name, each in declared(BatchOptions).items():
            value = getattr(self, name)
            if each.choices:
                _check_choice(name, value, each.choices)
            if each.minimum is not None and value is not None and not (each.auto and value == AUTO):
                object.__setattr__(self, name, _integer(name, value, each.minimum))
        for name in ('engine_cache', 'self_check', 'rect', 'flip_test', 'tf32'):
            value = getattr(self, name)
            if type(value) is not bool and not (name in ('flip_test', 'tf32') and value is None):
                raise ValueError(f'{name}: expected True or False, found {value!r}')
        if self.cpu_affinity is not None:
            from .cores import parse_cores

            parse_cores(self.cpu_affinity)
        if self.calib_images is not None and self.precision != 'int8':
            raise ValueError(
                f'calib_images: only valid with precision int8, found {self.precision}'
            )
        self._check_engine()

    def _check_engine(self) -> None:
        from .engines.registry import choices, specs

        _check_choice('engine', self.engine, choices())
        with_file = [spec.name for spec in specs().values() if spec.takes_file]
        if self.engine_file is not None and self.engine not in (*with_file, AUTO):
            raise ValueError(
                f'engine_file: only supported by engines {", ".join((*with_file, AUTO))}, '
                f'found {self.engine}'
            )
        if self.engine_file is not None and self.rect:
            raise ValueError(
                'engine_file cannot be combined with rect, which needs inputs of several sizes'
            )
        with_device = [spec.name for spec in specs().values() if spec.takes_device]
        if self.engine_device is not None and self.engine not in with_device:
            raise ValueError(
                f'engine_device: only supported by engines {", ".join(with_device)}, '
                f'found {self.engine}'
            )

    def resolved(self, device: 'str | torch.device') -> 'BatchOptions':
        """Replace None and ``'auto'`` by the values for one device.

        Batch sizes are not resolved, since they depend on the size of the inputs
        (:func:`mmpose_batch.engines.batch_size.default_batch_size`).

        Raises:
            ValueError: The device does not support the precision or TF32.
        """
        from .cores import available_cores
        from .engines.registry import resolve_precision
        from .tf32 import check_tf32

        check_tf32(self.tf32, device)
        return replace(
            self,
            precision=resolve_precision(self.precision, device, self.engine, self.engine_device),
            calib_images=self.calib_images or (CALIB_IMAGES if self.precision == 'int8' else None),
            num_workers=min(available_cores(), 8) if self.num_workers is None else self.num_workers,
            num_threads=self.num_threads or self._threads_now(),
        )

    def _threads_now(self) -> int:
        """PyTorch's number of threads; with ``cpu_affinity``, the number of these cores."""
        import torch

        from .cores import default_threads

        return torch.get_num_threads() if self.cpu_affinity is None else default_threads()

    def apply_to_process(self) -> None:
        """Bind the process to ``cpu_affinity`` and set PyTorch's number of threads.

        Nothing changes if neither ``cpu_affinity`` nor ``num_threads`` is given.
        """
        import torch

        from .cores import bind_to_cores, default_threads, parse_cores

        if self.cpu_affinity is not None:
            bind_to_cores(parse_cores(self.cpu_affinity))
        if self.num_threads is not None or self.cpu_affinity is not None:
            torch.set_num_threads(self.num_threads or default_threads())

    @property
    def of_engine(self) -> 'EngineOptions':
        """Options of the engine of the pose network; ``self`` must be resolved."""
        from .engines.base import EngineOptions

        return EngineOptions(
            engine=self.engine,
            precision=self.precision,
            device=self.engine_device,
            cache=self.engine_cache,
            self_check=self.self_check,
            latency=self.batch_size == 1,
        )

    @property
    def of_detector(self) -> 'EngineOptions':
        """Options of the engine of the detector, which has its own batch size."""
        return replace(self.of_engine, latency=(self.det_batch_size or self.batch_size) == 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class CallOptions:
    """Options of one call of the inferencer, with the names and defaults of upstream MMPose.

    Attributes:
        batch_size: As in :class:`BatchOptions`, for this call.
        bbox_thr: Minimum score of a detected person (top-down) or of an instance
            (one-stage).
        nms_thr: IoU above which two detected boxes or instances are duplicates.
        select_thr: Only instances that score above this are kept; -1 keeps all.
        merge_results: Return one data sample per image instead of one per person.
        pose_based_nms: Suppress instances whose keypoints nearly coincide with those of an
            instance with a higher score.
        test_cfg: The model's test settings during this call.
        keep_images: Keep the decoded image in its result, for drawing.
        keep_labels: Keep the detector's label of each instance in the result.

    Raises:
        ValueError: A threshold is not a number.
    """

    batch_size: int | str
    bbox_thr: float = option(
        0.3,
        "minimum score of a person (default: the config's, else 0.1 for RTMO, 0.01 for "
        'YOLOX-Pose, 0.3 for other models)',
    )
    nms_thr: float = option(
        0.3,
        "IoU above which two persons are duplicates (default: the config's, else 0.65 for "
        'RTMO and YOLOX-Pose, 0.3 for other models)',
    )
    select_thr: float = -1
    merge_results: bool = True
    pose_based_nms: bool = option(
        False,
        'also drop persons whose keypoints nearly coincide with those of a person with a higher '
        'score, and keep at most 30 persons per image (default: yes for RTMO and YOLOX-Pose, no '
        'for others)',
    )
    test_cfg: dict[str, Any] = field(default_factory=dict)
    keep_images: bool = False
    keep_labels: bool = False

    def __post_init__(self) -> None:
        for name in ('bbox_thr', 'nms_thr', 'select_thr'):
            _check_number(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoOptions:
    """Which frames of videos are used, and whether persons are tracked.

    Frames keep their numbers and times whatever is selected.

    Attributes:
        vid_stride: Every so many frames one is used, beginning with the first at or after
            ``start``.
        start: Time in seconds, or text such as ``1:05`` or ``1:02:03.5``, of the first frame;
            None for the beginning.
        end: Time of the end, in the same form: frames from then on are not used; None for the
            end of the video.
        track: Whether each person of a video, or of a camera, gets the id of a track.

    Raises:
        ValueError: The stride is not an integer of at least 1, a time is not valid, or the end is
            not after the start.
    """

    vid_stride: int = option(
        1, 'use every Nth frame of a video (default: %(default)s)', metavar='N', minimum=1
    )
    start: str | float | None = option(
        None, 'use the frames of videos from this time on: seconds, m:ss or h:mm:ss', metavar='TIME'
    )
    end: str | float | None = option(
        None, 'use the frames of videos before this time', metavar='TIME'
    )
    track: bool = option(False, 'give each person of a video a track_id, by ByteTrack')

    def __post_init__(self) -> None:
        object.__setattr__(self, 'vid_stride', _integer('vid_stride', self.vid_stride, 1))
        start, end = self.seconds
        if end is not None and end <= (start or 0):
            raise ValueError(f'end: expected a time after start, found {self.end!r}')

    @property
    def seconds(self) -> tuple[float | None, float | None]:
        """``start`` and ``end`` in seconds."""
        return _seconds('start', self.start), _seconds('end', self.end)


def _seconds(name: str, value: Any) -> float | None:
    """A time in seconds from a number, or from text as ``seconds``, ``m:ss`` or ``h:mm:ss``."""
    if value is None:
        return None
    if _is_number(value) and 0 <= value < inf:
        return float(value)
    match = isinstance(value, str) and _TIME.fullmatch(value.strip())
    if not match:
        raise ValueError(f'{name}: expected seconds, m:ss or h:mm:ss, found {value!r}')
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


# Minutes and seconds that follow a larger unit have two digits and are below 60.
_TIME = re.compile(r'(?:(?:(\d+):(?=[0-5]\d:[0-5]\d))?(?:(\d+):(?=[0-5]\d)))?(\d+(?:\.\d*)?|\.\d+)')


# Limit of OpenCV.
_MAX_PIXELS = 32767


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawOptions:
    """Options of drawings, with the names and defaults of upstream MMPose.

    Attributes:
        return_vis: Return drawings with the results.
        show: Open a window.
        wait_time: Seconds that the window waits for a key; 0 without limit.
        draw_bbox: Also draw person boxes.
        radius: Keypoint radius in pixels, 0 to 32767.
        thickness: Line width in pixels, an integer from 1 to 32767.
        kpt_thr: Only keypoints that score above this are drawn.
        vis_out_dir: Folder for drawings; empty for none.
        skeleton_style: ``mmpose`` or ``openpose``.
        draw_heatmap: Draw the heatmaps over the image.
        black_background: Draw on black instead of the image.
        video: Whether the images are frames of a video or camera.

    Raises:
        ValueError: A value is out of range.
    """

    return_vis: bool = False
    show: bool = False
    wait_time: float = 0
    draw_bbox: bool = option(False, 'also draw person boxes')
    radius: int = option(3, 'keypoint radius in pixels (default: %(default)s)')
    thickness: int = option(1, 'line width in pixels (default: %(default)s)')
    kpt_thr: float = option(0.3, 'draw keypoints whose score is above this (default: %(default)s)')
    vis_out_dir: str = ''
    skeleton_style: str = option(
        'mmpose',
        'style of the skeletons (default: %(default)s)',
        choices=('mmpose', 'openpose'),
    )
    draw_heatmap: bool = False
    black_background: bool = False
    video: bool = False

    def __post_init__(self) -> None:
        if self.skeleton_style not in ('mmpose', 'openpose'):
            raise ValueError(
                f'skeleton_style: expected mmpose or openpose, found {self.skeleton_style!r}'
            )
        if self.vis_out_dir and not self.video and osp.splitext(self.vis_out_dir)[1]:
            raise ValueError(f'vis_out_dir: expected a folder, found {self.vis_out_dir!r}')
        for name in ('kpt_thr', 'wait_time'):
            _check_number(name, getattr(self, name))
        if not (_is_number(self.radius) and 0 <= self.radius <= _MAX_PIXELS):
            raise ValueError(
                f'radius: expected a number from 0 to {_MAX_PIXELS}, found {self.radius!r}'
            )
        whole = _is_number(self.thickness) and isinstance(self.thickness, Integral)
        if not (whole and 1 <= self.thickness <= _MAX_PIXELS):
            raise ValueError(
                f'thickness: expected an integer from 1 to {_MAX_PIXELS}, found {self.thickness!r}'
            )

    @property
    def wanted(self) -> bool:
        """Whether anything is drawn."""
        return bool(self.return_vis or self.show or self.vis_out_dir)

    def returned(self, drawn: 'np.ndarray | None') -> 'list[np.ndarray] | None':
        """Value of ``visualization`` for one image, as in upstream MMPose."""
        if drawn is None:
            return None
        return [drawn] if self.return_vis else []


BATCH_SETTINGS = tuple(field.name for field in fields(BatchOptions))
# Names that inferencer=dict(...) of a config may have besides its type.
SETTINGS = (
    *('weights', 'device', 'scope', 'det_model', 'det_weights', 'det_cat_ids', 'show_progress'),
    *BATCH_SETTINGS,
)


def merge_settings(own: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Complete given arguments by those in ``inferencer=dict(...)`` of a config.

    Args:
        own: Arguments in the config.
        given: Arguments that were passed, which take precedence; None counts as not passed.

    Raises:
        ValueError: The config has an unknown argument.
    """
    own = {key: value for key, value in own.items() if key != 'type' and value is not None}
    unknown = sorted(own.keys() - set(SETTINGS))
    if unknown:
        raise ValueError(
            f'inferencer: expected some of {", ".join(SETTINGS)}, found {", ".join(unknown)}'
        )
    given = {key: value for key, value in given.items() if value is not None}
    # Arguments of the config that depend on one of its choices are dropped if another is passed.
    for choice, dependent in (
        ('precision', ('calib_images',)),
        ('engine', ('engine_device', 'engine_file')),
        ('det_model', ('det_interval',)),
    ):
        if given.get(choice, own.get(choice)) != own.get(choice):
            own = {key: value for key, value in own.items() if key not in dependent}
    return {**own, **given}


def _integer(name: str, value: Any, minimum: int) -> int:
    # NumPy has its own integer types, and True is an int.
    if not isinstance(value, Integral) or isinstance(value, bool) or value < minimum:
        raise ValueError(f'{name}: expected an integer >= {minimum}, found {value!r}')
    return int(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and not isnan(value)


def _check_number(name: str, value: Any) -> None:
    if not _is_number(value):
        raise ValueError(f'{name}: expected a number, found {value!r}')


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f'{name}: expected one of {", ".join(choices)}, found {value!r}')
