"""External ONNX files, which are inspected and run unchanged."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.structures import InstanceData
from mmpose.evaluation.functional import nms_torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..errors import EngineError
from ..nan_check import fail_if_nan
from .base import Engine, WrappedEngine
from .network import Network, NetworkSwap, Pending
from .optional import import_onnx
from .padding import pad_batch

# Names that MMDeploy and rtmlib give the outputs of an RTMO file that includes decoding and NMS.
DECODED = ('dets', 'keypoints')


class ExternalFile:
    """An external ONNX file, with the shapes of its inputs and outputs.

    Args:
        path: Path of the file.

    Attributes:
        batch_size: The only batch size that the file supports; None for any.
        size: Height and width of the inputs in pixels; None for any.
        outputs: Shape of each output by its name; None for a dimension of any length.
        decoded: Whether the file includes decoding, so that its outputs are persons: ``dets``
            (N, M, 5) and ``keypoints`` (N, M, K, 3), in pixels of the input.
        key: Identifies the content of the file in the cache.

    Raises:
        ValueError: The file cannot be read, is not an ONNX file, or does not have exactly one
            float32 input (N, 3, H, W).
        EngineError: The package ``onnx`` cannot be imported.
    """

    def __init__(self, path: str) -> None:
        onnx = import_onnx()
        self.path = Path(path)
        try:
            content = self.path.read_bytes()
            graph = onnx.load_model_from_string(content).graph
        except OSError as error:
            raise ValueError(f'engine_file: {path}: {error.strerror}') from error
        except Exception as error:  # protobuf raises errors of several classes
            raise ValueError(f'engine_file: {path} is not an ONNX file') from error
        digest = hashlib.sha256(content)
        for location in sorted(_data_files(graph)):  # weights may be stored only there
            try:
                with open(self.path.parent / location, 'rb') as file:
                    digest.update(hashlib.file_digest(file, 'sha256').digest())
            except OSError as error:
                raise ValueError(
                    f'engine_file: {path}: its data file {location}: {error.strerror}'
                ) from error
        self.key = digest.hexdigest()
        weights = {value.name for value in graph.initializer}
        inputs = [value for value in graph.input if value.name not in weights]
        shapes = [_shape(value) for value in inputs]
        float32 = onnx.TensorProto.FLOAT
        if (
            len(inputs) != 1
            or len(shapes[0]) != 4
            or shapes[0][1] not in (3, None)
            or inputs[0].type.tensor_type.elem_type != float32
        ):
            found = ', '.join(f'{value.name} {_text(_shape(value))}' for value in inputs)
            raise ValueError(
                f'engine_file: expected one float32 input N x 3 x H x W, found {found or "none"}'
            )
        self.batch_size, _, height, width = shapes[0]
        self.size = None if height is None or width is None else (height, width)
        self.outputs = {value.name: _shape(value) for value in graph.output}
        self.decoded = set(DECODED) <= self.outputs.keys()

    def __call__(self, size: tuple[int, int]) -> Path:
        """Return the path of the file for inputs of one height and width.

        Raises:
            EngineError: The file expects inputs of another size.
        """
        if self.size not in (None, size):
            raise EngineError(
                f'engine_file: expected inputs of {_text(size)} (height x width) as in the config, '
                f'found {_text(self.size)}'
            )
        return self.path

    def check_outputs(self, network: Network, size: tuple[int, int]) -> None:
        """Check that the outputs of the file have the shapes and order that the head decodes.

        Args:
            network: Network of the config.
            size: Height and width of the inputs in pixels.

        Raises:
            EngineError: The outputs differ, or the network cannot run inputs of this size.
        """
        if self.decoded:
            return
        device = next(network.parameters()).device
        try:
            with torch.no_grad():
                outputs = network(torch.zeros(1, 3, *size, device=device))
        except RuntimeError as error:
            raise EngineError(
                'engine_file: the network of the config cannot run inputs of '
                f'{_text(size)} (height x width), which the file expects'
            ) from error
        wanted = [tuple(output.shape[1:]) for output in outputs]
        found = [shape[1:] for shape in self.outputs.values()]
        if len(wanted) != len(found) or not all(map(_fits, wanted, found)):
            raise EngineError(
                f'engine_file: expected outputs of {", ".join(map(_text, wanted))}, which the head '
                f'decodes, found {", ".join(map(_text, found))} (for each instance)'
            )


def _data_files(graph: Any) -> set[str]:
    """Names of the files alongside an ONNX file that hold its weights."""
    entries = (entry for weights in graph.initializer for entry in weights.external_data)
    return {entry.value for entry in entries if entry.key == 'location'}


class FixedBatch(WrappedEngine):
    """An engine that runs batches of one size only: larger batches are split, smaller ones padded.

    Args:
        engine: Engine that runs the batches.
        batch_size: Number of inputs in each of its batches.
    """

    def __init__(self, engine: Engine, batch_size: int) -> None:
        super().__init__(engine)
        self._batch_size = batch_size

    @property
    def description(self) -> str:
        """Description of the engine, and its batch size."""
        return f'{self.engine.description}, batches of {self._batch_size}'

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """Compute one batch; see :class:`mmpose_batch.engines.base.Engine`."""
        parts = inputs.split(self._batch_size)
        outputs = [self.engine(pad_batch(part, self._batch_size)) for part in parts]
        return [_join(output)[: len(inputs)] for output in zip(*outputs, strict=True)]


def _join(outputs: Sequence[Tensor]) -> Tensor:
    """Concatenate one output of several batches, zero-padded to the largest number of persons."""
    longest = max(output.shape[1] if output.ndim > 1 else 0 for output in outputs)
    return torch.cat(
        [
            pad(output, (0, 0) * (output.ndim - 2) + (0, longest - output.shape[1]))
            if longest
            else output
            for output in outputs
        ]
    )


def predict_decoded(swap: NetworkSwap, head: nn.Module, external: ExternalFile) -> Callable:
    """Return the replacement of ``head.predict`` for a file that includes decoding.

    Args:
        swap: Network swap of the model.
        head: Head whose ``predict`` is replaced; PyTorch's outputs are still decoded by it.
        external: The file.

    Returns:
        A function with the arguments and outputs of ``RTMOHead.predict``. It raises EngineError
        for a flip test, and ValueError if a score is NaN.
    """
    upstream = head.predict

    def predict(
        feats: Pending | list, batch_data_samples: Sequence, test_cfg: Any = None
    ) -> list[InstanceData]:
        test_cfg = test_cfg or {}
        if swap.uses_reference:
            return upstream(feats, batch_data_samples, test_cfg)
        if isinstance(feats, list):
            raise EngineError('engine_file: a file that includes decoding cannot use the flip test')
        outputs = dict(zip(external.outputs, swap.compute_as_is(feats), strict=True))
        dets, keypoints = (outputs[name].cpu() for name in DECODED)
        fail_if_nan(dets[..., 4])  # the head's own check is not on this path
        return [
            _instances(boxes, points, test_cfg, sample.metainfo['input_size'])
            for boxes, points, sample in zip(dets, keypoints, batch_data_samples, strict=True)
        ]

    return predict


def _instances(
    dets: Tensor, keypoints: Tensor, test_cfg: Any, input_size: tuple[int, int]
) -> InstanceData:
    """The persons of one image with the fields of ``RTMOHead.predict``, in pixels of the input."""
    selected = dets[:, 4] > test_cfg.get('score_thr', 0.01)
    dets, keypoints = dets[selected], keypoints[selected]
    nms_thr = test_cfg.get('nms_thr', 1.0)
    if len(dets) and nms_thr < 1.0:
        selected = nms_torch(dets[:, :4], dets[:, 4], nms_thr)
        dets, keypoints = dets[selected], keypoints[selected]
    boxes, scores = dets[:, :4].clone(), dets[:, 4]
    boxes[:, 0::2].clamp_(0, input_size[0])
    boxes[:, 1::2].clamp_(0, input_size[1])
    return InstanceData(
        scores=scores,
        labels=torch.zeros(len(dets), dtype=torch.long),
        bboxes=boxes,
        bbox_scores=scores,
        keypoints=keypoints[..., :2],
        keypoint_scores=keypoints[..., 2],
        keypoints_visible=keypoints[..., 2],
    ).numpy()


def _shape(value: Any) -> tuple[int | None, ...]:
    """Lengths of the dimensions; None for any."""
    axes = value.type.tensor_type.shape.dim
    return tuple(axis.dim_value if axis.HasField('dim_value') else None for axis in axes)


def _fits(wanted: tuple[int, ...], found: tuple[int | None, ...]) -> bool:
    return len(wanted) == len(found) and all(
        b in (None, a) for a, b in zip(wanted, found, strict=True)
    )


def _text(shape: Sequence[int | None]) -> str:
    return ' x '.join('any' if length is None else str(length) for length in shape)
