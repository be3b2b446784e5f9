"""What a run writes and where."""

from dataclasses import dataclass, field

from ..config import DrawOptions
from ..writers import registry
from ..writers.base import WriterSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """What a run writes and where.

    Attributes:
        out_dir: Folder for everything.
        formats: Output formats, of :func:`mmpose_batch.writers.registry.names`. Those of
            :func:`mmpose_batch.writers.registry.default` are always written.
        save_vis: Also write drawings.
        drawing: How to draw.
        resume: Resume the run that ``out_dir`` holds.
        overwrite: Replace the run that ``out_dir`` holds.
        ann_file: COCO keypoint annotations to evaluate against.
        max_errors: End the run once more images than this have failed; None for no limit.
        quiet: Print nothing but errors.
    """

    out_dir: str
    formats: tuple[str, ...] = field(default_factory=registry.default)
    save_vis: bool = False
    drawing: DrawOptions = field(default_factory=DrawOptions)
    resume: bool = False
    overwrite: bool = False
    ann_file: str | None = None
    max_errors: int | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        limit = self.max_errors
        if limit is not None and (type(limit) is not int or limit < 0):
            raise ValueError(f'max_errors: expected a number from 0, found {self.max_errors!r}')
        choices = registry.names()
        if unknown := set(self.formats) - set(choices):
            raise ValueError(f'formats: expected some of {", ".join(choices)}, found {unknown}')
        if self.resume and self.overwrite:
            raise ValueError('resume and overwrite exclude each other')

    @property
    def writers(self) -> list[WriterSpec]:
        """The formats that the run writes."""
        return registry.requested(self)
