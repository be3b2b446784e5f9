"""The contract of an engine: what it does, how it is registered, what is asked of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from .builder import NetworkSource


class Engine(ABC):
    """Computes a network: a batch of its inputs to what its head decodes.

    Several threads may call it at once.

    Attributes:
        parallel: Calls that it runs concurrently; others wait for their turn.
        description: Library, version and device, for reports.
    """

    parallel: int = 1
    description: str = ''

    @abstractmethod
    def __call__(self, inputs: Tensor) -> Sequence[Tensor]:
        """Compute one batch.

        Args:
            inputs: (N, 3, H, W), uint8 pixels as the pipeline packs them, or
                float32 where the model's data preprocessor had to pad them.

        Returns:
            The tensors that :class:`mmpose_batch.engines.network.Network` returns,
            float32, with N in front.
        """

    def warm_up(self, run: Callable[[], object]) -> None:  # noqa: B027 - most need none
        """Compile for full batches before the first result.

        Args:
            run: Runs one through the model. An engine that compiles for no batch size
                need not call it.
        """

    def cool_down(self) -> None:  # noqa: B027
        """Forget the batch size of :meth:`warm_up`: the next run has another."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """What computes a network.

    Attributes:
        engine: The name of a registered engine, or ``auto``.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        device: OpenVINO's device, or ONNX Runtime's providers with commas between, the
            preferred one first; None takes the CPU, but under ``auto`` ONNX Runtime's
            CUDA where the model is on a GPU.
        file: An external ONNX file of the network; None has it exported.
        cache: Whether built engines are cached on disk.
        self_check: Whether an engine whose outputs deviate too much from PyTorch's is rejected.
        latency: Whether one batch at a time is run, as fast as it can be, rather than
            as many in a second as can be.
        precision_is_free: Whether fp32 may be taken where the outputs of an engine in that
            precision deviate too much, since the user named none.
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
    """What decides whether ``auto`` tries an engine.

    Attributes:
        on_cuda: Whether the model is on an NVIDIA GPU.
        alternatives: Whether an engine is installed that is more than PyTorch.
    """

    on_cuda: bool
    alternatives: bool


def _same_device(engine_device: str | None, kind: str) -> str:
    return kind


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSpec:
    """An engine as it is registered: what it can be asked for, and how it is built.

    Attributes:
        name: What users write.
        build: Builds the engine of a network.
        precisions: Those that it can be asked for; whether a device computes them is
            another question.
        modules: Packages that it imports to run.
        build_modules: Packages that must be installed and are imported where it is built.
        precision_modules: More of these, for single precisions.
        extra: The extra of this distribution that installs them, if there is one.
        takes_device: Whether ``engine_device`` says where it runs.
        takes_file: Whether it runs an external ONNX file.
        parallel: Batches that it runs concurrently, unless it is built for latency; on a
            CPU each has cores of its own.
        compiles_for_batch: Whether it compiles for single batch sizes, so that it is
            warmed up before the first result.
        computes_on: From ``engine_device`` and the kind of PyTorch's device (``cpu``,
            ``cuda``) to the kind of device that it computes on.
        is_available: Whether what is no package, such as a compiler, is there.
        in_auto: Whether ``auto`` tries it; it never tries one that takes no file on a file.
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
