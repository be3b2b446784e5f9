"""The network swap: an engine replaces the network between MMPose's pipeline and decoding."""

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmdet.models import DetDataPreprocessor, SingleStageDetector
from mmengine.model import BaseDataPreprocessor
from mmpose.models import BottomupPoseEstimator, PoseDataPreprocessor, TopdownPoseEstimator
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

from ..speedups.samples import copy_sample
from .base import Engine

# Heads that reach their outputs by other ways than head.forward(extract_feat(inputs)).
_OWN_WAYS = ('CIDHead', 'EDPoseHead', 'VisPredictHead')
# What calls them in that way, and nothing else of the network.
_PREDICTS = (
    TopdownPoseEstimator.predict,
    BottomupPoseEstimator.predict,
    SingleStageDetector.predict,
)


class Network(nn.Module):
    """What an engine replaces: ``head.forward(extract_feat(inputs))``, its outputs flattened.

    Args:
        model: A pose estimator or single-stage detector in eval mode, without
            an engine.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._extract_feat = model.extract_feat
        self._head_forward = head_of(model).forward
        self._structure: TreeSpec | None = None
        self._others: list[Any] = []

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute float32 inputs (N, 3, H, W), normalised."""
        leaves, structure = tree_flatten(self._head_forward(self._extract_feat(inputs)))
        self._others = [None if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves]
        self._structure = structure  # last: with it the form is known, to other threads too
        return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))

    @property
    def known(self) -> bool:
        """Whether the form of the outputs is known, that is, after the first forward."""
        return self._structure is not None

    def restore(self, outputs: Sequence[Tensor]) -> Any:
        """Put flat outputs into the form that the head decodes."""
        flat = iter(outputs)
        leaves = [next(flat) if other is None else other[0] for other in self._others]
        return tree_unflatten(leaves, self._structure)


class Normalization:
    """What a data preprocessor does to pixels, for engines that do it themselves.

    Attributes:
        reverse_channels: Whether blue and red change places, first of all.
        mean, std: Of each channel, in 0 to 255; None where nothing is normalised.
        divisor: Height and width must be multiples of this, or the preprocessor
            pads *after* normalising, which pixels cannot express.
    """

    def __init__(self, preprocessor: PoseDataPreprocessor | DetDataPreprocessor) -> None:
        self.reverse_channels = bool(preprocessor._channel_conversion)
        normalized = preprocessor._enable_normalize
        self.mean = preprocessor.mean.flatten().tolist() if normalized else None
        self.std = preprocessor.std.flatten().tolist() if normalized else None
        self.divisor = preprocessor.pad_size_divisor

    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalise uint8 pixels (N, 3, H, W) to float32, as the preprocessor does."""
        inputs = pixels.flip(1) if self.reverse_channels else pixels
        inputs = inputs.float()
        if self.mean is None:
            return inputs
        shape = (1, -1, 1, 1)
        mean, std = (inputs.new_tensor(value).view(shape) for value in (self.mean, self.std))
        return (inputs - mean) / std


class PixelPreprocessor(BaseDataPreprocessor):
    """Stacks a batch of pixels and leaves their normalisation to the engine."""

    def __init__(self, upstream: nn.Module, divisor: int) -> None:
        super().__init__(upstream._non_blocking)
        self.upstream = upstream
        self.divisor = divisor
        self.to(upstream.device)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Stack inputs of one shape; where they need padding, do as upstream does."""
        inputs = data['inputs']
        height, width = inputs[0].shape[-2:]
        if inputs[0].dtype != torch.uint8 or height % self.divisor or width % self.divisor:
            return self.upstream(data, training)
        pixels = torch.stack(self.cast_data(inputs))
        if self.device.type == 'cpu':
            samples = [copy_sample(sample) for sample in data['data_samples']]
        else:
            samples = self.cast_data(data['data_samples'])
        for sample in samples:
            sample.set_metainfo(
                {'batch_input_shape': (height, width), 'pad_shape': (height, width)}
            )
        return {'inputs': pixels, 'data_samples': samples}


class StackedPreprocessor(PixelPreprocessor):
    """Stacks a batch before it normalises it; the values match upstream to the bit.

    Upstream normalises input by input, in tensors too small to be fast, and copies
    them to stack them.
    """

    def __init__(self, upstream: nn.Module) -> None:
        super().__init__(upstream, upstream.pad_size_divisor)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Stack and normalise inputs of one shape; where they need padding, do as upstream does."""
        data = super().forward(data, training)
        if data['inputs'].dtype == torch.uint8:
            data['inputs'] = self._normalize(data['inputs'])
        return data

    def _normalize(self, pixels: Tensor) -> Tensor:
        if self.upstream._channel_conversion:
            pixels = pixels.flip(1)
        if not self.upstream._enable_normalize:
            return pixels.float()
        mean, std = self.upstream.mean, self.upstream.std
        return pixels.to(torch.promote_types(torch.float32, mean.dtype)).sub_(mean).div_(std)


class Pending:
    """A batch of inputs whose outputs have not been asked for yet."""

    __slots__ = ('__weakref__', 'inputs', 'outputs')

    def __init__(self, inputs: Tensor) -> None:
        self.inputs: Tensor | None = inputs
        self.outputs: Any = None


class ReferenceEngine(Engine):
    """Eager PyTorch in fp32, which every other engine is compared with."""

    def __init__(self, network: Network, normalization: Normalization) -> None:
        self._network, self._normalization = network, normalization
        self.description = f'PyTorch {torch.__version__}'

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute one batch; see :class:`mmpose_batch.engines.base.Engine`."""
        if inputs.dtype == torch.uint8:
            inputs = self._normalization(inputs)
        return self._network(inputs)


