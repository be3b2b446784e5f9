"""The command ``doctor``: reports what is installed and usable, and problems."""

import platform
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from ..engines.base import EngineSpec
from ..errors import EngineError

PACKAGES = ('torch', 'mmpose', 'mmdet', 'mmengine', 'mmcv', 'numpy', 'opencv-python-headless')
# Extra to the modules that it installs, and their purpose.
EXTRAS = {
    'coco': (('xtcocotools.coco',), 'AP'),
    'heif': (('pillow_heif',), 'HEIC and HEIF images'),
    'video': (('av',), 'videos'),
    'parquet': (('pyarrow.parquet',), 'Parquet tables'),
    'ray': (('ray', 'pyarrow.parquet'), 'clusters'),
    'benchmark': (('scipy', 'matplotlib'), 'benchmark commands'),
}


def main() -> int:
    """Print a report; returns 0, or 1 if a required part does not work."""
    problems = []
    for line, is_problem in (*_packages(), *_devices(), *_engines(), *_extras()):
        print(line)
        problems += [line] if is_problem else []
    plural = '' if len(problems) == 1 else 's'
    print(f'\n{len(problems)} problem{plural}' if problems else '\nno problems')
    return int(bool(problems))


def _packages() -> Iterator[tuple[str, bool]]:
    yield f'{"python":<24}{platform.python_version()}', sys.version_info < (3, 11)
    yield f'{"mmpose-batch":<24}{version("mmpose-batch")}', False
    for name in PACKAGES:
        try:
            yield f'{name:<24}{version(name)}', False
        except PackageNotFoundError:
            # OpenCV has four distributions of one module.
            is_other_opencv = name.startswith('opencv') and _fails('cv2') is None
            found = 'another distribution of OpenCV' if is_other_opencv else 'not installed'
            yield f'{name:<24}{found}', not is_other_opencv
    for module in ('mmcv.ops', 'mmpose.apis', 'mmdet.apis'):
        if reason := _fails(module):
            yield f'{module:<24}cannot be imported: {reason}', True


def _devices() -> Iterator[tuple[str, bool]]:
    import torch
    from mmcv.ops import get_compiling_cuda_version

    from ..cores import available_cores
    from ..engines.cache import default_folder, processor_name
    from ..hardware import compute_capability, native_precision

    precision = native_precision('cpu')
    yield (
        f'{"cpu":<24}{processor_name()}, {available_cores()} cores, native precision {precision}',
        False,
    )
    for index in range(torch.cuda.device_count()):
        card = torch.device('cuda', index)
        capability = '.'.join(map(str, compute_capability(card) or ('unknown',)))
        yield (
            f'{f"cuda:{index}":<24}{torch.cuda.get_device_name(card)}, compute capability '
            f'{capability}, native precision {native_precision("cuda", card)}',
            False,
        )
    if torch.cuda.is_available() and get_compiling_cuda_version() == 'not available':
        yield f'{"mmcv":<24}no CUDA operators; steps that need them run on the CPU', True
    yield f'{"engine cache":<24}{default_folder()}', False


def _engines() -> Iterator[tuple[str, bool]]:
    from ..engines.registry import specs

    for name, spec in specs().items():
        reason = _unusable(spec)
        found = ', '.join(spec.precisions) if reason is None else reason
        yield f'{"engine " + name:<24}{found}', False


def _unusable(spec: EngineSpec) -> str | None:
    from ..engines.optional import require

    try:
        require(spec, spec.precisions[0])
    except EngineError as error:
        return str(error)
    return (
        None if spec.is_available() else 'a requirement other than its Python packages is missing'
    )


def _extras() -> Iterator[tuple[str, bool]]:
    for extra, (modules, purpose) in EXTRAS.items():
        reasons = {module: _fails(module) for module in modules}
        missing = ', '.join(f'{name}: {reason}' for name, reason in reasons.items() if reason)
        found = f"{purpose} unavailable: pip install 'mmpose-batch[{extra}]' ({missing})"
        yield f'{"extra " + extra:<24}{found if missing else purpose}', False


def _fails(module: str) -> str | None:
    """The reason why a module cannot be imported, in one line; None if it can."""
    try:
        import_module(module)
    except Exception as error:  # e.g. compiled for another NumPy
        return (str(error).splitlines() or [type(error).__name__])[0]
    return None
