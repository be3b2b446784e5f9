"""Selecting an engine and verifying it, with engines whose faults and speeds are known."""

import copy
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from mmpose.structures import PoseDataSample
from torch import Tensor

from mmpose_batch.engines import onnxruntime, registry, runner, selector, torch_compile
from mmpose_batch.engines.base import Engine, EngineOptions
from mmpose_batch.engines.builder import NetworkSource
from mmpose_batch.engines.network import ReferenceEngine
from mmpose_batch.engines.runner import EngineRunner
from mmpose_batch.engines.selection import Phase, Selection
from mmpose_batch.engines.selector import candidates
from mmpose_batch.engines.verification import BOUNDS
from mmpose_batch.errors import EngineError

# Seconds that end a test which would hang; none is that slow.
PATIENCE = 120.0


class Clock:
    """Moves by the seconds that engines take and by no others.

    Calls on threads of a pool run concurrently, as many as the engine takes, and share
    their time; calls of the thread that reads the clock come one after the other.
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
    """Computes as PyTorch does, moved by something, and takes some seconds of the clock."""

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
    """Has the named engines built like this, and the others not there."""
    real = registry.specs()

    def install(**builders: Build) -> None:
        builders = {'torch': real['torch'].build, **builders}
        engines = {}
        for name, spec in real.items():
            modules = ('nowhere',)
            if name in builders:
                spec = replace(spec, build=builders[name])
                modules = spec.modules and ('torch',)  # which is there
            engines[name] = replace(spec, modules=modules, build_modules=())
        monkeypatch.setattr(registry, 'ENGINES', engines)

    return install


class Backbone(torch.nn.Conv2d):
    """One layer: what a runner does is the same for every backbone."""

    def forward(self, inputs: Tensor) -> tuple[Tensor]:
        return (super().forward(inputs),)


@pytest.fixture(scope='module')
def pristine(top_down) -> torch.nn.Module:
    """A model as it is built, to be copied: a runner changes its model in place."""
    torch.manual_seed(0)
    model = top_down.upstream().model
    model.backbone = Backbone(3, 128, kernel_size=32, stride=32)
    return model


@pytest.fixture
def model(pristine) -> torch.nn.Module:
    return copy.deepcopy(pristine)


def runner_of(model: torch.nn.Module, cache: bool = False, **options: Any) -> EngineRunner:
    """One that measures with the clock of the fake engines."""
    return EngineRunner(model, EngineOptions(cache=cache, **options), CLOCK)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    return tmp_path


def run_of(
    model: torch.nn.Module, seed: int = 0, batches: dict | None = None, count: int = 2
) -> Callable[[], list[PoseDataSample]]:
    """One batch through the network, each keypoint where its output is largest."""
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
def test_a_named_engine_is_checked_on_the_first_batch_only(install, model):
    install(openvino=builder())
    owner = runner_of(model, engine='openvino')
    run = run_of(model)
    for _ in range(3):
        owner.test_step(run)
    assert owner.engine.calls == 4  # one for the check
    assert owner.report['engine'] == 'openvino'
    assert owner.report['self_check']['px'] == 0


@torch.no_grad()
@pytest.mark.parametrize('self_check', [True, False])
def test_an_engine_that_answers_differently_is_refused(install, model, self_check):
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
def test_an_engine_that_cannot_run_the_model_is_said_in_one_line(install, model):
    install(onnxruntime=broken)
    owner = runner_of(model, engine='onnxruntime')
    with pytest.raises(EngineError, match='cannot run this model: RuntimeError: unsupported op'):
        owner.test_step(run_of(model))


def test_an_engine_that_is_not_installed_says_how_to_install_it(install, model):
    install()
    with pytest.raises(EngineError, match=r"pip install 'mmpose-batch\[openvino\]'"):
        runner_of(model, engine='openvino')


@torch.no_grad()
@pytest.mark.parametrize(
    'builders',
    [
        pytest.param({}, id='none is there'),
        pytest.param({'openvino': broken}, id='one breaks'),
        pytest.param({'openvino': builder(seconds=1.0, parallel=1)}, id='one is slow'),
    ],
)
def test_auto_passes_over_what_does_not_help(install, model, builders):
    install(**builders)
    owner = runner_of(model, engine='auto')
    owner.test_step(run_of(model))
    assert owner.report['engine'] == 'torch'


@torch.no_grad()
def test_without_the_check_too_an_engine_that_cannot_run_is_no_fault_of_an_image(install, model):
    install(openvino=broken)
    owner = runner_of(model, engine='openvino', self_check=False)
    with pytest.raises(EngineError, match='openvino cannot run this model'):
        owner.test_step(run_of(model))


@torch.no_grad()
def test_auto_forgets_what_failed_once(install, pristine, cache):
    """A full disk at one start must not rule an engine out at all others."""
    chosen = []
    for build in (broken, builder()):
        install(torch=builder(seconds=0.3), openvino=build)
        model = copy.deepcopy(pristine)
        owner = runner_of(model, cache=True, engine='auto')
        owner.test_step(run_of(model))
        chosen.append(owner.report['engine'])
    assert chosen == ['torch', 'openvino']


@torch.no_grad()
def test_a_run_that_goes_on_takes_the_engine_that_it_had(install, model):
    install(openvino=builder(seconds=0.5))
    owner = runner_of(model, engine='auto')
    owner.lifecycle.restore(Selection(engine='openvino', precision='fp32'))
    owner.test_step(run_of(model))
    assert owner.report['engine'] == 'openvino'


@torch.no_grad()
def test_all_that_is_sampled_is_compared(install, model):
    """The second batch is the one that an engine answers differently."""
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
    """Counts all that were ever built."""

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
    """One that has sampled batches of so many persons and looked whether that is enough."""
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
    monkeypatch.setattr(selector, 'shortest', None)  # nothing is timed again
    second = start(pristine, engine=engine)
    assert second.selection and not second.lifecycle.wants_samples
    assert Counted.built == 2
    reports = [owner.report for owner in (first, second)]
    assert [report.pop('self_check')['instances'] for report in reports] == [7, 5]
    assert reports[0] == reports[1]
    assert ('seconds_of_a_batch' in reports[1]) == (engine == 'auto')


@torch.no_grad()
def test_a_known_engine_that_differs_in_a_batch_is_judged_by_all_samples(install, pristine, cache):
    install(openvino=builder())
    start(pristine, engine='openvino').lifecycle.select()
    install(openvino=shifted)
    owner = start(pristine, engine='openvino')
    assert not owner.selection and 'self_check' not in owner.report
    with pytest.raises(EngineError, match='outputs deviate'):
        owner.lifecycle.select()


@torch.no_grad()
def test_a_known_engine_that_cannot_run_today_is_passed_over_by_auto(install, pristine, cache):
    install(torch=builder(seconds=0.3), openvino=builder())
    start(pristine, engine='auto').lifecycle.select()
    install(torch=builder(), openvino=broken)
    owner = start(pristine, engine='auto')
    assert not owner.selection
    assert isinstance(owner.engine, ReferenceEngine)
    owner.lifecycle.select()
    assert owner.report['engine'] == 'torch'


@torch.no_grad()
def test_auto_settles_on_nothing_while_an_engine_was_never_timed(install, pristine, cache):
    """One that failed at the first start is tried again, by the next one too that finds it well."""
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
def test_only_an_engine_as_it_was_asked_for_before_is_known(install, pristine, cache, other):
    install(openvino=builder())
    start(pristine, engine='openvino').lifecycle.select()
    assert start(pristine, engine='openvino').selection
    assert not start(pristine, **{'engine': 'openvino', **other}).selection


@torch.no_grad()
def test_what_is_fastest_is_asked_for_every_batch_size(install, pristine, cache):
    install(torch=builder(seconds=0.3), openvino=builder())
    start(pristine, engine='auto').lifecycle.select()
    model = copy.deepcopy(pristine)
    owner = runner_of(model, cache=True, engine='auto')
    owner.lifecycle.start_sampling(batch_size=64)
    owner.test_step(run_of(model, count=5))
    assert not owner.lifecycle.select_known() and not owner.selection


@torch.no_grad()
@pytest.mark.parametrize('engine', ['openvino', 'auto'])
def test_a_network_that_saw_nothing_yet_waits(install, pristine, cache, engine):
    install(torch=builder(seconds=0.3), openvino=builder())
    start(pristine, engine=engine).lifecycle.select()
    assert start(pristine, (), engine=engine).lifecycle.select_known()


@torch.no_grad()
def test_after_engines_that_failed_one_for_latency_may_be_asked_for(install, model):
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
def test_int8_is_another_network_with_other_images(install, pristine, cache):
    install(openvino=builder())
    for _ in range(2):
        owner = start(pristine, engine='openvino', precision='int8')
        assert not owner.selection
        owner.lifecycle.select()


@torch.no_grad()
@pytest.mark.parametrize(('before', 'now'), [((2, 2), (5,)), ((5,), (1,))])
def test_few_inputs_settle_nothing_for_later_or_by_themselves(
    install, pristine, cache, before, now
):
    install(torch=builder(seconds=0.3), openvino=builder())
    for engine in ('openvino', 'auto'):
        start(pristine, before, engine=engine).lifecycle.select()
        owner = start(pristine, now, engine=engine)
        assert not owner.selection
        assert owner.lifecycle.select_known() == (before == (5,))  # more may do


@torch.no_grad()
@pytest.mark.parametrize('engine', ['openvino', 'auto'])
def test_a_run_that_goes_on_knows_what_the_run_before_knew(install, pristine, cache, engine):
    install(torch=builder(seconds=0.3), openvino=builder())
    start(pristine, engine=engine).lifecycle.select()
    owner = start(pristine, adopted='openvino', engine=engine)
    assert owner.selection and owner.report['engine'] == 'openvino'


@torch.no_grad()
def test_batches_are_checked_as_many_at_a_time_as_they_run(install, pristine, cache):
    """Two that wait for each other, or for nothing at all."""
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
def test_what_the_memory_does_not_hold_is_settled_by_a_smaller_batch(install, model):
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


@pytest.mark.parametrize(
    ('precision', 'names'),
    [
        ('fp32', ['torch', 'onnxruntime', 'openvino']),
        ('bf16', ['torch', 'openvino']),
        ('int8', ['onnxruntime', 'openvino']),
    ],
)
def test_auto_asks_only_engines_that_do_the_precision(install, precision, names):
    install(openvino=builder())
    assert candidates(EngineOptions(engine='auto', precision=precision), False) == names


@pytest.mark.parametrize(('there', 'on_cuda'), [({}, False), ({'openvino': builder()}, True)])
def test_auto_compiles_with_pytorch_where_that_may_win(install, monkeypatch, there, on_cuda):
    """On a CPU that has OpenVINO or ONNX Runtime it is not worth its half minute."""
    install(**there, **{'torch-compile': builder()})
    for compiler in ('/usr/bin/g++', None):
        monkeypatch.setattr(torch_compile, 'which', lambda name, compiler=compiler: compiler)
        names = candidates(EngineOptions(engine='auto'), on_cuda)
        assert ('torch-compile' in names) == bool(compiler)


@pytest.mark.parametrize(
    ('engine', 'on_cuda', 'there', 'provider'),
    [
        ('auto', True, ['CUDAExecutionProvider', 'CPUExecutionProvider'], 'CUDA'),
        ('auto', True, ['CPUExecutionProvider'], 'CPU'),
        ('auto', False, ['CUDAExecutionProvider', 'CPUExecutionProvider'], 'CPU'),
        ('onnxruntime', True, ['CUDAExecutionProvider', 'CPUExecutionProvider'], 'CPU'),
    ],
)
def test_auto_lets_onnx_runtime_use_the_gpu_that_the_model_is_on(
    monkeypatch, engine, on_cuda, there, provider
):
    runtime = pytest.importorskip('onnxruntime')
    monkeypatch.setattr(runtime, 'get_available_providers', lambda: there)
    found = onnxruntime.default_provider(EngineOptions(engine=engine), on_cuda)
    assert found == f'{provider}ExecutionProvider'


@torch.no_grad()
def test_auto_takes_the_fastest(install, model, caplog):
    install(torch=builder(seconds=0.3, parallel=1), openvino=builder())
    owner = runner_of(model, engine='auto')
    owner.test_step(run_of(model))
    assert 'onnxruntime needs nowhere, which is not installed' in caplog.text
    assert owner.report['engine'] == 'openvino'
    assert owner.report['seconds_of_a_batch'] == pytest.approx({'torch': 0.3, 'openvino': 0})


@torch.no_grad()
def test_auto_times_an_engine_with_as_many_batches_as_in_a_run(install, model):
    """Each of two calls at a time takes longer than PyTorch's one; both together do not."""
    install(torch=builder(seconds=0.6, parallel=1), openvino=builder(seconds=0.7))
    owner = runner_of(model, engine='auto')
    owner.test_step(run_of(model))
    assert owner.report['engine'] == 'openvino'
    times = 'the fastest here (seconds of a batch: torch 0.600, openvino 0.350)'
    assert times in str(owner.selection)


