"""Selection: the phases of it, and what was selected."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .verification import Difference, Samples


class Phase(Enum):
    """How far the selection of an engine is."""

    NEW = 'new'  # no batch has run
    SAMPLING = 'sampling'  # PyTorch computes batches, which the engine is verified with
    SELECTED = 'selected'  # the engine computes all batches


_NEXT = {
    Phase.NEW: (Phase.SAMPLING, Phase.SELECTED),
    Phase.SAMPLING: (Phase.NEW, Phase.SELECTED),
    Phase.SELECTED: (Phase.SELECTED,),  # with a batch size that is measured later
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What was selected for a network: ``run.json`` stores it, and a resumed run restores it.

    Attributes:
        engine: Name of the engine.
        precision: What it computes in.
        description: Library, version and device.
        parallel: Batches that run concurrently.
        file: Key of the external ONNX file that is run, if there is one.
        calibration: Key of the inputs that int8 was calibrated with.
        calibrated_with: Number of these.
        self_check: How far the outputs are from PyTorch's; None where they were not compared.
        seconds_of_a_batch: What ``auto`` measured, for each engine.
        batch_size: Inputs in a batch, where that was measured.
        instances_per_second: What was measured for it, for each batch size.
    """

    engine: str
    precision: str
    description: str = ''
    parallel: int = 1
    file: str | None = None
    calibration: str | None = None
    calibrated_with: int | None = None
    self_check: Difference | None = None
    seconds_of_a_batch: Mapping[str, float] | None = None
    batch_size: int | None = None
    instances_per_second: Mapping[int, float] | None = None

    def report(self) -> dict[str, Any]:
        """What is known, as ``run.json`` has it."""
        values = {
            'engine': self.engine,
            'precision': self.precision,
            'file': self.file,
            'calibrated_with': self.calibrated_with,
            'calibration': self.calibration,
            'self_check': self.self_check and self.self_check.as_dict(),
            'seconds_of_a_batch': self.seconds_of_a_batch and dict(self.seconds_of_a_batch),
            'description': self.description,
            'batch_size': None if self.instances_per_second is None else self.batch_size,
            'instances_per_second': self.instances_per_second and dict(self.instances_per_second),
        }
        return {key: value for key, value in values.items() if value is not None}

    def __str__(self) -> str:
        parts = [f'{self.description}, {self.precision}']
        if self.seconds_of_a_batch:
            times = (f'{name} {value:.3f}' for name, value in self.seconds_of_a_batch.items())
            parts.append(f'the fastest here (seconds of a batch: {", ".join(times)})')
        if self.self_check is not None:
            parts.append(str(self.self_check))
        return '; '.join(parts)


@dataclass(frozen=True, slots=True)
class State:
    """A phase, and what belongs to it.

    Attributes:
        phase: The phase.
        samples: What was sampled so far, in SAMPLING.
        selection: What was selected, in SELECTED.
    """

    phase: Phase = Phase.NEW
    samples: Samples | None = None
    selection: Selection | None = None

    def to(
        self, phase: Phase, samples: Samples | None = None, selection: Selection | None = None
    ) -> 'State':
        """The next state: the only way from one to another.

        Raises:
            ValueError: That phase does not follow this one, or lacks what belongs to it.
        """
        if phase not in _NEXT[self.phase]:
            raise ValueError(f'engine: no way from {self.phase.value} to {phase.value}')
        fits = (samples is not None, selection is not None)
        if fits != (phase is Phase.SAMPLING, phase is Phase.SELECTED):
            raise ValueError(f'engine: {phase.value} does not go with what it was given')
        return State(phase, samples, selection)
