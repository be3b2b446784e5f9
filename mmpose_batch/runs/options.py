"""What a run writes and where."""

from dataclasses import dataclass, field

from ..writers.drawing import DrawOptions

FORMATS = ('jsonl', 'json', 'coco')


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """What a run writes and where.

    Attributes:
        out_dir: Folder for everything.
        formats: Of predictions: ``jsonl`` (always written, resuming needs it),
            ``json``, ``coco``.
        save_vis: Also write drawings.
        drawing: How to draw.
        resume: Go on with the run that ``out_dir`` holds.
        overwrite: Replace the run that ``out_dir`` holds.
        ann_file: COCO keypoint annotations to evaluate against.
        max_errors: End the run once more images than this have failed; None for no such end.
        quiet: Print nothing but errors.
    """

    out_dir: str
    formats: tuple[str, ...] = ('jsonl',)
    save_vis: bool = False
    drawing: DrawOptions = field(default_factory=DrawOptions)
    resume: bool = False
    overwrite: bool = False
    ann_file: str | None = None
    max_errors: int | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        most = self.max_errors
        if most is not None and (type(most) is not int or most < 0):
            raise ValueError(f'max_errors: expected a number from 0, found {self.max_errors!r}')
        unknown = set(self.formats) - set(FORMATS)
        if unknown:
            raise ValueError(f'formats: expected some of {", ".join(FORMATS)}, found {unknown}')
        if self.resume and self.overwrite:
            raise ValueError('resume and overwrite exclude each other')
