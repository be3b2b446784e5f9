"""The registry of engines, and the options that they support.

An engine is one file that calls :func:`register`. The engines of this package are imported
automatically. Third-party engines register when they are imported, for instance by
``custom_imports`` in a config.
"""

import pkgutil
from functools import cache
from importlib import import_module

import torch

from ..hardware import check_bf16, native_precision
from .base import EngineOptions, EngineSpec
from .names import AUTO, PRECISIONS

# Engines that have been registered so far, by name; :func:`specs` returns all.
ENGINES: dict[str, EngineSpec] = {}


def register(spec: EngineSpec) -> EngineSpec:
    """Add an engine to the registry, and return it.

    Raises:
        ValueError: The name is that of another engine or ``auto``, or a precision is unknown.
    """
    if spec.name == AUTO or spec.name in ENGINES:
        raise ValueError(f'engine: the name {spec.name!r} is already in use')
    if unknown := set(spec.precisions) - set(PRECISIONS[:-1]):
        raise ValueError(
            f'engine: {spec.name}: expected precisions of {", ".join(PRECISIONS[:-1])}, '
            f'found {", ".join(sorted(unknown))}'
        )
    ENGINES[spec.name] = spec
    return spec


def specs() -> dict[str, EngineSpec]:
    """Return all engines by name: first those that only need PyTorch, each group sorted by name."""
    _import_own()
    found = sorted(ENGINES.values(), key=lambda spec: (bool(spec.modules), spec.name))
    return {spec.name: spec for spec in found}


def get(name: str) -> EngineSpec:
    """Return the engine with a name.

    Raises:
        ValueError: There is no engine with this name.
    """
    found = specs()
    if name not in found:
        raise ValueError(f'engine: expected one of {", ".join(choices())}, found {name!r}')
    return found[name]


def choices() -> tuple[str, ...]:
    """Return the values of the option ``engine``: the names of all engines, and ``auto``."""
    return (*specs(), AUTO)


@cache
def _import_own() -> None:
    package = import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f'{__package__}.{module.name}')


def precisions_of(engine: str) -> tuple[str, ...]:
    """Return the precisions that an engine supports; for ``auto``, those of any engine."""
    if engine != AUTO:
        return get(engine).precisions
    some = {precision for spec in specs().values() for precision in spec.precisions}
    return tuple(precision for precision in PRECISIONS if precision in some)


def parallel_batches(options: EngineOptions) -> int:
    """Return how many batches may be submitted concurrently.

    With more than one, the next batch uses the cores that are idle while one is decoded.
    """
    if options.latency:
        return 1
    if options.engine == AUTO:
        return max(spec.parallel for spec in specs().values())
    return get(options.engine).parallel


def splits_cores(options: EngineOptions) -> bool:
    """Return whether several batches run concurrently, each on its own cores."""
    if options.engine == AUTO or parallel_batches(options) == 1:
        return False
    return get(options.engine).computes_on(options.device, 'cpu') == 'cpu'


def needs_samples(options: EngineOptions) -> bool:
    """Return whether an engine is selected, built or verified with inputs of the run."""
    return (
        options.self_check
        or options.engine == AUTO
        or options.precision == 'int8'
        or get(options.engine).compiles_for_batch
    )


def resolve_precision(
    precision: str,
    device: str | torch.device,
    engine: str = 'torch',
    engine_device: str | None = None,
) -> str:
    """Check that engine and device support a precision, and resolve ``auto``.

    ``auto`` selects the fastest precision that the hardware computes natively at almost no cost
    in accuracy: fp16 on a GPU that is fast in it, bf16 on a CPU with bf16 instructions, otherwise
    fp32. If the engine does not support that precision, ``auto`` selects fp32.

    Args:
        precision: One of :data:`PRECISIONS`.
        device: Device of PyTorch.
        engine: One of :func:`choices`.
        engine_device: Device of the engine, if it differs from that of PyTorch.

    Returns:
        The precision, which is not ``auto``.

    Raises:
        ValueError: The precision or engine is unknown, or the engine or device does not support
            the precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f'precision: expected one of {", ".join(PRECISIONS)}, found {precision!r}')
    model_device = torch.device(device)
    kind = model_device.type
    if engine != AUTO:
        kind = get(engine).computes_on(engine_device, kind)
    # Not for OpenVINO, which names its own GPUs.
    follows = engine == AUTO or get(engine).computes_on(None, 'cuda') == 'cuda'
    card = model_device if follows and kind == model_device.type == 'cuda' else None
    supported = precisions_of(engine)
    if precision == AUTO:
        native = native_precision(kind, card)
        return native if native in supported else 'fp32'
    if precision not in supported:
        others = [name for name in choices() if precision in precisions_of(name)]
        raise ValueError(
            f'precision: engine {engine} supports {", ".join(supported)}, not {precision}; '
            f'engines that support it: {", ".join(others)}'
        )
    if precision == 'fp16' and kind == 'cpu':
        raise ValueError('precision: fp16 is not supported on a CPU; use bf16')
    if precision == 'bf16':
        check_bf16(card)
    return precision