class NetworkSwap:
    """Replaces the network of one model by an engine, in place.

    ``extract_feat`` hands its inputs through, and the first ``head.forward`` asks
    the engine for all that is pending: both halves of a flip test as one batch.
    Decoding stays the head's own. Only this instance changes, no class does.

    Args:
        model: In eval mode, see :func:`is_replaceable`.

    Attributes:
        network: What is replaced.
        normalization: What the model's data preprocessor did to pixels.
        reference: Computes the network as PyTorch does.
        engine: Computes the network now; the reference until another is set.
    """

    def __init__(self, model: nn.Module) -> None:
        self.network = Network(model)
        self.normalization = Normalization(model.data_preprocessor)
        self.reference = ReferenceEngine(self.network, self.normalization)
        self.engine: Engine = self.reference
        self._thread = threading.local()
        model.data_preprocessor = PixelPreprocessor(
            model.data_preprocessor, self.normalization.divisor
        )
        model.extract_feat = self._extract_feat
        head_of(model).forward = self._forward

    @contextmanager
    def by_reference(self, record: Callable[[Tensor], None] | None = None) -> Iterator[None]:
        """In this block, and this thread, the reference computes instead of the engine.

        Args:
            record: Is called with the inputs of every batch.
        """

        def compute(inputs: Tensor) -> tuple[Tensor, ...]:
            if record is not None:
                record(inputs)
            return self.reference(inputs)

        with self.computed_by(compute):
            self._thread.by_reference = True
            try:
                yield
            finally:
                del self._thread.by_reference

    @contextmanager
    def computed_by(self, engine: Engine) -> Iterator[None]:
        """In this block, and this thread, another engine computes."""
        before = getattr(self._thread, 'engine', None)
        self._thread.engine = engine
        try:
            yield
        finally:
            self._thread.engine = before

    @property
    def _engine_here(self) -> Engine:
        """What computes in this thread."""
        return getattr(self._thread, 'engine', None) or self.engine

    @property
    def uses_reference(self) -> bool:
        """Whether the reference computes in this thread."""
        by_reference = getattr(self._thread, 'by_reference', False)
        return by_reference or self._engine_here is self.reference

    def compute_as_is(self, pending: Pending) -> Sequence[Tensor]:
        """The engine's own outputs for one batch, where they are not what the head decodes."""
        return self._engine_here(pending.inputs)

    def _extract_feat(self, inputs: Tensor) -> Pending:
        pending = Pending(inputs)
        # A batch whose decoding failed is forgotten with the last reference to it.
        waiting = [ref for ref in getattr(self._thread, 'waiting', []) if ref() is not None]
        self._thread.waiting = [*waiting, weakref.ref(pending)]
        return pending

    def _forward(self, pending: Pending) -> Any:
        if pending.outputs is None:
            shape = pending.inputs.shape[1:]
            batches = [batch for ref in self._thread.waiting if (batch := ref()) is not None]
            self._compute([batch for batch in batches if batch.inputs.shape[1:] == shape])
        return pending.outputs

    def _compute(self, batches: list[Pending]) -> None:
        inputs = torch.cat([batch.inputs for batch in batches])
        outputs = self._engine_here(inputs)
        if not self.network.known:  # PyTorch, where it computed, has made it so
            self.reference(inputs[:1])
        outputs = self.network.restore(outputs)
        start = 0
        for batch in batches:
            part = slice(start, start + len(batch.inputs))
            batch.outputs = tree_map_only(Tensor, lambda tensor, part=part: tensor[part], outputs)
            batch.inputs, start = None, part.stop
        done = set(map(id, batches))
        self._thread.waiting = [ref for ref in self._thread.waiting if id(ref()) not in done]


def head_of(model: nn.Module) -> nn.Module | None:
    """The head of a pose estimator or single-stage detector; None where there is no such."""
    return getattr(model, 'head', getattr(model, 'bbox_head', None))


def is_replaceable(model: nn.Module) -> bool:
    """Whether an engine can replace a model's network."""
    return predicts_by_head(model) and is_known_preprocessor(model.data_preprocessor)


def predicts_by_head(model: nn.Module) -> bool:
    """Whether a model's head gets its outputs by ``head.forward(extract_feat(inputs))``."""
    return (
        getattr(type(model), 'predict', None) in _PREDICTS
        and type(head_of(model)).__name__ not in _OWN_WAYS
    )


def is_known_preprocessor(preprocessor: nn.Module | None) -> bool:
    """Whether a data preprocessor does no more than :class:`Normalization` describes."""
    return type(preprocessor) in (PoseDataPreprocessor, DetDataPreprocessor)
