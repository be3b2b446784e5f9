"""Import of PyAV, which only videos need."""

from types import ModuleType


def import_av() -> ModuleType:
    """Import PyAV.

    Raises:
        ImportError: It is not installed. The message is one line.
    """
    try:
        import av
        import av.error
    except ImportError as error:
        raise ImportError(
            f"videos need PyAV: pip install 'mmpose-batch[video]' ({error})"
        ) from error
    return av
