"""Speed of the network alone, and the limit of the processor."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.utils.flop_counter import FlopCounterMode

from mmpose_batch.engines.network import head_of, predicts_by_head
from mmpose_batch.engines.runner import EngineRunner
from mmpose_batch.progress import Clock

if TYPE_CHECKING:
    from mmpose_batch.inferencer import BatchPose2DInferencer

_DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
# Channels, side and images of the convolutions to try, of various sizes since caches differ.
CONVOLUTIONS = ((128, 40, 4), (256, 20, 8), (256, 40, 2), (512, 16, 8))
_REPEATS = 5
_TRIES = 10


class Probe:
    """Times the network of a model, and records its inputs, while the model runs.

    Args:
        model: Model of an inferencer or a detector, with its engine.
        now: Clock in seconds.

    Attributes:
        seconds: Time in the network, summed over all threads.
        groups: Inputs of the network; those of one group were computed together, such as
            both halves of a flip test.
    """

    def __init__(self, model: nn.Module, now: Clock = time.perf_counter) -> None:
        self.model = model
        self._now = now
        self.seconds = 0.0
        self.groups: list[list[Tensor]] = []
        self._lock = threading.Lock()
        self._thread = threading.local()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Time the model in this block."""
        head = head_of(self.model)
        extract_feat, forward = self.model.extract_feat, head.forward
        before = [(self.model, 'extract_feat'), (head, 'forward')]
        own = [(part, name, vars(part).get(name)) for part, name in before]
        self.model.extract_feat = lambda inputs: self._extract_feat(extract_feat, inputs)
        head.forward = lambda *args, **kwargs: self._forward(forward, *args, **kwargs)
        try:
            yield
        finally:
            for part, name, function in own:
                if function is None:
                    delattr(part, name)
                else:
                    setattr(part, name, function)

    def _extract_feat(self, function: Callable, inputs: Tensor) -> Any:
        with self._lock:
            group = getattr(self._thread, 'group', None)
            if group is None:
                group = self._thread.group = []
                self.groups.append(group)
            group.append(inputs)
        return self._timed(function, inputs)

    def _forward(self, function: Callable, *args: Any, **kwargs: Any) -> Any:
        self._thread.group = None
        return self._timed(function, *args, **kwargs)

    def _timed(self, function: Callable, *args: Any, **kwargs: Any) -> Any:
        start = self._now()
        result = function(*args, **kwargs)
        _wait_for_device()
        with self._lock:
            self.seconds += self._now() - start
        return result


def measure_limits(
    inferencer: 'BatchPose2DInferencer',
    run: Callable[[], Any],
    images: int,
    now: Clock = time.perf_counter,
) -> dict[str, Any]:
    """Measure the networks alone for one round.

    Args:
        inferencer: Inferencer with the networks.
        run: Runs one round with it.
        images: Number of images of the round.
        now: Clock in seconds.

    Returns:
        ``test_step_shares``, the fractions of the test steps of the pose model before its
        network (``stacking``), in it (``network``) and after it (``decoding``);
        ``network_only``, images per second if only the networks are run; ``flop``,
        floating point operations per image; ``best_rate``, operations per second of the
        fastest convolution on this machine in that precision, None if PyTorch has none;
        ``limit``, images per second at that rate. Empty if a network cannot be separated
        from its model, or was not run.
    """
    if not all(runner.selection for runner in inferencer.runners.values()):
        run()
    models = {'pose': inferencer.model}
    if inferencer.detector is not None:
        models['detector'] = inferencer.detector.model
    if not all(map(predicts_by_head, models.values())):
        return {}
    probes = {name: Probe(model, now) for name, model in models.items()}
    steps = _TestSteps(inferencer, now)
    with ExitStack() as stack:
        for probe in (*probes.values(), steps):
            stack.enter_context(probe.attached())
        run()
    if not all(probe.groups for probe in probes.values()):
        return {}
    runners = inferencer.runners
    flop = sum(count_flop(probe, runners[name]) for name, probe in probes.items()) / images
    device = next(inferencer.model.parameters()).device
    rates, seconds = [], []
    for _ in range(_REPEATS):  # alternating, so that a drift of the machine's speed affects both
        rates.append(best_rate(runners['pose'].selection.precision, device, now=now))
        seconds.append(sum(replay(probe, runners[name], now) for name, probe in probes.items()))
    best = None if None in rates else median(rates)
    return {
        'test_step_shares': steps.shares(probes['pose'].seconds),
        'network_only': images / median(seconds),
        'flop': flop,
        'best_rate': best,
        'limit': None if best is None else best / flop,
    }


