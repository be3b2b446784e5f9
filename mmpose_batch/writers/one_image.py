"""Writing one result in one format, and which errors only concern that image."""

import errno
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from ..results import ImageResult
    from .base import Writer

# Errors of a file system about one name; all others concern the complete folder.
_NAME_ERRORS = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


def error_of_image(
    writer: 'Writer', result: 'ImageResult', record: Mapping[str, Any], raises: bool
) -> str | None:
    """Write one result in one format.

    Args:
        writer: The writer, which gets a copy of the record.
        result: The result.
        record: Its record.
        raises: Whether to raise an error.

    Returns:
        Why a file of the image cannot be written, in one line; None without an error.

    Raises:
        InputError: It cannot, and errors are raised.
        OSError: An error that concerns more than one image, such as a full disk.
    """
    from ..errors import InputError, one_line  # not at the top: it imports PyTorch
    from ..results import label_of

    try:
        writer.append(result, orjson.loads(orjson.dumps(record)))
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in _NAME_ERRORS:
            raise  # about the disk, not this image
        if raises:
            text = f'{label_of(result.frame)}: cannot be written: {one_line(error)}'
            raise InputError(text) from error
        return one_line(error)
    return None
