"""HEIF images are read by pillow-heif as displayed; without it, the error names the extra."""

import importlib.util
import io
import sys

import cv2
import numpy as np
import pytest
from mmpose.datasets.transforms import LoadImage
from PIL import ExifTags, Image, ImageOps
from support.tiny import picture

from mmpose_batch.errors import ImageError
from mmpose_batch.images.read import read_image
from mmpose_batch.sources import heif
from mmpose_batch.sources.base import Frame

PICTURE = picture(96, 64)


@pytest.fixture(autouse=True)
def forgotten() -> None:
    heif.extra_suffixes.cache_clear()


def encoded(number: int = 1, image: np.ndarray = PICTURE) -> bytes:
    """A HEIF image with the boxes and the EXIF of an orientation, as phones write it."""
    pillow_heif = pytest.importorskip('pillow_heif')
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = number
    file = pillow_heif.from_pillow(Image.fromarray(image[..., ::-1] if image.ndim == 3 else image))
    file.info['exif'] = exif.tobytes()
    buffer = io.BytesIO()
    file.save(buffer, quality=95)
    return buffer.getvalue()


def read(tmp_path, data: bytes, **loader) -> np.ndarray:
    path = tmp_path / 'image.jpg'  # images of phones are often renamed
    path.write_bytes(data)
    return read_image(Frame(0, str(path), 'name'), LoadImage(**loader))


def displayed(number: int) -> np.ndarray:
    image = Image.fromarray(PICTURE[..., ::-1])
    image.getexif()[ExifTags.Base.Orientation] = number
    return np.array(ImageOps.exif_transpose(image))[..., ::-1]


@pytest.mark.parametrize('number', range(1, 9))
def test_an_image_is_read_as_displayed_once(tmp_path, number):
    data = encoded(number)
    assert (b'irot' in data or b'imir' in data) == (number > 1)
    image = read(tmp_path, data)
    assert image.dtype == np.uint8
    assert image.flags['C_CONTIGUOUS']
    assert image.shape == displayed(number).shape
    # Encoding blurs the image a little; a wrong rotation differs by 60.
    assert cv2.absdiff(image, displayed(number)).mean() < 8


@pytest.mark.parametrize('loader', [{'imdecode_backend': 'pillow'}, {'color_type': 'unchanged'}])
def test_no_loader_rotates_it_again(tmp_path, loader):
    data = encoded(6)
    np.testing.assert_array_equal(read(tmp_path, data, **loader), read(tmp_path, data))


def test_grey_is_read_as_bgr_and_colour_as_grey(tmp_path):
    grey = PICTURE[..., 0]
    assert cv2.absdiff(read(tmp_path, encoded(1, grey))[..., 1], grey).mean() < 4
    assert read(tmp_path, encoded(), color_type='grayscale').shape == PICTURE.shape[:2]


def test_a_truncated_file_is_an_error_of_one_line(tmp_path):
    data = encoded()
    for cut in (20, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(ImageError, match='expected an image, found ') as raised:
            read(tmp_path, data[:cut])
        assert '\n' not in str(raised.value)


# The start of a file: size and type of the box, brand, version and compatible brands.
HEIC = b'\0\0\0\x18ftypheic\0\0\0\0mif1heic'


def test_without_pillow_heif_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    with pytest.raises(ImageError) as raised:
        read(tmp_path, HEIC + bytes(100))
    assert str(raised.value) == (
        "expected an image, found HEIF, which needs pillow-heif: pip install 'mmpose-batch[heif]'"
    )


@pytest.mark.parametrize(
    ('data', 'kind'),
    [
        (HEIC, 'heif'),
        (b'\0\0\0\x18ftypmif1\0\0\0\0heicmiaf', 'heif'),
        (b'\0\0\0\x14ftypmif1\0\0\0\0miaf', 'heif'),
        (b'\0\0\0\x18ftypavif\0\0\0\0mif1avif', 'avif'),
        (b'\0\0\0\x18ftypmif1\0\0\0\0avifmiaf', 'avif'),
        (b'\0\0\0\x18ftypisom\0\0\0\0mp41heic'[:20], None),
        (b'\0\0\0\x10ftypisomheicheicheic', None),
        (b'\xff\xd8\xff\xe1ftypheic', None),
        (b'', None),
    ],
)
def test_the_format_of_a_file_is_read_from_its_first_box(data, kind):
    if kind is None and data[:2] == b'\xff\xd8':
        data = cv2.imencode('.jpg', PICTURE)[1].tobytes()
    assert (heif.is_heif(data), heif.is_avif(data)) == (kind == 'heif', kind == 'avif')


@pytest.mark.parametrize('is_there', [True, False])
def test_suffixes_are_those_that_can_be_read(monkeypatch, is_there):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda _: object() if is_there else None)
    expected = {'.heic', '.heif', '.hif'} if is_there else set()
    assert heif.extra_suffixes() == expected
    heif.extra_suffixes.cache_clear()
