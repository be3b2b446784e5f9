"""Checkpoints: real ones load, code in a file is rejected and not run, and errors say why."""

import codecs
import functools
import io
import os
import random
import socket
import tarfile
import traceback
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from torch import nn

from mmpose_batch.errors import CheckpointError
from mmpose_batch.models.checkpoint import check_weights, load_checkpoint, load_weights


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def runner_checkpoint(model: nn.Module) -> dict[str, Any]:
    """A checkpoint as MMEngine's runner saves it: numpy arrays in meta, a hub with histories."""
    hub = MessageHub('test')
    for value in (3.0, 2.0, 1.0):
        hub.update_scalar('train/loss', value)
    hub.update_info('epoch', 420)
    return {
        'meta': {
            'epoch': 420,
            'cfg': "model = dict(type='TopdownPoseEstimator')",
            'time': '20231219_120000',
            'dataset_meta': {
                'dataset_name': 'coco',
                'num_keypoints': 17,
                'keypoint_id2name': {0: 'nose'},
                'skeleton_links': [(15, 13), (13, 11)],
                'keypoint_colors': np.array([[51, 153, 255]], dtype=np.uint8),
                'sigmas': np.full(17, 0.025, dtype=np.float32),
                'best': np.float64(0.5),
                'seed': np.int64(21),
                'names': np.array(['nose', 'left_eye']),
            },
        },
        'message_hub': hub.state_dict(),
        'state_dict': model.state_dict(),
    }


def saved(folder: Path, content: object, **options: Any) -> str:
    path = folder / 'model.pth'
    torch.save(content, path, **options)
    return str(path)


def assert_no_dangerous_advice(error: BaseException) -> None:
    """Torch's advice on how to run the code in the file is not in the traceback."""
    shown = ''.join(traceback.format_exception(error))
    assert 'Weights only' not in shown
    assert 'weights_only=False' not in shown
    assert 'set to `False`' not in shown


# ------------------------------------------------------------------ files that must load


@pytest.mark.parametrize('new_format', [True, False], ids=['zip file', 'file of torch before 1.6'])
def test_a_checkpoint_of_mmengines_runner_loads(tmp_path, new_format):
    model = network()
    path = saved(tmp_path, runner_checkpoint(model), _use_new_zipfile_serialization=new_format)
    checkpoint = load_checkpoint(path)
    meta = checkpoint['meta']['dataset_meta']
    np.testing.assert_array_equal(meta['sigmas'], np.full(17, 0.025, dtype=np.float32))
    assert meta['keypoint_colors'].tolist() == [[51, 153, 255]]
    assert meta['names'].tolist() == ['nose', 'left_eye']
    assert (meta['best'], meta['seed']) == (0.5, 21)
    loss = checkpoint['message_hub']['log_scalars']['train/loss']
    assert (loss.mean(), loss.min(), loss.current()) == (2.0, 1.0, 1.0)
    for name, value in model.state_dict().items():
        assert torch.equal(checkpoint['state_dict'][name], value)


def test_torch_alone_rejects_checkpoints_that_load_here(tmp_path):
    # The reason for the allow-list, which can be reduced once this test fails.
    with pytest.raises(Exception, match='weights_only'):
        torch.load(saved(tmp_path, runner_checkpoint(network())))


