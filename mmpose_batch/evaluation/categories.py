"""Which category an instance has, where annotations judge several (animals of AP-10K, say)."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..stages.detect import PersonDetector


@dataclass(frozen=True, slots=True)
class Categories:
    """The category of an instance by the label that its box comes with.

    Attributes:
        of_label: Category id of each label; an instance with another one is not judged.
        note: What is judged, in one line.
        reason: Why no instance can be judged; None if some can.
    """

    of_label: dict[int, int] = field(default_factory=dict)
    note: str = ''
    reason: str | None = None

    @classmethod
    def of(
        cls, judged: Mapping[int, str], detector: 'PersonDetector | None', boxes: bool
    ) -> 'Categories | None':
        """Find out how a run's instances get their category.

        Args:
            judged: Name of each judged category, by its id.
            detector: Of the run, if any.
            boxes: Whether boxes come from a file, labelled by
                :func:`mmpose_batch.evaluation.box_files.read_bboxes`.

        Returns:
            None where at most one category is judged, which all instances have.
        """
        if len(judged) < 2:
            return None
        if boxes:
            return cls(dict(enumerate(judged)), f'{len(judged)}, as the box file says')
        if detector is None:
            return cls(
                reason=f'{len(judged)} categories are annotated, and neither a detector nor a box '
                'file says which one an instance is of'
            )
        return cls._of_classes(judged, detector.class_names())

    @classmethod
    def _of_classes(cls, judged: Mapping[int, str], classes: Mapping[int, str]) -> 'Categories':
        """Find the category of each class of a detector by its name, whatever its case."""
        counts = Counter(map(_plain, judged.values()))
        ids = {_plain(name): number for number, name in judged.items() if name.strip()}
        unique = {name: number for name, number in ids.items() if counts[name] == 1}
        of_label = {
            label: unique[_plain(name)] for label, name in classes.items() if _plain(name) in unique
        }
        if not of_label:
            return cls(
                reason=f'{len(judged)} categories are annotated, and none has the name of a class '
                f'that the detector keeps ({_listed(classes.values())})'
            )
        missed = [name for label, name in classes.items() if label not in of_label]
        unfound = [name for number, name in judged.items() if number not in of_label.values()]
        note = f'{len(judged)}, of which the detector tells {len({*of_label.values()})} by name'
        note += f'; not judged: its {_listed(missed)}' if missed else ''
        note += f'; never found: {_listed(unfound)}' if unfound else ''
        return cls(of_label, note)


def _plain(name: str) -> str:
    return name.strip().casefold()


def _listed(names: Iterable[str]) -> str:
    names = [name.strip() for name in names] or ['no name']
    return ', '.join(names[:5]) + (f', ... ({len(names)})' if len(names) > 5 else '')
