"""Selection and verification of engines, with fake engines of known speed and errors."""

import copy
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from mmpose.structures import PoseDataSample
from torch import Tensor

from mmpose_batch.engines import registry, runner, selector, torch_compile
from mmpose_batch.engines.base import Engine, EngineOptions
from mmpose_batch.engines.builder import EngineBuilder, NetworkSource
from mmpose_batch.engines.network import ReferenceEngine
from mmpose_batch.engines.runner import EngineRunner
from mmpose_batch.engines.selection import Phase, Selection
from mmpose_batch.engines.selector import candidates
from mmpose_batch.engines.verification import BOUNDS
from mmpose_batch.errors import EngineError
from mmpose_batch.tf32 import tf32_is_allowed

# Timeout in seconds for a test that would otherwise hang.
PATIENCE = 120.0


class Clock:
    """A simulated clock that advances only by the seconds that fake engines take.

    Calls on threads of a pool run concurrently, as many as the engine supports, and share
    their time; calls of the thread that reads the clock run one after the other.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self._now

    def spend(self, seconds: float, parallel: int) -> None:
        alone = threading.current_thread() is threading.main_thread()
        with self._lock:
            self._now += seconds if alone else seconds / parallel


CLOCK = Clock()


class Fake(Engine):
    """Computes shifted outputs of PyTorch, and takes some seconds of the simulated clock."""

    def __init__(
        self,
        source: NetworkSource,
        shift: float = 0.0,
        seconds: float = 0.0,
        parallel: int = 2,
        roll: int = 0,
    ) -> None:
        self.reference = ReferenceEngine(source.network, source.normalization)
        self.shift, self.seconds, self.roll = shift, seconds, roll
        self.parallel = parallel
        self.calls = 0

    def __call__(self, inputs: Tensor) -> Sequence[Tensor]:
        self.calls += 1
        CLOCK.spend(self.seconds, self.parallel)
        return [output.roll(self.roll, -1) + self.shift for output in self.reference(inputs)]


Build = Callable[[NetworkSource, EngineOptions], Engine]


def builder(**settings: float) -> Build:
    return lambda source, options: Fake(source, **settings)


class Broken(Engine):
    def __call__(self, inputs: Tensor) -> Sequence[Tensor]:
        raise RuntimeError('unsupported operator\nin line 7')


def broken(source: NetworkSource, options: EngineOptions) -> Engine:
    return Broken()


@pytest.fixture
def install(monkeypatch) -> Callable:
    """Returns a function that replaces how engines are built; engines not named are missing."""
    real = registry.specs()

    def install(**builders: Build) -> None:
        builders = {'torch': real['torch'].build, **builders}
        engines = {}
        for name, spec in real.items():
            modules = ('nowhere',)
            if name in builders:
                spec = replace(spec, build=builders[name])
                modules = spec.modules and ('torch',)  # which is installed
            engines[name] = replace(spec, modules=modules, build_modules=())
        monkeypatch.setattr(registry, 'ENGINES', engines)

    return install


class Backbone(torch.nn.Conv2d):
    """A single layer, since a runner treats all backbones alike."""

    def forward(self, inputs: Tensor) -> tuple[Tensor]:
        return (super().forward(inputs),)


@pytest.fixture(scope='module')
def pristine(top_down) -> torch.nn.Module:
    """A new model, to be copied by each test, since a runner changes its model in place."""
    torch.manual_seed(0)
    model = top_down.upstream().model
    model.backbone = Backbone(3, 128, kernel_size=32, stride=32)
    return model


@pytest.fixture
def model(pristine) -> torch.nn.Module:
    return copy.deepcopy(pristine)


def runner_of(model: torch.nn.Module, cache: bool = False, **options: Any) -> EngineRunner:
    """A runner that measures time with the simulated clock of the fake engines."""
    return EngineRunner(model, EngineOptions(cache=cache, **options), CLOCK)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    return tmp_path


def run_of(
    model: torch.nn.Module, seed: int = 0, batches: dict | None = None, count: int = 2
) -> Callable[[], list[PoseDataSample]]:
    """A test step on one batch, with each keypoint at the largest value of its output."""
    inputs = torch.randn(count, 3, 96, 64, generator=torch.Generator().manual_seed(seed))
    if batches is not None:
        batches[seed] = inputs

    def run() -> list[PoseDataSample]:
        x, y = model.head.forward(model.extract_feat(inputs))
        samples = []
        for points in torch.stack((x.argmax(-1), y.argmax(-1)), -1).double().numpy():
            scores = np.ones((1, len(points)))
            instances = InstanceData(keypoints=points[None], keypoint_scores=scores)
            samples.append(PoseDataSample(pred_instances=instances))
        return samples

    return run


@torch.no_grad()
def test_a_named_engine_is_verified_with_the_first_batch_only(install, model):
    install(openvino=builder())
    owner = runner_of(model, engine='openvino')
    run = run_of(model)
    for _ in range(3):
        owner.test_step(run)
    assert owner.engine.calls == 4  # one for the verification
    assert owner.report['engine'] == 'openvino'
    assert owner.report['self_check']['px'] == 0


@torch.no_grad()
@pytest.mark.parametrize('self_check', [True, False])
def test_an_engine_whose_outputs_deviate_is_rejected(install, model, self_check):
    install(openvino=builder(roll=3))
    owner = runner_of(model, engine='openvino', self_check=self_check)
    if self_check:
        with pytest.raises(EngineError, match=r'in fp32: outputs deviate .*: [1-9]\d*\.\d+ px'):
            owner.test_step(run_of(model))
        assert owner.lifecycle.phase is Phase.NEW and owner.selection is None
    else:
        assert len(owner.test_step(run_of(model))) == 2
        assert not owner.lifecycle.wants_samples


@torch.no_grad()
def test_an_engine_that_cannot_run_the_model_raises_one_line(install, model):
    install(onnxruntime=broken)
    owner = runner_of(model, engine='onnxruntime')
    with pytest.raises(EngineError, match='cannot run this model: RuntimeError: unsupported op'):
        owner.test_step(run_of(model))


def test_the_error_of_a_missing_engine_names_the_package_to_install(install, model):
    install()
    with pytest.raises(EngineError, match=r"pip install 'mmpose-batch\[openvino\]'"):
        runner_of(model, engine='openvino')


@torch.no_grad()
@pytest.mark.parametrize(
    'builders',
    [
        pytest.param({}, id='none is installed'),
        pytest.param({'openvino': broken}, id='one fails'),
        pytest.param({'openvino': builder(seconds=1.0, parallel=1)}, id='one is slow'),
    ],
)
def test_auto_skips_engines_that_fail_or_are_slower(install, model, builders):
    install(**builders)
    owner = runner_of(model, engine='auto')
    owner.test_step(run_of(model))
    assert owner.report['engine'] == 'torch'


@torch.no_grad()
def test_an_engine_that_cannot_run_raises_engine_error_without_self_check_too(install, model):
    install(openvino=broken)
    owner = runner_of(model, engine='openvino', self_check=False)
    with pytest.raises(EngineError, match='openvino cannot run this model'):
        owner.test_step(run_of(model))


@torch.no_grad()
def test_auto_does_not_cache_failures(install, pristine, cache):
    """A full disk at one start must not exclude an engine from all later starts."""
    chosen = []
    for build in (broken, builder()):
        install(torch=builder(seconds=0.3), openvino=build)
        model = copy.deepcopy(pristine)
        owner = runner_of(model, cache=True, engine='auto')
        owner.test_step(run_of(model))
        chosen.append(owner.report['engine'])
    assert chosen == ['torch', 'openvino']


@torch.no_grad()
def test_a_resumed_run_uses_its_earlier_engine(install, model):
    install(openvino=builder(seconds=0.5))
    owner = runner_of(model, engine='auto')
    owner.lifecycle.restore(Selection(engine='openvino', precision='fp32'))
    owner.test_step(run_of(model))
    assert owner.report['engine'] == 'openvino'


@torch.no_grad()
def test_all_sampled_batches_are_compared(install, model):
    """The outputs of the engine deviate only in the second batch."""
    inputs = {}

    class Differing(Fake):
        def __call__(self, batch: Tensor) -> Sequence[Tensor]:
            outputs = super().__call__(batch)
            differs = torch.equal(batch, inputs[1])
            return [output.roll(3, -1) for output in outputs] if differs else outputs

    install(openvino=lambda source, options: Differing(source))
    owner = runner_of(model, engine='openvino')
    owner.lifecycle.start_sampling()
    for seed in (0, 1):
        owner.test_step(run_of(model, seed, inputs))
    with pytest.raises(EngineError, match='outputs deviate'):
        owner.lifecycle.select()


class Counted(Fake):
    """Counts how many engines were built."""

    built = 0

    def __init__(self, *arguments: Any, **settings: float) -> None:
        super().__init__(*arguments, **settings)
        type(self).built += 1


def start(
    pristine: torch.nn.Module,
    counts: Sequence[int] = (5,),
    adopted: str | None = None,
    **options: Any,
) -> EngineRunner:
    """A runner after sampling batches of the given sizes and trying to select a known engine."""
    model = copy.deepcopy(pristine)
    owner = runner_of(model, cache=True, **options)
    if adopted is not None:
        owner.lifecycle.restore(Selection(engine=adopted, precision='fp32'))
    owner.lifecycle.start_sampling()
    for count in counts:
        owner.test_step(run_of(model, count=count))
    owner.lifecycle.select_known()
    return owner


shifted = builder(roll=3)


@torch.no_grad()
@pytest.mark.parametrize('engine', ['openvino', 'auto'])
def test_an_engine_that_passed_before_needs_one_batch(
    install, pristine, cache, monkeypatch, engine
):
    monkeypatch.setattr(Counted, 'built', 0)
    install(
        torch=builder(seconds=0.3, parallel=1),
        openvino=lambda source, options: Counted(source),
    )
    first = start(pristine, (5, 2), engine=engine)
    assert not first.selection
    first.lifecycle.select()
    assert first.selection
    monkeypatch.setattr(selector, 'shortest', None)  # no engine is timed again
    second = start(pristine, engine=engine)
    assert second.selection and not second.lifecycle.wants_samples
    assert Counted.built == 2
    reports = [owner.report for owner in (first, second)]
    assert [report.pop('self_check')['instances'] for report in reports] == [7, 5]
    assert reports[0] == reports[1]
    assert ('seconds_of_a_batch' in reports[1]) == (engine == 'auto')


@torch.no_grad()
def test_a_known_engine_that_deviates_in_one_batch_is_verified_with_all_samples(
    install, pristine, cache
):
    install(openvino=builder())
    start(pristine, engine='openvino').lifecycle.select()
    install(openvino=shifted)
    owner = start(pristine, engine='openvino')
    assert not owner.selection and 'self_check' not in owner.report
    with pytest.raises(EngineError, match='outputs deviate'):
        owner.lifecycle.select()


@torch.no_grad()
def test_a_known_engine_that_no_longer_runs_is_skipped_by_auto(install, pristine, cache):
    install(torch=builder(seconds=0.3), openvino=builder())
    start(pristine, engine='auto').lifecycle.select()
    install(torch=builder(), openvino=broken)
    owner = start(pristine, engine='auto')
    assert not owner.selection
    assert isinstance(owner.engine, ReferenceEngine)
    owner.lifecycle.select()
    assert owner.report['engine'] == 'torch'


@torch.no_grad()
def test_auto_knows_no_fastest_engine_until_all_are_timed(install, pristine, cache):
    """An engine that failed is tried again at each start, until all engines have been timed."""
    chosen = []
    for build in (broken, builder(), builder()):
        install(torch=builder(seconds=0.3), openvino=build)
        owner = start(pristine, engine='auto')
        chosen.append(owner.selection is not None)
        owner.lifecycle.select()
        chosen.append(owner.report['engine'])
    assert chosen == [False, 'torch', False, 'openvino', True, 'openvino']


@torch.no_grad()
@pytest.mark.parametrize(
    'other',
    [{'precision': 'bf16'}, {'engine': 'auto'}, {'latency': True}, {'self_check': False}],
)
def test_an_engine_is_known_only_with_the_same_options(install, pristine, cache, other):
    install(openvino=builder())
    start(pristine, engine='openvino').lifecycle.select()
    assert start(pristine, engine='openvino').selection
    assert not start(pristine, **{'engine': 'openvino', **other}).selection


@torch.no_grad()
def test_the_fastest_engine_is_selected_for_each_batch_size(install, pristine, cache):
    install(torch=builder(seconds=0.3), openvino=builder())
    start(pristine, engine='auto').lifecycle.select()
    model = copy.deepcopy(pristine)
    owner = runner_of(model, cache=True, engine='auto')
    owner.lifecycle.start_sampling(batch_size=64)
    owner.test_step(run_of(model, count=5))
    assert not owner.lifecycle.select_known() and not owner.selection


@torch.no_grad()
@pytest.mark.parametrize('engine', ['openvino', 'auto'])
def test_a_known_engine_waits_for_samples(install, pristine, cache, engine):
    install(torch=builder(seconds=0.3), openvino=builder())
    start(pristine, engine=engine).lifecycle.select()
    assert start(pristine, (), engine=engine).lifecycle.select_known()


@torch.no_grad()
def test_latency_can_be_preferred_after_a_failed_selection(install, model):
    class Large(Fake):
        def __call__(self, inputs: Tensor) -> Sequence[Tensor]:
            raise MemoryError

    install(torch=builder(shift=9), openvino=lambda source, options: Large(source))
    owner = runner_of(model, engine='auto')
    owner.lifecycle.start_sampling()
    owner.test_step(run_of(model))
    owner.lifecycle.select()
    assert owner.lifecycle.phase is Phase.NEW
    owner.lifecycle.prefer_latency()
    assert owner.options.latency and owner.parallel == 1


@torch.no_grad()
def test_a_verification_in_int8_is_not_cached(install, pristine, cache):
    install(openvino=builder())
    for _ in range(2):
        owner = start(pristine, engine='openvino', precision='int8')
        assert not owner.selection
        owner.lifecycle.select()


@torch.no_grad()
@pytest.mark.parametrize(('before', 'now'), [((2, 2), (5,)), ((5,), (1,))])
def test_few_inputs_neither_cache_nor_reuse_a_verification(install, pristine, cache, before, now):
    install(torch=builder(seconds=0.3), openvino=builder())
    for engine in ('openvino', 'auto'):
        start(pristine, before, engine=engine).lifecycle.select()
        owner = start(pristine, now, engine=engine)
        assert not owner.selection
        assert owner.lifecycle.select_known() == (before == (5,))  # more samples may suffice


@torch.no_grad()
@pytest.mark.parametrize('engine', ['openvino', 'auto'])
def test_a_resumed_run_reuses_earlier_verifications(install, pristine, cache, engine):
    install(torch=builder(seconds=0.3), openvino=builder())
    start(pristine, engine=engine).lifecycle.select()
    owner = start(pristine, adopted='openvino', engine=engine)
    assert owner.selection and owner.report['engine'] == 'openvino'


@torch.no_grad()
def test_batches_are_verified_with_the_concurrency_of_the_run(install, pristine, cache):
    """Two batches that are verified concurrently wait for each other."""
    both = threading.Barrier(2, timeout=PATIENCE)

    class Met(Fake):
        def __call__(self, inputs: Tensor) -> Sequence[Tensor]:
            both.wait()
            return super().__call__(inputs)

    install(openvino=lambda source, options: Met(source))
    owner = start(pristine, (2, 2), engine='openvino')
    owner.lifecycle.select()
    assert owner.selection and owner.report['self_check']['instances'] == 4


@torch.no_grad()
def test_after_running_out_of_memory_a_smaller_batch_selects(install, model):
    class Small(Fake):
        def __call__(self, inputs: Tensor) -> Sequence[Tensor]:
            if len(inputs) > 1:
                raise MemoryError
            return super().__call__(inputs)

    install(openvino=lambda source, options: Small(source))
    owner = runner_of(model, engine='openvino')
    with pytest.raises(MemoryError):
        owner.test_step(run_of(model))
    assert len(owner.test_step(run_of(model, count=1))) == 1
    assert owner.selection


class Failing(Fake):
    """Fails from a given call on."""

    def __init__(self, source: NetworkSource, error: Exception, after: int = 0) -> None:
        super().__init__(source)
        self.error, self.after = error, after

    def __call__(self, inputs: Tensor) -> Sequence[Tensor]:
        if self.calls >= self.after:
            raise self.error
        return super().__call__(inputs)

    def warm_up(self, run: Callable[[], object]) -> None:
        run()


@torch.no_grad()
@pytest.mark.parametrize('verified', [0, 1])
def test_a_lost_device_ends_the_selection(install, model, verified):
    lost = torch.AcceleratorError('CUDA error: an illegal memory access was encountered')
    install(openvino=lambda source, options: Failing(source, lost, after=verified))
    owner = runner_of(model, engine='auto')
    with pytest.raises(torch.AcceleratorError):
        owner.test_step(run_of(model))


@torch.no_grad()
@pytest.mark.parametrize(
    ('text', 'raised'), [('out of memory', None), ('unknown error', torch.AcceleratorError)]
)
def test_a_warm_up_that_exceeds_memory_does_not_end_the_run(install, model, text, raised):
    error = torch.AcceleratorError(f'CUDA error: {text}')
    install(openvino=lambda source, options: Failing(source, error, after=1))
    owner = runner_of(model, engine='openvino')
    owner.lifecycle.start_sampling()
    owner.test_step(run_of(model))
    owner.lifecycle.select()
    with pytest.raises(raised) if raised else nullcontext():
        owner.warm_up(lambda: owner.test_step(run_of(model)))


@torch.no_grad()
def test_a_first_batch_that_exceeds_memory_is_followed_by_a_smaller_one(install, model, caplog):
    error = torch.AcceleratorError('CUDA error: out of memory')
    install(openvino=lambda source, options: Failing(source, error))
    owner = runner_of(model, engine='openvino')
    owner.lifecycle.start_sampling()
    owner.test_step(run_of(model))
    owner.lifecycle.select()
    assert 'first batch does not fit into memory' in caplog.text
    assert owner.selection is None


@pytest.mark.parametrize(
    ('precision', 'names'),
    [
        ('fp32', ['torch', 'onnxruntime', 'openvino']),
        ('bf16', ['torch', 'openvino']),
        ('int8', ['onnxruntime', 'openvino']),
    ],
)
def test_auto_tries_only_engines_that_support_the_precision(install, precision, names):
    install(openvino=builder())
    assert candidates(EngineOptions(engine='auto', precision=precision), False) == names


@pytest.mark.parametrize(('there', 'on_cuda'), [({}, False), ({'openvino': builder()}, True)])
def test_auto_tries_torch_compile_only_where_it_may_be_fastest(
    install, monkeypatch, there, on_cuda
):
    """Compiling takes 30 s, which does not pay on a CPU with OpenVINO or ONNX Runtime."""
    install(**there, **{'torch-compile': builder()})
    for compiler in ('/usr/bin/g++', None):
        monkeypatch.setattr(torch_compile, 'which', lambda name, compiler=compiler: compiler)
        names = candidates(EngineOptions(engine='auto'), on_cuda)
        assert ('torch-compile' in names) == bool(compiler)


@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
def test_auto_tries_no_engine_on_the_cpu_if_the_model_is_on_a_gpu(install, precision):
    install(openvino=builder())
    options = EngineOptions(engine='auto', precision=precision)
    assert 'openvino' in candidates(options, on_cuda=False)
    assert 'openvino' not in candidates(options, on_cuda=True)


def unsupported(source: NetworkSource, options: EngineOptions) -> Engine:
    raise ValueError('precision: CPU supports fp32 in OpenVINO, not bf16')


@torch.no_grad()
def test_an_engine_that_lacks_the_precision_is_not_tried_at_each_start(install, pristine, cache):
    chosen = []
    for _ in range(2):
        install(torch=builder(seconds=0.3), openvino=unsupported)
        owner = start(pristine, engine='auto', precision='bf16')
        chosen.append(owner.selection is not None)
        owner.lifecycle.select()
        chosen.append(owner.report['engine'])
    assert chosen == [False, 'torch', True, 'torch']


@torch.no_grad()
def test_auto_selects_the_fastest_engine(install, model, caplog):
    install(torch=builder(seconds=0.3, parallel=1), openvino=builder())
    owner = runner_of(model, engine='auto')
    owner.test_step(run_of(model))
    assert 'onnxruntime needs nowhere, which is not installed' in caplog.text
    assert owner.report['engine'] == 'openvino'
    assert owner.report['seconds_of_a_batch'] == pytest.approx({'torch': 0.3, 'openvino': 0})


@torch.no_grad()
def test_auto_times_an_engine_with_as_many_batches_as_in_a_run(install, model):
    """Each of two concurrent calls takes longer than a call of PyTorch, but less per batch."""
    install(torch=builder(seconds=0.6, parallel=1), openvino=builder(seconds=0.7))
    owner = runner_of(model, engine='auto')
    owner.test_step(run_of(model))
    assert owner.report['engine'] == 'openvino'
    times = 'fastest (seconds per batch: torch 0.600, openvino 0.350)'
    assert times in str(owner.selection)


@torch.no_grad()
def test_concurrent_steps_are_limited_to_those_of_the_engine(install, model):
    install(openvino=builder())
    owner = runner_of(model, engine='openvino')
    owner.test_step(run_of(model))
    inside, third = [], threading.Event()
    # Two calls must run concurrently to continue; a third one would start while they wait.
    both = threading.Barrier(2, action=lambda: third.wait(0.05), timeout=PATIENCE)

    def run() -> list:
        inside.append(run)
        if len(inside) > 2:
            third.set()
        both.wait()
        inside.pop()
        return []

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda _: owner.test_step(run), range(6))) == [[]] * 6
    assert not third.is_set()
    assert owner.parallel == 2


@torch.no_grad()
def test_samples_calibrate_and_verify_the_engine(install, model):
    calibrated = []

    def build(source: NetworkSource, options: EngineOptions) -> Fake:
        calibrated.append(len(source.calibration))
        return Fake(source)

    install(openvino=build)
    owner = runner_of(model, engine='openvino', precision='int8')
    owner.lifecycle.start_sampling()
    for _ in range(3):
        owner.test_step(run_of(model))
    assert not owner.selection and not calibrated
    owner.lifecycle.select()
    assert owner.selection and calibrated == [6]
    assert owner.report['self_check']['px'] == 0
    assert owner.report['self_check']['quantile'] == BOUNDS['int8'].quantile


def test_int8_with_openvino_needs_nncf(install, model, monkeypatch):
    install(openvino=builder())
    monkeypatch.setitem(sys.modules, 'nncf', None)
    with pytest.raises(EngineError, match=r"needs nncf.*pip install 'mmpose-batch\[int8\]'"):
        runner_of(model, engine='openvino', precision='int8')


@torch.no_grad()
def test_auto_falls_back_to_fp32_if_no_engine_passes_in_the_precision(install, model, caplog):

    def slow(source: NetworkSource, options: EngineOptions) -> Fake:
        engine = exact_in_fp32(source, options)
        engine.seconds = 0.3
        return engine

    install(openvino=exact_in_fp32, torch=slow)
    owner = runner_of(model, engine='auto', precision='bf16')
    owner.note_memory(4)
    owner.test_step(run_of(model))
    assert (owner.report['engine'], owner.report['precision']) == ('openvino', 'fp32')
    assert set(owner.report['seconds_of_a_batch']) == {'openvino', 'torch'}
    assert owner.report['self_check']['px'] == 0
    assert owner.report['largest_batch'] == 4
    assert 'no engine passed in bf16; falling back to fp32' in caplog.text


class NotesTf32(Fake):
    """Notes whether TF32 is allowed while it computes."""

    def __init__(self, source: NetworkSource, noted: list[bool], **settings: float) -> None:
        super().__init__(source, **settings)
        self.noted = noted

    def __call__(self, inputs: Tensor) -> Sequence[Tensor]:
        self.noted.append(tf32_is_allowed())
        return super().__call__(inputs)


@torch.no_grad()
@pytest.mark.parametrize('on_cuda', [False, True])
def test_the_reference_is_computed_without_tf32(install, model, monkeypatch, on_cuda):
    engine, reference, compute = [], [], ReferenceEngine.__call__

    def note(self: ReferenceEngine, inputs: Tensor) -> Sequence[Tensor]:
        reference.append(tf32_is_allowed())
        return compute(self, inputs)

    monkeypatch.setattr(ReferenceEngine, '__call__', note)
    monkeypatch.setattr(EngineBuilder, 'on_cuda', on_cuda)
    install(openvino=lambda source, options: NotesTf32(source, engine))
    runner_of(model, engine='openvino').test_step(run_of(model))
    assert reference[0] != on_cuda  # the others are those of the fake engine
    assert engine == [True] * 2  # verified, and in use


@torch.no_grad()
@pytest.mark.parametrize('tf32', [False, True])
def test_the_tolerance_of_fp32_is_wider_with_tf32(install, model, monkeypatch, tf32):
    monkeypatch.setattr(selector, 'convolves_in_tf32', lambda device: tf32)
    install(openvino=builder(roll=1))  # by one of 128 places, of persons of about 100 pixels
    owner = runner_of(model, engine='openvino')
    with nullcontext() if tf32 else pytest.raises(EngineError, match='outputs deviate'):
        owner.test_step(run_of(model))


def exact_in_fp32(source: NetworkSource, options: EngineOptions) -> Fake:
    return Fake(source, roll=0 if options.precision == 'fp32' else 30, parallel=1)


@torch.no_grad()
@pytest.mark.parametrize('engine', ['torch', 'openvino'])
def test_a_default_precision_falls_back_to_fp32(install, model, caplog, engine):
    install(openvino=exact_in_fp32, torch=exact_in_fp32)
    owner = runner_of(model, engine=engine, precision='bf16', precision_is_free=True)
    owner.test_step(run_of(model))
    assert (owner.report['engine'], owner.report['precision']) == (engine, 'fp32')
    assert owner.report['self_check']['px'] == 0
    assert f'{engine} in bf16: outputs deviate' in caplog.text


@torch.no_grad()
def test_an_engine_that_cannot_run_does_not_fall_back_to_fp32(install, model):
    built = []

    def build(source: NetworkSource, options: EngineOptions) -> Broken:
        built.append(options.precision)
        return Broken()

    install(openvino=build)
    owner = runner_of(model, engine='openvino', precision='bf16', precision_is_free=True)
    with pytest.raises(EngineError, match='cannot run this model'):
        owner.test_step(run_of(model))
    assert built == ['bf16']


@torch.no_grad()
def test_no_calibration_is_reported_after_a_fallback_from_int8(install, model):
    """A resumed run in fp32 does not calibrate, but compares the calibration in the report."""

    def build(source: NetworkSource, options: EngineOptions) -> Fake:
        source.onnx_files(options.precision, None, 'network')
        return exact_in_fp32(source, options)

    install(openvino=build, torch=exact_in_fp32)
    owner = runner_of(model, engine='auto', precision='int8')
    owner.test_step(run_of(model))
    assert owner.report['precision'] == 'fp32'
    assert not {'calibration', 'calibrated_with'} & owner.report.keys()


@torch.no_grad()
@pytest.mark.parametrize(('engine', 'free'), [('auto', False), ('openvino', True)])
def test_a_run_resumed_in_fp32_tries_no_other_precision(install, model, engine, free):
    install(openvino=exact_in_fp32)
    owner = runner_of(model, engine=engine, precision='bf16', precision_is_free=free)
    owner.lifecycle.restore(Selection(engine='openvino', precision='fp32'))
    assert owner.options.precision == 'fp32'
    owner.test_step(run_of(model))
    assert (owner.report['engine'], owner.report['precision']) == ('openvino', 'fp32')


@torch.no_grad()
def test_a_named_precision_never_falls_back(install, model):
    install(openvino=exact_in_fp32)
    owner = runner_of(model, engine='openvino', precision='bf16')
    owner.lifecycle.restore(Selection(engine='openvino', precision='fp32'))
    with pytest.raises(EngineError, match='in bf16: outputs deviate'):
        owner.test_step(run_of(model))


@torch.no_grad()
@pytest.mark.parametrize('built', [['torch', 'openvino'], ['openvino', 'torch']])
def test_the_fastest_engine_is_built_once(install, model, built):
    """Building takes 30 s with torch.compile."""
    log = []

    def build(name: str, seconds: float) -> Callable:
        def engine(source: NetworkSource, options: EngineOptions) -> Fake:
            log.append(name)
            return Fake(source, seconds=seconds, parallel=1)

        return engine

    slow, fast = built
    install(**{slow: build(slow, 0.3), fast: build(fast, 0.0)})
    owner = runner_of(model, engine='auto')
    owner.test_step(run_of(model))
    assert owner.report['engine'] == fast
    assert sorted(log) == sorted(built)
    assert owner.parallel == 1


@torch.no_grad()
def test_if_no_engine_supports_int8_auto_warns_and_uses_torch(install, model, caplog):
    install()
    owner = runner_of(model, engine='auto', precision='int8')
    owner.test_step(run_of(model))
    assert (owner.report['engine'], owner.report['precision']) == ('torch', 'fp32')
    assert 'no engine passed in int8; falling back to fp32' in caplog.text


@torch.no_grad()
@pytest.mark.parametrize(
    ('precision', 'self_check', 'compared'),
    [('fp32', True, False), ('bf16', True, True), ('bf16', False, False)],
)
def test_eager_pytorch_is_verified_if_it_is_not_the_reference(
    install, model, precision, self_check, compared
):
    install(torch=builder())
    owner = runner_of(model, precision=precision, self_check=self_check)
    assert owner.lifecycle.wants_samples == compared
    owner.test_step(run_of(model))
    assert ('self_check' in owner.report) == compared


@torch.no_grad()
def test_eager_pytorch_whose_outputs_deviate_is_rejected(install, model):
    install(torch=builder(roll=30))
    owner = runner_of(model, precision='bf16')
    with pytest.raises(EngineError, match='torch in bf16: outputs deviate'):
        owner.test_step(run_of(model))


@torch.no_grad()
def test_an_engine_can_be_built_for_latency_until_it_has_run(install, model, pristine):
    built = []

    def build(source: NetworkSource, options: EngineOptions) -> Fake:
        parallel = registry.parallel_batches(options)
        built.append((parallel, options.latency))
        return Fake(source, parallel=parallel)

    install(openvino=build)
    owner = runner_of(model, engine='openvino')
    for _ in range(2):
        owner.lifecycle.prefer_latency()
    assert built == [(2, False), (1, True)]
    assert owner.parallel == 1
    another = copy.deepcopy(pristine)
    other = runner_of(another, engine='openvino')
    other.test_step(run_of(another))
    other.lifecycle.prefer_latency()
    assert other.parallel == 2


class Variants:
    """Builds engines for latency and for throughput, and records which one computed each batch."""

    def __init__(self, **of_latency: float) -> None:
        self.built: list[str] = []
        self.computed: list[str] = []
        self._of_latency = of_latency

    def __call__(self, source: NetworkSource, options: EngineOptions) -> Engine:
        kind = 'latency' if options.latency else 'throughput'
        self.built.append(kind)
        settings = self._of_latency if options.latency else {}
        fake = Fake(source, parallel=registry.parallel_batches(options), **settings)
        computed = self.computed

        class Watched(Engine):
            parallel = fake.parallel

            def __call__(self, inputs: Tensor) -> Sequence[Tensor]:
                computed.append(kind)
                return fake(inputs)

        return Watched()


@torch.no_grad()
@pytest.mark.parametrize('first', ['throughput', 'latency'])
def test_a_single_batch_runs_on_a_separate_build(install, model, first):
    other = {'throughput': 'latency', 'latency': 'throughput'}[first]
    install(openvino=(variants := Variants()))
    owner = runner_of(model, engine='openvino')
    if first == 'latency':
        owner.lifecycle.prefer_latency()
    owner.test_step(run_of(model), alone=first == 'latency')
    assert variants.built == ['throughput', *(['latency'] if first == 'latency' else [])]
    for kind in (first, other, other, first, other):
        variants.computed.clear()
        owner.test_step(run_of(model), alone=kind == 'latency')
        assert variants.computed[-1] == kind
    assert variants.built[-2:] == [first, other]  # one build each
    assert owner.parallel == 2


@torch.no_grad()
def test_an_engine_for_latency_that_deviates_is_not_used(install, model, caplog):
    install(openvino=(variants := Variants(roll=30)))
    owner = runner_of(model, engine='openvino')
    expected = owner.test_step(run_of(model))
    for _ in range(2):
        outputs = owner.test_step(run_of(model), alone=True)
        for one, other in zip(outputs, expected, strict=True):
            one, other = (each.pred_instances.keypoints for each in (one, other))
            np.testing.assert_array_equal(one, other)
        assert variants.computed[-1] == 'throughput' or len(caplog.records) == 1
    assert variants.computed[-1] == 'throughput'
    assert variants.built == ['throughput', 'latency']
    assert 'outputs deviate' in caplog.text and 'no second build for latency' in caplog.text


@torch.no_grad()
def test_an_engine_requested_for_latency_has_no_second_build(install, model):
    install(openvino=(variants := Variants()))
    owner = runner_of(model, engine='openvino', latency=True)
    for alone in (True, False):
        owner.test_step(run_of(model), alone)
    assert (variants.built, owner.parallel) == (['latency'], 1)


@torch.no_grad()
@pytest.mark.parametrize(
    'error', [None, MemoryError(), RuntimeError('no compiler'), EngineError('it has its reason')]
)
def test_warm_up_reaches_an_engine_that_compiles_for_batch_sizes(install, model, error):
    install(openvino=builder())
    owner = runner_of(model, engine='openvino')
    ran = []

    def run() -> None:
        ran.append(1)
        if error is not None:
            raise error

    owner.test_step(run_of(model))
    owner.warm_up(run)
    assert not ran  # fake engines do not compile for batch sizes
    owner.engine.warm_up = lambda run: run()
    if error is None or isinstance(error, MemoryError):
        owner.warm_up(run)
    else:
        with pytest.raises(EngineError, match=rf'^(engine: RuntimeError: )?{error}$'):
            owner.warm_up(run)
    assert ran


@torch.no_grad()
def test_an_engine_is_not_warmed_up_before_it_is_selected(install, model):
    """Otherwise it would be verified with full batches of a single input."""
    install(openvino=builder())
    owner = runner_of(model, engine='openvino')
    owner.engine.warm_up = lambda run: run()
    owner.warm_up(lambda: pytest.fail('it ran'))


def test_a_model_whose_network_cannot_be_replaced_runs_on_torch_only(model, monkeypatch):
    monkeypatch.setattr(runner, 'is_replaceable', lambda model: False)
    with pytest.raises(EngineError, match='only engine torch supports it'):
        runner_of(model, engine='openvino')
    owner = runner_of(model, engine='auto', precision='int8')
    assert (owner.report['engine'], owner.report['precision']) == ('torch', 'fp32')
