"""Invalid files, boxes and weights: each has a clear one-line error, and the run continues."""

import io
import json
import os
import re
import socket
import struct
import tempfile
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmpose.datasets.transforms import LoadImage
from PIL import Image
from support.factories import Models, Outcome, read_lines, run_tool, write_photos
from support.tiny import picture

import mmpose_batch
from mmpose_batch import BatchPose2DInferencer, InputError
from mmpose_batch.errors import ImageError, SourceError
from mmpose_batch.images.read import read_image
from mmpose_batch.models.checkpoint import load_checkpoint
from mmpose_batch.sources.base import Frame
from mmpose_batch.sources.files import list_inputs
from mmpose_batch.sources.folders import list_images

pytestmark = pytest.mark.usefixtures('one_thread', 'shared_inferencers')


WIDTH, HEIGHT = 64, 48


# ----------------------------------------------------------------------- creating files


def pillow(form: str, mode: str = 'RGB', frames: int = 1, **options: Any) -> bytes:
    """An image file written by Pillow, from the same picture as all others."""
    images = [Image.fromarray(picture(WIDTH, HEIGHT, seed)[..., ::-1]) for seed in range(frames)]
    images = [image.convert(mode) for image in images]
    if frames > 1:
        options |= {'save_all': True, 'append_images': images[1:]}
    buffer = io.BytesIO()
    images[0].save(buffer, form, **options)
    return buffer.getvalue()


def opencv(suffix: str, image: np.ndarray) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def with_exif(orientation: int, thumbnail: bytes = b'') -> bytes:
    """A JPEG with an EXIF segment: an orientation, and possibly a complete JPEG as thumbnail."""
    entry = struct.pack('>HHIHxx', 0x0112, 3, 1, orientation)
    exif = b'Exif\0\0MM\0*' + struct.pack('>IH', 8, 1) + entry + bytes(4) + thumbnail
    segment = b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif
    data = pillow('JPEG')
    return data[:2] + segment + data[2:]