@torch.no_grad()
def test_no_more_steps_at_a_time_than_the_engine_takes(install, model):
    install(openvino=builder())
    owner = runner_of(model, engine='openvino')
    owner.test_step(run_of(model))
    inside, third = [], threading.Event()
    # Two must be inside at once to go on; a third that is let in comes while they wait for it.
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
def test_what_is_sampled_builds_and_checks_the_engine(install, model):
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


def test_int8_by_openvino_wants_nncf(install, model, monkeypatch):
    install(openvino=builder())
    monkeypatch.setitem(sys.modules, 'nncf', None)
    with pytest.raises(EngineError, match=r"needs nncf.*pip install 'mmpose-batch\[int8\]'"):
        runner_of(model, engine='openvino', precision='int8')


@torch.no_grad()
def test_where_no_engine_does_the_precision_auto_is_as_fast_in_fp32(install, model, caplog):

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
    assert 'none does bf16 here; in fp32, then' in caplog.text


def exact_in_fp32(source: NetworkSource, options: EngineOptions) -> Fake:
    return Fake(source, roll=0 if options.precision == 'fp32' else 30, parallel=1)


@torch.no_grad()
@pytest.mark.parametrize('engine', ['torch', 'openvino'])
def test_a_precision_that_nobody_named_gives_way_to_fp32(install, model, caplog, engine):
    install(openvino=exact_in_fp32, torch=exact_in_fp32)
    owner = runner_of(model, engine=engine, precision='bf16', precision_is_free=True)
    owner.test_step(run_of(model))
    assert (owner.report['engine'], owner.report['precision']) == (engine, 'fp32')
    assert owner.report['self_check']['px'] == 0
    assert f'{engine} in bf16: outputs deviate' in caplog.text


