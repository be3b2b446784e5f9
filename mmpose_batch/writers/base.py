"""The contract of a writer: what a run calls, in which order, and how a format is registered."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..inferencer import BatchPose2DInferencer
    from ..results import ImageResult
    from ..runs.options import RunOptions

# One line of predictions.jsonl; :func:`mmpose_batch.results.to_record` lists its fields.
Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class WriterContext:
    """What a writer may use of the run that it is built for.

    Attributes:
        inferencer: That of the run: its model's dataset meta, its ``draw``.
        options: Those of the run.
    """

    inferencer: 'BatchPose2DInferencer'
    options: 'RunOptions'


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumePoint:
    """The images of an earlier run that a run does not repeat.

    Attributes:
        images: Their number: 0 for a new run, all images for a run that was complete, else a
            multiple of :data:`mmpose_batch.sources.base.CHUNK`.
        records: Returns a new iterator over their records, in input order. Their ``error`` also
            names the files that any writer could not write.
    """

    images: int
    records: Callable[[], Iterator[Record]]


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedRun:
    """All results of a run, for what is derived from them.

    Attributes:
        records: Returns a new iterator over all records, in input order.
        scored: Returns all instances as COCO results with the scores that MMPose's
            ``CocoMetric`` gives them, after evaluation if there are annotations. None unless a
            writer with :attr:`WriterSpec.scored` or annotations asked for them.
    """

    records: Callable[[], Iterator[Record]]
    scored: Callable[[], Iterable[Mapping[str, Any]]] | None = None


class Writer(ABC):
    """Writes one output format of a run into the run's folder.

    A run calls, from one thread::

        open, (append x up to 256, sync) x any number, finish, close

    A process may be killed, and power may fail, between and within any two of these calls. A
    resumed run begins at the last chunk of 256 images after which ``sync`` had returned in every
    writer, and the files must end with the same bytes as those of a run that was never
    interrupted. There are three ways of doing that:

    - One file per image: written in ``append`` by
      :func:`mmpose_batch.writers.atomic.open_atomically`. A repeated image replaces its file.
    - One file that grows: ``append`` adds to it, ``sync`` flushes it to the disk, and ``open``
      cuts off what belongs to images after the resume point, or writes the file again from the
      records of the resume point.
    - One file per chunk, for formats whose files cannot grow (Parquet, video): ``append``
      collects, ``sync`` writes the file of the chunk with ``open_atomically`` (so that a file
      that is there is complete), ``open`` removes those after the resume point. Chunks are
      numbered from ``ResumePoint.images``.

    Attributes:
        folder: The run's output folder, once it is open.
    """

    folder: str

    def open(self, folder: str, resume: ResumePoint) -> None:
        """Prepare the files of the format, before the first image.

        Args:
            folder: The run's output folder. It exists, and no other process writes to it.
            resume: What of an earlier run stays. What the folder holds of later images must go.

        Raises:
            OSError: They cannot be written, which ends the run.
        """
        self.folder = folder

    @abstractmethod
    def append(self, result: 'ImageResult', record: Record) -> None:
        """Take the next image, in input order; failed images come too.

        An :class:`OSError` ends the run (the disk is full), unless it is about a file's name.
        Any other error is taken as the failure of this image alone: its record gets an ``error``,
        all other writers still take the image, and this one must hold no part of it.

        Args:
            result: ``result.error`` is set if there are no predictions. ``result.image`` is None
                unless :attr:`WriterSpec.needs_images`.
            record: The record of the image. Its ``error`` also names the files of the image
                that the writers before this one could not write.
        """

    def sync(self) -> None:  # noqa: B027 - nothing to do for files that are complete already
        """Make what was appended survive a power cut, at the end of a chunk and of the run.

        The run marks the last image of a chunk as done after all writers returned from here, so
        this is the only moment when files need to be flushed.

        Raises:
            OSError: The disk is full.
        """

    def finish(self, run: FinishedRun) -> None:  # noqa: B027 - only for derived formats
        """Write what needs all results, after the last ``sync``.

        A run that is resumed after its last image comes here again.
        """

    def close(self) -> None:  # noqa: B027
        """Release files, also after an error, and even if ``open`` failed halfway.

        What was appended since the last ``sync`` may be written or dropped: a resumed run
        repeats it.
        """


def no_paths(names: Iterable[str]) -> Iterator[str]:
    """Paths of a format without files of its own for images."""
    return iter(())


def any_names(names: Sequence[str]) -> None:
    """Accept images of any names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WriterSpec:
    """An output format as it is registered: how it is asked for, and which files it writes.

    Everything that is checked before a run, removed by ``--overwrite`` or listed by
    ``--dry-run`` is derived from these fields. All paths are relative to the output folder and
    have ``/`` between their parts.

    Attributes:
        name: What users write after ``--format``.
        help: What it is, in a line.
        build: Builds the writer of a run.
        files: Files whose names do not depend on the images.
        folder: Folder of all its other files; empty if it has none.
        paths: From the names of images (:attr:`mmpose_batch.sources.base.Frame.name`), in input
            order, to the other files of a run over them: one per image, one per chunk, ...
        noun: What one of these files is called.
        per_image: Whether each image has such a file. These formats are written before those
            with files of many images, which can then record that one could not be written.
        option: Attribute of ``RunOptions`` that asks for it; empty for a ``--format``.
        journal: Whether it marks images as done: always written, last of all writers, and
            emptied last when a run is replaced. One format is the journal.
        derived: Whether all of it is written by ``finish``, from the records, so that a resumed
            run may add or omit it. Other formats grow with the images, so a resumed run must
            write the same ones.
        scored: Whether ``finish`` needs :attr:`FinishedRun.scored`. The file of such a format
            is also written if it exists and the run has an evaluation, which it must match.
        needs_images: Whether results need their decoded image.
        key: Entry of ``identity`` in ``run.json`` that holds ``settings``; if it is true, the
            run wrote the format (default: the name).
        settings: Returns what the files depend on besides the results, as JSON; something false
            if the options do not ask for the format (default: True or None).
        check_names: Raises :class:`mmpose_batch.errors.OutputError` if two of these images would
            share a file.
    """

    name: str
    help: str
    build: Callable[[WriterContext], Writer]
    files: tuple[str, ...] = ()
    folder: str = ''
    paths: Callable[[Iterable[str]], Iterator[str]] = no_paths
    noun: str = 'file'
    per_image: bool = False
    option: str = ''
    journal: bool = False
    derived: bool = False
    scored: bool = False
    needs_images: bool = False
    key: str = ''
    settings: 'Callable[[RunOptions], Any] | None' = None
    check_names: Callable[[Sequence[str]], None] = any_names

    def is_requested(self, options: 'RunOptions') -> bool:
        """Whether a run with these options writes it."""
        if self.option:
            return bool(getattr(options, self.option))
        return self.journal or self.name in options.formats

    def identity(self, options: 'RunOptions') -> dict[str, Any]:
        """What a resumed run must have in common with the earlier one, for ``run.json``."""
        if self.derived or self.journal:
            return {}
        if self.settings is not None:
            return {self.key or self.name: self.settings(options)}
        return {self.key or self.name: self.is_requested(options) or None}

    def was_written(self, identity: Mapping[str, Any]) -> bool:
        """Whether a run of that identity may have written it."""
        return self.derived or self.journal or bool(identity.get(self.key or self.name))
