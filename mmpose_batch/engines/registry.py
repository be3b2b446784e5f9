"""The engines there are, and what they can be asked for.

An engine is one file that calls :func:`register`. Those of this package are found by themselves;
others register when they are imported, by ``custom_imports`` in a config, say.
"""

import pkgutil
from functools import cache
from importlib import import_module

import torch

from ..hardware import native_precision
from .base import EngineOptions, EngineSpec
from .names import AUTO, PRECISIONS

# Name to what was registered so far; :func:`specs` has all.
ENGINES: dict[str, EngineSpec] = {}


def register(spec: EngineSpec) -> EngineSpec:
    """Add an engine.

    Raises:
        ValueError: Another has its name, or one of its precisions does not exist.
    """
    if spec.name == AUTO or spec.name in ENGINES:
        raise ValueError(f'engine: {spec.name!r} is registered already')
    if unknown := set(spec.precisions) - set(PRECISIONS[:-1]):
        raise ValueError(
            f'engine: {spec.name}: expected precisions of {", ".join(PRECISIONS[:-1])}, '
            f'found {", ".join(sorted(unknown))}'
        )
    ENGINES[spec.name] = spec
    return spec


def specs() -> dict[str, EngineSpec]:
    """Name to engine, in order: those that need PyTorch only, then by name."""
    _import_own()
    found = sorted(ENGINES.values(), key=lambda spec: (bool(spec.modules), spec.name))
    return {spec.name: spec for spec in found}


def get(name: str) -> EngineSpec:
    """The engine of a name.

    Raises:
        ValueError: There is none.
    """
    found = specs()
    if name not in found:
        raise ValueError(f'engine: expected one of {", ".join(choices())}, found {name!r}')
    return found[name]


def choices() -> tuple[str, ...]:
    """What ``engine`` may be: the engines, and ``auto``."""
    return (*specs(), AUTO)


@cache
def _import_own() -> None:
    package = import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f'{__package__}.{module.name}')


def precisions_of(engine: str) -> tuple[str, ...]:
    """What an engine may be asked for, or with ``auto`` some engine."""
    if engine != AUTO:
        return get(engine).precisions
    some = {precision for spec in specs().values() for precision in spec.precisions}
    return tuple(precision for precision in PRECISIONS if precision in some)


def parallel_batches(options: EngineOptions) -> int:
    """Batches that may be asked for concurrently: what decodes one leaves its core to the next."""
    if options.latency:
        return 1
    if options.engine == AUTO:
        return max(spec.parallel for spec in specs().values())
    return get(options.engine).parallel


def splits_cores(options: EngineOptions) -> bool:
    """Whether the batches that run concurrently have cores of their own."""
    if options.engine == AUTO or parallel_batches(options) == 1:
        return False
    return get(options.engine).computes_on(options.device, 'cpu') == 'cpu'


def needs_samples(options: EngineOptions) -> bool:
    """Whether an engine is chosen, built or verified with inputs of the run."""
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
    """Check a precision against device and engine and resolve ``auto``.

    ``auto`` is the fastest one that the hardware computes natively and that costs
    hardly any accuracy: fp16 on a GPU, bf16 on a CPU with bf16 instructions, fp32
    elsewhere.

    Args:
        precision: One of :data:`PRECISIONS`.
        device: Of PyTorch.
        engine: One of :func:`choices`.
        engine_device: Where the engine computes, if that is not where PyTorch does.

    Raises:
        ValueError: An unknown precision or engine, or one that the engine or the
            device cannot do.
    """
    if precision not in PRECISIONS:
        raise ValueError(f'precision: expected one of {", ".join(PRECISIONS)}, found {precision!r}')
    kind = torch.device(device).type
    if engine != AUTO:
        kind = get(engine).computes_on(engine_device, kind)
    able = precisions_of(engine)
    if precision == AUTO:
        native = native_precision(kind)
        return native if native in able else 'fp32'
    if precision not in able:
        others = [name for name in choices() if precision in precisions_of(name)]
        raise ValueError(
            f'precision: engine {engine} does {", ".join(able)}, not {precision}; '
            f'{", ".join(others)} may'
        )
    if precision == 'fp16' and kind == 'cpu':
        raise ValueError('precision: fp16 is not for a CPU; use bf16 there')
    return precision
