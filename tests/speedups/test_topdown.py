"""Decoding all persons of a batch at once: identical to decoding person by person."""

import copy
import pickle

import numpy as np
import pytest
import torch
from mmpose.codecs import MSRAHeatmap, SimCCLabel
from mmpose.models.heads.base_head import BaseHead
from torch import nn

from mmpose_batch.speedups.topdown import ALL_PERSONS

SIZE = {'input_size': (48, 64)}


class Head(BaseHead):
    """A head with a codec only."""

    def __init__(self, decoder: object) -> None:
        super().__init__()
        self.decoder = decoder

    forward = predict = loss = None


def outputs(persons: int, keypoints: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(persons)
    found = torch.randn(persons, keypoints, 96), torch.randn(persons, keypoints, 128)
    found[0][:1] = -found[0][:1].abs()  # a person who is not visible
    return found


@pytest.mark.parametrize('persons', [1, 2, 17])
@pytest.mark.parametrize('keypoints', [1, 17, 133])
@pytest.mark.parametrize('ratio', [2.0, 3.0])
def test_every_person_is_decoded_as_in_a_batch_of_one(persons, keypoints, ratio):
    head = Head(SimCCLabel(**SIZE, simcc_split_ratio=ratio))
    ALL_PERSONS.apply(head)
    batch = outputs(persons, keypoints)
    found, expected = head.decode(batch), BaseHead.decode(head, batch)
    assert len(found) == len(expected) == persons
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name in theirs.keys():  # noqa: SIM118 - no dict
            mine, upstream = ours[name], theirs[name]
            assert mine.dtype == upstream.dtype
            np.testing.assert_array_equal(mine, upstream)


def test_persons_do_not_share_fields_that_are_set_later():
    head = Head(SimCCLabel(**SIZE))
    ALL_PERSONS.apply(head)
    first, second = head.decode(outputs(2, 17))
    for name in ('keypoints', 'keypoint_scores'):
        before = second[name].copy()
        first[name][:] = 0
        np.testing.assert_array_equal(second[name], before)


def test_a_codec_that_changes_later_is_respected():
    head = Head(SimCCLabel(**SIZE))
    ALL_PERSONS.apply(head)
    head.decoder.decode_visibility = True
    batch = outputs(2, 17)
    for ours, theirs in zip(head.decode(batch), BaseHead.decode(head, batch), strict=True):
        np.testing.assert_array_equal(ours.keypoint_scores, theirs.keypoint_scores)
        np.testing.assert_array_equal(ours.keypoints_visible, theirs.keypoints_visible)


def test_a_copied_head_decodes_as_the_first():
    head = Head(SimCCLabel(**SIZE))
    ALL_PERSONS.apply(head)
    batch = outputs(2, 17)
    for other in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        other.decoder.simcc_split_ratio *= 2  # its own
        np.testing.assert_array_equal(
            other.decode(batch)[0].keypoints * 2, head.decode(batch)[0].keypoints
        )


@pytest.mark.parametrize(
    'head',
    [
        Head(SimCCLabel(**SIZE, use_dark=True)),
        Head(SimCCLabel(**SIZE, decode_visibility=True)),
        Head(MSRAHeatmap(**SIZE, heatmap_size=(12, 16), sigma=2)),
        Head(type('Mine', (SimCCLabel,), {})(**SIZE)),
        type('MyHead', (Head,), {'decode': lambda self, outputs: []})(SimCCLabel(**SIZE)),
        Head(None),
        type('Wrapping', (BaseHead,), {'forward': None, 'predict': None, 'loss': None})(),
        nn.Identity(),
    ],
)
def test_it_does_not_apply_to_other_heads(head):
    assert not ALL_PERSONS.applies(head)
