"""The writers of a run: each result is written by all of them, and last by the journal."""

import os.path as osp
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from ..errors import OutputError
from ..outputs import read_info
from ..results import ImageResult, as_text
from ..writers.base import FinishedRun, ResumePoint, Writer, WriterContext, WriterSpec
from ..writers.one_image import error_of_image
from ..writers.registry import specs


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
        self._writers = {s.name: s.build(context) for s in writers if not s.journal}
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
            for writer in (*self._writers.values(), self._journal):
                stack.callback(writer.close)
                writer.open(self._folder, resume)
            yield

    def append(
        self,
        result: ImageResult,
        record: dict[str, Any],
        errors: Mapping[str, str | None] | None = None,
    ) -> None:
        """Write one result.

        If a file of the image, such as its drawing, cannot be written, the record gets an
        ``error``, after that of the image if it has one, and keeps its instances.

        Args:
            result: The next result, in input order.
            record: Its record, of which each writer gets a copy.
            errors: Name of each format that another process has written to its error, or None.

        Raises:
            InputError: A file cannot be written, and ``on_error`` is ``raise``.
            OSError: The disk is full.
        """
        of_image = [record['error']] if 'error' in record else []
        found: list[str] = []
        for name, writer in self._writers.items():
            if errors is not None and name in errors:
                error = errors[name]
            else:
                error = error_of_image(writer, result, record, self._raises)
            if error is not None:
                found.append(error)
                of_writers = as_text(f'cannot be written: {"; ".join(found)}')
                record['error'] = '; '.join([*of_image, of_writers])
        if result.frame.ends_chunk:
            self._sync(*self._writers.values())
        self._journal.append(result, record)
        if result.frame.ends_chunk:
            self._sync(self._journal)

    def _sync(self, *writers: Writer) -> None:
        for writer in writers:
            writer.sync()

    def finish(self, run: FinishedRun) -> None:
        """Write the formats that are derived from all results.

        Raises:
            OutputError: A file cannot be written; those of the other formats are.
            OSError: The disk is full.
        """
        writers = (*self._writers.values(), self._journal)
        self._sync(*writers)  # files that ``open`` wrote again, if the run has no new images
        errors: list[OutputError] = []
        for writer in writers:
            try:
                writer.finish(run)
            except OutputError as error:
                errors.append(error)
        if errors:
            raise errors[0]
