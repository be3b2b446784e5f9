"""Reading images: supported files and arrays, and errors for all others."""

from collections.abc import Iterator

import cv2
import mmcv
import numpy as np
import pytest
from mmpose.datasets.transforms import LoadImage
from support.tiny import picture, save

from mmpose_batch.errors import ImageError
from mmpose_batch.images.read import DecodedFrames, is_truncated_jpeg, read_image
from mmpose_batch.sources.base import Frame
from mmpose_batch.sources.inputs import open_source
from mmpose_batch.workers import WorkerPool

pytestmark = pytest.mark.usefixtures('no_thread_is_left')

CUT_OFF = cv2.imencode('.jpg', picture(64, 64))[1].tobytes()[:-20]


def read(source: str | np.ndarray) -> np.ndarray:
    return read_image(Frame(0, source, 'name'), LoadImage())


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.bmp', '.tif', '.webp'])
def test_a_file_is_decoded_as_in_upstream(tmp_path, suffix):
    path = save(tmp_path / f'image{suffix}', picture(41, 23))
    np.testing.assert_array_equal(read(path), mmcv.imread(path))


@pytest.mark.parametrize('shape', [(23, 41), (23, 41, 1), (23, 41, 4)])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_every_kind_of_image_is_converted_to_bgr_of_eight_bits(tmp_path, shape, dtype):
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    path = save(tmp_path / 'image.png', image)
    decoded = read(path)
    assert (decoded.shape, decoded.dtype) == ((23, 41, 3), np.uint8)
    np.testing.assert_array_equal(decoded, mmcv.imread(path))


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_an_array_is_used_unchanged(dtype):
    image = picture(41, 23).astype(dtype)
    assert read(image) is image


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_an_array_loses_its_alpha(dtype):
    image = cv2.cvtColor(picture(41, 23).astype(dtype), cv2.COLOR_BGR2BGRA)
    bgr = read(image)
    assert bgr.flags['C_CONTIGUOUS']
    np.testing.assert_array_equal(bgr, image[..., :3])


@pytest.mark.parametrize(
    'values',
    [
        pytest.param([0, 0, 0], id='black'),
        pytest.param([0, 1, 1], id='nearly black'),
        pytest.param([-3.5, 12.25, 259], id='slightly out of range, as after resizing'),
    ],
)
def test_a_float_array_may_be_dark_or_overshoot(values):
    image = np.resize(np.float32(values), (4, 5, 3))
    assert read(image) is image


@pytest.mark.parametrize(
    ('values', 'found'),
    [
        ([0, 0.25, 1], 'expected values from 0 to 255, found 0 to 1'),
        ([0.5, 0.25, 0.75], 'expected values from 0 to 255, found 0.25 to 0.75'),
        ([0, 1, np.nan], 'expected finite values, found NaN or infinity'),
        ([0, -np.inf, 7], 'expected finite values, found NaN or infinity'),
    ],
)
def test_a_float_array_of_another_scale_is_an_error(values, found):
    with pytest.raises(ImageError) as raised:
        read(np.resize(np.float32(values), (4, 5, 3)))
    assert str(raised.value) == found


@pytest.mark.parametrize('num_workers', [0, 1, 3])
def test_images_of_one_buffer_are_read_ahead_unchanged(num_workers):
    def buffered() -> Iterator[np.ndarray]:
        buffer = np.empty((23, 41, 3), np.uint8)
        for value in range(24):
            buffer[:] = value
            yield buffer

    with WorkerPool(num_workers) as pool:
        frames = open_source(buffered())
        images = list(pool.map(lambda frame: read_image(frame, LoadImage()), frames, 8))
    assert [np.unique(image).tolist() for image in images] == [[value] for value in range(24)]


@pytest.mark.parametrize('path', ['x' * 256 + '.jpg', 'd/' * 2100 + 'a.jpg', 'd/' * 2100])
def test_a_path_too_long_for_the_system_is_a_one_line_error(path):
    with pytest.raises(ImageError, match='found File name too long'):
        read(path)