def replay(probe: Probe, runner: EngineRunner, now: Clock = time.perf_counter) -> float:
    """Seconds of the network for the recorded inputs, with as many concurrent batches as before."""
    head = head_of(probe.model)

    @torch.no_grad()
    def compute(group: list[Tensor]) -> None:
        features = [probe.model.extract_feat(inputs) for inputs in group]
        for feature in features:
            head.forward(feature)

    with ThreadPoolExecutor(runner.parallel) as pool:
        start = now()
        list(pool.map(compute, probe.groups))
        _wait_for_device()
        return now() - start


@torch.no_grad()
def count_flop(probe: Probe, runner: EngineRunner) -> int:
    """Floating point operations of the recorded inputs, counted by PyTorch."""
    shapes: defaultdict[Any, int] = defaultdict(int)
    examples: dict[Any, Tensor] = {}
    for inputs in (inputs for group in probe.groups for inputs in group):
        key = tuple(inputs.shape[1:]), inputs.dtype
        shapes[key] += len(inputs)
        examples[key] = inputs[:1]
    total = 0
    for key, count in shapes.items():
        with runner.by_reference(), FlopCounterMode(display=False) as counter:
            head_of(probe.model).forward(probe.model.extract_feat(examples[key]))
        total += count * counter.get_total_flops()
    return total


@torch.no_grad()
def best_rate(
    precision: str, device: torch.device, tries: int = _TRIES, now: Clock = time.perf_counter
) -> float | None:
    """Operations per second of the fastest of :data:`CONVOLUTIONS`, the best of several tries.

    None if PyTorch has no convolution in this precision.
    """
    dtype = _DTYPES.get(precision)
    if dtype is None:
        return None
    best = 0.0
    scale, calls = (8, 20) if device.type == 'cuda' else (1, 1)  # a GPU needs large batches
    for channels, side, images in CONVOLUTIONS:
        count = images * scale
        inputs = torch.randn(count, channels, side, side, dtype=dtype, device=device)
        weight = torch.randn(channels, channels, 3, 3, dtype=dtype, device=device)
        inputs, weight = (x.contiguous(memory_format=torch.channels_last) for x in (inputs, weight))
        flop = 2 * count * side**2 * channels**2 * 9
        for _ in range(tries):
            start = now()
            for _ in range(calls):
                conv2d(inputs, weight, padding=1)
            _wait_for_device()
            best = max(best, calls * flop / (now() - start))
    return best


class _TestSteps:
    """Times the test steps of the pose model of an inferencer, and the stacking in them."""

    def __init__(self, inferencer: 'BatchPose2DInferencer', now: Clock) -> None:
        self._inferencer, self._now = inferencer, now
        self._seconds = {'step': 0.0, 'stacking': 0.0}
        self._lock = threading.Lock()

    def shares(self, network: float) -> dict[str, float]:
        """Fractions of the time of all steps, given the seconds of the network."""
        step, stacking = self._seconds.values()
        rest = max(step - stacking - network, 0.0)  # not negative: several threads are timed
        parts = {'stacking': stacking, 'network': network, 'decoding': rest}
        return {name: seconds / sum(parts.values()) for name, seconds in parts.items()}

    @contextmanager
    def attached(self) -> Iterator[None]:
        runner, preprocessor = (
            self._inferencer.runner,
            self._inferencer.model.data_preprocessor,
        )
        test_step, forward = runner.test_step, preprocessor.forward
        # Timed inside the turn, since waiting for the turn is not work.
        runner.test_step = lambda run, alone=False: test_step(
            lambda: self._timed('step', run), alone
        )
        preprocessor.forward = lambda *args: self._timed('stacking', lambda: forward(*args))
        try:
            yield
        finally:
            del runner.test_step, preprocessor.forward

    def _timed(self, name: str, run: Callable[[], Any]) -> Any:
        start = self._now()
        result = run()
        _wait_for_device()
        with self._lock:
            self._seconds[name] += self._now() - start
        return result


def _wait_for_device() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
