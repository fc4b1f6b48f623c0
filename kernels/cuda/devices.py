"""The two devices: the PTX machine, which is always there, and a GPU through CuPy.

No GPU has run anything here yet: `CupyDevice` is written against CuPy's documentation, and tested
with a stand-in for CuPy that checks what is handed to it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinymoe.core import Array, TinymoeError
from tinymoe.kernels import ptx
from tinymoe.kernels.cuda.compile import build
from tinymoe.kernels.cuda.launch import Dim3, Kernel, entry_of

POISON = 0xFF  # bytes of an array nobody wrote: NaN as floats, -1 as integers


class PtxDevice:
    """The CPU, running the very PTX that was compiled for `arch`.

    `checks`: look for races and bounds. `strict`: races between lanes of one warp count, too
    (nothing orders them but `__syncwarp`). `report` is the machine's, of the last launch.
    """

    def __init__(self, arch: str = "80", *, strict: bool = False, checks: bool = True) -> None:
        self.arch, self.strict, self.checks = arch, strict, checks
        self.report: ptx.Report | None = None
        self._kernels: dict[tuple[str, str, tuple[str, ...]], Kernel] = {}

    @property
    def name(self) -> str:
        """For messages."""
        return f"the PTX machine (sm_{self.arch})"

    def kernel(self, source: str, entry: str, defines: tuple[str, ...] = ()) -> Kernel:
        """Compile, or take from what was; parse; find the entry."""
        key = source, entry, defines
        if key not in self._kernels:
            text = build(source, self.arch, defines).ptx
            self._kernels[key] = self.from_ptx(text, entry, source)
        return self._kernels[key]

    def from_ptx(self, text: str, entry: str, source: str = "this PTX") -> Kernel:
        """An entry of PTX from elsewhere: Numba, Triton, a file."""
        return Kernel(self, entry, entry_of(text, entry, source), ptx.parse(text)[entry])

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Filled with NaN (integers: -1), so that a kernel that forgets to write is seen."""
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[:] = POISON
        return array

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """An array of zeros."""
        return np.zeros(shape, dtype)

    def asarray(self, array: Any) -> Array:
        """NumPy arrays are at home here."""
        return np.ascontiguousarray(array)

    def to_numpy(self, array: Array) -> Array:
        """The array itself."""
        return array

    def is_array(self, value: Any) -> bool:
        """Whether it is a NumPy array."""
        return isinstance(value, np.ndarray)

    def run(self, kernel: Kernel, grid: Dim3, block: Dim3, args: list[Any], shared: int) -> None:
        """On the PTX machine; raises `ptx.DefectError` for what it finds wrong."""
        self.report = ptx.launch(kernel.handle, grid[0], block[0], args)


class CupyDevice:
    """The current CUDA device. Raises TinymoeError, and says what is missing, where there is none.

    Never run on a GPU yet.
    """

    def __init__(self) -> None:
        self.cupy = _cupy()
        capability = self.cupy.cuda.Device().compute_capability  # "90", "120"
        # the `a` opens this one chip's own instructions; CuPy itself never asks for it
        self.arch = capability + ("a" if int(capability) >= 90 else "")
        self._folder = tempfile.TemporaryDirectory(prefix="tinymoe_cubin_")
        self._modules: dict[tuple[str, tuple[str, ...]], tuple[Any, str]] = {}
        self._kernels: dict[tuple[str, str, tuple[str, ...]], Kernel] = {}

    @property
    def name(self) -> str:
        """For messages."""
        return f"the GPU (sm_{self.arch})"

    def kernel(self, source: str, entry: str, defines: tuple[str, ...] = ()) -> Kernel:
        """Compile for the exact chip, load, find the entry."""
        key = source, entry, defines
        if key not in self._kernels:
            module, text = self._module(source, defines)
            self._kernels[key] = Kernel(
                self, entry, entry_of(text, entry, source), module.get_function(entry)
            )
        return self._kernels[key]

    def _module(self, source: str, defines: tuple[str, ...]) -> tuple[Any, str]:
        """A CUBIN goes in by way of a file: so no compiler of CuPy's own has a say in it."""
        key = source, defines
        if key not in self._modules:
            made = build(source, self.arch, defines)
            binary = bool(made.cubin)  # else committed PTX, which the driver translates
            path = Path(self._folder.name) / f"{len(self._modules)}.{'cubin' if binary else 'ptx'}"
            path.write_bytes(made.cubin if binary else made.ptx.encode())
            self._modules[key] = self.cupy.RawModule(path=str(path)), made.ptx
        return self._modules[key]

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        """An array whose contents mean nothing yet."""
        return self.cupy.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        """An array of zeros."""
        return self.cupy.zeros(shape, dtype)

    def asarray(self, array: Any) -> Any:
        """Copied to the device, unless it is there."""
        return self.cupy.ascontiguousarray(self.cupy.asarray(array))

    def to_numpy(self, array: Any) -> Array:
        """Copied back."""
        copied: Array = self.cupy.asnumpy(array)
        return copied

    def is_array(self, value: Any) -> bool:
        """Whether it is a CuPy array."""
        return isinstance(value, self.cupy.ndarray)

    def run(self, kernel: Kernel, grid: Dim3, block: Dim3, args: list[Any], shared: int) -> None:
        """On the current stream."""
        kernel.handle(grid, block, tuple(args), shared_mem=shared)


def _cupy() -> Any:
    """CuPy, if it is there and sees a driver and a device."""
    try:
        import cupy
    except ImportError as error:
        raise TinymoeError(
            "no GPU backend: the package cupy is missing; with an NVIDIA driver and GPU, "
            "pip install 'tinymoe[cuda]'"
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        what = (
            "no CUDA device" if "NoDevice" in str(error) else "no NVIDIA driver, or too old a one"
        )
        raise TinymoeError(
            f"no GPU backend: CuPy is here, but {what} ({error}); backend 'ptx' runs the same "
            "kernels on the CPU"
        ) from error
    if count == 0:
        raise TinymoeError("no GPU backend: CuPy and a driver are here, but no CUDA device is")
    return cupy
