"""Tracks of the demo model on synthetic videos, against the identities that were drawn."""

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from support.factories import read_lines, run_tool

from mmpose_batch.scenes import ClipOptions, write_videos

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('one_thread')]

# Videos of four seconds, with three persons at a time who walk, cross, come and go.
CLIP = ClipOptions(seconds=4, fps=12.5, persons=(3, 3))


class Tracks(NamedTuple):
    """How well the ids of a video agree with the identities.

    Attributes:
        persons: Number of persons who are found at least twice.
        switches: Changes of the id of a person.
        ids: Different ids of all these persons.
        without: Fraction of the found boxes without an id.
    """

    persons: int
    switches: int
    ids: int
    without: float


def compare(records: list[dict], truth: dict) -> Tracks:
    boxes = defaultdict(list)
    frames = {image['id']: image['frame'] for image in truth['images']}
    for each in truth['annotations']:
        x, y, width, height = each['bbox']
        boxes[frames[each['image_id']]].append((each['track_id'], [x, y, x + width, y + height]))
    found = defaultdict(list)
    for record in records:
        drawn = boxes[record['frame']]
        if not drawn or not record['instances']:
            continue
        overlaps = ious([box for _, box in drawn], [p['bbox'] for p in record['instances']])
        for one, other in zip(*linear_sum_assignment(overlaps, maximize=True), strict=True):
            if overlaps[one, other] >= 0.5:
                found[drawn[one][0]].append(record['instances'][other]['track_id'])
    sequences = [
        (ids, [number for number in ids if number is not None])
        for ids in found.values()
        if len(ids) > 1
    ]
    return Tracks(
        len(sequences),
        sum(a != b for _, ids in sequences for a, b in pairwise(ids)),
        sum(len(set(ids)) for _, ids in sequences),
        np.mean([number is None for ids, _ in sequences for number in ids]),
    )


def ious(boxes: list, others: list) -> np.ndarray:
    one, other = np.asarray(boxes)[:, None], np.asarray(others)[None]
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    shared = sides.clip(0).prod(axis=-1)
    areas = [(each[..., 2:] - each[..., :2]).prod(axis=-1) for each in (one, other)]
    return shared / (areas[0] + areas[1] - shared)


# Measured with the demo model at default thresholds: persons, and at most so many switches and ids.
EXPECTED = {0: (4, 1, 5), 1: (5, 2, 7), 2: (4, 1, 5)}
MAX_WITHOUT = 0.06


@pytest.mark.parametrize('seed', range(3))
def test_ids_follow_the_persons(seed, tmp_path):
    truth = json.loads(write_videos(tmp_path / 'in', 1, seed, CLIP, quiet=True).read_text())
    arguments = [tmp_path / 'in' / '000000.mp4', '--out-dir', tmp_path / 'out', '--track']
    assert run_tool(*arguments, '--num-threads', '1').status == 0
    found = compare(read_lines(Path(tmp_path / 'out' / 'predictions.jsonl')), truth)
    print(found)
    persons, switches, ids = EXPECTED[seed]
    assert found.persons == persons
    assert found.switches <= switches
    assert found.ids <= ids
    assert found.without <= MAX_WITHOUT
