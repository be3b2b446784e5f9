"""What is asked of an engine."""

from dataclasses import dataclass

ENGINES = ('torch', 'torch-compile', 'onnxruntime', 'openvino', 'auto')


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """What computes a network.

    Attributes:
        engine: One of :data:`ENGINES`.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        device: OpenVINO's device, or ONNX Runtime's providers with commas between, the
            preferred one first; None takes the CPU, but under ``auto`` ONNX Runtime's
            CUDA where the model is on a GPU.
        file: An ONNX file of the network, from elsewhere; None has it exported.
        cache: Whether built engines are kept on disk.
        self_check: Whether answers that differ too much from PyTorch's are refused.
        latency: Whether one batch at a time is run, as fast as it can be, rather than
            as many in a second as can be.
        precision_is_free: Whether fp32 may be taken where an engine in that precision
            answers too differently, since nobody named it.
    """

    engine: str = 'torch'
    precision: str = 'fp32'
    device: str | None = None
    file: str | None = None
    cache: bool = True
    self_check: bool = True
    latency: bool = False
    precision_is_free: bool = False

    @property
    def parallel(self) -> int:
        """Batches at a time where an engine can: what decodes one leaves its core to the other."""
        return 1 if self.latency or self.engine in ('torch', 'torch-compile') else 2

    @property
    def splits_cores(self) -> bool:
        """Whether the batches that run at a time have cores of their own."""
        return self.engine == 'openvino' and self.device in (None, 'CPU') and self.parallel > 1
