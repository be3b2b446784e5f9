"""Options: declarations, rejected values, and defaults."""

import inspect
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from mmpose.apis.inferencers import Pose2DInferencer

from mmpose_batch import BatchPose2DInferencer
from mmpose_batch.cli.infer import build_parser
from mmpose_batch.config import BATCH_SETTINGS, BatchOptions, CallOptions
from mmpose_batch.declare import declared


@pytest.mark.parametrize(
    'name', ['batch_size', 'det_batch_size', 'calib_images', 'num_workers', 'num_threads']
)
@pytest.mark.parametrize('value', [-1, 1.0, '4', True, np.int64(-4), np.float32(4), np.bool_(True)])
def test_a_number_of_another_kind_is_rejected_by_name(name, value):
    with pytest.raises(ValueError, match=f'{name}: expected an integer >= ') as raised:
        BatchOptions(**{name: value})
    assert f'found {value!r}' in str(raised.value)


@pytest.mark.parametrize('value', [np.int64(2), np.uint8(2)])
def test_numbers_of_numpy_are_accepted(value):
    names = ['batch_size', 'det_batch_size', 'calib_images', 'num_workers', 'num_threads']
    options = BatchOptions(precision='int8', engine='openvino', **dict.fromkeys(names, value))
    assert [(type(getattr(options, name)), getattr(options, name)) for name in names] == 5 * [
        (int, 2)
    ]


@pytest.mark.parametrize('name', ['batch_size', 'det_batch_size', 'calib_images', 'num_threads'])
def test_zero_is_rejected(name):
    with pytest.raises(ValueError, match=f'{name}: expected an integer >= 1, found 0'):
        BatchOptions(**{name: 0})


def test_a_batch_size_may_be_measured():
    options = BatchOptions(batch_size='auto', det_batch_size='auto').resolved('cpu')
    assert (options.batch_size, options.det_batch_size) == ('auto', 'auto')
    with pytest.raises(ValueError, match='num_workers: expected an integer >= 0'):
        BatchOptions(num_workers='auto')


def test_zero_workers_are_accepted():
    assert BatchOptions(num_workers=0).resolved('cpu').num_workers == 0


@pytest.mark.parametrize(
    ('name', 'value', 'choices'),
    [
        ('on_error', 'ignore', 'record, raise'),
        ('no_person', 'skip', 'empty, whole_image'),
        ('precision', 'int4', 'fp32, fp16, bf16, int8, auto'),
        ('precision', None, 'fp32, fp16, bf16, int8, auto'),
    ],
)
def test_an_invalid_choice_is_rejected_with_the_choices(name, value, choices):
    with pytest.raises(ValueError) as raised:
        BatchOptions(**{name: value})
    assert str(raised.value) == f'{name}: expected one of {choices}, found {value!r}'


def test_an_unknown_option_is_rejected():
    with pytest.raises(TypeError, match='batchsize'):
        BatchOptions(batchsize=4)


def test_none_becomes_a_value_for_the_machine(monkeypatch):
    monkeypatch.setattr('mmpose_batch.cores.available_cores', lambda: 3)
    resolved = BatchOptions().resolved('cpu')
    assert resolved.num_workers == 3
    assert resolved.precision == 'fp32'


def test_many_cores_do_not_mean_as_many_threads(monkeypatch):
    monkeypatch.setattr('mmpose_batch.cores.available_cores', lambda: 128)
    assert BatchOptions().resolved('cpu').num_workers == 8


def test_given_values_stay():
    chosen = BatchOptions(
        batch_size=5,
        det_batch_size=3,
        precision='bf16',
        num_workers=1,
        num_threads=2,
        on_error='raise',
        no_person='whole_image',
    )
    assert chosen.resolved('cpu') == chosen


def test_a_precision_that_the_device_lacks_is_rejected():
    with pytest.raises(ValueError, match='bf16'):
        BatchOptions(precision='fp16').resolved('cpu')


@pytest.mark.parametrize('value', [True, False])
def test_tf32_is_rejected_where_it_has_no_effect(value):
    with pytest.raises(ValueError, match=r'^tf32: only valid on an NVIDIA GPU, found device cpu$'):
        BatchOptions(tf32=value).resolved('cpu')
    assert BatchOptions(tf32=value).resolved('cuda:1').tf32 is value


