"""Arguments and results are those of upstream's ``Pose2DInferencer``."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmpose.apis.inferencers import Pose2DInferencer
from support.inferencing import KINDS, PICTURES, assert_close, assert_close_instances, persons_of

from mmpose_batch import BatchPose2DInferencer, SourceError

pytestmark = pytest.mark.usefixtures('one_thread', 'no_thread_is_busy')


def test_batches_of_simcc_are_decoded_by_the_fast_equivalent(ours):
    assert 'decode' in vars(ours['top_down'].model.head)
    assert 'decode' not in vars(ours['one_stage'].model.head)


@pytest.mark.parametrize('name', ['__init__', '__call__'])
def test_arguments_are_those_of_upstream_by_name_order_and_default(name):
    def parameters(cls: type) -> list[inspect.Parameter]:
        return list(inspect.signature(getattr(cls, name)).parameters.values())

    theirs, mine = parameters(Pose2DInferencer), parameters(BatchPose2DInferencer)
    mine_by_name = {parameter.name: parameter for parameter in mine}
    assert [p.name for p in mine][: len(theirs) - 1] == [p.name for p in theirs][:-1]
    for parameter in theirs:
        ours = mine_by_name[parameter.name]
        assert ours.kind == parameter.kind
        if parameter.name != 'batch_size':  # None uses that of the constructor
            assert ours.default == parameter.default
    added = [p for p in mine if p.name not in {q.name for q in theirs}]
    assert all(p.kind == inspect.Parameter.KEYWORD_ONLY for p in added)


CALLS = {
    'plain': {},
    'data samples': {'return_datasamples': True},
    'drawn': {'return_vis': True},
    'drawn otherwise': {
        'return_vis': True,
        'draw_bbox': True,
        'radius': 5,
        'thickness': 2,
        'kpt_thr': 0.5,
        'black_background': True,
    },
    'openpose': {'return_vis': True, 'skeleton_style': 'openpose'},
    'pose based suppression': {'pose_based_nms': True, 'bbox_thr': 0.1},
    'not merged': {'merge_results': False},
    'not merged and drawn': {'merge_results': False, 'return_vis': True},
    'higher threshold': {'bbox_thr': 0.6},
    'more suppression': {'nms_thr': 0.1, 'bbox_thr': 0.1},
    'batch size of the call': {'batch_size': 1},
}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('options', CALLS.values(), ids=CALLS)
def test_results_equal_those_of_upstream(ours, upstream, kind, options):
    # Upstream uses an image without persons as one person, see the tests of no_person.
    images = [image for image in PICTURES[:4] if kind == 'one_stage' or image[0, 0, 0]]
    expected = list(upstream[kind](images, **options))
    found = list(ours[kind](images, **options))
    assert len(found) == len(expected) == len(images)
    for mine, theirs in zip(found, expected, strict=True):
        assert isinstance(mine, dict)
        assert mine.keys() == theirs.keys()
        if options.get('return_datasamples'):
            (one,), (other,) = mine['predictions'], theirs['predictions']
            assert type(one) is type(other)
            assert_close_instances(one, other)
        else:
            assert_close(mine['predictions'], theirs['predictions'])
        drawn, theirs_drawn = mine['visualization'], theirs['visualization']
        assert type(drawn) is type(theirs_drawn)
        if theirs_drawn:
            assert [d.shape for d in drawn] == [d.shape for d in theirs_drawn]
            assert drawn[0].dtype == theirs_drawn[0].dtype
            # A line that moves by a hundredth of a pixel may change other pixels.
            assert np.mean(drawn[0] != theirs_drawn[0]) < 0.01


@pytest.mark.parametrize('kind', KINDS)
def test_the_pictures_have_different_results(plain, kind):
    results = plain[kind]
    assert len(set(persons_of(results))) > 3
    points = [p['keypoints'][0] for r in results for p in r['predictions'][0]]
    assert len({tuple(point) for point in points}) == len(points)


INPUTS: dict[str, Callable[[Path], Any]] = {
    'path': lambda folder: str(folder / 'a.png'),
    'Path': lambda folder: folder / 'a.png',
    'array': lambda folder: PICTURES[0],
    'list of paths': lambda folder: [str(folder / 'a.png'), str(folder / 'b.png')],
    'list of both': lambda folder: [PICTURES[0], str(folder / 'b.png')],
    'tuple': lambda folder: (PICTURES[0], PICTURES[1]),
    'stream': lambda folder: iter([PICTURES[0], str(folder / 'b.png')]),
    'folder': lambda folder: str(folder),
    'glob': lambda folder: str(folder / '*.png'),
}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('inputs', INPUTS.values(), ids=INPUTS)
def test_every_kind_of_input_has_the_same_results(ours, plain, folder, kind, inputs):
    found = list(ours[kind](inputs(folder)))
    # The files are in the order of the pictures.
    assert len(found) > 0
    assert_close(found, plain[kind][: len(found)])


@pytest.mark.parametrize('kind', KINDS)
def test_empty_inputs_have_no_results(ours, tmp_path, kind):
    assert list(ours[kind]([])) == []
    assert list(ours[kind](str(tmp_path))) == []


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'batchsize': 4}, 'batchsize'),
        ({'kpt_score': 0.5, 'return_vis': True}, 'kpt_score'),
        ({'use_oks_tracking': True}, 'use_oks_tracking'),  # an option of other inferencers
        ({'skeleton_style': 'coco'}, 'skeleton_style'),
        ({'batch_size': 0}, 'batch_size'),
        ({'vis_out_dir': 'a.jpg'}, 'vis_out_dir'),
    ],
)
def test_wrong_options_are_an_error_at_the_call(ours, options, message):
    with pytest.raises(ValueError, match=message):
        ours['one_stage'](PICTURES, **options)


def test_wrong_inputs_are_an_error_at_the_call(ours, tmp_path):
    with pytest.raises(SourceError, match='no such file'):
        ours['one_stage'](str(tmp_path / 'missing'))


def test_a_call_alone_reads_nothing(ours):
    def stream() -> Iterator[np.ndarray]:
        pytest.fail('read before a result was asked for')
        yield

    ours['one_stage'](stream())


def test_upstreams_old_spelling_still_works(ours):
    (result,) = ours['one_stage'](PICTURES[0], return_datasample=True)
    assert result['predictions'][0].pred_instances.keypoints.ndim == 3
