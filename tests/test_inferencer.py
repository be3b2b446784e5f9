"""The inferencer: upstream's interface, many images under way at once, none of it to be seen."""

import copy
import gc
import inspect
import itertools
import json
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import mmcv
import mmengine
import numpy as np
import pytest
from mmpose.apis.inferencers import Pose2DInferencer
from mmpose.registry import INFERENCERS
from support.factories import busy_threads, our_threads
from support.tiny import OurDetector, TinyModel, picture, resize_input, save
from torch import nn

from mmpose_batch import BatchPose2DInferencer, InputError, SourceError
from mmpose_batch.engines import warmup
from mmpose_batch.engines.verification import BOUNDS, Bound
from mmpose_batch.images.read import read_image
from mmpose_batch.sources.base import Frame, Source
from mmpose_batch.sources.numbering import number
from mmpose_batch.workers import FLUSH, FlushType
from mmpose_batch.writers.mmpose import MMPoseWriter

pytestmark = pytest.mark.usefixtures('one_thread', 'no_thread_is_busy')

# In these, the tiny one-stage model finds from none to five persons.
SIZES = ((60, 90), (70, 83), (80, 76), (90, 69), (100, 62), (110, 55), (120, 48))
PERSONS = (1, 0, 5, 2, 0, 12, 3)
PICTURES = [
    picture(width, height, seed, persons)
    for seed, ((width, height), persons) in enumerate(zip(SIZES, PERSONS, strict=True))
]
KINDS = ('one_stage', 'top_down')


@pytest.fixture(scope='module')
def ours(one_stage: TinyModel, top_down: TinyModel) -> dict[str, BatchPose2DInferencer]:
    """One inferencer of each kind for nearly all tests: calls leave no trace in it."""
    return {
        'one_stage': one_stage.ours(batch_size=3),
        'top_down': top_down.ours(batch_size=4, det_batch_size=2),
    }


@pytest.fixture(scope='module')
def plain(ours: dict[str, BatchPose2DInferencer]) -> dict[str, list[dict]]:
    """What each kind finds in the pictures."""
    return {kind: list(inferencer(PICTURES)) for kind, inferencer in ours.items()}


@pytest.fixture(scope='module')
def upstream_inferencers(one_stage: TinyModel, top_down: TinyModel) -> dict[str, Pose2DInferencer]:
    return {'one_stage': one_stage.upstream(), 'top_down': top_down.upstream()}


@pytest.fixture
def upstream(upstream_inferencers: dict[str, Pose2DInferencer]) -> dict[str, Pose2DInferencer]:
    """Upstream's inferencers with their skeletons reset, which openpose's skeleton changes."""
    for inferencer in upstream_inferencers.values():
        inferencer.visualizer.set_dataset_meta(inferencer.model.dataset_meta)
    return upstream_inferencers


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures as files that keep every pixel; two of them share a name."""
    folder = tmp_path_factory.mktemp('pictures')
    names = ('a.png', 'b.png', 'x/c.png', 'x/d.png', 'y/c.png', 'y/e.png', 'y/f.png')
    for name, image in zip(names, PICTURES, strict=True):
        save(folder / name, image)
    return folder


def files_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file())


def assert_close(found: Any, expected: Any) -> None:
    """The same structure and types, numbers within the bounds of the project."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_close(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    elif isinstance(expected, float | np.floating):
        assert found == pytest.approx(expected, abs=0.01)
    else:
        assert found == expected


def persons_of(results: Sequence[dict]) -> list[int]:
    return [len(result['predictions'][0]) for result in results]


# ------------------------------------------------------------------ upstream's interface


def test_a_batch_is_decoded_as_a_whole_where_the_codec_is_simcc(ours):
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
        if parameter.name != 'batch_size':  # None: the constructor's
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
    # Upstream takes an image without persons for one person, see the tests of no_person.
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
            # A line that moves by a hundredth of a pixel may touch another pixel.
            assert np.mean(drawn[0] != theirs_drawn[0]) < 0.01


def assert_close_instances(one: Any, other: Any) -> None:
    mine, theirs = one.pred_instances, other.pred_instances
    assert set(mine.keys()) == set(theirs.keys())
    for key, expected in theirs.items():
        found = mine[key]
        assert (type(found), found.shape, found.dtype) == (
            type(expected),
            expected.shape,
            expected.dtype,
        )
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.01, err_msg=key)
    assert set(one.metainfo_keys()) == set(other.metainfo_keys())
    assert one.ori_shape == other.ori_shape


@pytest.mark.parametrize('kind', KINDS)
def test_the_cases_are_worth_something(plain, kind):
    results = plain[kind]
    assert len(set(persons_of(results))) > 3
    points = [p['keypoints'][0] for r in results for p in r['predictions'][0]]
    assert len({tuple(point) for point in points}) == len(points)


def test_heatmaps_are_drawn_as_by_upstream(ours, upstream):
    images = [PICTURES[0], PICTURES[2]]
    options = {'return_vis': True, 'draw_heatmap': True}
    expected = list(upstream['top_down'](images, **options))
    found = list(ours['top_down'](images, **options))
    for mine, theirs in zip(found, expected, strict=True):
        assert mine['visualization'][0].shape == theirs['visualization'][0].shape
        # The heatmap is below the image.
        assert mine['visualization'][0].shape[0] > images[0].shape[0]
        assert np.mean(mine['visualization'][0] != theirs['visualization'][0]) < 0.01


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('style', ['mmpose', 'openpose'])
def test_an_image_with_nobody_can_be_drawn(ours, kind, style):
    options = {'return_vis': True, 'draw_heatmap': True, 'draw_bbox': True, 'bbox_thr': 2.0}
    (result,) = ours[kind](PICTURES[1], skeleton_style=style, **options)
    assert persons_of([result]) == [0]
    assert result['visualization'][0].shape[1] == PICTURES[1].shape[1]


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
def test_every_kind_of_input_gives_the_same(ours, plain, folder, kind, inputs):
    found = list(ours[kind](inputs(folder)))
    # The files are in the order of the pictures.
    assert len(found) > 0
    assert_close(found, plain[kind][: len(found)])


