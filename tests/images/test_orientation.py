"""Orientation: images of all formats are read as displayed, and none is oriented twice."""

import io
import struct

import cv2
import numpy as np
import pytest
from mmpose.datasets.transforms import LoadImage
from PIL import ExifTags, Image, ImageOps, features

from mmpose_batch.errors import ImageError
from mmpose_batch.images import orientation
from mmpose_batch.images.orientation import is_turned_beyond_opencv
from mmpose_batch.images.read import read_image
from mmpose_batch.sources.base import Frame

# Each quarter has its own colour, so that all orientations differ.
STORED = np.zeros((48, 64, 3), np.uint8)
STORED[:24, :32, 0] = STORED[:24, 32:, 1] = STORED[24:, :32, 2] = 255
LOSSLESS = {
    'JPEG': {'quality': 100, 'subsampling': 0},
    'PNG': {},
    'TIFF': {},
    'WEBP': {'lossless': True},
    'AVIF': {'quality': 100, 'subsampling': '4:4:4'},
}
FORMS = [*LOSSLESS, 'WEBP with a prefix']


def encoded(form: str, number: int, tag: int = ExifTags.Base.Orientation) -> bytes:
    """An encoded image with an orientation: in AVIF by its own boxes, in other formats by EXIF."""
    exif = Image.Exif()
    exif[tag] = number
    kind = form.split()[0]
    buffer = io.BytesIO()
    Image.fromarray(STORED).save(buffer, kind, exif=exif.tobytes(), **LOSSLESS[kind])
    data = buffer.getvalue()
    return with_prefix(data) if form.endswith('prefix') else data


def with_prefix(webp: bytes) -> bytes:
    """A WebP whose EXIF has the prefix of a JPEG's EXIF."""
    start = webp.index(b'EXIF')
    exif = b'Exif\0\0' + webp[start + 8 :]
    data = webp[8:start] + b'EXIF' + struct.pack('<I', len(exif)) + exif
    return b'RIFF' + struct.pack('<I', len(data)) + data


def read(tmp_path, data: bytes, **loader) -> np.ndarray:
    path = tmp_path / 'image'
    path.write_bytes(data)
    return read_image(Frame(0, str(path), 'name'), LoadImage(**loader))


def displayed(number: int) -> np.ndarray:
    image = Image.fromarray(STORED)
    image.getexif()[ExifTags.Base.Orientation] = number
    return np.array(ImageOps.exif_transpose(image))[..., ::-1]


def assert_alike(image: np.ndarray, expected: np.ndarray) -> None:
    """Compare images with a tolerance, since JPEG and AVIF blur the borders of the quarters."""
    assert image.shape == expected.shape
    assert np.median(cv2.absdiff(image, expected)) < 8
    assert (cv2.absdiff(image, expected) < 60).mean() > 0.98


@pytest.mark.parametrize('number', range(1, 9))
@pytest.mark.parametrize('form', FORMS)
def test_every_orientation_of_every_format_is_read_as_displayed(tmp_path, form, number):
    image = read(tmp_path, encoded(form, number))
    assert image.dtype == np.uint8
    assert image.flags['C_CONTIGUOUS']
    assert_alike(image, displayed(number))


@pytest.mark.parametrize('number', [1, 6])
@pytest.mark.parametrize('form', FORMS)
def test_images_that_opencv_reads_as_displayed_are_decoded_by_opencv(tmp_path, form, number):
    data = encoded(form, number)
    if not is_turned_beyond_opencv(data):
        opencvs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(read(tmp_path, data), opencvs)


@pytest.mark.parametrize(
    ('form', 'number', 'beyond'),
    [
        *[(form, number, False) for form in ('JPEG', 'PNG', 'TIFF', 'WEBP') for number in (1, 6)],
        *[(form, number, number > 1) for form in FORMS[4:] for number in range(1, 9)],
    ],
)
def test_pillow_decodes_only_images_that_opencv_does_not_orient(form, number, beyond):
    assert is_turned_beyond_opencv(encoded(form, number)) is beyond


@pytest.mark.parametrize('form', ['AVIF', 'WEBP with a prefix'])
@pytest.mark.parametrize(
    ('loader', 'is_turned'),
    [
        pytest.param({'color_type': 'grayscale'}, True, id='grayscale'),
        pytest.param({'imdecode_backend': None}, True, id='the default backend'),
        pytest.param({'imdecode_backend': 'pillow'}, True, id='pillow'),
        pytest.param({'color_type': 'unchanged'}, False, id='unchanged'),
        pytest.param({'color_type': 'color_ignore_orientation'}, False, id='ignored'),
        pytest.param(
            {'color_type': 'color_ignore_orientation', 'imdecode_backend': 'pillow'},
            False,
            id='ignored by pillow',
        ),
    ],
)
def test_a_loader_can_request_an_image_as_stored(tmp_path, form, loader, is_turned):
    assert (
        read(tmp_path, encoded(form, 6), **loader).shape[:2] == ((64, 48), (48, 64))[not is_turned]
    )


def test_exif_of_an_avif_is_ignored(tmp_path):
    # Viewers apply only the boxes of an AVIF (MIAF, ISO/IEC 23000-22).
    unknown = ExifTags.Base.Orientation + 1
    for boxes in (None, 8):
        exif = Image.Exif()
        exif[unknown] = 6
        if boxes:
            exif[ExifTags.Base.Orientation] = boxes
        buffer = io.BytesIO()
        Image.fromarray(STORED).save(buffer, 'AVIF', exif=exif.tobytes(), **LOSSLESS['AVIF'])
        data = buffer.getvalue().replace(
            struct.pack('>H', unknown), struct.pack('>H', ExifTags.Base.Orientation)
        )
        assert_alike(read(tmp_path, data), displayed(boxes or 1))


@pytest.mark.parametrize('form', ['AVIF', 'WEBP with a prefix'])
def test_a_truncated_image_with_an_orientation_is_an_error(tmp_path, form):
    data = encoded(form, 6)
    for cut in (20, len(data) // 3, len(data) // 2, len(data) - 60):
        with pytest.raises(ImageError) as raised:
            read(tmp_path, data[:cut])
        assert '\n' not in str(raised.value)


def test_a_pillow_that_cannot_read_the_orientation_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(features, 'check', lambda _: False)
    assert orientation.features is features
    with pytest.raises(ImageError, match='found AVIF with an orientation, which Pillow without'):
        read(tmp_path, encoded('AVIF', 6))
    assert read(tmp_path, encoded('AVIF', 1)).shape == STORED.shape
