"""Numba-CUDA kernels on any device: Python functions to PTX, and arrays as Numba passes them.

A kernel here is a plain function, without a decorator: `cuda.jit(function)` makes it a kernel for a
GPU, and `numba_kernel(device, function, ...)` one for the launch path of this folder. Types are
given there and never in a decorator, where they would make the import itself want a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tinymoe.core import TinymoeError
from tinymoe.kernels.cuda.compile import NEEDED
from tinymoe.kernels.cuda.launch import Dim, Kernel, launch

if TYPE_CHECKING:
    from tinymoe.kernels.cuda.devices import CupyDevice, PtxDevice

CAPABILITY = (8, 0)  # sm_80: later chips run its PTX as well


@cache
def numba_ptx(function: Callable[..., None], types: tuple[str, ...]) -> str:
    """The PTX of a kernel; `types`: "f32", "i32", ..., with one ":" in brackets for each axis.

    An array "f32[:,:]" is C-contiguous. The entry gets the function's own name: Numba's is mangled.
    """
    cuda = numba_cuda()
    text, _ = cuda.compile_ptx(function, tuple(map(_numba_type, types)), cc=CAPABILITY)
    (entry,) = re.findall(r"\.entry\s+([\w$]+)", text)
    named: str = text.replace(entry, function.__name__)
    return named


def numba_kernel(
    device: PtxDevice | CupyDevice, function: Callable[..., None], *types: str
) -> Kernel:
    """A Numba kernel for the PTX machine, or for a GPU, whose driver translates its PTX."""
    return device.from_ptx(numba_ptx(function, types), function.__name__, function.__module__)


def numba_launch(kernel: Kernel, grid: Dim, block: Dim, args: Sequence[Any]) -> None:
    """`launch` with arrays taken apart: Numba's kernels read a whole descriptor of each.

    Two pointers to the owner (null here), element count and size, the data, shape, strides.
    """
    flat: list[Any] = []
    for arg in args:
        if kernel.device.is_array(arg):
            sizes = (*arg.shape, *arg.strides)
            flat += [*_words(0, 0, arg.size, arg.itemsize), arg, *_words(*sizes)]
        else:
            flat.append(arg)
    launch(kernel, grid, block, flat)


def _words(*values: int) -> list[np.int64]:
    return [np.int64(v) for v in values]


@cache
def numba_cuda() -> Any:
    """The module, if it is NVIDIA's; TinymoeError says what to install."""
    try:
        from numba import cuda
    except ImportError as error:
        raise TinymoeError(f"Numba-CUDA kernels need numba-cuda: {NEEDED}") from error
    if cuda.implementation != "NVIDIA":  # what comes with numba itself stops at sm_90, silently
        raise TinymoeError(
            f"Numba-CUDA kernels need the package numba-cuda, and numba's own is here: {NEEDED}"
        )
    return cuda


def _numba_type(name: str) -> Any:
    from numba import types

    scalar, _, axes = name.partition("[")
    kind = getattr(types, {"f": "float", "i": "int", "u": "uint"}[scalar[0]] + scalar[1:])
    return types.Array(kind, axes.count(":"), "C") if axes else kind