def huge_png(width: int, height: int) -> bytes:
    """A complete black PNG of one bit per pixel, which deflate compresses a thousandfold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
        )

    deflate = zlib.compressobj(1)
    row = bytes(1 + width // 8)
    rows = b''.join(deflate.compress(row) for _ in range(height)) + deflate.flush()
    header = struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0)
    return (
        b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', rows) + chunk(b'IEND', b'')
    )


@dataclass(frozen=True)
class File:
    """One file of the gallery.

    Attributes:
        name: Path below the folder.
        make: Function that returns its content, or that creates it at a path.
        error: Regular expression for the error in its record; None for a valid image.
        size: Width and height of the image.
        undetectable: Whether resizing for the detector leaves no row or column of it.
    """

    name: str
    make: Callable[[], bytes] | Callable[[Path], object]
    error: str | None = None
    size: tuple[int, int] = (WIDTH, HEIGHT)
    undetectable: bool = False

    @property
    def recorded(self) -> str:
        """The name in records, where bytes that are not valid text are escaped."""
        return self.name.encode(errors='backslashreplace').decode()


def holds(data: Callable[[], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data())


def grey(dtype: type) -> np.ndarray:
    image = picture(WIDTH, HEIGHT).astype(np.float64)
    return (image[..., 0] / 255 * np.iinfo(dtype).max).astype(dtype)


JPEG, PNG = pillow('JPEG'), pillow('PNG')
BAD = {
    'a truncated jpeg': File(
        'cut.jpg', holds(lambda: JPEG[:-300]), 'a complete JPEG, found one truncated'
    ),
    'a jpeg cut after its thumbnail': File(
        'thumbnail.jpg',
        holds(lambda: with_exif(1, JPEG)[:-300]),
        'a complete JPEG, found one truncated',
    ),
    'a truncated png': File('cut.png', holds(lambda: PNG[:-300]), 'damaged'),
    'zero bytes': File('zero.jpg', holds(bytes), 'found an empty file'),
    'a text': File('text.jpg', holds(lambda: b'no image'), "8 bytes that begin with 'no image'"),
    'noise': File('noise.jpg', holds(lambda: bytes(range(128, 192))), 'damaged'),
    'a pipe': File('pipe.jpg', os.mkfifo, 'found a pipe, socket or device'),
    'a device': File('zeros.jpg', lambda p: p.symlink_to('/dev/zero'), 'pipe, socket or device'),
    'a broken link': File('link.jpg', lambda p: p.symlink_to('nowhere'), 'No such file'),
    'a link to a folder': File('up.jpg', lambda p: p.symlink_to('.'), 'found a folder'),
    'a link to itself': File('me.jpg', lambda p: p.symlink_to(p.name), 'symbolic links'),
    'a file that cannot be read': File(
        'mem.jpg', lambda p: p.symlink_to('/proc/self/mem'), 'readable file, found Input/output'
    ),
    'a terabyte': File('long.jpg', lambda p: (p.touch(), os.truncate(p, 10**12)), '10{12} bytes'),
    'over the pixel limit': File(
        'huge.png', holds(lambda: huge_png(40_000, 40_000)), 'OPENCV_IO_MAX_IMAGE_PIXELS'
    ),
    'a header over the pixel limit': File(
        'huge.pgm', holds(lambda: b'P5 40000 40000 255 '), 'OPENCV_IO_MAX_IMAGE_PIXELS'
    ),
}
GOOD = {
    'one pixel': File('one.png', holds(lambda: opencv('.png', picture(1, 1))), size=(1, 1)),
    'a strip': File(
        'strip.png', holds(lambda: opencv('.png', picture(20_000, 20))), None, (20_000, 20), True
    ),
    'a column': File(
        'column.png', holds(lambda: opencv('.png', picture(20, 20_000))), None, (20, 20_000), True
    ),
    'grey': File('grey.jpg', holds(lambda: pillow('JPEG', 'L'))),
    'one bit': File('bit.png', holds(lambda: pillow('PNG', '1'))),
    'a palette': File('palette.png', holds(lambda: pillow('PNG', 'P'))),
    'grey of 16 bits': File('grey16.png', holds(lambda: opencv('.png', grey(np.uint16)))),
    'colour of 16 bits': File(
        'colour16.tif',
        holds(lambda: opencv('.tif', picture(WIDTH, HEIGHT).astype(np.uint16) * 257)),
    ),
    'rgba': File('rgba.png', holds(lambda: pillow('PNG', 'RGBA'))),
    'cmyk': File('cmyk.jpg', holds(lambda: pillow('JPEG', 'CMYK'))),
    'turned by exif': File('turned.jpg', holds(lambda: with_exif(6)), size=(HEIGHT, WIDTH)),
    'mirrored by exif': File('mirrored.jpg', holds(lambda: with_exif(4))),
    'an animated gif': File('film.gif', holds(lambda: pillow('GIF', frames=3))),
    'a png named jpg': File('png.jpg', holds(lambda: PNG)),
    'in a folder named as an image': File('x.jpg/inside.jpg', holds(lambda: JPEG)),
    'spaces, other letters, a line end': File('mit Leer ünd 写真/ß \n?.jpg', holds(lambda: JPEG)),
    'a name that is not text': File(os.fsdecode(b'caf\xe9.jpg'), holds(lambda: JPEG)),
    'a name that is a Unicode digit': File('\u00b2.jpg', holds(lambda: JPEG)),
    'a capital suffix': File('CAPITAL.JPG', holds(lambda: JPEG)),
    'the same name in a': File('a/same.jpg', holds(lambda: JPEG)),
    'the same name in b': File('b/same.jpg', holds(lambda: pillow('JPEG', 'L'))),
    'another format in the same folder': File('a/same.png', holds(lambda: PNG)),
}
GALLERY = {**BAD, **GOOD}


@pytest.fixture(scope='module')
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file, one that is not an image, and an empty folder."""
    folder = tmp_path_factory.mktemp('gallery')
    for file in GALLERY.values():
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        file.make(path)
    (folder / 'notes.txt').write_text('skipped')
    (folder / 'empty').mkdir()
    return folder


@dataclass(frozen=True)
class GalleryRun:
    """Outcome of the tool over the gallery."""

    kind: str
    outcome: Outcome
    out_dir: Path

    @property
    def records(self) -> list[dict[str, Any]]:
        return read_lines(self.out_dir / 'predictions.jsonl')

    def fails(self, file: File) -> bool:
        return file.error is not None or (file.undetectable and self.kind == 'top_down')


