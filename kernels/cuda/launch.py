"""One way to launch a kernel, whatever runs it: a GPU or the PTX machine.

    device = PtxDevice(arch="80")                  # or CupyDevice()
    add = device.kernel("add", "add")              # add.cu, its entry add
    out = device.empty((64,), np.float32)
    launch(add, 2, 32, [out, x, y, np.int32(64)])  # x, y: device.asarray(...)

Scalars are typed as the kernel reads them, and nothing else is accepted. A Python number becomes 8
bytes on a GPU where the kernel reads 4, and the arguments after it are then garbage: a bug that
shows on a GPU alone, unless the launch knows each parameter, as this one does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from tinymoe.core import TinymoeError

Dim: TypeAlias = int | tuple[int, ...]  # x, or (x, y), or (x, y, z)
Dim3: TypeAlias = tuple[int, int, int]
MOST_THREADS = 1024  # of a block
MOST_BLOCKS = (2**31 - 1, 65535, 65535)
STATIC_SHARED = 48 * 1024  # bytes a block may have without asking the driver for more
# what may stand for a parameter of each PTX type; C's int and unsigned are both "u32" there
SCALARS: dict[str, tuple[type[np.generic], ...]] = {
    "8": (np.int8, np.uint8, np.bool_),
    "16": (np.int16, np.uint16, np.float16),
    "32": (np.int32, np.uint32),
    "64": (np.int64, np.uint64),
    "f32": (np.float32,),
    "f64": (np.float64,),
}


class Device(Protocol):
    """Where arrays lie and kernels run."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    def kernel(self, source: str, entry: str, defines: tuple[str, ...] = ()) -> Kernel:
        """An entry of a file of this folder, or of CUDA C text, ready to launch."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        """An array whose contents mean nothing yet."""
        ...

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        """An array of zeros."""
        ...

    def asarray(self, array: Any) -> Any:
        """The array on this device, C-contiguous; itself if it is there already."""
        ...

    def to_numpy(self, array: Any) -> npt.NDArray[Any]:
        """Read back: waits for the kernels before."""
        ...

    def is_array(self, value: Any) -> bool:
        """Whether a value is an array of this device."""
        ...

    def run(self, kernel: Kernel, grid: Dim3, block: Dim3, args: list[Any], shared: int) -> None:
        """Start a checked launch. Call `launch`, not this."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """An entry on a device. `handle` is what the device made of it."""

    device: Device
    source: str  # file of this folder, or the text
    name: str
    parameters: tuple[str, ...]  # PTX types: "u64", "u32", "f32", ...
    handle: Any


def launch(kernel: Kernel, grid: Dim, block: Dim, args: Sequence[Any], shared: int = 0) -> None:
    """Run `kernel` on `grid` blocks of `block` threads, each block with `shared` bytes on top.

    `args`: for each parameter an array of the kernel's device (a pointer), or a NumPy scalar of
    exactly the parameter's type.
    """
    blocks, threads = _three(grid, "grid"), _three(block, "block")
    if np.prod(threads) > MOST_THREADS:
        raise TinymoeError(f"{kernel.name}: block {block}: a block has at most {MOST_THREADS}")
    if any(n > most for n, most in zip(blocks, MOST_BLOCKS, strict=True)):
        raise TinymoeError(f"{kernel.name}: grid {grid}: at most {MOST_BLOCKS} blocks")
    if not 0 <= shared <= STATIC_SHARED:
        raise TinymoeError(f"{kernel.name}: shared {shared}: expected 0 to {STATIC_SHARED} bytes")
    if len(args) != len(kernel.parameters):
        raise TinymoeError(
            f"{kernel.name} has {len(kernel.parameters)} parameters "
            f"({', '.join(kernel.parameters)}), got {len(args)} arguments"
        )
    for number, (kind, value) in enumerate(zip(kernel.parameters, args, strict=True)):
        if fault := _fault(kernel.device, kind, value):
            raise TinymoeError(f"{kernel.name}, argument {number} ({kind} in PTX): {fault}")
    kernel.device.run(kernel, blocks, threads, list(args), shared)


def parameters(ptx: str) -> dict[str, tuple[str, ...]]:
    """The parameter types of every entry of a PTX module."""
    entries = {}
    for entry in re.finditer(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)", ptx):
        declared = [d.strip() for d in entry[2].split(",") if d.strip()]
        kinds = [
            re.match(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)[^\[]*(\[)?", d) for d in declared
        ]
        for text, kind in zip(declared, kinds, strict=True):
            if kind is None or kind[2]:
                raise TinymoeError(f"{entry[1]}: {text!r}: pass numbers and pointers, not structs")
        entries[entry[1]] = tuple(kind[1] for kind in kinds if kind)
    return entries


def entry_of(ptx: str, entry: str, source: str) -> tuple[str, ...]:
    """The parameter types of one entry; an error that lists the others if it is not there."""
    known = parameters(ptx)
    if entry not in known:
        what = source if "\n" not in source else "the source"
        raise TinymoeError(f"{what} has no kernel {entry!r}; it has {', '.join(known) or 'none'}")
    return known[entry]


def _three(dim: Dim, what: str) -> Dim3:
    given = (dim,) if isinstance(dim, int) else tuple(dim)
    if not 1 <= len(given) <= 3 or not all(isinstance(n, int) and n >= 1 for n in given):
        raise TinymoeError(f"{what} {dim!r}: expected one to three whole numbers of at least 1")
    x, y, z = (*given, 1, 1)[:3]
    return x, y, z


def _fault(device: Device, kind: str, value: Any) -> str:
    """What is wrong with an argument; empty if nothing is."""
    if device.is_array(value):
        if kind not in ("u64", "b64", "s64"):
            return f"expected a number, got an array of {value.dtype}"
        if not value.flags["C_CONTIGUOUS"]:
            return f"the array {value.shape} is not C-contiguous: a kernel sees its first address"
        return ""
    if isinstance(value, np.ndarray):
        return f"a NumPy array is not on {device.name}: device.asarray(...) takes it there"
    wanted = SCALARS[kind if kind[0] == "f" else kind[1:]]
    if type(value) not in wanted:
        names = " or ".join(f"np.{t.__name__}" for t in wanted)
        also = f", or an array on {device.name}" if kind[1:] == "64" and kind[0] != "f" else ""
        return f"expected {names}{also}, got {type(value).__name__} {value!r}"
    return ""