@pytest.mark.parametrize('kind', KINDS)
def test_nothing_gives_nothing(ours, tmp_path, kind):
    assert list(ours[kind]([])) == []
    assert list(ours[kind](str(tmp_path))) == []


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'batchsize': 4}, 'batchsize'),
        ({'kpt_score': 0.5, 'return_vis': True}, 'kpt_score'),
        ({'use_oks_tracking': True}, 'use_oks_tracking'),  # of the other inferencers
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


# ----------------------------------------------------------------------- written files


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('options', [{'out_dir': ''}, {'vis_out_dir': 'v', 'pred_out_dir': 'p'}])
def test_files_with_one_name_in_two_folders_do_not_meet(ours, folder, tmp_path, kind, options):
    options = {key: str(tmp_path / value) for key, value in options.items()}
    results = list(ours[kind](str(folder), **options))
    vis = Path(options.get('vis_out_dir', tmp_path / 'visualizations'))
    predictions = Path(options.get('pred_out_dir', tmp_path / 'predictions'))
    names = files_below(folder)
    assert files_below(vis) == names
    assert files_below(predictions) == [name.replace('.png', '.json') for name in names]
    for name, image, result in zip(names, PICTURES, results, strict=True):
        written = json.loads((predictions / name).with_suffix('.json').read_text())
        assert written == json.loads(mmengine.dump(result['predictions'][0], file_format='json'))
        assert mmcv.imread(vis / name).shape == image.shape


def test_written_files_equal_those_of_upstream(ours, upstream, folder, tmp_path):
    path = str(folder / 'a.png')
    for name, inferencer in (('upstream', upstream['top_down']), ('ours', ours['top_down'])):
        list(inferencer(path, out_dir=str(tmp_path / name)))
    assert files_below(tmp_path / 'ours') == files_below(tmp_path / 'upstream')
    mine, theirs = tmp_path / 'ours', tmp_path / 'upstream'
    assert_close(
        *(json.loads((below / 'predictions/a.json').read_text()) for below in (mine, theirs))
    )
    drawn, expected = (mmcv.imread(below / 'visualizations/a.png') for below in (mine, theirs))
    assert np.mean(drawn != expected) < 0.01


def write_video(path: Path, frames: Sequence[np.ndarray]) -> str:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 12, (width, height))
    for frame in frames:
        writer.write(frame)
    writer.release()
    return str(path)


def test_a_video_becomes_one_video_and_one_json(ours, upstream, tmp_path):
    path = write_video(tmp_path / 'film.mp4', [picture(96, 64, seed) for seed in range(8)])
    options = {'bbox_thr': 0.2}
    results = list(ours['one_stage'](path, out_dir=str(tmp_path / 'ours'), **options))
    assert len(results) == 8
    # In the order of the frames: what each frame gives on its own.
    alone = list(ours['one_stage'](list(mmcv.VideoReader(path)), **options))
    assert_close([r['predictions'] for r in results], [r['predictions'] for r in alone])
    assert len({str(result['predictions']) for result in results}) > 4

    list(upstream['one_stage'](path, out_dir=str(tmp_path / 'upstream'), **options))
    mine, theirs = tmp_path / 'ours', tmp_path / 'upstream'
    names = ['predictions/film.json', 'visualizations/film.mp4']
    assert files_below(mine) == files_below(theirs) == names
    frames, expected = (json.loads((below / names[0]).read_text()) for below in (mine, theirs))
    assert [frame['frame_id'] for frame in frames] == list(range(8))
    assert_close(frames, expected)
    drawn, expected = (mmcv.VideoReader(str(below / names[1])) for below in (mine, theirs))
    assert (len(drawn), drawn.fps, drawn.resolution) == (8, 12, (96, 64))
    for one, other in zip(drawn, expected, strict=True):
        assert np.abs(one.astype(int) - other).mean() < 2


def test_a_video_that_is_left_early_has_whole_files(ours, tmp_path):
    path = write_video(tmp_path / 'film.mp4', [picture(96, 64, seed) for seed in range(60)])
    results = ours['one_stage'](path, out_dir=str(tmp_path / 'out'))
    for _ in range(3):
        next(results)
    assert 'mmpose_batch_reader' in our_threads()
    results.close()
    assert len(json.loads((tmp_path / 'out/predictions/film.json').read_text())) == 3
    assert len(mmcv.VideoReader(str(tmp_path / 'out/visualizations/film.mp4'))) == 3


# ------------------------------------------------------------- calls do not disturb others

TWO_CALLS = {
    'one_stage': (
        {'bbox_thr': 0.3, 'batch_size': 1, 'return_vis': True, 'skeleton_style': 'openpose'},
        {'bbox_thr': 0.5, 'batch_size': 4, 'nms_thr': 0.1, 'return_vis': True, 'radius': 7},
    ),
    'top_down': (
        {'bbox_thr': 0.3, 'return_vis': True, 'draw_heatmap': True},
        {'bbox_thr': 0.7, 'batch_size': 2, 'return_vis': True, 'thickness': 3, 'draw_bbox': True},
    ),
}


