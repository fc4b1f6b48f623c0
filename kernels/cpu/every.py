"""Every kernel there is, found in the modules that define them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pkgutil import iter_modules

from tinymoe.kernels import cpu
from tinymoe.kernels.cpu.fixed import FOUR_BITS, multiply_fixed
from tinymoe.kernels.cpu.grid import MIXES, SCORES
from tinymoe.kernels.cpu.kernel import Kernel
from tinymoe.kernels.cpu.multiply import UNSCALED, multiply
from tinymoe.kernels.cpu.tiles import FORMATS

# modules that define none, and kernels of the op table that no step of a model calls
APART = (
    "ready",
    "every",
    "vector_types",
    "parts",
    "quantise_nvfp4",
    "quantise_mxfp4",
    "quantise_fp8",
    "dequantise",
)


def every_kernel() -> Iterator[Kernel]:
    """Each once."""
    seen: set[int] = set()
    for name in FORMATS:
        yield multiply(name)
    for name in UNSCALED:
        yield multiply(name, narrow=True)
    for name in FOUR_BITS:
        yield multiply_fixed(name)
    yield from (*SCORES.values(), *MIXES.values())
    for module in iter_modules(cpu.__path__):
        if module.name in APART:
            continue
        found = importlib.import_module(f"tinymoe.kernels.cpu.{module.name}")
        for value in vars(found).values():
            if isinstance(value, Kernel) and id(value) not in seen:
                seen.add(id(value))
                yield value