@pytest.mark.parametrize(
    ('array', 'found'),
    [
        pytest.param(np.zeros((4, 5)), 'float64 (4, 5)', id='one channel'),
        pytest.param(np.zeros((4, 5, 3)), 'float64 (4, 5, 3)', id='double'),
        pytest.param(np.zeros((4, 5, 3), np.uint16), 'uint16 (4, 5, 3)', id='16 bits'),
        pytest.param(np.zeros((4, 5, 2), np.uint8), 'uint8 (4, 5, 2)', id='two channels'),
        pytest.param(np.zeros((2, 4, 5, 3), np.uint8), 'uint8 (2, 4, 5, 3)', id='a batch'),
        pytest.param(np.zeros((0, 5, 3), np.uint8), 'uint8 (0, 5, 3)', id='empty'),
    ],
)
def test_an_array_of_another_shape_or_dtype_is_an_error(array, found):
    expected = 'expected a uint8 or float32 array (H, W, 3) in BGR or (H, W, 4) in BGRA, found '
    with pytest.raises(ImageError) as raised:
        read(array)
    assert str(raised.value) == expected + found


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        pytest.param(b'', 'expected an image, found an empty file', id='empty'),
        pytest.param(b'Not found.', "found 10 bytes that begin with 'Not foun'", id='text'),
        pytest.param(
            bytes(range(128, 160)), 'found 32 bytes that are damaged or in a format', id='noise'
        ),
        pytest.param(CUT_OFF, 'expected a complete JPEG, found one truncated to', id='truncated'),
    ],
)
def test_a_file_that_is_not_an_image_is_a_one_line_error(tmp_path, data, message):
    path = tmp_path / 'image.jpg'
    path.write_bytes(data)
    with pytest.raises(ImageError) as raised:
        read(str(path))
    assert message in str(raised.value)
    assert '\n' not in str(raised.value)


def test_a_missing_file_is_a_one_line_error(tmp_path):
    with pytest.raises(ImageError, match='expected a readable file, found') as raised:
        read(str(tmp_path / 'missing.jpg'))
    assert '\n' not in str(raised.value)


# ------------------------------------------------------------------ is_truncated_jpeg


def with_thumbnail(data: bytes) -> bytes:
    """A JPEG whose EXIF segment contains a complete JPEG with its own end marker."""
    thumbnail = b'Exif\0\0' + cv2.imencode('.jpg', picture(8, 8))[1].tobytes()
    segment = b'\xff\xe1' + (len(thumbnail) + 2).to_bytes(2, 'big') + thumbnail
    return data[:2] + segment + data[2:]


def encoded(*parameters: int) -> bytes:
    return cv2.imencode('.jpg', picture(48, 40), parameters)[1].tobytes()


JPEGS = {
    'baseline': encoded(),
    'progressive': encoded(cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    'restart markers': encoded(cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
    'thumbnail': with_thumbnail(encoded()),
    'fill bytes': encoded()[:2] + b'\xff\xff' + encoded()[2:],
}


@pytest.mark.parametrize('data', JPEGS.values(), ids=JPEGS)
def test_a_jpeg_that_is_truncated_anywhere_is_recognised(data):
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None
    assert not is_truncated_jpeg(data)
    assert not is_truncated_jpeg(data + b'\0' * 100)  # some cameras pad their files
    complete_cuts = [cut for cut in range(2, len(data) - 1) if not is_truncated_jpeg(data[:cut])]
    assert complete_cuts == []


@pytest.mark.parametrize(
    'data',
    [
        pytest.param(b'', id='empty'),
        pytest.param(b'\x89PNG\r\n\x1a\n', id='png'),
        pytest.param(b'\xff\xd8 a text that begins like a JPEG', id='another form'),
    ],
)
def test_data_that_is_not_jpeg_is_left_to_the_decoder(data):
    assert not is_truncated_jpeg(data)


def test_decoded_frames_are_returned_once_and_unchanged():
    decoded, frame, image = DecodedFrames(), Frame(0, 'a.jpg', 'a.jpg'), picture(8, 6)
    expected = image.copy()
    decoded.put(frame, image)
    image[:] = 0  # a pipeline may change pixels in place
    assert decoded.take(Frame(0, 'a.jpg', 'a.jpg')) is None  # a frame of another call
    np.testing.assert_array_equal(decoded.take(frame), expected)
    assert decoded.take(frame) is None


def test_decoded_frames_respect_their_memory_limit():
    image = picture(8, 6)
    decoded = DecodedFrames(max_bytes=2 * image.nbytes)
    frames = [Frame(number, 'a.jpg', 'a.jpg') for number in range(3)]

    def stored() -> list[bool]:
        for frame in frames:
            decoded.put(frame, image)
        return [decoded.take(frame) is not None for frame in frames]

    assert stored() == stored() == [True, True, False]
    for frame in frames:
        decoded.put(frame, image)
    decoded.clear()
    assert decoded.take(frames[0]) is None
    assert stored() == [True, True, False]
    decoded.put(Frame(0, image, 'array'), image)
    assert stored() == [True, True, False]  # an array is decoded already
