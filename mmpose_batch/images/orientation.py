"""Orientations in image files that OpenCV does not apply."""

import io

from PIL import ExifTags, features

from ..sources.heif import is_avif

_EXIF_PREFIX = b'Exif\0\0'


def is_turned_beyond_opencv(data: bytes) -> bool:
    """Return whether an encoded image has an orientation that OpenCV does not apply.

    OpenCV applies the EXIF orientation of JPEG, PNG, TIFF and WebP, but not the boxes ``irot`` and
    ``imir`` of AVIF, nor EXIF that begins with ``Exif`` and two zeros, which some programs write
    into WebP. Headers are parsed only for files that contain such bytes.

    Args:
        data: The encoded image.

    Raises:
        ValueError: The orientation must be read with Pillow, whose build lacks the format.
    """
    if is_avif(data):
        return (b'irot' in data or b'imir' in data) and _orientation(data, 'AVIF') != 1
    if data[:4] == b'RIFF' and data[8:12] == b'WEBP':
        return _EXIF_PREFIX in data and _orientation(data, 'WebP') != 1
    return False


def _orientation(data: bytes, form: str) -> int:
    """EXIF number of the orientation that OpenCV does not apply; 1 if there is none."""
    if not features.check(form.lower()):
        raise ValueError(f'{form} with an orientation, which Pillow without {form} cannot read')
    # Not `Image.open`, which would reject a large image that OpenCV can decode.
    if form == 'AVIF':
        from PIL.AvifImagePlugin import AvifImageFile as ImageFile
    else:
        from PIL.WebPImagePlugin import WebPImageFile as ImageFile
    try:
        image = ImageFile(io.BytesIO(data))
    except Exception:  # a damaged file, which the decoder reports
        return 1
    if form == 'WebP' and not image.info.get('exif', b'').startswith(_EXIF_PREFIX):
        return 1
    return image.getexif().get(ExifTags.Base.Orientation, 1)