def test_the_allow_list_applies_only_while_loading(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    load_checkpoint(saved(tmp_path, runner_checkpoint(network())))
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize(
    'change',
    [
        pytest.param(lambda model: {'state_dict': model.state_dict()}, id='state dict'),
        pytest.param(lambda model: model.state_dict(), id='bare state dict'),
        pytest.param(
            lambda model: {'module.' + k: v for k, v in model.state_dict().items()},
            id='parallel model',
        ),
        pytest.param(
            lambda model: {'module._orig_mod.' + k: v for k, v in model.state_dict().items()},
            id='of a compiled parallel model',
        ),
        pytest.param(
            lambda model: {
                k.replace('0.', '0._orig_mod.', 1): v for k, v in model.state_dict().items()
            },
            id='of a model with a compiled part',
        ),
        pytest.param(
            lambda model: {**model.state_dict(), 'aux_head.weight': torch.ones(3)},
            id='with a training branch',
        ),
    ],
)
def test_weights_are_copied_into_the_model(tmp_path, change):
    trained, model = network(), network()
    for parameter in trained.parameters():
        parameter.data.add_(1)
    load_weights(model, load_checkpoint(saved(tmp_path, change(trained))), 'model.pth')
    for name, value in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


@pytest.mark.parametrize('prefix', ['model.', 'student.', 'ema.module.', 'net.model.'])
def test_the_only_prefix_that_fits_is_removed_with_a_warning(caplog, prefix):
    trained, model = network(), network()
    trained[0].weight.data.add_(1)
    state = trained.state_dict()
    content = {prefix + name: value for name, value in state.items()}
    small = {f'teacher.{name}': value[:1] for name, value in state.items() if value.ndim}
    load_weights(model, {'state_dict': {**content, **small}}, 'model.pth')
    assert torch.equal(model[0].weight, trained[0].weight)
    assert f"weights: model.pth: prefix '{prefix}' removed from parameter names" in caplog.text


def test_names_that_fit_are_not_changed(caplog):
    """A model may have a part named module."""

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)

    trained, model = Wrapper(), Wrapper()
    load_weights(model, {'state_dict': trained.state_dict()}, 'model.pth')
    assert torch.equal(model.module.weight, trained.module.weight)
    assert not caplog.records


@pytest.mark.parametrize('prefix', ['backbone.', '', 'module.backbone.'])
def test_weights_of_only_a_backbone_are_reported(prefix):
    model = nn.ModuleDict({'backbone': network(), 'head': nn.Linear(2, 2)})
    content = {prefix + name: value for name, value in network().state_dict().items()}
    content['fc.weight'] = torch.ones(2)
    with pytest.raises(CheckpointError, match='it contains only a backbone, as after pretraining'):
        load_weights(model, {'state_dict': content}, 'model.pth')


def test_half_precision_is_converted_to_single_precision(tmp_path):
    trained, model = network(), network()
    half = {name: value.half() for name, value in trained.state_dict().items()}
    load_weights(model, load_checkpoint(saved(tmp_path, {'state_dict': half})), 'model.pth')
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, half[name].float())


def test_buffers_may_be_missing_as_in_upstream(tmp_path):
    trained, model = network(), network()
    parameters = dict(trained.named_parameters())
    load_weights(model, load_checkpoint(saved(tmp_path, parameters)), 'model.pth')
    assert torch.equal(model[0].weight, trained[0].weight)


@pytest.mark.parametrize('wrapped', [False, True], ids=['plain', 'parallel'])
def test_version_metadata_reaches_the_modules(tmp_path, wrapped):
    # By the version, mmpose's heads recognise checkpoints whose old names must be converted.
    class Versioned(nn.Linear):
        _version = 3

        def _load_from_state_dict(self, state_dict: dict, prefix: str, metadata: dict, *rest: Any):
            versions.append(metadata.get('version'))
            super()._load_from_state_dict(state_dict, prefix, metadata, *rest)

    versions: list[int | None] = []
    trained = nn.ModuleDict({'module': Versioned(2, 2)}) if wrapped else Versioned(2, 2)
    checkpoint = load_checkpoint(saved(tmp_path, {'state_dict': trained.state_dict()}))
    load_weights(Versioned(2, 2), checkpoint, 'model.pth')
    assert versions == [3]


