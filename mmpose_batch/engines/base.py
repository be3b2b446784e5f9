"""The engine interface, the options of an engine, and its entry in the registry."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from .builder import NetworkSource


class Engine(ABC):
    """Computes a network, from a batch of inputs to the outputs that the model's head decodes.

    Several threads may call an engine concurrently.

    Attributes:
        parallel: Number of calls that run concurrently; further calls wait.
        description: Library, version and device, for reports.
    """

    parallel: int = 1
    description: str = ''

    @abstractmethod
    def __call__(self, inputs: Tensor) -> Sequence[Tensor]:
        """Compute one batch.

        Args:
            inputs: (N, 3, H, W), uint8 pixels as the pipeline packs them, or
                normalised float32 where the model's data preprocessor had to pad them.

        Returns:
            The tensors that :class:`mmpose_batch.engines.network.Network` returns,
            float32, each with N as its first dimension.
        """

    def warm_up(self, run: Callable[[], object]) -> None:  # noqa: B027 - most engines need none
        """Compile for full batches before the first result.

        Args:
            run: Runs one full batch through the model. An engine that does not compile for
                a particular batch size need not call it.
        """

    def cool_down(self) -> None:  # noqa: B027
        """Discard the batch size of :meth:`warm_up`, because the next run uses another."""


class WrappedEngine(Engine):
    """An engine that runs another one, whose :meth:`__call__` subclasses define.

    Args:
        engine: The other engine.

    Attributes:
        engine: The same.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.parallel = engine.parallel

    @property
    def description(self) -> str:
        """That of the other engine."""
        return self.engine.description

    def warm_up(self, run: Callable[[], object]) -> None:
        """Warm up the other engine."""
        self.engine.warm_up(run)

    def cool_down(self) -> None:
        """Discard the batch size of the warm-up."""
        self.engine.cool_down()


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """Options that determine which engine computes a network, and how.

    Attributes:
        engine: Name of a registered engine, or ``auto``.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        device: OpenVINO device, or comma-separated ONNX Runtime execution providers, the
            preferred one first. None selects the CPU for OpenVINO, and the provider of the model's
            device for ONNX Runtime.
        file: Path of an external ONNX file of the network; None exports the network.
        cache: Whether built engines are cached on disk.
        self_check: Whether an engine is rejected if its outputs deviate from PyTorch's
            beyond tolerance.
        latency: Whether the engine is built for the shortest time per batch, one batch at a
            time, rather than for the highest throughput.
        precision_is_free: Whether the engine may fall back to fp32 if its outputs in
            ``precision`` deviate beyond tolerance, because the user named no precision.
    """

    engine: str = 'torch'
    precision: str = 'fp32'
    device: str | None = None
    file: str | None = None
    cache: bool = True
    self_check: bool = True
    latency: bool = False
    precision_is_free: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoCase:
    """The conditions that decide whether ``auto`` tries an engine.

    Attributes:
        on_cuda: Whether the model is on an NVIDIA GPU.
        alternatives: Whether an engine of another library than PyTorch is installed.
    """

    on_cuda: bool
    alternatives: bool


def _same_device(engine_device: str | None, kind: str) -> str:
    return kind


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSpec:
    """A registered engine: the options that it supports, and the function that builds it.

    Attributes:
        name: Name by which users select the engine.
        build: Builds the engine for a network.
        precisions: Precisions that the engine supports on at least one device.
        modules: Packages that the engine imports to run.
        build_modules: Packages that must be installed but are imported only to build the engine.
        precision_modules: Further build packages that one precision needs, by precision.
        extra: Extra of this distribution that installs these packages, if there is one.
        takes_device: Whether ``engine_device`` selects the device of the engine.
        takes_file: Whether the engine can run an external ONNX file.
        parallel: Number of batches that run concurrently unless the engine is built for
            latency; on a CPU each of them has its own cores.
        compiles_for_batch: Whether the engine compiles for one batch size, so that it needs
            a warm-up before the first result.
        computes_on: Maps ``engine_device`` and the type of PyTorch's device (``cpu``,
            ``cuda``) to the type of the device that the engine computes on.
        is_available: Whether requirements other than packages, such as a compiler, are met.
        in_auto: Whether ``auto`` tries the engine. With an external ONNX file, ``auto`` only
            tries engines with ``takes_file``; with the model on a GPU, only those that compute
            on a GPU.
    """

    name: str
    build: 'Callable[[NetworkSource, EngineOptions], Engine]'
    precisions: tuple[str, ...] = ('fp32',)
    modules: tuple[str, ...] = ()
    build_modules: tuple[str, ...] = ()
    precision_modules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    extra: str | None = None
    takes_device: bool = False
    takes_file: bool = False
    parallel: int = 1
    compiles_for_batch: bool = False
    computes_on: Callable[[str | None, str], str] = _same_device
    is_available: Callable[[], bool] = lambda: True
    in_auto: Callable[[AutoCase], bool] = lambda case: True
