"""The writers of a run: every result goes to each of them, and last to the journal."""

import errno
import os.path as osp
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ..errors import InputError, one_line
from ..results import ImageResult, as_text
from ..writers.base import FinishedRun, ResumePoint, Writer, WriterContext, WriterSpec
from ..writers.registry import specs

# How file systems reject a name; their other errors concern the whole folder.
_NAME_ERRORS = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


class RunWriters:
    """Writes the results of a run in all its formats, so that it can be killed at any time.

    The journal marks an image as done after all other writers have taken it, and the last image
    of a chunk after what they took is safe on disk.

    Args:
        context: The run.
        total: Images of the run, including those of earlier runs.
        chunk: Images after which files are flushed.
        scored: Whether the run has scored results at its end. A derived file of scores that the
            resumed run left is then written again: it could contradict the new evaluation.
    """

    def __init__(self, context: WriterContext, total: int, chunk: int, scored: bool) -> None:
        self._total = total
        self._chunk = chunk
        self._folder = context.options.out_dir
        self._raises = context.inferencer.options.on_error == 'raise'
        writers = context.options.writers
        if scored:
            writers += [spec for spec in specs().values() if self._is_outdated(spec, writers)]
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

        A file of the image that cannot be written, such as its drawing, costs that file only:
        the record gets an ``error`` and keeps its instances.

        Args:
            result: The next result, in input order.
            record: Its record.

        Raises:
            InputError: A file cannot be written, and the run is to end with the first failure.
            OSError: The disk is full.
        """
        errors: list[str] = []
        for writer in self._writers:
            try:
                writer.append(result, record)
            except Exception as error:
                self._raise_unless_of_image(error, result)
                errors.append(one_line(error))
                if result.error is None:
                    record['error'] = as_text(f'cannot be written: {"; ".join(errors)}')
        done = result.frame.index + 1
        ends_chunk = done % self._chunk == 0 or done == self._total
        if ends_chunk:
            self._sync(*self._writers)
        self._journal.append(result, record)
        if ends_chunk:
            self._sync(self._journal)

    def _raise_unless_of_image(self, error: Exception, result: ImageResult) -> None:
        """Raise what is not the failure of one image, or is to end the run."""
        if isinstance(error, OSError) and error.errno not in _NAME_ERRORS:
            raise error  # the disk, not this image
        if self._raises:
            raise InputError(
                f'{result.frame.path}: cannot be written: {one_line(error)}'
            ) from error

    def _sync(self, *writers: Writer) -> None:
        for writer in writers:
            writer.sync()

    def finish(self, run: FinishedRun) -> None:
        """Write what is derived from all results.

        Raises:
            OSError: The disk is full.
        """
        writers = (*self._writers, self._journal)
        self._sync(*writers)  # what a run without new images wrote again as it opened them
        for writer in writers:
            writer.finish(run)
