"""Decoding of HEIC and HEIF images by pillow-heif, since OpenCV does not support them."""

import importlib.util
import io
from functools import cache

import numpy as np

_SUFFIXES = frozenset(('.heic', '.heif', '.hif'))
# Brands in the `ftyp` box of HEIF files (ISO/IEC 23008-12, 10 and B.4); AVIF may have `mif1` too.
_BRANDS = frozenset(
    (b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx', b'hevm', b'hevs', b'mif1', b'msf1')
)
_AVIF_BRANDS = frozenset((b'avif', b'avis'))


@cache
def extra_suffixes() -> frozenset[str]:
    """Suffixes of HEIF images, in lower case; empty if pillow-heif is not installed."""
    return _SUFFIXES if importlib.util.find_spec('pillow_heif') else frozenset()


def brands(data: bytes) -> set[bytes]:
    """Brands in the ``ftyp`` box of an encoded image; empty if it has no such box."""
    if data[4:8] != b'ftyp':
        return set()
    end = min(int.from_bytes(data[:4], 'big'), 512)  # such a box has only a few brands
    # A version number lies between the major brand and the compatible brands.
    return {data[start : start + 4] for start in (8, *range(16, end, 4))}


def is_avif(data: bytes) -> bool:
    """Whether an encoded image is AVIF."""
    return not _AVIF_BRANDS.isdisjoint(brands(data))


def is_heif(data: bytes) -> bool:
    """Whether an encoded image is HEIF and not AVIF, by its content."""
    found = brands(data)
    return not _BRANDS.isdisjoint(found) and _AVIF_BRANDS.isdisjoint(found)


def decode(data: bytes, color_type: str) -> np.ndarray:
    """Decode the primary image as it is displayed: libheif rotates it and ignores EXIF orientation.

    Args:
        data: An encoded image for which :func:`is_heif` holds.
        color_type: MMCV's ``color_type``. Types that ignore the orientation, or keep alpha or
            16 bits, behave like ``color``.

    Returns:
        A uint8 array (H, W, 3), BGR, or (H, W) for the types ``grayscale...``.

    Raises:
        ImportError: pillow-heif is not installed.
        ValueError: The image is damaged, or grey with more than 8 bits.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise ImportError(
            "HEIF, which needs pillow-heif: pip install 'mmpose-batch[heif]'"
        ) from error
    image = pillow_heif.open_heif(io.BytesIO(data)).to_pillow()
    if image.mode.startswith('I'):
        raise ValueError(f'HEIF of mode {image.mode}, which has more than 8 bits of grey')
    if color_type.startswith('grayscale'):
        return np.array(image.convert('L'))
    return np.array(image.convert('RGB'))[..., ::-1].copy()
