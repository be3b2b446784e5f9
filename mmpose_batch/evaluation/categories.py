"""Categories of instances, if annotations of several are evaluated (for example AP-10K)."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..stages.detect import PersonDetector


@dataclass(frozen=True, slots=True)
class Categories:
    """Maps the label of an instance's box to the category that it is evaluated as.

    Attributes:
        of_label: Category id of each label; instances with another label are not evaluated.
        note: Summary of the categories that are evaluated, in one line.
        reason: Why no instance can be evaluated; None if some can.
    """

    of_label: dict[int, int] = field(default_factory=dict)
    note: str = ''
    reason: str | None = None

    @classmethod
    def of(
        cls, evaluated: Mapping[int, str], detector: 'PersonDetector | None', boxes: bool
    ) -> 'Categories | None':
        """Determine how the instances of a run get their category.

        Args:
            evaluated: Name of each category that is evaluated, by its id.
            detector: The detector of the run, if any.
            boxes: Whether boxes come from a file, labelled by
                :func:`mmpose_batch.evaluation.box_files.read_bboxes`.

        Returns:
            None if at most one category is evaluated, which all instances are then of.
        """
        if len(evaluated) < 2:
            return None
        if boxes:
            return cls(dict(enumerate(evaluated)), f'{len(evaluated)}, labelled by the box file')
        if detector is None:
            return cls(
                reason=f'{len(evaluated)} categories are annotated, and neither a detector nor a '
                'box file gives the category of an instance'
            )
        return cls._of_classes(evaluated, detector.class_names())

    @classmethod
    def _of_classes(cls, evaluated: Mapping[int, str], classes: Mapping[int, str]) -> 'Categories':
        """Match the classes of a detector to categories by name, ignoring case."""
        counts = Counter(map(_plain, evaluated.values()))
        ids = {_plain(name): number for number, name in evaluated.items() if name.strip()}
        unique = {name: number for name, number in ids.items() if counts[name] == 1}
        of_label = {
            label: unique[_plain(name)] for label, name in classes.items() if _plain(name) in unique
        }
        if not of_label:
            return cls(
                reason=f'{len(evaluated)} categories are annotated, and none has the name of a '
                f'class that the detector keeps ({_listed(classes.values())})'
            )
        missed = [name for label, name in classes.items() if label not in of_label]
        unfound = [name for number, name in evaluated.items() if number not in of_label.values()]
        known = len({*of_label.values()})
        note = f'{len(evaluated)}, of which the detector distinguishes {known} by name'
        note += f'; not evaluated: its {_listed(missed)}' if missed else ''
        note += f'; never found: {_listed(unfound)}' if unfound else ''
        return cls(of_label, note)


def _plain(name: str) -> str:
    return name.strip().casefold()


def _listed(names: Iterable[str]) -> str:
    names = [name.strip() for name in names] or ['no name']
    return ', '.join(names[:5]) + (f', ... ({len(names)})' if len(names) > 5 else '')
