"""``run.json``: identity, progress and evaluation of a run."""

import json
import os.path as osp
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from ..config import CallOptions
from ..inferencer import BatchPose2DInferencer
from ..memory import peak_resident
from ..outputs import INFO_FILE
from ..version import __version__
from ..writers.atomic import open_atomically
from ..writers.base import WriterSpec, derived_formats
from .identity import check_identity
from .summary import RunSummary
from .warm_up import RunWarmup

# What a run measures while it infers. A resumed run with nothing left to infer keeps the values of
# the earlier run.
_MEASURED = (
    *('started', 'engines', 'detections', 'workers', 'seconds', 'images_per_second'),
    'peak_resident_bytes',
)


class RunInfo:
    """Reads the ``run.json`` of an earlier run, and writes that of a run.

    Args:
        folder: The output folder.
        identity: Everything that the outputs depend on.
        inferencer: The inferencer of the run.
        call: Options of the run's call.
        warmup: Warm-up of the run, with the selected engines and batch sizes.
        summary: Counts and times of the run so far.
        writers: The output formats of the run.

    Attributes:
        status: Status that was last written: ``running``, ``stopped`` or ``finished``.
        run_id: Identifies the run, also after it was resumed.
    """

    def __init__(
        self,
        folder: str,
        identity: Mapping[str, Any],
        inferencer: BatchPose2DInferencer,
        call: CallOptions,
        warmup: RunWarmup,
        summary: RunSummary,
        writers: Iterable[WriterSpec],
    ) -> None:
        self.status = ''
        self.run_id = secrets.token_hex(8)
        self._folder = folder
        self._identity = identity
        self._inferencer = inferencer
        self._batch_size = call.batch_size
        self._warmup = warmup
        self._summary = summary
        self._derived = {spec.name for spec in writers if spec.derived}
        self._started = datetime.now(UTC).isoformat(timespec='seconds')
        self._networks: list[str] = []  # networks whose selection is in the file
        # Of the run that is resumed.
        self._evaluated: dict[str, Any] = {}
        self._measured: dict[str, Any] = {}

    def resume(self, has_records: bool = True) -> bool:
        """Take over the selection and derived formats of the earlier run, and what it measured.

        Args:
            has_records: Whether the records of that run exist; else only its selection is kept.

        Returns:
            Whether that run was finished.

        Raises:
            RunError: It cannot be resumed: its identity differs, or the file is damaged.
        """
        info = check_identity(self._folder, self._identity)
        self._warmup.resume(info['settled'])
        if re.fullmatch('[0-9a-f]{16}', str(info.get('run_id'))):  # it becomes part of a path
            self.run_id = info['run_id']
        if not has_records:
            return False
        self._derived |= derived_formats(info)
        if info.get('metrics'):
            self._evaluated = {key: info.get(key) for key in ('metrics', 'evaluation')}
        self._measured = {key: info[key] for key in _MEASURED if key in info}
        return info.get('status') == 'finished'

    @property
    def is_outdated(self) -> bool:
        """Whether an engine was selected since the file was last written."""
        return self._warmup.networks != self._networks

    def write(self, status: str, pending: Sequence[str], scored: bool) -> None:
        """Replace the file.

        Args:
            status: ``running``, ``stopped`` or ``finished``.
            pending: Names of the images whose files a killed run may have written before
                their records.
            scored: Whether this run evaluates its results; else the evaluation of the run that
                it resumes stays in the file.

        Raises:
            OSError: The disk is full.
        """
        self.status = status
        self._networks = self._warmup.networks
        inferencer, summary = self._inferencer, self._summary
        has_inferred = summary.results > summary.resumed
        measured = self._measure() if has_inferred or not self._measured else self._measured
        info = {
            'status': status,
            'written_by': f'mmpose_batch {__version__}',
            'run_id': self.run_id,
            'pending': list(pending),
            'identity': self._identity,
            'derived': sorted(self._derived),
            'device': str(inferencer.device),
            'options': {**asdict(inferencer.options), 'batch_size': self._batch_size},
            'settled': self._warmup.selected,
            'counts': {
                key: getattr(summary, key)
                for key in (
                    *('images', 'frames', 'videos', 'unusable_videos', 'damaged_frames'),
                    *('resumed', 'persons', 'failures'),
                )
            },
            **measured,
            'metrics': summary.metrics,
            'evaluation': summary.evaluation and summary.evaluation.to_json(),
            **({} if scored else self._evaluated),
        }
        with open_atomically(osp.join(self._folder, INFO_FILE)) as file:
            file.write(json.dumps(info, indent=2).encode() + b'\n')

    def _measure(self) -> dict[str, Any]:
        """What this run has measured so far."""
        summary = self._summary
        detections = summary.detections
        return {
            'started': self._started,
            'engines': dict(self._warmup.reports),
            **({'detections': asdict(detections)} if detections.detected else {}),
            **(
                {'workers': {'devices': list(summary.workers), 'deaths': summary.deaths}}
                if summary.workers
                else {}
            ),
            'seconds': {'total': summary.seconds, **summary.stages},
            'images_per_second': summary.images_per_second,
            'peak_resident_bytes': peak_resident(),
        }