# --------------------------------------------------------- weights of another model


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        pytest.param(
            {'state_dict': nn.Linear(2, 2).state_dict()},
            'belongs to another model: 6 of 6 parameters are missing, for instance 0.bias',
            id='other names',
        ),
        pytest.param(
            {'state_dict': nn.Sequential(nn.Conv2d(3, 8, 3)).state_dict()},
            'belongs to another model: size mismatch for 0.bias',
            id='other shapes',
        ),
        pytest.param(
            {'state_dict': {k: v for k, v in network().state_dict().items() if k != '2.bias'}},
            'belongs to another model: 1 of 6 parameters are missing, for instance 2.bias',
            id='one parameter short',
        ),
        pytest.param(
            {'state_dict': {**network().state_dict(), '2.bias': 'zero'}},
            'belongs to another model: While copying the parameter named "2.bias"',
            id='no tensor',
        ),
        pytest.param(
            {'model': network().state_dict(), 'optimizer': {'state': {}}},
            'has no state_dict, but weights under model. If these belong to this model, save them '
            "by torch.save({'state_dict': checkpoint['model']}, FILE)",
            id='of another framework',
        ),
        pytest.param(
            {'ema_state_dict': network().state_dict()},
            'under ema_state_dict (in checkpoints of MMEngine, these are the weights before avera',
            id='averaged weights only',
        ),
        pytest.param(
            {'params': network().state_dict(), 'params_ema': network().state_dict()},
            'has no state_dict, but weights under params, params_ema',
            id='two of another framework',
        ),
        pytest.param(
            {
                f'{part}.{name}': value
                for part in ('student', 'teacher')
                for name, value in network().state_dict().items()
            },
            'all of them are found under each of the prefixes student., teacher.: save the entries',
            id='two networks',
        ),
        pytest.param(
            {f'model.{k}': v for k, v in network().state_dict().items() if k != '2.bias'},
            'are missing, for instance 0.bias; it contains, for instance, model.0.weight',
            id='a prefix, and one parameter short',
        ),
        pytest.param({}, 'it contains no parameters', id='no weights'),
        pytest.param({'state_dict': 5}, 'no state_dict of names and tensors', id='no state dict'),
        pytest.param({5: torch.ones(2)}, 'no state_dict of names and tensors', id='numbers'),
    ],
)
def test_weights_of_another_model_are_an_error(tmp_path, content, message):
    checkpoint = load_checkpoint(saved(tmp_path, content))
    with pytest.raises(CheckpointError) as raised:
        load_weights(network(), checkpoint, 'model.pth')
    assert str(raised.value).startswith('weights: model.pth')
    assert message in str(raised.value)
    assert '\n' not in str(raised.value)


# -------------------------------------------------------------- files that must not load


