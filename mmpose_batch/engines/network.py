"""The network swap: an engine replaces the network between MMPose's preprocessing and decoding."""

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

# Heads whose outputs are not those of head.forward(extract_feat(inputs)).
_OTHER_HEADS = ('CIDHead', 'EDPoseHead', 'VisPredictHead')
# Upstream's methods that call the network only in that way.
_PREDICTS = (
    TopdownPoseEstimator.predict,
    BottomupPoseEstimator.predict,
    SingleStageDetector.predict,
)


class Network(nn.Module):
    """The network that an engine replaces: ``head.forward(extract_feat(inputs))``, flattened.

    Args:
        model: A pose estimator or single-stage detector in eval mode whose network has not
            been replaced.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._extract_feat = model.extract_feat
        self._head_forward = head_of(model).forward
        self._structure: TreeSpec | None = None
        self._others: list[Any] = []

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute the output tensors of normalised float32 inputs (N, 3, H, W), flattened."""
        leaves, structure = tree_flatten(self._head_forward(self._extract_feat(inputs)))
        self._others = [None if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves]
        self._structure = structure  # set last, since `known` lets other threads use both
        return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))

    @property
    def known(self) -> bool:
        """Whether the structure of the outputs is known, that is, after the first forward."""
        return self._structure is not None

    def restore(self, outputs: Sequence[Tensor]) -> Any:
        """Nest flat output tensors in the structure that the head decodes."""
        flat = iter(outputs)
        leaves = [next(flat) if other is None else other[0] for other in self._others]
        return tree_unflatten(leaves, self._structure)


class Normalization(nn.Module):
    """The operations of a data preprocessor on pixels, for engines that include them.

    Args:
        preprocessor: The data preprocessor, on its final device.

    Attributes:
        reverse_channels: Whether blue and red are swapped, before normalisation.
        mean, std: Mean and standard deviation of each channel, on the scale of pixels from 0 to
            255; None without normalisation.
        divisor: Divisor of height and width. Other sizes are padded by the preprocessor *after*
            normalisation, so that an engine cannot take their pixels.
    """

    def __init__(self, preprocessor: PoseDataPreprocessor | DetDataPreprocessor) -> None:
        super().__init__()
        self.reverse_channels = bool(preprocessor._channel_conversion)
        normalized = preprocessor._enable_normalize
        self.mean = preprocessor.mean.flatten().tolist() if normalized else None
        self.std = preprocessor.std.flatten().tolist() if normalized else None
        self.divisor = preprocessor.pad_size_divisor
        for name in ('mean', 'std') if normalized else ():
            # Tensors on the device, since numbers would be copied to it for every batch.
            constant = getattr(preprocessor, name).detach().float().view(1, -1, 1, 1)
            self.register_buffer(f'_{name}', constant, persistent=False)

    @property
    def settings(self) -> dict[str, Any]:
        """All public attributes, which identify the normalisation."""
        names = ('reverse_channels', 'mean', 'std', 'divisor')
        return {name: getattr(self, name) for name in names}

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise uint8 pixels (N, 3, H, W) to float32, as the preprocessor does."""
        inputs = pixels.flip(1) if self.reverse_channels else pixels
        inputs = inputs.float()
        if self.mean is None:
            return inputs
        mean, std = self._mean.to(inputs.device), self._std.to(inputs.device)
        return (inputs - mean) / std


class Pending:
    """A batch that has been passed to ``extract_feat``, with its outputs once they are computed."""

    __slots__ = ('__weakref__', 'inputs', 'outputs')

    def __init__(self, inputs: Tensor) -> None:
        self.inputs: Tensor | None = inputs
        self.outputs: Any = None


class ReferenceEngine(Engine):
    """Eager PyTorch in fp32, the reference for the outputs of all other engines."""

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

    ``extract_feat`` returns its inputs as a pending batch. The first ``head.forward`` lets the
    engine compute all pending batches of this thread at once, so that both halves of a flip
    test are one batch. Decoding in the head does not change. Only this instance of the model
    is changed, and no class.

    Args:
        model: A model in eval mode that :func:`is_replaceable` accepts.

    Attributes:
        network: The network that is replaced.
        normalization: The operations of the model's data preprocessor on pixels.
        reference: The engine that computes the network with PyTorch in fp32.
        engine: The active engine; the reference until another one is set.
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
        """Replace ``head.predict`` too, for an engine that includes decoding."""
        self._head.predict = predict

    @contextmanager
    def by_reference(self, record: Callable[[Tensor], None] | None = None) -> Iterator[None]:
        """Make the reference active in this block, for the current thread.

        Args:
            record: Called with the inputs of every batch, (N, 3, H, W).
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
        """Make another engine active in this block, for the current thread."""
        before = getattr(self._thread, 'engine', None)
        self._thread.engine = engine
        try:
            yield
        finally:
            self._thread.engine = before

    @property
    def _engine_here(self) -> Engine:
        """The engine that is active in this thread."""
        return getattr(self._thread, 'engine', None) or self.engine

    @property
    def uses_reference(self) -> bool:
        """Whether the reference is active in this thread."""
        by_reference = getattr(self._thread, 'by_reference', False)
        return by_reference or self._engine_here is self.reference

    def compute_as_is(self, pending: Pending) -> Sequence[Tensor]:
        """Compute one batch with an engine that includes decoding, and return its flat outputs."""
        return self._engine_here(pending.inputs)

    def _extract_feat(self, inputs: Tensor) -> Pending:
        pending = Pending(inputs)
        # References are weak so that a batch whose decoding failed is not computed later.
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
        if not self.network.known:  # no batch has been computed by PyTorch
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
    """Return the head of a pose estimator or single-stage detector; None for other models."""
    return getattr(model, 'head', getattr(model, 'bbox_head', None))


def is_replaceable(model: nn.Module) -> bool:
    """Return whether an engine can replace the network of a model."""
    preprocessor = getattr(model, 'data_preprocessor', None)
    return predicts_by_head(model) and is_known_preprocessor(preprocessor)


def predicts_by_head(model: nn.Module) -> bool:
    """Return whether a model predicts from ``head.forward(extract_feat(inputs))`` only."""
    return (
        getattr(type(model), 'predict', None) in _PREDICTS
        and type(head_of(model)).__name__ not in _OTHER_HEADS
    )


NETWORK_SWAP = register(
    InPlaceChange(name='network swap', applies=is_replaceable, apply=NetworkSwap),
)
