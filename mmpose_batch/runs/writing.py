"""The writers of a run: each result is written by all of them, and last by the journal."""

import errno
import os.path as osp
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import orjson

from ..errors import InputError, OutputError, one_line
from ..outputs import read_info
from ..results import ImageResult, as_text, label_of
from ..writers.base import FinishedRun, ResumePoint, Writer, WriterContext, WriterSpec
from ..writers.registry import specs

# Errors of a file system about one name; all others concern the complete folder.
_NAME_ERRORS = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


class RunWriters:
    """Writes the results of a run in all its formats, so that it can be killed at any time.

    The journal marks an image as done after all other writers have written it, and the last
    image of a chunk after all their files are flushed to disk.

    Args:
        context: The run.
        scored: Whether the run scores its results at its end. Then a derived file of scores from
            an earlier run is written again, since it could contradict the new evaluation.
    """

    def __init__(self, context: WriterContext, scored: bool) -> None:
        self._folder = context.options.out_dir
        self._raises = context.inferencer.options.on_error == 'raise'
        writers = context.options.writers
        if scored:
            info = read_info(self._folder) or {}
            earlier = [spec for spec in specs().values() if spec.was_written(info)]
            writers += [spec for spec in earlier if self._is_outdated(spec, writers)]
        self._writers = [spec.build(context) for spec in writers if not spec.journal]
        (self._journal,) = (spec.build(context) for spec in writers if spec.journal)

    def _is_outdated(self, spec: WriterSpec, requested: list[WriterSpec]) -> bool:
        there = any(osp.exists(osp.join(self._folder, file)) for file in spec.files)
        return spec.scored and there and spec not in requested

    @contextmanager
    def opened(self, resume: ResumePoint) -> Iterator[None]:
        """Open all writers, and close them at the end of the ``with`` block.

        Raises:
            OSError: A file cannot be written.
        """
        with ExitStack() as stack:
            for writer in (*self._writers, self._journal):
                stack.callback(writer.close)
                writer.open(self._folder, resume)
            yield

    def append(self, result: ImageResult, record: dict[str, Any]) -> None:
        """Write one result.

        If a file of the image, such as its drawing, cannot be written, the record gets an
        ``error``, after that of the image if it has one, and keeps its instances.

        Args:
            result: The next result, in input order.
            record: Its record, of which each writer gets a copy.

        Raises:
            InputError: A file cannot be written, and ``on_error`` is ``raise``.
            OSError: The disk is full.
        """
        of_image = [record['error']] if 'error' in record else []
        errors: list[str] = []
        for writer in self._writers:
            copy = orjson.loads(orjson.dumps(record))
            try:
                writer.append(result, copy)
            except Exception as error:
                self._raise_unless_of_image(error, result)
                errors.append(one_line(error))
                of_writers = as_text(f'cannot be written: {"; ".join(errors)}')
                record['error'] = '; '.join([*of_image, of_writers])
        if result.frame.ends_chunk:
            self._sync(*self._writers)
        self._journal.append(result, record)
        if result.frame.ends_chunk:
            self._sync(self._journal)

    def _raise_unless_of_image(self, error: Exception, result: ImageResult) -> None:
        """Raise an error that concerns more than one image, or any if ``on_error`` is ``raise``."""
        if isinstance(error, OSError) and error.errno not in _NAME_ERRORS:
            raise error  # about the disk, not this image
        if self._raises:
            raise InputError(
                f'{label_of(result.frame)}: cannot be written: {one_line(error)}'
            ) from error

    def _sync(self, *writers: Writer) -> None:
        for writer in writers:
            writer.sync()

    def finish(self, run: FinishedRun) -> None:
        """Write the formats that are derived from all results.

        Raises:
            OutputError: A file cannot be written; those of the other formats are.
            OSError: The disk is full.
        """
        writers = (*self._writers, self._journal)
        self._sync(*writers)  # files that ``open`` wrote again, if the run has no new images
        errors: list[OutputError] = []
        for writer in writers:
            try:
                writer.finish(run)
            except OutputError as error:
                errors.append(error)
        if errors:
            raise errors[0]
