"""Warm-up of a run: selects engines, precisions and batch sizes with some of its images."""

import sys
from collections.abc import Mapping
from typing import Any

from ..config import CallOptions
from ..engines.warmup import outcome, restore
from ..errors import RunError
from ..inferencer import BatchPose2DInferencer
from ..sources.base import Frame
from ..sources.items import Items
from .summary import counted


class RunWarmup:
    """Warms up an inferencer for a run; a resumed run uses the selection of the earlier run.

    Args:
        inferencer: The inferencer of the run.
        call: Options of the run's call.

    Attributes:
        samples: Images that the warm-up has used, with which other processes verify the same
            engines; of videos, their pixels.
    """

    def __init__(self, inferencer: BatchPose2DInferencer, call: CallOptions) -> None:
        self._inferencer = inferencer
        self._call = call
        self._earlier: Mapping[str, Mapping[str, Any]] = {}
        self.samples: list[Frame] = []

    def resume(self, selected: Mapping[str, Mapping[str, Any]]) -> None:
        """Use the selection of an earlier run, as its ``run.json`` stores it."""
        self._earlier = selected

    def __call__(self, items: Items, quiet: bool) -> None:
        """Select engines and batch sizes with images spread over the run.

        Args:
            items: All inputs, including those that earlier runs did, so that a resumed run uses
                the same images.
            quiet: Whether to print nothing.

        Raises:
            RunError: The selection differs from that of the earlier run.
        """
        inferencer = self._inferencer
        if self._earlier:
            restore(inferencer.runners, self._earlier)
        wanted = inferencer.predictor.wants_samples(self._call)
        samples = items.samples(wanted) if wanted else []
        if samples:
            if not quiet:
                images = counted(len(samples), 'image')
                print(f'building and verifying engines, up to {images}', file=sys.stderr)
            inferencer.predictor.warm_up(samples, self._call)
            self.samples = samples
            for name, runner in inferencer.runners.items():
                if runner.selection and not quiet:
                    print(f'{name}: {runner.selection}', file=sys.stderr)
        if changed := self._changed():
            raise RunError(
                f'cannot resume: {", ".join(changed)} were selected differently '
                'than in the earlier run '
                '(results would be mixed); use another folder'
            )

    def _changed(self) -> list[str]:
        return [
            key
            for key, values in outcome(self._inferencer.runners).items()
            for name, value in values.items()
            if name in self._earlier.get(key, {}) and value != self._earlier[key][name]
        ]

    @property
    def networks(self) -> list[str]:
        """Names of the networks whose engine is selected; some are selected only during the run."""
        runners = self._inferencer.runners
        return [name for name, runner in runners.items() if runner.selection]

    @property
    def selected(self) -> dict[str, dict[str, Any]]:
        """Selections that outputs depend on, of this run and of earlier runs."""
        return {
            key: {**now, **self._earlier.get(key, {})}
            for key, now in outcome(self._inferencer.runners).items()
        }