@torch.no_grad()
def test_what_cannot_run_is_no_matter_of_precision(install, model):
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
def test_nothing_of_int8_is_left_where_it_gave_way(install, model):
    """A run that goes on in fp32 calibrates nothing, and compares its calibration."""

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
def test_a_run_that_goes_on_in_fp32_tries_no_other_precision(install, model, engine, free):
    install(openvino=exact_in_fp32)
    owner = runner_of(model, engine=engine, precision='bf16', precision_is_free=free)
    owner.lifecycle.restore(Selection(engine='openvino', precision='fp32'))
    assert owner.options.precision == 'fp32'
    owner.test_step(run_of(model))
    assert (owner.report['engine'], owner.report['precision']) == ('openvino', 'fp32')


@torch.no_grad()
def test_a_named_precision_is_never_another(install, model):
    install(openvino=exact_in_fp32)
    owner = runner_of(model, engine='openvino', precision='bf16')
    owner.lifecycle.restore(Selection(engine='openvino', precision='fp32'))
    with pytest.raises(EngineError, match='in bf16: outputs deviate'):
        owner.test_step(run_of(model))


@torch.no_grad()
@pytest.mark.parametrize('built', [['torch', 'openvino'], ['openvino', 'torch']])
def test_the_fastest_is_built_once(install, model, built):
    """torch.compile takes half a minute for it."""
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
def test_where_no_engine_quantises_auto_says_so_and_takes_torch(install, model, caplog):
    install()
    owner = runner_of(model, engine='auto', precision='int8')
    owner.test_step(run_of(model))
    assert (owner.report['engine'], owner.report['precision']) == ('torch', 'fp32')
    assert 'none does int8 here; in fp32, then' in caplog.text


