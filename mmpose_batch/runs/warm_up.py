"""Warm-up of a run: selects engines, precisions and batch sizes with some of its images."""

import sys
from collections.abc import Mapping
from typing import Any

from ..config import CallOptions
from ..distributed.pool import Workers
from ..distributed.worker import WarmedUp
from ..engines.warmup import outcome, restore
from ..errors import RunError
from ..inferencer import BatchPose2DInferencer
from ..sources.items import Items
from .summary import counted


class RunWarmup:
    """Warms up an inferencer for a run; a resumed run uses the selection of the earlier run.

    Args:
        inferencer: The inferencer of the run.
        call: Options of the run's call.
    """

    def __init__(self, inferencer: BatchPose2DInferencer, call: CallOptions) -> None:
        self._inferencer = inferencer
        self._call = call
        self._earlier: Mapping[str, Mapping[str, Any]] = {}
        self._of_workers: WarmedUp | None = None
        self._reports: Mapping[str, Any] = {}

    def resume(self, selected: Mapping[str, Mapping[str, Any]]) -> None:
        """Use the selection of an earlier run, as its ``run.json`` stores it."""
        self._earlier = selected

    def __call__(self, items: Items, quiet: bool, workers: Workers | None = None) -> None:
        """Select engines and batch sizes with images spread over the run.

        Args:
            items: All inputs, including those that earlier runs did, so that a resumed run uses
                the same images.
            quiet: Whether to print nothing.
            workers: Processes that infer, of which the first one selects; None for this process.

        Raises:
            RunError: The selection differs from that of the earlier run.
        """
        inferencer = self._inferencer
        if self._earlier:
            restore(inferencer.runners, self._earlier)
        samples = items.samples(inferencer.predictor.wants_samples(self._call))
        if samples.count and not quiet:
            images = counted(samples.count, 'image')
            print(f'building and verifying engines, up to {images}', file=sys.stderr)
        if workers is not None:
            self._of_workers = workers.start(samples, self._earlier)
            self.report(self._of_workers.reports)
        elif samples.count and (frames := samples.read()):
            inferencer.predictor.warm_up(frames, self._call)
        if samples.count and not quiet:
            for name, text in self._texts().items():
                print(f'{name}: {text}', file=sys.stderr)
        if changed := self._changed():
            raise RunError(
                f'cannot resume: {", ".join(changed)} were selected differently '
                'than in the earlier run '
                '(results would be mixed); use another folder'
            )

    def report(self, reports: Mapping[str, Any]) -> None:
        """Note the latest reports of worker processes about the networks."""
        self._reports = reports

    @property
    def reports(self) -> Mapping[str, Any]:
        """The report about each network for ``run.json``."""
        if self._of_workers is not None:
            return self._reports
        return {name: runner.report for name, runner in self._inferencer.runners.items()}

    def _texts(self) -> dict[str, str]:
        """The selected engine of each network, in words."""
        if self._of_workers is not None:
            return self._of_workers.texts
        runners = self._inferencer.runners.items()
        return {name: str(runner.selection) for name, runner in runners if runner.selection}

    def _outcome(self) -> dict[str, dict[str, Any]]:
        if self._of_workers is not None:
            return self._of_workers.selected
        return outcome(self._inferencer.runners)

    def _changed(self) -> list[str]:
        return [
            key
            for key, values in self._outcome().items()
            for name, value in values.items()
            if name in self._earlier.get(key, {}) and value != self._earlier[key][name]
        ]

    @property
    def networks(self) -> list[str]:
        """Names of the networks whose engine is selected; some are selected only during the run."""
        return list(self._texts())

    @property
    def selected(self) -> dict[str, dict[str, Any]]:
        """Selections that outputs depend on, of this run and of earlier runs."""
        return {key: {**now, **self._earlier.get(key, {})} for key, now in self._outcome().items()}
