"""The interface of writers: the calls of a run, their order, and the registration of a format."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..config import VideoOptions
    from ..inferencer import BatchPose2DInferencer
    from ..results import ImageResult
    from ..sources.base import Frame
    from .options import RunOptions

# One line of predictions.jsonl; :func:`mmpose_batch.results.to_record` lists its fields.
Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class WriterContext:
    """The run that a writer is built for.

    Attributes:
        inferencer: Inferencer of the run, for its ``draw`` and its model's dataset meta.
        options: Options of the run.
        videos: Videos of the run: ``data`` is the path of the file, ``name`` the one in records.
        video_options: Which frames of the videos are used.
    """

    inferencer: 'BatchPose2DInferencer'
    options: 'RunOptions'
    videos: 'Sequence[Frame]' = ()
    video_options: 'VideoOptions | None' = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumePoint:
    """The images and frames of an earlier run that a resumed run does not repeat.

    Attributes:
        images: Number of these images and frames: 0 for a new run, all for a complete run, else
            up to the end of a chunk.
        records: Returns a new iterator over their records, in input order. Their ``error`` also
            names the files that any writer could not write.
    """

    images: int
    records: Callable[[], Iterator[Record]]


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedRun:
    """All results of a run, for formats that are derived from them.

    Attributes:
        records: Returns a new iterator over all records, in input order.
        scored: Returns all instances as COCO results with the scores that MMPose's
            ``CocoMetric`` gives them, after evaluation if there are annotations. None unless
            the run has annotations or a writer with :attr:`WriterSpec.scored`.
    """

    records: Callable[[], Iterator[Record]]
    scored: Callable[[], Iterable[Mapping[str, Any]]] | None = None


class Writer(ABC):
    """Writes one output format of a run into the run's folder.

    Results are those of the images, then those of the frames of each video: these have a
    ``frame_id``, and the ``name`` of their video. A run calls, from one thread::

        open, (append x up to 256, sync) x any number, finish, close

    A process may be killed, and power may fail, between and within any two of these calls. A
    resumed run begins after the last chunk, of images or of frames of one video, after which
    ``sync`` had returned in every writer, and the files must end with the same bytes as those of
    a run that was never interrupted. There are three ways to achieve that:

    - One file per image: written in ``append`` by
      :func:`mmpose_batch.writers.atomic.open_atomically`. A repeated image replaces its file.
    - One file that grows: ``append`` adds to it, ``sync`` flushes it to the disk, and ``open``
      truncates the file after the resume point, or writes it again from the records of the
      resume point.
    - One file per chunk, for formats whose files cannot grow (Parquet, video): ``append``
      collects, ``sync`` writes the file of the chunk with ``open_atomically`` (so that each
      existing file is complete), ``open`` removes the files after the resume point. ``chunk`` of
      a frame is the name of its chunk.

    Attributes:
        folder: The run's output folder, once the writer is open.
    """

    folder: str

    def open(self, folder: str, resume: ResumePoint) -> None:
        """Prepare the files of the format, before the first image.

        Args:
            folder: The run's output folder. It exists, and no other process writes to it.
            resume: The images of an earlier run that are not repeated. Everything that the
                folder contains of later images must be removed.

        Raises:
            OSError: The files cannot be written, which ends the run.
        """
        self.folder = folder

    def join(self, folder: str) -> None:
        """Prepare to write images of a run that another process has opened; instead of ``open``.

        Only called for formats with :attr:`WriterSpec.by_worker`. Then only ``append`` follows.

        Args:
            folder: The run's output folder.
        """
        self.folder = folder

    @abstractmethod
    def append(self, result: 'ImageResult', record: Record) -> None:
        """Write the next image, in input order; failed images are passed too.

        An :class:`OSError` ends the run (the disk is full), unless it is about a file's name.
        Any other error is treated as a failure of this image alone: its record gets an
        ``error``, the other writers still write the image, and this one must not write any
        part of it.

        Args:
            result: ``result.error`` is set if there are no predictions. ``result.image`` is None
                unless :attr:`WriterSpec.needs_images`. In a run of several processes, the data
                samples have ``pred_instances`` only, without metainfo and ``gt_instances``,
                unless :attr:`WriterSpec.by_worker`.
            record: A copy of the image's record, as it is read when a run is resumed. Its
                ``error`` also names the files of the image that the writers before this one
                could not write.
        """

    def sync(self) -> None:  # noqa: B027 - nothing to do for files that are complete already
        """Flush what was appended to disk, at the end of a chunk and of the run.

        The run marks the last image of a chunk as done after all writers have returned from
        here, so files need not be flushed at any other time.

        Raises:
            OSError: The disk is full.
        """

    def finish(self, run: FinishedRun) -> None:  # noqa: B027 - only for derived formats
        """Write the files that need all results, after the last ``sync``.

        A run that is resumed after its last image calls this again.
        """

    def close(self) -> None:  # noqa: B027
        """Close files, also after an error, and even if ``open`` failed halfway.

        Images since the last ``sync`` may be written or dropped: a resumed run repeats them.
        """


def no_paths(names: Iterable[str]) -> Iterator[str]:
    """No paths, for a format without files whose names depend on the images."""
    return iter(())


def no_packages() -> None:
    """Require no package, for a format that this package can always write."""


def derived_formats(info: Mapping[str, Any]) -> set[str]:
    """Names of the derived formats that a run with this ``run.json`` may have written.

    Versions before 'derived' was stored had one such format, ``coco``.
    """
    names = info.get('derived')
    return {n for n in names if isinstance(n, str)} if isinstance(names, list) else {'coco'}


def any_names(names: Sequence[str]) -> None:
    """Accept images of any names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WriterSpec:
    """An output format as registered: the option that selects it, and the files that it writes.

    Everything that is checked before a run, removed by ``--overwrite`` or listed by
    ``--dry-run`` is derived from these fields. All paths are relative to the output folder and
    have ``/`` between their parts; no format's path may be inside another format's folder.

    Attributes:
        name: Value of ``--format`` that selects it.
        help: Description, in one line.
        build: Builds the writer of a run.
        files: Files whose names do not depend on the images.
        folder: Folder of all its other files; empty if it has none.
        paths: Maps the names of images and videos
            (:attr:`mmpose_batch.sources.base.Frame.name`), in the order of their results, to the
            other files of a run over them: one per image, one per chunk, ...
        find_files: Yields the files in an output folder that have names of this format, for a
            format whose files the names of images and videos do not determine: the number of
            chunks of a video is not known before a run. ``paths`` then yields at least one file
            of each folder. None if ``paths`` yields all files.
        noun: Word for one of these files.
        per_image: Whether each image has such a file. These formats are written before those
            with files of many images, which can then record that one could not be written.
        option: Attribute of ``RunOptions`` that selects it; empty if ``--format`` does.
        journal: Whether it marks images as done: always written, last of all writers, and
            emptied last when a run is replaced. One format is the journal.
        derived: Whether all its files are written by ``finish``, from the records, so that a
            resumed run may add or omit it. Other formats are written image by image, so a
            resumed run must write the same ones.
        scored: Whether ``finish`` needs :attr:`FinishedRun.scored`. The file of such a format
            is also written if it exists and the run has an evaluation, which it must match.
        needs_images: Whether results need their decoded image.
        key: Key in ``identity`` of ``run.json`` for the value of ``settings``; a true value
            means that the run wrote the format (default: the name). No other format and no
            other part of the identity may have it.
        settings: Returns the options that the files depend on, as JSON; a false value if the
            options do not select the format (default: True or None).
        check_packages: Raises :class:`mmpose_batch.errors.OutputError` if an optional package
            that the format needs is not installed.
        check_names: Raises :class:`mmpose_batch.errors.OutputError` if two of these images would
            share a file.
    """

    name: str
    help: str
    build: Callable[[WriterContext], Writer]
    files: tuple[str, ...] = ()
    folder: str = ''
    paths: Callable[[Iterable[str]], Iterator[str]] = no_paths
    find_files: Callable[[str], Iterator[str]] | None = None
    noun: str = 'file'
    per_image: bool = False
    option: str = ''
    journal: bool = False
    derived: bool = False
    scored: bool = False
    needs_images: bool = False
    key: str = ''
    settings: 'Callable[[RunOptions], Any] | None' = None
    check_packages: Callable[[], object] = no_packages
    check_names: Callable[[Sequence[str]], None] = any_names

    def is_requested(self, options: 'RunOptions') -> bool:
        """Whether a run with these options writes the format."""
        if self.option:
            return bool(getattr(options, self.option))
        return self.journal or self.name in options.formats

    @property
    def by_worker(self) -> bool:
        """Whether the process that infers an image writes it, in a run of several processes.

        That is so where the decoded image is needed; everything else is written in order by the
        process of the run.
        """
        return self.needs_images and self.per_image

    def identity(self, options: 'RunOptions') -> dict[str, Any]:
        """The entries of ``identity`` in ``run.json``, which a resumed run must match."""
        if self.derived or self.journal:
            return {}
        if self.settings is not None:
            return {self.key or self.name: self.settings(options)}
        return {self.key or self.name: self.is_requested(options) or None}

    def was_written(self, info: Mapping[str, Any]) -> bool:
        """Whether a run with this ``run.json`` may have written the format."""
        if self.journal:
            return True
        if self.derived:
            return self.name in derived_formats(info)
        identity = info.get('identity')
        return isinstance(identity, dict) and bool(identity.get(self.key or self.name))