@torch.no_grad()
@pytest.mark.parametrize(
    ('precision', 'self_check', 'compared'),
    [('fp32', True, False), ('bf16', True, True), ('bf16', False, False)],
)
def test_eager_pytorch_is_compared_where_it_is_not_the_reference(
    install, model, precision, self_check, compared
):
    install(torch=builder())
    owner = runner_of(model, precision=precision, self_check=self_check)
    assert owner.lifecycle.wants_samples == compared
    owner.test_step(run_of(model))
    assert ('self_check' in owner.report) == compared


@torch.no_grad()
def test_eager_pytorch_that_answers_differently_is_refused(install, model):
    install(torch=builder(roll=30))
    owner = runner_of(model, precision='bf16')
    with pytest.raises(EngineError, match='torch in bf16: outputs deviate'):
        owner.test_step(run_of(model))


@torch.no_grad()
def test_an_engine_is_built_for_latency_as_long_as_it_has_not_run(install, model, pristine):
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
    """Builds engines for latency and for throughput, and remembers which computed each batch."""

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
def test_a_batch_that_comes_alone_has_an_engine_of_its_own(install, model, first):
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
    assert variants.built[-2:] == [first, other]  # once each
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
    assert 'outputs deviate' in caplog.text and 'not compiled for latency' in caplog.text