def as_plain(results: Sequence[dict]) -> list[tuple[Any, list[bytes]]]:
    return [(r['predictions'], [d.tobytes() for d in r['visualization']]) for r in results]


@pytest.fixture(params=KINDS, scope='module')
def two_calls(request: pytest.FixtureRequest, ours: dict) -> tuple[list[Callable], list[list]]:
    """Two calls that differ in all they may, and what each gives alone."""
    kind = request.param
    calls = [
        lambda options=options: ours[kind](PICTURES[:4], **options) for options in TWO_CALLS[kind]
    ]
    expected = [as_plain(list(call())) for call in calls]
    assert expected[0] != expected[1]
    return calls, expected


def test_two_generators_of_one_object_may_be_interleaved(two_calls):
    calls, expected = two_calls
    pairs = list(zip(*(call() for call in calls), strict=True))
    assert [as_plain(results) for results in zip(*pairs, strict=True)] == expected


def test_two_threads_may_use_one_object(two_calls):
    calls, expected = two_calls
    found: dict[int, list] = {}
    start = threading.Barrier(2)

    def run(number: int) -> None:
        start.wait()
        for _ in range(2):
            found.setdefault(number, []).append(as_plain(list(calls[number]())))

    threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [expected[number]] * 2 for number in (0, 1)}


def test_what_calls_share_is_used_by_one_thread_at_a_time(ours, monkeypatch):
    inferencer = ours['top_down']
    calls: list[str] = []
    met: list[str] = []

    def alone(owner: Any, name: str) -> None:
        """Record whether two threads are within a function at once."""
        function, both = getattr(owner, name), threading.Barrier(2)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            with suppress(threading.BrokenBarrierError):  # as if nobody came by: right
                both.wait(0.2)
                met.append(name)
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, guarded)

    def together(owner: Any, name: str) -> None:
        """Have both threads come to a function before one of them enters it."""
        function, both = getattr(owner, name), threading.Barrier(2)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            both.wait(60)
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, guarded)

    together(inferencer.runner, 'test_step')
    alone(type(inferencer.model), 'test_step')
    together(inferencer, 'draw')
    alone(inferencer.visualizer, 'add_datasample')
    with ThreadPoolExecutor(2) as pool:
        run = partial(inferencer, PICTURES[0], return_vis=True)
        (one,), (other,) = pool.map(lambda _: list(run()), range(2))
    assert calls == ['test_step'] * 2 + ['add_datasample'] * 2
    assert met == []
    assert one['predictions'] == other['predictions'] != [[]]


@pytest.mark.parametrize('kind', KINDS)
def test_a_call_that_is_left_early_leaves_the_settings_alone(ours, plain, kind):
    inferencer, expected = ours[kind], plain[kind]
    settings = copy.deepcopy(dict(inferencer.model.test_cfg))
    abandoned = inferencer(PICTURES, bbox_thr=0.99, draw_heatmap=True, return_vis=True)
    next(abandoned)
    assert dict(inferencer.model.test_cfg) == settings
    assert list(inferencer(PICTURES)) == expected
    abandoned.close()


def test_the_users_config_is_not_changed(one_stage):
    before = copy.deepcopy(one_stage.cfg.to_dict())
    list(one_stage.ours()(PICTURES[:2], bbox_thr=0.9, draw_heatmap=True))
    assert one_stage.cfg.to_dict() == before


# ------------------------------------------------------------------------------- bboxes

BOXES = [
    np.array([[5, 5, 40, 80], [20, 10, 55, 85]], np.float32),
    np.zeros((0, 4), np.float32),
    np.array([[10, 10, 60, 60, 0.5]], np.float32),
]


class NoDetector(OurDetector):
    def prepare(self, image: np.ndarray) -> dict[str, Any]:
        pytest.fail('asked although the boxes are given')


@pytest.fixture
def undetecting(ours, monkeypatch) -> BatchPose2DInferencer:
    """One whose detector must not be asked."""
    monkeypatch.setattr(ours['top_down'], 'detector', NoDetector())
    return ours['top_down']


@pytest.mark.parametrize('form', [list, tuple, lambda boxes: [b.tolist() for b in boxes], iter])
def test_given_boxes_are_used(undetecting, form):
    results = list(undetecting(PICTURES[:3], bboxes=form(BOXES)))
    found = [[p['bbox'][0] for p in result['predictions'][0]] for result in results]
    scores = [[p['bbox_score'] for p in result['predictions'][0]] for result in results]
    for boxes, expected in zip(found, BOXES, strict=True):
        np.testing.assert_allclose(np.reshape(boxes, (-1, 4)), expected[:, :4], atol=0.01)
    assert scores == [[1, 1], [], [0.5]]


def test_given_boxes_make_what_the_same_detected_ones_make(ours, monkeypatch):
    inferencer = ours['top_down']
    image = PICTURES[2]
    (detected,) = inferencer(image, return_datasamples=True)
    instances = detected['predictions'][0].pred_instances
    boxes = np.column_stack((instances.bboxes, instances.bbox_scores))
    monkeypatch.setattr(inferencer, 'detector', NoDetector())
    (given,) = inferencer(image, bboxes=[boxes], return_datasamples=True)
    assert len(boxes) == 5
    assert_close_instances(given['predictions'][0], detected['predictions'][0])


def test_upstreams_empty_default_of_boxes_means_none_are_given(ours):
    (result,) = ours['top_down'](PICTURES[0], bboxes=[])
    assert persons_of([result]) == [1]


