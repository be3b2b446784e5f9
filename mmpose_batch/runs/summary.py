"""Counts and times of a run, and its closing summary."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..evaluation.result import Evaluation
from ..progress import DetectionCounts, StageClock, format_duration
from ..sources.items import Items
from ..writers.jsonl import FAILURES_FILE

_STAGES = ('waiting', 'detection', 'network', 'writing')


@dataclass(slots=True)
class RunSummary:
    """Counts and times of a run.

    Attributes:
        images: Number of images that are done, including those of earlier runs.
        frames: Number of frames of videos that are done, including those of earlier runs.
        videos: Number of videos that are done or in progress.
        unusable_videos: Number of these without any frame.
        damaged_frames: Number of frames of videos with a failure record.
        resumed: Number of these images and frames that earlier runs did.
        persons: Number of instances in all images and frames.
        failures: Number of images and frames with a failure record.
        seconds: Seconds from the first image to the last, without earlier runs.
        stages: Seconds that were spent in each stage.
        detections: Frames of this run by where their boxes come from, with ``det_interval``.
        evaluation: Result of the evaluation, if there are annotations.
        workers: Device of each worker process; empty if the process of the run infers.
        deaths: Number of worker processes that died and were replaced.
    """

    images: int = 0
    frames: int = 0
    videos: int = 0
    unusable_videos: int = 0
    damaged_frames: int = 0
    resumed: int = 0
    persons: int = 0
    failures: int = 0
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    detections: DetectionCounts = field(default_factory=DetectionCounts)
    evaluation: Evaluation | None = None
    workers: tuple[str, ...] = ()
    deaths: int = 0
    _video: str | None = None

    @property
    def results(self) -> int:
        """Number of records, including those of earlier runs."""
        return self.images + self.frames + self.unusable_videos

    @property
    def metrics(self) -> dict[str, float | None]:
        """AP and AR, if there are annotations; None for a metric that is undefined."""
        return {} if self.evaluation is None else self.evaluation.metrics

    def count(self, record: Mapping[str, Any]) -> None:
        """Count one record."""
        if (video := record.get('video')) is None:
            self.images += 1
        else:
            is_frame = 'frame' in record
            self.frames += is_frame
            self.unusable_videos += not is_frame
            self.damaged_frames += is_frame and 'error' in record
            self.videos += video != self._video
            self._video = video
        self.persons += len(record.get('instances', ()))
        self.failures += 'error' in record

    def set_times(self, seconds: float, clock: StageClock) -> None:
        """Set the times of all images.

        Args:
            seconds: Seconds from the first image to the last.
            clock: Seconds that were measured in stages; the remaining time becomes ``other``.
        """
        self.seconds = seconds
        self.detections = clock.detections
        self.stages = {name: clock.seconds.get(name, 0.0) for name in _STAGES}
        self.stages['other'] = max(seconds - sum(self.stages.values()), 0.0)

    @property
    def images_per_second(self) -> float:
        """Images and frames per second of this run, without those of earlier runs."""
        return (self.results - self.resumed) / self.seconds if self.seconds else 0.0

    def lines(self) -> Iterator[str]:
        """The closing summary, in lines."""
        one_kind = not (self.images and self.videos)
        resumed = (
            f' ({self.resumed} of them by an earlier run)' if self.resumed and one_kind else ''
        )
        if self.images or not self.videos:
            yield f'images    {self.images}{resumed}'
        if self.videos:
            unusable = f' ({self.unusable_videos} cannot be used)' if self.unusable_videos else ''
            yield f'videos    {self.videos}{unusable}'
            yield f'frames    {self.frames}{resumed}'
        if self.resumed and not one_kind:
            yield f'resumed   {self.resumed} images and frames by an earlier run'
        yield f'persons   {self.persons}'
        if self.detections.detected:
            found = self.detections
            yield (
                f'detector  {found.detected} frames, {found.added} more where persons did not '
                f'match; {found.interpolated} frames interpolated'
            )
        if self.workers:
            count = len(self.workers)
            verb = 'was' if self.deaths == 1 else 'were'
            died = f'; {self.deaths} died and {verb} replaced' if self.deaths else ''
            yield f'workers   {count} process{"" if count == 1 else "es"}{died}'
        yield f'failures  {self.failures}' + (f', see {FAILURES_FILE}' if self.failures else '')
        if self.results > self.resumed:
            rate, time = self.images_per_second, format_duration(self.seconds)
            noun = 'frames' if self.videos and not self.images else 'images'
            yield f'speed     {rate:.2f} {noun}/s in {time}'
            shares = ', '.join(
                f'{name} {100 * spent / self.seconds:.0f} %' for name, spent in self.stages.items()
            )
            yield f'time      {shares}'
        if self.evaluation is not None:
            yield from self.evaluation.lines()


def counted(count: int, noun: str) -> str:
    """A number of things: ``1 image``, ``2 images``."""
    return f'{count} {noun}{"" if count == 1 else "s"}'


def count_inputs(items: Items) -> str:
    """The number of images and videos of a run: ``3 images and 1 video``."""
    counts = [(len(items.images), 'image'), (len(items.videos), 'video')]
    return ' and '.join(counted(count, noun) for count, noun in counts if count) or '0 images'
