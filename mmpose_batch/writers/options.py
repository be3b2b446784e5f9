"""Options of a run: what it writes and where."""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field

from ..config import DrawOptions
from ..declare import option
from . import registry
from .base import WriterSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """Options of a run: what it writes and where.

    Attributes:
        out_dir: Output folder, for all files of the run.
        formats: Output formats, out of :func:`mmpose_batch.writers.registry.names`. Those of
            :func:`mmpose_batch.writers.registry.default` are always written.
        save_vis: Whether to write drawings too.
        drawing: How to draw.
        resume: Whether to resume the run in ``out_dir``.
        overwrite: Whether to replace the run in ``out_dir``.
        ann_file: COCO keypoint annotations to evaluate against.
        max_errors: Maximum number of failed images; the run ends when more fail. None for no
            limit.
        quiet: Whether to print nothing but errors.
    """

    out_dir: str = option(
        MISSING,
        'folder for all results; may be inside an input folder (drawings of earlier runs are not '
        'read as inputs)',
        metavar='DIR',
    )
    formats: Sequence[str] = option(
        registry.default(),
        f'formats of the predictions: {", ".join(registry.names())}, or one that the config '
        'registers; jsonl is always written (default: jsonl)',
        metavar='NAME',
        flag='format',
    )
    save_vis: bool = option(False, 'write drawings to vis/')
    drawing: DrawOptions = field(default_factory=DrawOptions)
    ann_file: str | None = option(
        None,
        'COCO keypoint annotations; prints AP and AR at the end, computed by the CocoMetric or '
        'CocoWholeBodyMetric of the config',
        metavar='FILE',
    )
    quiet: bool = option(False, 'print only errors')
    resume: bool = option(False, 'resume the run in --out-dir')
    overwrite: bool = option(False, 'replace the run in --out-dir')
    max_errors: int | None = option(
        None,
        'end the run as soon as more than N images and frames have failed (default: no limit)',
        metavar='N',
        minimum=0,
    )

    def __post_init__(self) -> None:
        limit = self.max_errors
        if limit is not None and (type(limit) is not int or limit < 0):
            raise ValueError(f'max_errors: expected an integer >= 0, found {self.max_errors!r}')
        choices = registry.names()
        if unknown := sorted(set(self.formats) - set(choices)):
            raise ValueError(
                f'formats: expected some of {", ".join(choices)}, found {", ".join(unknown)}'
            )
        if self.resume and self.overwrite:
            raise ValueError('resume and overwrite cannot be combined')

    @property
    def writers(self) -> list[WriterSpec]:
        """The output formats that the run writes."""
        return registry.requested(self)