def test_the_boxes_of_one_image_may_come_as_they_are(undetecting):
    (result,) = undetecting(PICTURES[0], bboxes=BOXES[0])
    assert persons_of([result]) == [2]


def test_too_few_boxes_are_an_error_before_anything_runs(ours):
    with pytest.raises(ValueError, match='one array of boxes for every image, found 1 for 3'):
        ours['top_down'](PICTURES[:3], bboxes=[BOXES[0]])


def test_boxes_left_out_for_one_image_are_detected(ours):
    results = list(ours['top_down'](PICTURES[:3], bboxes=[BOXES[0], None, None]))
    assert persons_of(results) == [2, 0, 5]


@pytest.mark.parametrize('count', [1, 2, 4])
@pytest.mark.parametrize('stream', [False, True])
def test_boxes_for_another_number_of_images_are_an_error(ours, count, stream):
    images = iter(PICTURES[:3]) if stream else PICTURES[:3]
    boxes = [BOXES[0]] * count
    with pytest.raises(ValueError, match='bboxes: expected one array of boxes for every image'):
        list(ours['top_down'](images, bboxes=boxes))


def test_boxes_for_a_model_that_takes_none_are_an_error(ours):
    with pytest.raises(ValueError, match='only top-down models'):
        ours['one_stage'](PICTURES[:1], bboxes=[BOXES[0]])


@pytest.mark.parametrize(
    ('boxes', 'found'),
    [
        pytest.param([[5, 5, 5, 9]], 'without area: 5, 5, 5, 9', id='no width'),
        pytest.param([[5, 9, 9, 5]], 'without area', id='upside down'),
        pytest.param([[1, 1, 9, 9], [0, 0, np.nan, 5]], 'box 1 with a value', id='NaN'),
        pytest.param([[0, 0, np.inf, 5]], 'not finite', id='infinite'),
        pytest.param([[0, 0, 9, 9, np.nan]], 'not finite', id='NaN for a score'),
        pytest.param([[500, 5, 600, 9]], 'outside the image', id='to the right'),
        pytest.param([[-9, -9, 0, 0]], 'outside the image', id='to the left'),
        pytest.param([[1, 2, 3]], '(1, 3)', id='three numbers'),
        pytest.param([1, 2, 3], '(3,)', id='not in a list'),
        pytest.param([[1, 2, 3, 4], [1, 2]], '[1, 2]]', id='of different length'),
    ],
)
def test_bad_boxes_are_a_failure_of_their_image(ours, boxes, found):
    results = list(ours['top_down'](PICTURES[:3], bboxes=[BOXES[0], boxes, BOXES[0]]))
    assert [len(result['predictions']) for result in results] == [1, 0, 1]
    assert results[1]['image'] == '000001.jpg'
    assert found in results[1]['error']


def test_boxes_that_reach_over_the_edge_are_used_as_they_are(ours):
    (result,) = ours['top_down'](PICTURES[0], bboxes=[[[-20, -20, 100, 200]]])
    assert result['predictions'][0][0]['bbox'][0] == [-20, -20, 100, 200]


# -------------------------------------------------------------------- persons and batches


def wrap_test_step(
    inferencer: BatchPose2DInferencer,
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[dict], object],
) -> None:
    """Call a function with every batch before the pose network gets it."""
    kind = type(inferencer.model)  # the inferencer runs copies of its model
    test_step = kind.test_step

    def wrapped(model: nn.Module, data: dict) -> Any:
        before(data)
        return test_step(model, data)

    monkeypatch.setattr(kind, 'test_step', wrapped)


