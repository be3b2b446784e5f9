"""The network swap: an engine replaces the network between MMPose's pipeline and decoding."""

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmdet.models import DetDataPreprocessor, SingleStageDetector
from mmpose.models import BottomupPoseEstimator, PoseDataPreprocessor, TopdownPoseEstimator
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

from ..speedups.base import InPlaceChange, register
from ..speedups.normalize import PixelPreprocessor, is_known_preprocessor
from .base import Engine

# Heads that do not compute their outputs by head.forward(extract_feat(inputs)).
_OTHER_HEADS = ('CIDHead', 'EDPoseHead', 'VisPredictHead')
# Methods that call the network in that way only.
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
        self._structure = structure  # last, since other threads take it as the sign of a known form
        return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))

    @property
    def known(self) -> bool:
        """Whether the form of the outputs is known, that is, after the first forward."""
        return self._structure is not None

    def restore(self, outputs: Sequence[Tensor]) -> Any:
        """Nest flat outputs as the head decodes them."""
        flat = iter(outputs)
        leaves = [next(flat) if other is None else other[0] for other in self._others]
        return tree_unflatten(leaves, self._structure)


class Normalization:
    """The operations of a data preprocessor on pixels, for engines that do them themselves.

    Attributes:
        reverse_channels: Whether blue and red are swapped, before normalisation.
        mean, std: Mean and deviation of each channel, in 0 to 255; None without normalisation.
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


class Pending:
    """A batch of inputs whose outputs have not been computed yet."""

    __slots__ = ('__weakref__', 'inputs', 'outputs')

    def __init__(self, inputs: Tensor) -> None:
        self.inputs: Tensor | None = inputs
        self.outputs: Any = None


class ReferenceEngine(Engine):
    """Eager PyTorch in fp32, with which every other engine is compared."""

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

    ``extract_feat`` returns its inputs, and the first ``head.forward`` has the engine
    compute all that are pending: both halves of a flip test as one batch.
    The head decodes as before. Only this instance changes, no class does.

    Args:
        model: A model in eval mode that :func:`is_replaceable` accepts.

    Attributes:
        network: The network that is replaced.
        normalization: The operations of the model's data preprocessor on pixels.
        reference: The engine that computes the network by PyTorch.
        engine: The active engine; the reference until another is set.
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
        self._head = head_of(model)
        self._head.forward = self._forward

    def replace_predict(self, predict: Callable) -> None:
        """Have an engine that decodes replace ``head.predict``, too."""
        self._head.predict = predict

    @contextmanager
    def by_reference(self, record: Callable[[Tensor], None] | None = None) -> Iterator[None]:
        """In this block, and in this thread, the reference replaces the engine.

        Args:
            record: Called with the inputs of every batch.
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
        """Whether the reference is active in this thread."""
        by_reference = getattr(self._thread, 'by_reference', False)
        return by_reference or self._engine_here is self.reference

    def compute_as_is(self, pending: Pending) -> Sequence[Tensor]:
        """The outputs of an engine that decodes, for one batch."""
        return self._engine_here(pending.inputs)

    def _extract_feat(self, inputs: Tensor) -> Pending:
        pending = Pending(inputs)
        # A weak reference drops a batch whose decoding failed.
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
        if not self.network.known:  # it is, if PyTorch has computed a batch
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
    """The head of a pose estimator or single-stage detector; None for other models."""
    return getattr(model, 'head', getattr(model, 'bbox_head', None))


def is_replaceable(model: nn.Module) -> bool:
    """Whether an engine can replace a model's network."""
    preprocessor = getattr(model, 'data_preprocessor', None)
    return predicts_by_head(model) and is_known_preprocessor(preprocessor)


def predicts_by_head(model: nn.Module) -> bool:
    """Whether a model's outputs are those of ``head.forward(extract_feat(inputs))``."""
    return (
        getattr(type(model), 'predict', None) in _PREDICTS
        and type(head_of(model)).__name__ not in _OTHER_HEADS
    )


NETWORK_SWAP = register(
    InPlaceChange(name='network swap', applies=is_replaceable, apply=NetworkSwap),
)
