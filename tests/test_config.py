"""What a user can choose, what is refused, and what None becomes."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from mmpose_batch import config
from mmpose_batch.config import BatchOptions, CallOptions


@pytest.mark.parametrize(
    'name', ['batch_size', 'det_batch_size', 'calib_images', 'num_workers', 'num_threads']
)
@pytest.mark.parametrize('value', [-1, 1.0, '4', True, np.int64(-4), np.float32(4), np.bool_(True)])
def test_a_number_of_another_kind_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f'{name}: expected a whole number from') as raised:
        BatchOptions(**{name: value})
    assert f'found {value!r}' in str(raised.value)


@pytest.mark.parametrize('value', [np.int64(2), np.uint8(2)])
def test_a_number_of_numpy_is_as_good_as_pythons(value):
    names = ['batch_size', 'det_batch_size', 'calib_images', 'num_workers', 'num_threads']
    options = BatchOptions(precision='int8', engine='openvino', **dict.fromkeys(names, value))
    assert [(type(getattr(options, name)), getattr(options, name)) for name in names] == 5 * [
        (int, 2)
    ]


@pytest.mark.parametrize('name', ['batch_size', 'det_batch_size', 'calib_images', 'num_threads'])
def test_a_batch_of_nothing_is_refused(name):
    with pytest.raises(ValueError, match=f'{name}: expected a whole number from 1, found 0'):
        BatchOptions(**{name: 0})


def test_a_batch_size_may_be_measured():
    options = BatchOptions(batch_size='auto', det_batch_size='auto').resolved('cpu')
    assert (options.batch_size, options.det_batch_size) == ('auto', 'auto')
    with pytest.raises(ValueError, match='num_workers: expected a whole number from 0'):
        BatchOptions(num_workers='auto')


def test_no_workers_at_all_are_a_choice():
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
def test_another_word_is_refused_with_the_choices(name, value, choices):
    with pytest.raises(ValueError) as raised:
        BatchOptions(**{name: value})
    assert str(raised.value) == f'{name}: expected one of {choices}, found {value!r}'


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match='batchsize'):
        BatchOptions(batchsize=4)


def test_none_is_chosen_for_the_machine(monkeypatch):
    monkeypatch.setattr(config, 'available_cores', lambda: 3)
    resolved = BatchOptions().resolved('cpu')
    assert resolved.num_workers == 3
    assert resolved.precision == 'fp32'


def test_many_cores_do_not_mean_as_many_threads(monkeypatch):
    monkeypatch.setattr(config, 'available_cores', lambda: 128)
    assert BatchOptions().resolved('cpu').num_workers == 8


def test_what_was_chosen_stays():
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


def test_the_device_is_asked_for_the_precision():
    with pytest.raises(ValueError, match='bf16'):
        BatchOptions(precision='fp16').resolved('cpu')


def test_images_to_calibrate_with_are_for_int8():
    options = BatchOptions(precision='int8', engine='openvino')
    assert options.resolved('cpu').calib_images == 64
    assert BatchOptions().resolved('cpu').calib_images is None
    with pytest.raises(ValueError, match='calib_images: int8 takes them, not bf16'):
        BatchOptions(precision='bf16', calib_images=8)


def test_options_do_not_change_under_a_run():
    for settled in (BatchOptions(), CallOptions(batch_size=1)):
        with pytest.raises(FrozenInstanceError):
            settled.batch_size = 2


@pytest.mark.parametrize('name', ['bbox_thr', 'nms_thr', 'select_thr'])
@pytest.mark.parametrize('value', ['0.3', None, True, float('nan')])
def test_a_threshold_that_is_no_number_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f'{name}: expected a number, found'):
        CallOptions(batch_size=1, **{name: value})