def batches_of(inferencer: BatchPose2DInferencer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all batches that the pose network will get."""
    sizes: list[int] = []
    wrap_test_step(inferencer, monkeypatch, lambda data: sizes.append(len(data['inputs'])))
    return sizes


def test_persons_of_many_images_fill_one_batch(ours, monkeypatch):
    inferencer = ours['top_down']
    monkeypatch.setattr(inferencer, 'detector', OurDetector())
    counts = [0, 40, 1, 0, 3, 0, 2]
    images = [picture(120, 90, seed, count) for seed, count in enumerate(counts)]
    sizes = batches_of(inferencer, monkeypatch)
    results = list(inferencer(images, batch_size=16))
    assert persons_of(results) == counts
    assert sizes == [16, 16, 14]
    assert inferencer.detector.batches == [2, 2, 2, 1]
    alone = [next(iter(inferencer(image))) for image in images]
    for together, single in zip(results, alone, strict=True):
        assert_close(together['predictions'], single['predictions'])


def test_images_of_a_one_stage_model_fill_batches(ours, monkeypatch):
    sizes = batches_of(ours['one_stage'], monkeypatch)
    list(ours['one_stage'](PICTURES))
    assert sizes == [3, 3, 1]


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('batch_size', [1, 2, 100])
def test_a_call_may_have_a_batch_size_of_its_own(ours, monkeypatch, kind, batch_size):
    sizes = batches_of(ours[kind], monkeypatch)
    list(ours[kind](PICTURES, batch_size=batch_size))
    whole = sum(PERSONS) if kind == 'top_down' else len(PICTURES)
    assert max(sizes) == min(batch_size, whole)
    assert sum(sizes) == whole


def test_inputs_of_different_shape_are_never_in_one_batch(one_stage, monkeypatch):
    # The pipeline without its resizing: every image keeps its size.
    cfg = copy.deepcopy(one_stage.cfg)
    cfg.test_dataloader.dataset.pipeline[1] = {
        'type': 'BottomupResize',
        'input_size': (96, 96),
        'size_factor': 32,
        'resize_mode': 'expand',
        'pad_val': (114, 114, 114),
    }
    inferencer = TinyModel(cfg, one_stage.weights).ours(batch_size=3)
    shapes = []
    wrap_test_step(
        *(inferencer, monkeypatch),
        lambda data: shapes.append({tuple(image.shape) for image in data['inputs']}),
    )
    sizes = [(96, 96), (192, 96), (96, 96), (96, 192), (192, 96), (96, 96)]
    images = [picture(*size, seed) for seed, size in enumerate(sizes)]
    results = list(inferencer(images, bbox_thr=0.2))
    assert [len(batch) for batch in shapes] == [1] * len(shapes)
    assert len(shapes) == 3
    alone = [next(iter(inferencer(image, bbox_thr=0.2))) for image in images]
    for together, single in zip(results, alone, strict=True):
        assert_close(together['predictions'], single['predictions'])


def test_nobody_is_an_empty_result_by_default(ours):
    (result,) = ours['top_down'](PICTURES[1])
    assert result == {'predictions': [[]], 'visualization': None}
    (result,) = ours['top_down'](PICTURES[1], merge_results=False, return_datasamples=True)
    instances = result['predictions'][0].pred_instances
    assert len(instances) == 0
    assert instances.keypoints.shape == (0, 17, 2)


def test_nobody_is_the_whole_image_if_asked_for_as_in_upstream(top_down, upstream):
    inferencer = top_down.ours(no_person='whole_image')
    found, expected = list(inferencer(PICTURES)), list(upstream['top_down'](PICTURES))
    for mine, theirs in zip(found, expected, strict=True):
        assert_close(mine['predictions'], theirs['predictions'])
    assert 0 not in persons_of(found)


def test_without_a_detector_every_image_is_one_person(ours, monkeypatch):
    monkeypatch.setattr(ours['top_down'], 'detector', None)
    results = list(ours['top_down'](PICTURES))
    assert persons_of(results) == [1] * len(PICTURES)
    boxes = [result['predictions'][0][0]['bbox'][0] for result in results]
    np.testing.assert_allclose(boxes, [[0, 0, *size] for size in SIZES], atol=0.01)


# ----------------------------------------------------------- read once, kept no longer


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('drawn', [False, True])
def test_a_file_is_read_and_decoded_once(ours, folder, tmp_path, monkeypatch, kind, drawn):
    calls: dict[str, int] = {}

    def count(module: Any, name: str) -> None:
        function = getattr(module, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls[name] = calls.get(name, 0) + 1
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    count(mmengine.fileio, 'get')
    count(mmcv, 'imfrombytes')
    count(mmcv.image.io, 'imfrombytes')
    count(cv2, 'imdecode')
    count(cv2, 'imread')
    options = {'return_vis': True, 'out_dir': str(tmp_path)} if drawn else {}
    list(ours[kind](str(folder), **options))
    files = len(PICTURES)
    assert calls == {'get': files, 'imfrombytes': files, 'imdecode': files}


@pytest.mark.parametrize(('kind', 'num_workers'), [('one_stage', 0), ('top_down', 3)])
def test_nothing_is_kept_of_a_result_that_was_yielded(one_stage, top_down, kind, num_workers):
    model = {'one_stage': one_stage, 'top_down': top_down}[kind]
    inferencer = model.ours(batch_size=2, det_batch_size=2, num_workers=num_workers)
    images: list[weakref.ref] = []
    results: list[weakref.ref] = []

    def made(seed: int) -> np.ndarray:
        image = picture(64, 48, seed, persons=1 + seed % 3)
        images.append(weakref.ref(image))
        return image

    def alive(references: list[weakref.ref]) -> int:
        return sum(reference() is not None for reference in references)

    call = inferencer(map(made, range(40)), return_datasamples=True, return_vis=True)
    for index, result in enumerate(call):
        results.append(weakref.ref(result['predictions'][0]))
        results.append(weakref.ref(result['visualization'][0]))
        del result
        if index % 12 == 11:
            gc.collect()  # data samples of mmengine hold cycles
            # But for the newest, which the generator lets go of when it is resumed.
            assert alive(results[:-2]) == 0
            # Reading and preparing are each at most 2 * workers ahead, reading also a batch of
            # the detector; and images wait for their batch, at most 2 batches in each stage.
            assert alive(images) <= 2 * 2 * num_workers + 2 + 2 * 2 * 2 + 2
    del call
    inferencer([PICTURES[0]], return_vis=True).__next__()  # mmpose's visualizer keeps one drawing
    gc.collect()
    assert (alive(images), alive(results)) == (0, 0)


@pytest.mark.parametrize('kind', KINDS)
def test_decoded_images_do_not_wait_for_the_network(one_stage, top_down, monkeypatch, kind):
    model = {'one_stage': one_stage, 'top_down': top_down}[kind]
    inferencer = model.ours(batch_size=4, det_batch_size=1, num_workers=0)
    decoded: list[weakref.ref] = []

    def read(frame: Any, loader: Any) -> np.ndarray:
        image = picture(64, 48, frame.index, persons=1)
        decoded.append(weakref.ref(image))
        return image

    def none_left(data: dict) -> None:
        assert not any(reference() is not None for reference in decoded)

    monkeypatch.setattr('mmpose_batch.stages.read.read_image', read)
    wrap_test_step(inferencer, monkeypatch, none_left)
    results = list(inferencer([f'{index}.jpg' for index in range(12)]))
    assert [result for result in results if 'error' in result] == []


# ------------------------------------------------------------------------- leaving early


def leave(results: Iterator[dict], how: str) -> None:
    if how == 'break':
        for _ in results:
            break
        results.close()
    elif how == 'close':
        next(results)
        results.close()
    elif how == 'forget':
        next(results)
        del results
    elif how == 'never begin':
        results.close()
    else:
        error = {'error': LookupError, 'Ctrl-C': KeyboardInterrupt}[how]
        next(results)
        with pytest.raises(error):
            results.throw(error())


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('how', ['break', 'close', 'forget', 'never begin', 'error', 'Ctrl-C'])
def test_no_thread_is_busy_after_a_call_that_is_left_early(ours, kind, how):
    results = ours[kind](itertools.cycle(PICTURES))
    leave(results, how)
    del results
    assert busy_threads() == []


def test_an_interruption_in_the_network_ends_all_work(ours, monkeypatch):
    def interrupted(data: dict) -> Any:
        raise KeyboardInterrupt

    wrap_test_step(ours['one_stage'], monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt) as raised:
        list(ours['one_stage'](itertools.cycle(PICTURES)))
    assert busy_threads() == []
    assert raised.value is not None  # held until here, and with it its frames


def test_a_full_disk_ends_all_work_while_its_error_is_held(ours, tmp_path, monkeypatch):
    def full(*args: Any) -> None:
        raise OSError(28, 'No space left on device')

    path = write_video(tmp_path / 'film.mp4', [picture(96, 64, seed) for seed in range(30)])
    monkeypatch.setattr(MMPoseWriter, 'write', full)
    with pytest.raises(OSError, match='No space') as raised:
        list(ours['one_stage'](path, pred_out_dir=str(tmp_path / 'out')))
    assert busy_threads() == []
    assert raised.value is not None


def test_a_bad_frame_ends_all_work_while_its_error_is_held(one_stage, tmp_path, monkeypatch):
    inferencer = one_stage.ours(on_error='raise')

    def fail(data: dict) -> Any:
        raise RuntimeError('cannot run')

    path = write_video(tmp_path / 'film.mp4', [picture(96, 64, seed) for seed in range(30)])
    wrap_test_step(inferencer, monkeypatch, fail)
    with pytest.raises(InputError, match='cannot run') as raised:
        list(inferencer(path))
    assert busy_threads() == []
    assert raised.value is not None


# ------------------------------------------------------------------------------ bad input


@pytest.fixture
def with_bad_ones(folder: Path, tmp_path: Path) -> list[str]:
    (tmp_path / 'text.png').write_text('no image')
    missing = str(tmp_path / 'missing.png')
    good = [str(folder / name) for name in ('a.png', 'x/c.png', 'x/d.png')]
    return [good[0], str(tmp_path / 'text.png'), good[1], missing, missing, good[2]]


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('num_workers', [0, 2])
def test_a_bad_file_is_a_record_in_its_place(
    one_stage, top_down, with_bad_ones, tmp_path, kind, num_workers
):
    model = {'one_stage': one_stage, 'top_down': top_down}[kind]
    inferencer = model.ours(num_workers=num_workers)
    out = tmp_path / 'out'
    results = list(inferencer(with_bad_ones, return_vis=True, out_dir=str(out)))
    assert [result.get('image') for result in results] == [
        path if position in (1, 3, 4) else None for position, path in enumerate(with_bad_ones)
    ]
    for result in results:
        if 'error' in result:
            assert (result['predictions'], result['visualization']) == ([], [])
            assert 'expected' in result['error']
            assert '\n' not in result['error']
    good = [result for result in results if 'error' not in result]
    alone = list(inferencer([path for path in with_bad_ones if 'pictures' in path]))
    for mixed, single in zip(good, alone, strict=True):
        assert_close(mixed['predictions'], single['predictions'])
    assert len(files_below(out)) == 6  # for each of the good ones a drawing and a JSON


def test_a_bad_file_ends_the_call_if_asked_to(one_stage, with_bad_ones):
    inferencer = one_stage.ours(on_error='raise')
    results = inferencer(with_bad_ones)
    next(results)
    with pytest.raises(InputError) as raised:
        next(results)
    assert str(raised.value).startswith(f'{with_bad_ones[1]}: expected an image')


@pytest.mark.parametrize('kind', KINDS)
def test_a_network_that_fails_on_one_input_fails_that_image_only(ours, plain, monkeypatch, kind):
    inferencer, expected = ours[kind], plain[kind]
    bad = '000002.jpg'

    def fail_on_one(data: dict) -> None:
        if any(sample.img_path == bad for sample in data['data_samples']):
            raise RuntimeError('out of memory\nhint: buy more')

    wrap_test_step(inferencer, monkeypatch, fail_on_one)
    found = list(inferencer(PICTURES))
    assert found[2] == {
        'predictions': [],
        'visualization': [],
        'image': bad,
        'error': 'network: RuntimeError: out of memory hint: buy more',
    }
    for position in (0, 1, 3, 4, 5, 6):
        assert_close(found[position]['predictions'], expected[position]['predictions'])


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('part', ['backbone', 'head'])
def test_a_network_that_hands_out_nan_fails_its_images(one_stage, top_down, kind, part):
    """Without an error, a one-stage model would find nobody."""
    inferencer = {'one_stage': one_stage, 'top_down': top_down}[kind].ours(batch_size=3)
    for parameter in getattr(inferencer.model, part).parameters():
        parameter.data.fill_(np.nan)
    failed = [bool(count) or kind == 'one_stage' for count in PERSONS]
    results = list(inferencer(PICTURES))
    assert ['error' in result for result in results] == failed
    for error in (result['error'] for result in results if 'error' in result):
        assert error.startswith('network: expected numbers as outputs of the network, found NaN')


@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.parametrize('name', ['keypoints', 'keypoint_scores', 'bboxes', 'bbox_scores'])
@pytest.mark.parametrize('kind', KINDS)
def test_predictions_that_are_not_finite_fail_their_image_only(
    ours, monkeypatch, kind, name, value
):
    inferencer = ours[kind]
    test_step = type(inferencer.model).test_step

    def spoiled(model: nn.Module, data: dict) -> Any:
        samples = test_step(model, data)
        for sample in samples:
            if sample.img_path == '000002.jpg':
                sample.pred_instances[name][-1] = value
        return samples

    monkeypatch.setattr(type(inferencer.model), 'test_step', spoiled)
    errors = [result.get('error') for result in inferencer(PICTURES)]
    assert f': expected finite {name}, found ' in errors.pop(2)
    assert set(errors) == {None}


def test_a_detector_that_fails_on_one_image_fails_that_image_only(ours, monkeypatch):
    inferencer = ours['top_down']
    detect = inferencer.detector.detect

    def fail_on_five(prepared: list[dict], *thresholds: float) -> Any:
        if any(len(packed['data_samples']) == 5 for packed in prepared):
            raise RuntimeError('too many')
        return detect(prepared, *thresholds)

    monkeypatch.setattr(inferencer.detector, 'detect', fail_on_five)
    results = list(inferencer(PICTURES))
    assert [r.get('error') for r in results] == [
        'detection: RuntimeError: too many' if count == 5 else None for count in PERSONS
    ]
    assert [len(r['predictions'][0]) for r in results if 'error' not in r] == [1, 0, 2, 0, 12, 3]


# ------------------------------------------------------------------ precision and building


@pytest.mark.parametrize('kind', KINDS)
def test_bf16_runs_on_a_cpu_and_moves_keypoints_a_little(one_stage, top_down, ours, kind):
    model = {'one_stage': one_stage, 'top_down': top_down}[kind]
    lower = model.ours(precision='bf16', self_check=False)
    assert lower.options.precision == 'bf16'
    images = [image for image in PICTURES if image[0, 0, 0]]
    options = {'return_datasamples': True}
    found, expected = (
        [result['predictions'][0].pred_instances for result in inferencer(images, **options)]
        for inferencer in (lower, ours[kind])
    )
    moved = []
    for mine, reference in zip(found, expected, strict=True):
        assert mine.keypoints.dtype == reference.keypoints.dtype
        assert np.isfinite(mine.keypoints).all()
        if len(mine) == len(reference) > 0:
            moved.append(np.abs(mine.keypoints - reference.keypoints).mean())
    assert len(moved) > 1
    # Images are about 100 px wide; random weights make far more of rounding than trained ones.
    assert 0 < np.median(moved) < 5


def test_fp16_on_a_cpu_is_an_error_that_names_bf16(one_stage):
    with pytest.raises(ValueError, match='bf16'):
        one_stage.ours(precision='fp16')


@pytest.mark.parametrize(
    'options', [{'precision': 'int8'}, {'num_workers': -1}, {'on_error': 'skip'}, {'batch_size': 0}]
)
def test_wrong_options_are_an_error_before_anything_is_built(one_stage, monkeypatch, options):
    monkeypatch.setattr('mmpose_batch.models.names.MODELS.build', lambda cfg: pytest.fail('built'))
    with pytest.raises(ValueError, match=next(iter(options))):
        one_stage.ours(**options)


def test_the_registry_builds_it(one_stage):
    inferencer = INFERENCERS.build(
        dict(
            type='BatchPose2DInferencer',
            model=one_stage.cfg,
            weights=one_stage.weights,
            device='cpu',
            batch_size=5,
        )
    )
    assert isinstance(inferencer, BatchPose2DInferencer)
    assert isinstance(inferencer, Pose2DInferencer)
    assert inferencer.options.batch_size == 5


@pytest.mark.parametrize(
    ('kind', 'size', 'expected'),
    [('one_stage', (96, 96), 16), ('one_stage', (640, 640), 2), ('top_down', (64, 96), 16)],
)
def test_the_default_batch_fits_the_inputs(one_stage, top_down, kind, size, expected):
    model = {'one_stage': one_stage, 'top_down': top_down}[kind]
    cfg = copy.deepcopy(model.cfg)
    resize_input(cfg, size)
    assert TinyModel(cfg, model.weights).ours().options.batch_size == expected


def test_a_batch_size_that_is_asked_for_is_taken(ours):
    assert {kind: ours[kind].options.batch_size for kind in KINDS} == {
        'one_stage': 3,
        'top_down': 4,
    }


def test_progress_is_shown_if_asked_for(one_stage, capsys):
    inferencer = one_stage.ours(show_progress=True)
    assert len(list(inferencer(PICTURES))) == len(PICTURES)
    assert 'Inference' in capsys.readouterr().out


class Camera:
    """Stands in for ``cv2.VideoCapture`` and counts what is read of it."""

    count = 0

    def __init__(self, number: int) -> None:
        Camera.count = 0

    def isOpened(self) -> bool:
        return True

    def read(self) -> tuple[bool, np.ndarray]:
        Camera.count += 1
        return True, picture(60, 90, persons=1)

    def get(self, property_id: int) -> float:
        return 30.0

    def release(self) -> None:
        pass


def test_a_pipeline_that_is_replaced_is_the_one_that_runs(top_down):
    images = [picture(60, 90, persons=2)]
    inferencer = top_down.ours()
    before = next(inferencer(images))
    standard = inferencer.pipeline
    inferencer.pipeline = copy.deepcopy(standard)
    inferencer.pipeline.transforms[1].padding = 1.0
    assert next(inferencer(images)) != before
    inferencer.pipeline.transforms[1].padding = standard.transforms[1].padding
    assert next(inferencer(images)) == before


def test_eager_pytorch_in_bf16_is_the_same_with_and_without_the_check(top_down, monkeypatch):
    monkeypatch.setitem(BOUNDS, 'bf16', Bound(size=9.0, score=9.0, found=0.0))  # random weights
    images = [picture(90, 120, seed, persons=2) for seed in range(3)]
    checked = top_down.ours(precision='bf16')
    plain = top_down.ours(precision='bf16', self_check=False)
    assert list(checked(images)) == list(plain(images))
    assert checked.runner.report['self_check']['size'] > 0
    assert 'self_check' not in plain.runner.report


@pytest.mark.parametrize('kind', KINDS)
def test_what_a_camera_shows_is_not_kept_waiting(one_stage, top_down, monkeypatch, kind):
    model = {'one_stage': one_stage, 'top_down': top_down}[kind]
    inferencer = model.ours(batch_size=16, det_batch_size=16, engine='openvino')
    monkeypatch.setattr('mmpose_batch.sources.live.cv2.VideoCapture', Camera)
    monkeypatch.setattr('mmpose_batch.sources.live.cv2.waitKey', lambda delay: -1)
    monkeypatch.setattr(BatchPose2DInferencer, 'draw', lambda *_: None)
    results = inferencer('webcam')
    next(results)
    assert Camera.count <= 5
    results.close()
    assert inferencer.runner.selection.parallel == 1


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('engine', ['torch', 'openvino'])
@pytest.mark.parametrize('option', ['a source that sends FLUSH', 'an iterator with max_wait'])
def test_one_image_and_then_nothing_gives_its_result(
    one_stage, top_down, kind, num_workers, engine, option
):
    """Batches of 16, and the verification of an engine by 8 images, would wait for the others."""
    model = {'one_stage': one_stage, 'top_down': top_down}[kind]
    settings = {'batch_size': 16, 'det_batch_size': 16, 'num_workers': num_workers}
    inferencer = model.ours(**settings, engine=engine, engine_cache=False)
    (expected,) = model.ours(**settings, engine=engine)([PICTURES[0]])
    seen = threading.Event()

    def images() -> Iterator[np.ndarray]:
        yield PICTURES[0]
        assert seen.wait(60), 'the result of the first image waits for the second'
        yield PICTURES[1]

    def frames() -> Iterator[Frame | FlushType]:
        for frame in number(images()):
            yield frame
            yield FLUSH

    if option == 'a source that sends FLUSH':
        results = inferencer.stream(Source(frames()), inferencer.call_options())
        found = next(results).predictions
    else:
        results = inferencer(images(), max_wait=0.01)
        found = next(results)['predictions']
    assert found == expected['predictions']
    seen.set()
    assert len(list(results)) == 1


@pytest.mark.parametrize('max_wait', [-1, float('nan'), float('inf'), '1', True])
def test_a_wait_that_is_no_time_is_an_error_at_the_call(ours, max_wait):
    with pytest.raises(ValueError, match='max_wait: expected seconds from 0, or None, found'):
        ours['one_stage']([PICTURES[0]], max_wait=max_wait)


@pytest.mark.parametrize(('images', 'batch_size', 'parallel'), [(1, 8, 1), (2, 1, 1), (2, 8, 2)])
def test_an_engine_is_built_for_what_comes_first(one_stage, images, batch_size, parallel):
    """Two concurrent batches would give each one half of the cores."""
    inferencer = one_stage.ours(engine='openvino', batch_size=8)
    list(inferencer([picture(60, 90)] * images, batch_size=batch_size))
    assert inferencer.runner.selection.parallel == parallel


def test_boxes_of_a_generator_with_one_buffer_stay_with_their_images(ours):
    images = [picture(100, 100, seed) for seed in range(6)]
    boxes = [np.float32([[5 * number, 5, 60 + 5 * number, 90]]) for number in range(6)]

    def one_buffer() -> Iterator[np.ndarray]:
        buffer = np.zeros((1, 4), np.float32)
        for box in boxes:
            buffer[:] = box
            yield buffer

    found = list(ours['top_down'](images, bboxes=one_buffer()))
    expected = list(ours['top_down'](images, bboxes=boxes))
    assert [r['predictions'] for r in found] == [r['predictions'] for r in expected]


@pytest.mark.parametrize('kind', KINDS)
def test_what_the_warm_up_has_decoded_is_not_decoded_again(
    one_stage, top_down, monkeypatch, tmp_path, kind
):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(warmup, 'measure_rates', lambda run, *_: {2: 1.0})
    paths = [save(tmp_path / f'{seed}.png', picture(60, 90, seed, persons=2)) for seed in range(10)]
    (tmp_path / 'text.png').write_text('no image')
    paths.insert(1, str(tmp_path / 'text.png'))
    read = []

    def counted(frame: Frame, loader: Any) -> np.ndarray:
        read.append(frame.data)
        return read_image(frame, loader)

    monkeypatch.setattr('mmpose_batch.stages.read.read_image', counted)
    model = {'one_stage': one_stage, 'top_down': top_down}[kind]
    expected = list(model.ours(batch_size=2)(paths))
    assert sorted(read) == sorted(paths)
    read.clear()
    assert list(model.ours(batch_size='auto')(paths)) == expected
    assert sorted(read) == sorted([*paths, str(tmp_path / 'text.png')])  # which fails twice
