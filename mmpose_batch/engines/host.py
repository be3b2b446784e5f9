"""The engine of one model: chosen, checked on its first batch, and then asked."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..batching import DEVICE_LOST, FATAL, one_line
from ..loading import WorkerPool
from ..runtime import PRECISIONS_OF, is_out_of_memory
from . import AnswersDiffer, EngineError
from .batch_size import Clock, shortest
from .builder import EngineBuilder
from .cache import EngineCache, entry_key, network_key, open_cache
from .network import Engine, Seam, has_seam
from .optional import is_installed
from .options import EngineOptions
from .torch_eager import prepare_model
from .verification import BOUNDS, Difference, Instances, compare, instances_of

Run = Callable[[], Sequence[BaseDataElement]]

# Batches that an engine is checked with.
MOST_SAMPLES = 8
# Inputs, at least, for later starts to rely on what an engine did with them, and points, for one of
# these to judge it by them: of twenty, a check in fp32 leaves out one.
ENOUGH_INPUTS, ENOUGH_POINTS = 5, 20

logger = logging.getLogger('mmpose_batch')


@dataclass(frozen=True, slots=True)
class Sample:
    """What an engine is checked with: a batch, and PyTorch's answers to it."""

    run: Run
    answers: list[Instances]


class EngineHost:
    """Runs a model's test steps with an engine at its seam.

    An engine is built, and checked against PyTorch, with inputs of the run: those
    that come while :attr:`sampling` is set, else the first batch.

    Args:
        model: In eval mode; changed in place.
        options: What is asked for.
        clock: What engines are timed with.

    Attributes:
        parallel: Test steps that may be asked for at a time.
        at_a_time: Of these, how many run side by side; the others wait.
        report: Engine, precision, and how the check went, for ``run.json``.
        sampling: Whether batches are collected, and PyTorch computes them.
        batch_size: That is asked for, which decides what ``auto`` finds fastest.
        adopted: The engine that ``auto`` came to in the run that goes on; None
            where none did.

    Raises:
        EngineError: The engine is not installed, or the model has no seam.
        ValueError: It lacks the device, or the device the precision.
    """

    def __init__(
        self, model: nn.Module, options: EngineOptions, clock: Clock = time.perf_counter
    ) -> None:
        self.options = options
        self.sampling = False
        self.batch_size: int | str | None = None
        self.adopted: str | None = None
        self.parallel = options.parallel
        self.at_a_time = 1
        self.report: dict[str, Any] = {'engine': options.engine, 'precision': options.precision}
        self._model = model
        self._clock = clock
        self._settled = threading.Event()
        self._lock = threading.Lock()
        self._samples: list[Sample] = []
        self._shape: tuple[int, ...] | None = None  # of the inputs of the first
        self._builder: EngineBuilder | None = None
        self._fastest: tuple[str, Engine] | None = None  # of those that were timed just now
        plain = options.engine == 'torch' and options.precision == 'fp32'
        if plain or (options.engine in ('torch', 'auto') and not has_seam(model)):
            self._take_torch()
            return
        if not has_seam(model):
            raise EngineError(
                f'engine: {type(model).__name__} with this head has ways of its own through the '
                'network; only torch runs it'
            )
        self._builder = EngineBuilder(model, options, self.report)
        if options.engine != 'auto' and options.precision != 'int8':  # that wants inputs first
            self._put_in_place(options.engine)

    def _take_torch(self) -> None:
        """PyTorch without a seam, in what it does of the precision."""
        if self.options.precision == 'int8':
            logger.warning('engine: nothing does int8 for this model; torch in fp32')
            self.report['precision'] = 'fp32'
        prepare_model(self._model, self.report['precision'])
        self._take('torch', None)

    @cached_property
    def _key(self) -> str:
        return network_key(self._model) if self._builder is None else self._builder.key

    @cached_property
    def _cache(self) -> EngineCache:
        return open_cache(self.options.cache) if self._builder is None else self._builder.cache

    @property
    def _seam(self) -> Seam | None:
        return self._builder and self._builder.seam

    def _put_in_place(self, name: str) -> None:
        self._seam.engine = self._builder.build(name, self.options)

    @property
    def bytes_on_disk(self) -> int:
        """Size of the files that the engine was built to and is loaded from."""
        return 0 if self._seam is None else self._cache.bytes_used

    def by_torch(self) -> AbstractContextManager[None]:
        """In this block, and this thread, PyTorch computes whatever the engine is."""
        return nullcontext() if self._seam is None else self._seam.reference()

    @property
    def outcome(self) -> str:
        """What computes the network, why, and how it answers, in one line."""
        report = self.report
        parts = [f'{report.get("description", report["engine"])}, {report["precision"]}']
        if seconds := report.get('seconds_of_a_batch'):
            times = (f'{name} {value:.3f}' for name, value in seconds.items())
            parts.append(f'the fastest here (seconds of a batch: {", ".join(times)})')
        if checked := report.get('self_check'):
            parts.append(str(Difference(**checked)))
        return '; '.join(parts)

    @property
    def settled(self) -> bool:
        """Whether the engine is chosen, built and checked."""
        return self._settled.is_set()

    @property
    def wants_samples(self) -> bool:
        """Whether the engine is built or checked with inputs, and has none yet."""
        return not self.settled and self._is_compared

    @property
    def _is_compared(self) -> bool:
        options = self.options
        wants_inputs = options.engine in ('auto', 'torch-compile') or options.precision == 'int8'
        return options.self_check or wants_inputs

    # ------------------------------------------------------------------- running

    def test_step(self, run: Run) -> Sequence[BaseDataElement]:
        """Run one batch.

        Args:
            run: The model's ``test_step`` on the batch.

        Raises:
            EngineError: The engine cannot run the network, or its answers differ
                too much from PyTorch's.
        """
        if not self.settled:
            with self._lock:
                if not self.settled:
                    samples = self._sample(run)
                    if self.sampling:
                        return samples
                    self._settle()
        with self._turns:
            return run()

    def settle(self) -> None:
        """Build, check and choose with what was sampled; without that, the first batch does.

        Raises:
            EngineError: As :meth:`test_step`.
        """
        with self._lock:
            if self.settled or not self._samples:
                return
            try:
                self._settle()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning('engine: no memory for the first batch; a smaller one settles it')

    def confirm(self) -> bool:
        """Settle on an engine that has passed before, if it does with what was sampled so far.

        If not, nothing is settled yet: a batch is too little to refuse an engine for.

        Returns:
            Whether there may be such an engine, and so far too little to judge it by.
        """
        with self._lock:
            if self.settled:
                return False
            if not self._samples:
                return self.options.precision != 'int8'
            name = self._name_of_known()
            if name is None:
                return False
            points = sum(scores.size for sample in self._samples for _, scores in sample.answers)
            if points < ENOUGH_POINTS:
                return True
            try:
                if self.options.engine == 'auto':
                    self._put_in_place(name)
                self._check(name)
            except DEVICE_LOST:
                raise
            except Exception as error:  # the whole check, with more images, comes to that too
                logger.debug('engine: %s: %s', name, error)
                self.report.pop('self_check', None)
                if self.options.engine == 'auto':
                    self._seam.engine = self._seam.by_torch
                return False
            if self.options.engine == 'auto' and self.adopted is None:
                self.report['seconds_of_a_batch'] = self._cache.recall(self._key_of_ranking)
            self._take(name, self._seam.engine)
            self._samples, self._shape = [], None
            return False

    def _name_of_known(self) -> str | None:
        """The engine that passed before and would be taken, if there is one."""
        if self.options.precision == 'int8':  # the samples make it another
            return None
        name = self.adopted or self.options.engine
        if name == 'auto':
            seconds = self._cache.recall(self._key_of_ranking) or {}
            name = min(seconds, key=seconds.__getitem__, default=None)
        return name if name and self._cache.recall(self._key_of_passing(name)) else None

    def adopt(self, engine: str, precision: str) -> None:
        """Take what the run that goes on came to, where that was not named."""
        self.adopted = engine
        free = self.options.engine == 'auto' or self.options.precision_is_free
        if free and not self.settled and precision == 'fp32' != self.options.precision:
            self._go_on_in_fp32()

    def prefer_latency(self) -> None:
        """Have batches run one at a time, each as fast as can be; too late once one has run."""
        with self._lock:
            if self.settled or self.parallel == 1:
                return
            self.options = replace(self.options, latency=True)
            self.parallel = self.options.parallel
            if self.options.engine != 'auto' and self._seam.engine != self._seam.by_torch:
                self._put_in_place(self.options.engine)

    def warm_up(self, run: Callable[[], object]) -> None:
        """Have an engine that compiles for every batch size do so now.

        Args:
            run: Runs a batch of the size of this run.

        Raises:
            EngineError: It cannot.
        """
        engine = self._seam and self._seam.engine
        if not self.settled or not hasattr(engine, 'warm_up'):
            return
        try:
            engine.warm_up(run)
        except FATAL:
            raise
        except Exception as error:
            if not is_out_of_memory(error):  # then the run halves its batches
                raise EngineError(f'engine: {one_line(error)}') from error

    def cool_down(self) -> None:
        """Forget the batch size of a warm-up, since the next run has another."""
        engine = self._seam and self._seam.engine
        if hasattr(engine, 'cool_down'):
            engine.cool_down()

    def note_memory(self, batch_size: int) -> None:
        """Say, and report, that the memory holds no larger batches."""
        self.report['largest_batch'] = batch_size
        logger.warning('out of memory: going on with batches of %d at most', batch_size)

    def _sample(self, run: Run) -> Sequence[BaseDataElement]:
        """Have PyTorch compute a batch, and keep its inputs."""
        with self._seam.reference(self._note_inputs):
            answers = run() if self._is_compared else []
        if len(self._samples) < MOST_SAMPLES:
            self._samples.append(Sample(run, [instances_of(answer) for answer in answers]))
        return answers

    def _note_inputs(self, inputs: Tensor) -> None:
        self._shape = self._shape or tuple(inputs.shape[1:])
        if self.options.precision == 'int8':
            self._builder.calibration.add(inputs)

    # ------------------------------------------------------------------ settling

    def _settle(self) -> None:
        try:
            self._build_and_check()
            self._keep_passing()
        except ValueError as error:  # a device, say, which int8 asks for only now
            raise EngineError(str(error)) from error
        finally:
            self._samples, self._shape, self._fastest = [], None, None

    def _build_and_check(self) -> None:
        self._builder.calibration.thin()
        if self.options.engine == 'auto':
            self._choose()
            return
        if self.options.precision == 'int8':
            self._put_in_place(self.options.engine)
        try:
            self._check(self.options.engine)
        except AnswersDiffer as error:
            if not self.options.precision_is_free or self.options.precision == 'fp32':
                raise
            logger.warning('%s; in fp32, then', error)
            self._go_on_in_fp32()
            self._check(self.options.engine)
        self._take(self.options.engine, self._seam.engine)

    @property
    def _key_of_ranking(self) -> str:
        batches = {'shape': self._shape, 'batch_size': self.batch_size}
        return self._key_of('engines', adopted=self.adopted, **batches)

    def _key_of_passing(self, name: str) -> str:
        # The file of a network may be compared with another model tomorrow.
        return self._key_of('passed', engine=name, model=self._builder.model_key)

    def _keep_passing(self) -> None:
        """Have later starts know that this engine has passed, and with what differences."""
        passed = self.report.get('self_check', {})
        enough = self._saw_enough and passed.get('instances')
        if enough and self.options.precision != 'int8':  # each calibration makes another network
            key = self._key_of_passing(self.report['engine'])
            self._cache.measurement(key, lambda: (passed, True))

    @property
    def _saw_enough(self) -> bool:
        """Whether there were inputs enough for later starts to rely on what came of them."""
        return sum(len(sample.answers) for sample in self._samples) >= ENOUGH_INPUTS

    def _candidates(self) -> list[str]:
        if self.adopted is not None:
            return [self.adopted]
        names = ['openvino', 'onnxruntime']
        if self.options.file is None:
            # Half a minute or more of compiling, for nothing where a CPU has the others.
            wanted = self._builder.on_cuda or not any(map(is_installed, names))
            compiled = ['torch-compile'] if wanted and is_installed('torch-compile') else []
            names = ['torch', *compiled, *names]
        return [name for name in names if self.options.precision in PRECISIONS_OF[name]]

    def _choose(self) -> None:
        """Take the fastest engine of those that are there and answer as PyTorch does."""
        seconds = self._cache.measurement(self._key_of_ranking, self._time_engines)
        for name in sorted(seconds, key=seconds.__getitem__):
            if self._try_engine(name):
                self.report['seconds_of_a_batch'] = seconds
                self._take(name, self._seam.engine)
                return
        if self.options.precision != 'fp32':
            logger.warning('engine: none does %s here; in fp32, then', self.options.precision)
            self._go_on_in_fp32()
            self._choose()
            return
        if self.options.file is not None:
            raise EngineError(f'engine: neither openvino nor onnxruntime runs {self.options.file}')
        logger.warning('engine: none does; torch as it is')
        self._seam.engine = self._seam.by_torch
        self._take('torch', self._seam.engine)

    def _go_on_in_fp32(self) -> None:
        self.options = replace(self.options, precision='fp32')
        for key in ('calibration', 'calibrated_with', 'self_check'):
            self.report.pop(key, None)
        self.report['precision'] = 'fp32'
        self._fastest = None
        if self.options.engine != 'auto':
            self._put_in_place(self.options.engine)

    def _time_engines(self) -> tuple[dict[str, float], bool]:
        """Seconds of a batch for each engine that does it, and whether all that are there did."""
        seconds, complete = {}, self._saw_enough or self.options.latency
        largest = max(self._samples, key=lambda sample: len(sample.answers))
        self._fastest = None
        for name in self._candidates():
            if self._try_engine(name):
                try:
                    at_a_time = getattr(self._seam.engine, 'parallel', 1)
                    seconds[name] = shortest(largest.run, at_a_time, clock=self._clock)
                    if seconds[name] == min(seconds.values()):
                        self._fastest = name, self._seam.engine  # torch-compile takes long
                    continue
                except Exception as error:  # PyTorch has run this batch
                    if is_out_of_memory(error):
                        raise  # a smaller batch may do
                    self.report.pop('self_check', None)
                    logger.warning('engine: %s: %s; passed over', name, error)
            complete = complete and not is_installed(name)
        return seconds, complete and bool(seconds) and self.adopted is None

    def _try_engine(self, name: str) -> bool:
        """Put an engine in place; False, and a warning, where it does not do."""
        fastest, engine = self._fastest or (None, None)
        try:
            if name == fastest:
                self._seam.engine = engine
            else:
                self._put_in_place(name)
            self._check(name)
        except (EngineError, ValueError) as error:
            self.report.pop('self_check', None)
            logger.warning('%s; passed over', error)
            return False
        return True

    def remember(
        self, kind: str, measure: Callable[[], tuple[dict[str, Any], bool]], **settings: Any
    ) -> dict[str, Any]:
        """What was measured on this machine with this network and these settings, once.

        Args:
            kind: Of the measurement.
            measure: Gives the outcome, as JSON has it, and whether it is worth keeping.
            settings: That it depends on, beside those of the engine and the device.
        """
        settings |= {'engine': self.report['engine'], 'adopted': self.adopted}
        return self._cache.measurement(self._key_of(kind, **settings), measure)

    def _key_of(self, kind: str, **settings: Any) -> str:
        device = next(self._model.parameters()).device
        options = asdict(self.options)
        del options['precision_is_free']  # one that is named is as fast
        settings |= {
            'options': options,
            'compiler': is_installed('torch-compile'),
            'threads': torch.get_num_threads(),
            'device': torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type,
            'calibration': self.report.get('calibration'),
        }
        return entry_key(self._key, kind=kind, **settings)

    def _check(self, name: str) -> None:
        """See that an engine runs, and answers as PyTorch does."""
        at_a_time = getattr(self._seam.engine, 'parallel', 1)
        with WorkerPool(at_a_time if at_a_time > 1 else 0) as pool:
            answers = pool.map(partial(self._ask, name), self._samples, ahead=at_a_time)
            differences = [
                pair
                for sample, answered in zip(self._samples, answers, strict=True)
                for pair in zip(sample.answers, answered, strict=self._is_compared)
            ]
        if not differences:
            return
        bound = BOUNDS[self.options.precision]
        difference = compare(*zip(*differences, strict=True), quantile=bound.quantile)
        self.report['self_check'] = difference.as_dict()
        if not difference.instances:
            logger.warning('engine: nobody in the first images, so %s is not compared', name)
        if self.options.self_check and not difference.within(bound):
            raise AnswersDiffer(
                f'engine: {name} in {self.options.precision} answers differently: {difference}. '
                'This is beyond the bound of that precision; without the self-check it runs'
            )

    @torch.no_grad()  # which a thread does not inherit
    def _ask(self, name: str, sample: Sample) -> list[Instances]:
        """What the engine in place answers to a batch."""
        try:
            return [instances_of(answer) for answer in sample.run()]
        except FATAL:
            raise
        except Exception as error:  # PyTorch has run this batch, so it is the engine's fault
            if is_out_of_memory(error):
                raise  # a smaller batch may do
            text = (str(error).splitlines() or [''])[0]
            raise EngineError(
                f'engine: {name} cannot run this model: {type(error).__name__}: {text}'
            ) from error

    def _take(self, name: str, engine: Engine | None) -> None:
        self.at_a_time = getattr(engine, 'parallel', 1)
        self.parallel = min(self.parallel, self.at_a_time)
        self._turns = threading.Semaphore(self.at_a_time)
        self.report['engine'] = name
        self.report['description'] = getattr(engine, 'description', f'PyTorch {torch.__version__}')
        self._settled.set()