@pytest.fixture(scope='module', params=['one_stage', 'top_down'])
def run(
    request: pytest.FixtureRequest,
    gallery: Path,
    models: Models,
    one_thread: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> GalleryRun:
    out_dir = tmp_path_factory.mktemp('out')
    arguments = getattr(models, request.param)
    outcome = run_tool(
        gallery, '--out-dir', out_dir, '--format', 'json', 'coco', '--save-vis', *arguments
    )
    return GalleryRun(request.param, outcome, out_dir)


# ----------------------------------------------------------------------------- the files


@pytest.mark.parametrize('file', GALLERY.values(), ids=GALLERY)
def test_each_file_has_its_record(run, file):
    (record,) = [record for record in run.records if record['image'] == file.recorded]
    if run.fails(file):
        assert set(record) == {'image', 'error'}
        assert '\n' not in record['error']
        if file.error is not None:
            assert re.search(file.error, record['error'])
    else:
        assert (record['width'], record['height']) == file.size
        assert record['instances']


def test_every_input_ends_once_as_done_or_failed(run):
    failed = {file.recorded for file in GALLERY.values() if run.fails(file)}
    done = {file.recorded for file in GALLERY.values()} - failed
    assert run.outcome.status == 3
    assert len(run.records) == len(GALLERY)
    assert {record['image'] for record in run.records} == failed | done
    failures = read_lines(run.out_dir / 'failures.jsonl')
    assert failures == [record for record in run.records if 'error' in record]
    assert {record['image'] for record in failures} == failed
    counts = json.loads((run.out_dir / 'run.json').read_text())['counts']
    persons = sum(len(record.get('instances', ())) for record in run.records)
    assert counts == {
        'images': len(GALLERY),
        'resumed': 0,
        'persons': persons,
        'failures': len(failed),
        **dict.fromkeys(('frames', 'videos', 'unusable_videos', 'damaged_frames'), 0),
    }
    assert f'failures  {len(failed)}, see failures.jsonl' in run.outcome.out

    def below(name: str) -> set[str]:
        folder = run.out_dir / name
        return {str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file()}

    assert below('predictions') == {f'{name}.json' for name in done}
    assert {name.removesuffix('.gif.png') for name in below('vis')} == {
        name.removesuffix('.gif') for name in done
    }
    coco = json.loads((run.out_dir / 'predictions.coco.json').read_text())
    assert len(coco) == persons
    assert {result['file_name'] for result in coco} == done


def test_drawings_have_the_size_of_the_image(run):
    for file in GALLERY.values():
        if not run.fails(file):
            name = file.recorded + '.png' * file.name.endswith('.gif')
            assert mmcv.imread(run.out_dir / 'vis' / name).shape[1::-1] == file.size


@pytest.mark.parametrize('file', GOOD.values(), ids=GOOD)
def test_an_image_is_read_as_by_upstream(gallery, file):
    path = str(gallery / file.name)
    expected = LoadImage()({'img_path': path})['img']
    np.testing.assert_array_equal(read_image(Frame(0, path, 'x'), LoadImage()), expected)


def test_of_an_animation_the_first_frame_is_read(gallery):
    image = read_image(Frame(0, str(gallery / 'film.gif'), 'x'), LoadImage())
    first = np.abs(image - picture(WIDTH, HEIGHT, 0).astype(float)).mean()
    second = np.abs(image - picture(WIDTH, HEIGHT, 1).astype(float)).mean()
    assert first < second / 4


@pytest.mark.parametrize('kind', ['one_stage', 'whole_image'])
def test_in_python_each_file_has_one_result_in_order(gallery, models, kind):
    inferencer = build(getattr(models, kind))
    paths = [str(gallery / file.name) for file in GALLERY.values()]
    results = list(inferencer(paths))
    assert len(results) == len(GALLERY)
    for path, file, result in zip(paths, GALLERY.values(), results, strict=True):
        if file.error is None:
            assert 'error' not in result
            assert len(result['predictions']) == 1
        else:
            assert result['image'] == path
            assert re.search(file.error, result['error'])
            assert result['predictions'] == result['visualization'] == []


@pytest.mark.parametrize('file', BAD.values(), ids=BAD)
def test_in_python_a_bad_file_can_end_the_run(gallery, ending_inferencer, file):
    good = str(gallery / GOOD['grey'].name)
    bad = str(gallery / file.name)
    results = ending_inferencer([good, bad, good])
    assert next(results)['predictions']
    with pytest.raises(InputError, match=re.escape(bad)) as raised:
        next(results)
    assert re.search(file.error, str(raised.value))


@pytest.fixture(scope='module')
def ending_inferencer(models: Models) -> BatchPose2DInferencer:
    # Batches of 1 and no look-ahead, so that the good image is yielded before the bad one fails.
    return build(models.one_stage, on_error='raise', batch_size=1, num_workers=0)


def build(arguments: list[str], **settings: Any) -> BatchPose2DInferencer:
    """An inferencer of a tiny model, from arguments of the tool."""
    names = {'--pose2d': 'model', '--pose2d-weights': 'weights', '--det-model': 'det_model'}
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    return mmpose_batch.build_inferencer(
        **{names[option]: value for option, value in options.items()}, device='cpu', **settings
    )


def test_on_error_raise_ends_the_tool_with_status_1(gallery, models, tmp_path):
    outcome = run_tool(
        gallery, '--out-dir', tmp_path / 'out', *models.one_stage, '--on-error', 'raise'
    )
    assert outcome.status == 1
    assert re.search(
        r'^batch_infer: .*/gallery\d*/cut\.jpg: expected a complete JPEG', outcome.err, re.M
    )
    # Earlier results are written.
    assert read_lines(tmp_path / 'out' / 'predictions.jsonl')


# ------------------------------------------------------------------------- truncated files

COMPLETE = {
    'jpeg': JPEG,
    'progressive jpeg': pillow('JPEG', progressive=True),
    'jpeg with a thumbnail': with_exif(1, JPEG),
    'grey jpeg': pillow('JPEG', 'L'),
    'cmyk jpeg': pillow('JPEG', 'CMYK'),
    'png': PNG,
    'webp': pillow('WEBP'),
    'lossless webp': pillow('WEBP', lossless=True),
    'bmp': pillow('BMP'),
    'gif': pillow('GIF'),
    'ppm': pillow('PPM'),
    'tiff': pillow('TIFF'),
    'packed tiff': pillow('TIFF', compression='tiff_lzw'),
    'jpeg 2000': pillow('JPEG2000'),
}


@pytest.mark.parametrize('data', COMPLETE.values(), ids=COMPLETE)
def test_a_truncated_file_is_never_accepted(tmp_path, data):
    # OpenCV's imread returns the existing rows and fills the others with grey.
    path = tmp_path / 'image'
    path.write_bytes(data)
    assert read_image(Frame(0, str(path), 'x'), LoadImage()).shape == (HEIGHT, WIDTH, 3)
    cuts = {1, 2, len(data) - 2, len(data) - 1, *range(10, len(data) - 2, len(data) // 12)}
    for cut in sorted(cuts):
        path.write_bytes(data[:cut])
        with pytest.raises(ImageError) as raised:
            read_image(Frame(0, str(path), 'x'), LoadImage())
        assert '\n' not in str(raised.value)


# ----------------------------------------------------------------------------- permissions


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Run as a user to whom permissions apply, unlike root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def own_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)
        os.chmod(folder, 0o755)


def test_a_file_without_permission_is_a_clear_error(own_folder):
    path = own_folder / 'a.jpg'
    path.write_bytes(JPEG)
    path.chmod(0)
    with ordinary_user(), pytest.raises(ImageError, match='found Permission denied'):
        read_image(Frame(0, str(path), 'x'), LoadImage())


def test_a_folder_without_permission_is_an_input_that_fails(own_folder):
    for name in ('a', 'closed', 'z'):
        (own_folder / name).mkdir()
        (own_folder / name / 'x.jpg').write_bytes(JPEG)
    (own_folder / 'closed').chmod(0)
    with ordinary_user():
        found = list(list_images(str(own_folder)))
        assert found == [str(own_folder / name) for name in ('a/x.jpg', 'closed', 'z/x.jpg')]
        with pytest.raises(ImageError, match='a folder, which cannot be listed'):
            read_image(Frame(0, found[1], 'x'), LoadImage())
    (own_folder / 'closed').chmod(0o700)  # so that it can be removed


def test_an_input_folder_without_permission_is_an_error(own_folder):
    own_folder.chmod(0)
    with ordinary_user(), pytest.raises(SourceError, match='cannot be listed: Permission denied'):
        list_inputs([str(own_folder)])


# ----------------------------------------------------------------------------------- boxes

NAN = float('nan')
BAD_BOXES = {
    'outside': ([200, 10, 20, 20], 'outside the image: 200, 10, 220, 30'),
    'left of it': ([-30, 10, 30, 20], 'outside the image: -30, 10, 0, 30'),
    'no width': ([10, 10, 0, 20], 'without area: 10, 10, 10, 30'),
    'no height': ([10, 10, 20, 0], 'without area: 10, 10, 30, 10'),
    'turned round': ([30, 10, -20, 20], 'without area: 30, 10, 10, 30'),
    'nan': ([10, NAN, 20, 20], 'not finite: 10, nan, 30, nan'),
    'nan size': ([10, 10, NAN, 20], 'not finite: 10, 10, nan, 30'),
    'infinite': ([10, 10, float('inf'), 20], 'not finite: 10, 10, inf, 30'),
}
GOOD_BOX = [10, 10, 40, 60]


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_photos(tmp_path_factory.mktemp('photos'), 3)


@pytest.mark.parametrize(('box', 'error'), BAD_BOXES.values(), ids=BAD_BOXES)
def test_a_bad_box_in_a_file_fails_its_image_only(photos, models, tmp_path, box, error):
    entries = [(0, GOOD_BOX), (1, GOOD_BOX), (1, box), (2, GOOD_BOX)]
    boxes = [
        {'image_id': image, 'category_id': 1, 'bbox': values, 'score': 0.9}
        for image, values in entries
    ]
    (tmp_path / 'boxes.json').write_text(json.dumps(boxes))
    outcome = run_tool(
        *(photos[0].parent, '--out-dir', tmp_path / 'out'),
        *(*models.crops, '--bboxes', tmp_path / 'boxes.json'),
    )
    assert outcome.status == 3
    first, failed, last = read_lines(tmp_path / 'out' / 'predictions.jsonl')
    assert [len(record['instances']) for record in (first, last)] == [1, 1]
    assert failed['error'].startswith('expected boxes inside 120 x 160, found box 1 ')
    assert failed['error'].endswith(error)


def test_a_box_without_a_score_is_not_lost(photos, models, tmp_path):
    box = {'image_id': 0, 'category_id': 1, 'bbox': GOOD_BOX, 'score': NAN}
    (tmp_path / 'boxes.json').write_text(json.dumps([box]))
    run_tool(
        *(photos[0], '--out-dir', tmp_path / 'out'),
        *(*models.crops, '--bboxes', tmp_path / 'boxes.json'),
    )
    (record,) = read_lines(tmp_path / 'out' / 'predictions.jsonl')
    assert 'found box 0 with a value that is not finite' in record['error']


@pytest.fixture(scope='module')
def crops(models: Models) -> BatchPose2DInferencer:
    return build(models.whole_image)


@pytest.mark.parametrize(('box', 'error'), BAD_BOXES.values(), ids=BAD_BOXES)
def test_a_bad_box_in_python_fails_its_image_only(photos, crops, box, error):
    good, bad = ([x, y, x + width, y + height] for x, y, width, height in (GOOD_BOX, box))
    first, failed, last = crops(list(map(str, photos)), bboxes=[[good], [good, bad], [good, good]])
    assert [len(result['predictions'][0]) for result in (first, last)] == [1, 2]
    assert failed['error'].endswith(error)


def test_a_box_partly_outside_is_used(photos, crops):
    (result,) = crops([str(photos[0])], bboxes=[[[-50, -50, 30, 500]]])
    (person,) = result['predictions'][0]
    assert person['bbox'] == ([-50, -50, 30, 500],)


def test_boxes_for_a_one_stage_model_are_an_error(photos, models):
    inferencer = build(models.one_stage)
    with pytest.raises(ValueError, match='bboxes: only top-down models take them'):
        list(inferencer([str(photos[0])], bboxes=[[[0, 0, 10, 10]]]))


# --------------------------------------------------------------------------------- weights


class Code:
    """Pickles as a call that creates a file."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self._mark),)


class Method:
    """Pickles as getattr of an allowed class, to reach its globals."""

    def __reduce__(self) -> tuple:
        return getattr, (HistoryBuffer, '__init__')


def test_code_in_a_checkpoint_is_rejected_and_does_not_run(photos, models, tmp_path):
    content = load_checkpoint(models.file('rtmo.pth'))
    torch.save({**content, 'more': Code(tmp_path / 'mark')}, tmp_path / 'code.pth')
    outcome = weights_outcome(photos, models, tmp_path, tmp_path / 'code.pth')
    assert 'was rejected: it contains objects that are not on the allow-list' in outcome.err
    assert not (tmp_path / 'mark').exists()
    # Without the check it runs, so the test is meaningful.
    torch.load(tmp_path / 'code.pth', weights_only=False)
    assert (tmp_path / 'mark').exists()


def test_getattr_in_a_checkpoint_is_rejected(photos, models, tmp_path):
    content = load_checkpoint(models.file('rtmo.pth'))
    torch.save({**content, 'more': Method()}, tmp_path / 'code.pth')
    outcome = weights_outcome(photos, models, tmp_path, tmp_path / 'code.pth')
    assert 'was rejected' in outcome.err
    assert 'getattr' in outcome.err


def weights_outcome(photos: list[Path], models: Models, folder: Path, weights: Path) -> Outcome:
    """Run with these weights and check that one error line is all that results."""
    outcome = run_tool(
        *(photos[0], '--out-dir', folder / 'out'),
        *('--pose2d', models.file('rtmo.py'), '--pose2d-weights', weights),
    )
    assert outcome.status == 1
    assert outcome.out == ''
    assert re.fullmatch(r'batch_infer: weights: .*\n', outcome.err)
    assert not (folder / 'out').exists()
    return outcome


def test_weights_of_another_model_are_rejected(photos, models, tmp_path):
    outcome = weights_outcome(photos, models, tmp_path, Path(models.file('rtmpose.pth')))
    assert 'rtmpose.pth belongs to another model' in outcome.err


WRONG_WEIGHTS = {
    'missing': (None, 'no such file'),
    'empty': (b'', 'empty'),
    'a web page': (b'<html>404</html>', 'not a readable PyTorch checkpoint'),
}


@pytest.mark.parametrize(('data', 'error'), WRONG_WEIGHTS.values(), ids=WRONG_WEIGHTS)
def test_files_that_are_not_weights_are_an_error(photos, models, tmp_path, data, error):
    path = tmp_path / 'weights.pth'
    if data is not None:
        path.write_bytes(data)
    assert error in weights_outcome(photos, models, tmp_path, path).err


def test_a_truncated_checkpoint_is_an_error(photos, models, tmp_path):
    data = Path(models.file('rtmo.pth')).read_bytes()
    (tmp_path / 'cut.pth').write_bytes(data[: len(data) // 2])
    outcome = weights_outcome(photos, models, tmp_path, tmp_path / 'cut.pth')
    assert 'cut.pth is not a readable PyTorch checkpoint' in outcome.err


# ------------------------------------------------------------------------------ no network


@pytest.mark.parametrize('name', ['rtmo-s', 'human'])
def test_without_a_network_a_models_name_is_a_quick_error_with_the_way_out(
    photos, tmp_path, monkeypatch, name
):
    with socket.socket() as unused:  # its port is free once it is closed
        unused.bind(('127.0.0.1', 0))
        port = unused.getsockname()[1]
    for variable in ('no_proxy', 'NO_PROXY', 'HTTPS_PROXY'):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv('https_proxy', f'http://127.0.0.1:{port}')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(
        urllib.request, '_opener', None
    )  # it would keep the proxy of the first download
    attempts = []
    connect = socket.create_connection

    def note(address: tuple[str, int], *arguments: Any, **options: Any) -> socket.socket:
        attempts.append(address)
        return connect(address, *arguments, **options)

    monkeypatch.setattr(socket, 'create_connection', note)
    outcome = run_tool(photos[0], '--out-dir', tmp_path / 'out', '--pose2d', name)
    assert attempts == [('127.0.0.1', port)]  # neither retries nor waiting
    assert outcome.status == 1
    (line,) = outcome.err.splitlines()
    assert 'weights: cannot download https://' in line
    assert f'put it at {tmp_path / "cache"}' in line
    assert '--pose2d-weights FILE' in line
