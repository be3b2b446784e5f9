"""Files are complete or absent, and drawings and predictions have the path of their image."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Barrier

import cv2
import numpy as np
import pytest
from mmengine.structures import InstanceData
from mmpose.structures import PoseDataSample
from support.tiny import picture

from mmpose_batch.results import ImageResult
from mmpose_batch.sources.base import Frame
from mmpose_batch.writers.atomic import open_atomically, path_atomically, remove_incomplete
from mmpose_batch.writers.drawing import write_drawing
from mmpose_batch.writers.per_image import write_prediction


def files_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file())


def write(path: Path, data: bytes) -> None:
    with open_atomically(str(path)) as file:
        file.write(data)


def test_a_file_is_written_into_folders_that_are_made(tmp_path):
    path = tmp_path / 'x' / 'y' / 'a.bin'
    for data in (b'one', b'', b'three'):
        write(path, data)
        assert path.read_bytes() == data
    assert files_below(tmp_path) == ['x/y/a.bin']


@pytest.mark.parametrize('error', [OSError(28, 'No space left'), KeyboardInterrupt()])
@pytest.mark.parametrize('before', [None, b'before'], ids=['new', 'old'])
def test_an_interrupted_write_leaves_the_previous_file(tmp_path, error, before):
    path = tmp_path / 'a.bin'
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(type(error)), open_atomically(str(path)) as file:
        file.write(b'a' * 100)
        file.flush()
        raise error
    assert (path.read_bytes() if path.exists() else None) == before
    assert files_below(tmp_path) == ([] if before is None else ['a.bin'])


@pytest.mark.parametrize('error', [None, OSError(28, 'No space left')])
def test_a_library_can_write_to_the_path_of_the_incomplete_file(tmp_path, error):
    path = tmp_path / 'x' / 'a.bin'
    write(path, b'before')
    with nullcontext() if error is None else pytest.raises(OSError):  # noqa: SIM117
        with path_atomically(str(path)) as partial:
            Path(partial).write_bytes(b'after')
            assert path.read_bytes() == b'before'
            if error is not None:
                raise error
    assert path.read_bytes() == (b'after' if error is None else b'before')
    assert files_below(tmp_path) == ['x/a.bin']


def test_an_incomplete_file_is_never_visible(tmp_path, monkeypatch):
    path = tmp_path / 'a.bin'
    path.write_bytes(b'before')
    seen = []
    real_replace = os.replace

    def replace(source: str, target: str) -> None:
        seen.append((path.read_bytes(), Path(source).read_bytes()))
        real_replace(source, target)

    monkeypatch.setattr(os, 'replace', replace)
    write(path, b'after')
    assert seen == [(b'before', b'after')]


def test_the_incomplete_file_of_a_killed_process_can_be_removed(tmp_path):
    # SIGKILL lets no handler run, so the incomplete file stays.
    context = open_atomically(str(tmp_path / 'a.bin'))
    file = context.__enter__()
    file.write(b'half')
    file.flush()
    others = ['.partial', '.partial-a', 'b.bin']
    for name in others:
        write(tmp_path / name, b'complete')
    (left,) = set(files_below(tmp_path)) - set(others)
    assert left.startswith('.partial-')
    remove_incomplete(str(tmp_path))
    assert files_below(tmp_path) == others  # those of users stay
    context.gen.close()


def test_files_that_do_not_exist_need_not_be_removed(tmp_path):
    (tmp_path / 'file').touch()
    for name in ('new', 'file', 'file/below'):
        remove_incomplete(str(tmp_path / name))
    assert files_below(tmp_path) == ['file']


def test_threads_can_write_into_one_folder(tmp_path):
    (tmp_path / '.partial').write_bytes(b'of a user')
    together = Barrier(2)

    def write_many(name: str) -> None:
        for number in range(50):
            with open_atomically(str(tmp_path / f'{name}{number}')) as file:
                together.wait(30)  # both files are open
                for _ in range(10):
                    file.write(name.encode() * 5000)
            together.wait(30)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write_many, 'ab'))
    for name in 'ab':
        for number in range(50):
            assert (tmp_path / f'{name}{number}').read_bytes() == name.encode() * 50_000
    assert (tmp_path / '.partial').read_bytes() == b'of a user'
    assert len(files_below(tmp_path)) == 101


def result_of(name: str, count: int = 2) -> ImageResult:
    sample = PoseDataSample()
    sample.pred_instances = InstanceData(
        keypoints=np.arange(count * 34, dtype=np.float32).reshape(count, 17, 2),
        keypoint_scores=np.full((count, 17), 0.5, np.float32),
    )
    return ImageResult(Frame(0, f'in/{name}', name), (8, 6), [sample])


def test_predictions_have_upstreams_form_and_the_path_of_their_image(tmp_path):
    # The suffix stays in the name: a.jpg and a.png are two images.
    for name in ('x/a.jpg', 'x/a.png', 'y/a.jpg'):
        write_prediction(str(tmp_path), result_of(name))
    assert files_below(tmp_path) == ['x/a.jpg.json', 'x/a.png.json', 'y/a.jpg.json']
    result = result_of('x/a.jpg')
    assert json.loads((tmp_path / 'x/a.jpg.json').read_text()) == result.predictions[0]


@pytest.mark.parametrize(
    ('name', 'file'),
    [
        ('x/a.png', 'x/a.png'),
        ('a.JPG', 'a.JPG'),
        ('a.bmp', 'a.bmp'),
        ('ü b.webp', 'ü b.webp'),
        ('a.gif', 'a.gif.png'),
        ('a', 'a.png'),
        ('a.jp2', 'a.jp2.png'),
    ],
)
def test_drawings_are_files_that_can_be_read(tmp_path, name, file):
    drawn = picture(32, 24)[..., ::-1].copy()
    write_drawing(str(tmp_path), result_of(name), drawn)
    assert files_below(tmp_path) == [file]
    data = np.frombuffer((tmp_path / file).read_bytes(), np.uint8)
    read = cv2.imdecode(data, cv2.IMREAD_COLOR)
    # Lossy formats change it slightly; swapped colours would differ more.
    assert np.abs(read.astype(int) - drawn[..., ::-1]).mean() < 15
    assert np.abs(read.astype(int) - drawn).mean() > 30


def test_a_drawing_that_cannot_be_encoded_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, 'imencode', lambda suffix, image: (False, None))
    with pytest.raises(ValueError, match=r'OpenCV cannot write \.jpg of 8 x 6'):
        write_drawing(str(tmp_path), result_of('a.jpg'), picture(8, 6))
