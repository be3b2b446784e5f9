"""The functions of a worker process, called in this process."""

import pickle
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from support.factories import Models, write_photos

from mmpose_batch import BatchPose2DInferencer
from mmpose_batch.config import VideoOptions
from mmpose_batch.distributed import worker
from mmpose_batch.distributed.chunks import Chunk
from mmpose_batch.distributed.worker import WorkerSetup
from mmpose_batch.images.native_messages import native_messages
from mmpose_batch.sources.base import Frame
from mmpose_batch.sources.items import Samples
from mmpose_batch.writers.options import RunOptions

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def inferencer(models: Models) -> BatchPose2DInferencer:
    options = {'device': 'cpu', 'num_workers': 0, 'show_progress': False}
    return BatchPose2DInferencer(models.file('rtmo.py'), models.file('rtmo.pth'), **options)


@pytest.fixture
def as_in_a_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Undo what a worker does to its process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker, '_worker', None)
    with worker._contexts:
        yield


@pytest.mark.parametrize('named', [True, False])
def test_messages_of_decoders_are_named_if_they_are_in_the_run(
    named, inferencer, as_in_a_process, tmp_path, capfd
):
    (photo,) = write_photos(tmp_path, 1)
    jpeg = photo.read_bytes()
    photo.write_bytes(jpeg[:-2] + bytes(30) + jpeg[-2:])  # libjpeg warns and decodes the image
    with native_messages() if named else nullcontext():
        setup = WorkerSetup.of(
            inferencer,
            call=inferencer.call_options(),
            options=RunOptions(out_dir=str(tmp_path / 'out')),
            video_options=VideoOptions(),
            of_label=None,
        )
    path = tmp_path / 'setup'
    path.write_bytes(pickle.dumps(setup))
    worker.build(str(path), 'cpu', str(tmp_path / 'journal'), Samples(0), {})
    frame = Frame(0, str(photo), photo.name)
    assert worker.infer(Chunk(0, 0, 4, (frame,))).count == 1
    worker._contexts.close()
    prefix = f'{photo}: ' if named else ''
    (message,) = (line for line in capfd.readouterr().err.splitlines() if 'JPEG' in line)
    assert message.startswith(f'{prefix}Corrupt JPEG data: ')