class Call:
    """Is pickled as a function call that runs while the file is loaded."""

    def __init__(self, function: Callable, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple:
        return self.call


class Custom:
    """A third-party class."""


MARK = 'the_code_ran'
ATTACKS = {
    'os.system': (lambda: Call(os.system, f'touch {MARK}'), 'system'),
    'eval': (lambda: Call(eval, f"open('{MARK}', 'w')"), 'eval'),
    'exec': (lambda: Call(exec, f"open('{MARK}', 'w')"), 'exec'),
    'open': (lambda: Call(open, MARK, 'w'), 'open'),
    'numpy.save': (lambda: Call(np.save, f'{MARK}.npy', 0), 'numpy.save'),
    'getattr on an array': (lambda: Call(getattr, np.ndarray, 'tofile'), 'tofile'),
    'getattr for an allowed name': (lambda: Call(getattr, np.ndarray, 'mean'), 'mean'),
    'getattr on a module function': (lambda: Call(getattr, np.dtype, '__init__'), '__init__'),
    'getattr for internals': (lambda: Call(getattr, HistoryBuffer, '__globals__'), '__globals__'),
    'getattr twice': (
        lambda: Call(getattr, Call(getattr, HistoryBuffer, 'mean'), '__globals__'),
        '__globals__',
    ),
    'setattr': (lambda: Call(setattr, HistoryBuffer, 'mean', 0), 'setattr'),
    'partial': (lambda: functools.partial(print, MARK), 'functools.partial'),
    'a third-party object': (Custom, 'Custom'),
    'objects in an array': (lambda: np.array([Custom()], dtype=object), 'Object'),
    'a call in an array': (
        lambda: np.array([Call(os.system, f'touch {MARK}')], dtype=object),
        '',
    ),
    'a complete module': (lambda: nn.Linear(2, 2), 'torch.nn.modules.linear.Linear'),
}


@pytest.mark.parametrize(('attack', 'named'), ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize('new_format', [True, False], ids=['new', 'old'])
@pytest.mark.parametrize('place', ['meta', 'message_hub', 'state_dict'])
def test_code_in_a_file_is_rejected_and_does_not_run(
    tmp_path, monkeypatch, attack, named, new_format, place
):
    monkeypatch.chdir(tmp_path)
    content = runner_checkpoint(network())
    content[place] = {'': content[place], 'evil': attack()}
    path = saved(tmp_path, content, _use_new_zipfile_serialization=new_format)
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(path)
    assert 'was rejected: it contains objects that are not on the allow-list (' in str(raised.value)
    assert named in str(raised.value)
    assert_no_dangerous_advice(raised.value)
    assert not list(tmp_path.glob(f'{MARK}*'))
    assert HistoryBuffer.mean.__name__ == 'mean'


def test_the_attacks_work_with_plain_torch_load(tmp_path, monkeypatch):
    # Otherwise the test above could not fail.
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path, {'meta': Call(os.system, f'touch {MARK}')})
    torch.load(path, weights_only=False)
    assert (tmp_path / MARK).exists()


def test_a_codec_named_in_a_file_runs_no_code(tmp_path):
    # Torch allows Python's codecs, with which the bytes of numpy's numbers are pickled. Codecs
    # convert text to other text or bytes and run no other code.
    path = saved(tmp_path, {'meta': Call(codecs.encode, 'x', 'latin1')})
    assert load_checkpoint(path)['meta'] == b'x'
    with pytest.raises(CheckpointError, match='not a readable PyTorch checkpoint'):
        load_checkpoint(saved(tmp_path, {'meta': Call(codecs.encode, 'x', 'no such codec')}))


# ------------------------------------------------------------ files that are not checkpoints


def zip_of(*names: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, 'w') as archive:
        for name in names:
            archive.writestr(name, '')
    return data.getvalue()


def tar_of_old() -> bytes:
    """The head of a file of torch before 0.1.10."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode='w') as tar:
        tar.addfile(tarfile.TarInfo('storages'), io.BytesIO())
    return data.getvalue()


@pytest.mark.parametrize(
    ('data', 'found'),
    [
        pytest.param(b'', 'it is empty', id='empty'),
        pytest.param(b'a text file\n' * 9, 'it is damaged or of another kind', id='text'),
        pytest.param(b'\n<!DOCTYPE html><html>', 'it is an HTML page', id='page'),
        pytest.param(b'<?xml version="1.0"?><Error>', 'it is an XML page', id='error page'),
        pytest.param(
            b'version https://git-lfs.github.com/spec/v1\n',
            'it is a pointer of Git LFS; get the file itself by `git lfs pull`',
            id='lfs',
        ),
        pytest.param(
            (16).to_bytes(8, 'little') + b'{"a":{"dtype":1}', 'a safetensors file', id='safetensors'
        ),
        pytest.param(b'\x08\x07\x12\x07pytorch\x1a', 'it is an ONNX file', id='onnx'),
        pytest.param(b'\x1f\x8b\x08', 'it is compressed by gzip', id='gzip'),
        pytest.param(zip_of('a/constants.pkl', 'a/data.pkl'), 'a TorchScript archive', id='script'),
        pytest.param(zip_of('model.pth'), 'it is an archive without a checkpoint', id='zipped'),
        pytest.param(b'PK\x03\x04' + bytes(99), 'damaged or of another kind', id='broken zip'),
        pytest.param(b'\x80\x02.', 'damaged or of another kind', id='broken pickle'),
        pytest.param(b'\x89HDF\r\n\x1a\n', 'it is an HDF5 file', id='hdf5'),
        pytest.param(b'\x93NUMPY\x01\x00', 'damaged or of another kind', id='another format'),
        pytest.param(tar_of_old(), 'not a readable PyTorch checkpoint', id='tar'),
    ],
)
def test_a_file_that_is_not_a_checkpoint_is_described(tmp_path, data, found):
    path = tmp_path / 'model.pth'
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(str(path))
    assert f'weights: {path} is not a readable PyTorch checkpoint (' in str(raised.value)
    assert found in str(raised.value)
    assert_no_dangerous_advice(raised.value)


@pytest.mark.parametrize('new_format', [True, False], ids=['new', 'old'])
def test_a_damaged_file_raises_only_checkpoint_errors(tmp_path, new_format):
    content = runner_checkpoint(network())
    path = Path(saved(tmp_path, content, _use_new_zipfile_serialization=new_format))
    complete, rng = path.read_bytes(), random.Random(0)
    rejected = 0
    for attempt in range(60):
        data = bytearray(complete[: rng.randrange(len(complete))] if attempt % 2 else complete)
        for _ in range(rng.randrange(1, 5) if data else 0):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            load_checkpoint(str(path))  # a changed byte within a number may go undetected
        except CheckpointError as error:
            rejected += 1
            assert_no_dangerous_advice(error)
    assert rejected > 30


def test_a_file_that_contains_no_dict_is_rejected(tmp_path):
    with pytest.raises(CheckpointError, match='expected a dict with a state_dict in'):
        load_checkpoint(saved(tmp_path, [torch.ones(2)]))


@pytest.mark.parametrize('name', ['missing.pth', '.'], ids=['missing', 'a folder'])
def test_a_missing_file_is_an_error(tmp_path, name):
    for use in (load_checkpoint, check_weights):
        with pytest.raises(CheckpointError, match='weights: no such file: '):
            use(str(tmp_path / name))


def test_an_unsupported_url_is_an_error_that_names_the_option():
    with pytest.raises(CheckpointError) as raised:
        check_weights('s3://bucket/model.pth', 'det_weights')
    assert str(raised.value) == (
        'det_weights: no such file: s3://bucket/model.pth (supported URLs: http and https)'
    )


def test_random_weights_need_no_file():
    check_weights(None)
    check_weights('none')


def test_the_home_folder_may_be_abbreviated(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    saved(tmp_path, {'state_dict': {'a': torch.ones(2)}})
    assert load_checkpoint('~/model.pth')['state_dict']['a'].tolist() == [1, 1]


# ------------------------------------------------------------------------------ downloads


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty download cache."""
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    yield tmp_path / 'hub' / 'checkpoints'


def closed_port() -> int:
    """A local port on which no server listens."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def test_the_error_of_a_failed_download_explains_what_to_do(hub):
    url = f'http://127.0.0.1:{closed_port()}/models/rtmo-s.pth'
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(url)
    assert f'weights: cannot download {url}' in str(raised.value)
    assert f'put it at {hub / "rtmo-s.pth"}' in str(raised.value)
    assert '--pose2d-weights FILE' in str(raised.value)
    assert list(hub.iterdir()) == []


def test_a_file_put_into_the_cache_is_used(hub):
    hub.mkdir(parents=True)
    saved(hub, {'state_dict': OrderedDict(a=torch.ones(2))})
    url = f'http://127.0.0.1:{closed_port()}/models/model.pth'
    assert load_checkpoint(url)['state_dict']['a'].tolist() == [1, 1]


def test_a_download_cache_that_is_not_writable_is_an_error(hub):
    hub.parent.write_text('a file')
    with pytest.raises(CheckpointError, match=r'cannot download .* or pass a local file'):
        load_checkpoint(f'http://127.0.0.1:{closed_port()}/model.pth')


def test_the_error_of_a_damaged_download_says_how_to_repeat_it(hub):
    hub.mkdir(parents=True)
    (hub / 'model.pth').write_bytes(b'<html>')
    with pytest.raises(CheckpointError, match='Delete it to download it again'):
        load_checkpoint('https://127.0.0.1/model.pth')
