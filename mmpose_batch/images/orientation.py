"""Orientations that an image file names and OpenCV does not apply."""

import io

from PIL import ExifTags, features

from ..sources.heif import is_avif

_EXIF_PREFIX = b'Exif\0\0'


def is_turned_beyond_opencv(data: bytes) -> bool:
    """Whether an encoded image is displayed turned or mirrored and OpenCV decodes it as stored.

    OpenCV applies the EXIF of JPEG, PNG, TIFF and WebP, but not the boxes ``irot`` and ``imir``
    of AVIF, nor a WebP's EXIF that begins with ``Exif`` and two zeros, as some writers have it.
    Only headers are read, and only of files that hold such bytes.

    Raises:
        ValueError: Pillow, which is asked for the orientation, does not read the format here.
    """
    if is_avif(data):
        return (b'irot' in data or b'imir' in data) and _orientation(data, 'AVIF') != 1
    if data[:4] == b'RIFF' and data[8:12] == b'WEBP':
        return _EXIF_PREFIX in data and _orientation(data, 'WebP') != 1
    return False


def _orientation(data: bytes, form: str) -> int:
    """EXIF's number of what OpenCV does not apply; 1 if it is nothing or cannot be read."""
    if not features.check(form.lower()):
        raise ValueError(f'{form} with an orientation, which a Pillow without {form} cannot tell')
    # Not `Image.open`, which would refuse a large image that OpenCV decodes.
    if form == 'AVIF':
        from PIL.AvifImagePlugin import AvifImageFile as ImageFile
    else:
        from PIL.WebPImagePlugin import WebPImageFile as ImageFile
    try:
        image = ImageFile(io.BytesIO(data))
    except Exception:  # damaged, which is the decoder's to say
        return 1
    if form == 'WebP' and not image.info.get('exif', b'').startswith(_EXIF_PREFIX):
        return 1
    return image.getexif().get(ExifTags.Base.Orientation, 1)