@pytest.mark.parametrize('value', [1, 'no'])
def test_tf32_is_true_or_false(value):
    with pytest.raises(ValueError, match=f'^tf32: expected True or False, found {value!r}$'):
        BatchOptions(tf32=value)


def test_calibration_images_are_for_int8():
    options = BatchOptions(precision='int8', engine='openvino')
    assert options.resolved('cpu').calib_images == 64
    assert BatchOptions().resolved('cpu').calib_images is None
    with pytest.raises(
        ValueError, match='calib_images: only valid with precision int8, found bf16'
    ):
        BatchOptions(precision='bf16', calib_images=8)


def test_options_are_frozen():
    for options in (BatchOptions(), CallOptions(batch_size=1)):
        with pytest.raises(FrozenInstanceError):
            options.batch_size = 2


@pytest.mark.parametrize('name', ['bbox_thr', 'nms_thr', 'select_thr'])
@pytest.mark.parametrize('value', ['0.3', None, True, float('nan')])
def test_a_threshold_that_is_not_a_number_is_rejected_by_name(name, value):
    with pytest.raises(ValueError, match=f'{name}: expected a number, found'):
        CallOptions(batch_size=1, **{name: value})


# ------------------------------------------------------------------------ declarations


def test_the_inferencer_has_a_keyword_for_every_option_after_those_of_upstream():
    ours = inspect.signature(BatchPose2DInferencer).parameters
    upstream = inspect.signature(Pose2DInferencer).parameters
    assert list(ours) == [*upstream, *BATCH_SETTINGS]
    assert [ours[name].default for name in upstream] == [p.default for p in upstream.values()]
    for name in BATCH_SETTINGS:
        assert ours[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert ours[name].default is None
    assert ours['batch_size'].annotation == int | str | None
    assert ours['engine'].annotation == str | None


def test_an_unknown_keyword_of_the_inferencer_is_named():
    message = r"__init__\(\) got an unexpected keyword argument 'batchsize'"
    with pytest.raises(TypeError, match=f'^BatchPose2DInferencer.{message}$'):
        BatchPose2DInferencer('demo', batchsize=4)

    class Mine(BatchPose2DInferencer):
        pass

    with pytest.raises(TypeError, match=f'^Mine.{message}$'):
        Mine('demo', device='cpu', batch_size=4, batchsize=4)


def test_every_option_is_declared_and_on_the_command_line():
    assert tuple(declared(BatchOptions)) == BATCH_SETTINGS
    actions = {action.dest: action for action in build_parser()._actions}
    for name, option in declared(BatchOptions).items():
        assert actions[name].help == option.help
        assert actions[name].default is None  # so that the config can set it


# ------------------------------------------------------------------- threads of the process


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_without_the_option_threads_are_not_changed(three_threads, monkeypatch):
    monkeypatch.setattr('mmpose_batch.cores.available_cores', lambda: 2)
    options = BatchOptions()
    options.apply_to_process()
    assert (torch.get_num_threads(), options.resolved('cpu').num_threads) == (3, 3)


def test_an_inferencer_does_not_change_threads(three_threads, one_stage, monkeypatch):
    monkeypatch.setattr('mmpose_batch.cores.available_cores', lambda: 2)
    assert one_stage.ours().options.num_threads == torch.get_num_threads() == 3


def test_threads_that_are_given_are_set(three_threads):
    options = BatchOptions(num_threads=2)
    options.apply_to_process()
    assert (torch.get_num_threads(), options.resolved('cpu').num_threads) == (2, 2)


def test_threads_fit_the_cores_that_are_given(three_threads, monkeypatch):
    bound = []
    monkeypatch.setattr('mmpose_batch.cores.bind_to_cores', bound.append)
    monkeypatch.setattr('mmpose_batch.cores.available_cores', lambda: 1)
    options = BatchOptions(cpu_affinity='0')
    options.apply_to_process()
    assert bound == [{0}]
    assert (torch.get_num_threads(), options.resolved('cpu').num_threads) == (1, 1)