@torch.no_grad()
def test_one_that_is_asked_for_latency_has_no_other(install, model):
    install(openvino=(variants := Variants()))
    owner = runner_of(model, engine='openvino', latency=True)
    for alone in (True, False):
        owner.test_step(run_of(model), alone)
    assert (variants.built, owner.parallel) == (['latency'], 1)


@torch.no_grad()
@pytest.mark.parametrize(
    'error', [None, MemoryError(), RuntimeError('no compiler'), EngineError('it has its reason')]
)
def test_an_engine_that_compiles_for_every_size_does_so_first(install, model, error):
    install(openvino=builder())
    owner = runner_of(model, engine='openvino')
    ran = []

    def run() -> None:
        ran.append(1)
        if error is not None:
            raise error

    owner.test_step(run_of(model))
    owner.warm_up(run)
    assert not ran  # this one has one file for all sizes
    owner.engine.warm_up = lambda run: run()
    if error is None or isinstance(error, MemoryError):
        owner.warm_up(run)
    else:
        with pytest.raises(EngineError, match=rf'^(engine: RuntimeError: )?{error}$'):
            owner.warm_up(run)
    assert ran


@torch.no_grad()
def test_what_is_not_settled_is_not_warmed_up(install, model):
    """Full batches of one input would be what it is checked with."""
    install(openvino=builder())
    owner = runner_of(model, engine='openvino')
    owner.engine.warm_up = lambda run: run()
    owner.warm_up(lambda: pytest.fail('it ran'))


def test_a_model_without_a_seam_runs_on_torch_only(model, monkeypatch):
    monkeypatch.setattr(runner, 'is_replaceable', lambda model: False)
    with pytest.raises(EngineError, match='only torch runs it'):
        runner_of(model, engine='openvino')
    owner = runner_of(model, engine='auto', precision='int8')
    assert (owner.report['engine'], owner.report['precision']) == ('torch', 'fp32')
