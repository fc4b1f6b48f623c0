"""The two devices: the PTX machine, which is always there, and a GPU through CuPy.

No GPU has run anything here yet: `CupyDevice` is written against CuPy's documentation, and tested
with a stand-in for CuPy that checks what is handed to it.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tinymoe.core import Array, TinymoeError
from tinymoe.kernels import ptx
from tinymoe.kernels.cuda.compile import build
from tinymoe.kernels.cuda.launch import Dim3, Kernel, entry_of

Result = TypeVar("Result")
POISON = 0xFF  # bytes of an array nobody wrote: NaN as floats, -1 as integers


class PtxDevice:
    """The CPU, running the very PTX that was compiled for `arch`.

    `checks`: look for races between warps (bounds and alignment are looked at in any case).
    `strict`: and for those between lanes of one warp, which nothing orders but `__syncwarp`.
    `counters`: count bank conflicts and memory sectors. `report`: what the last launch ran;
    `reports`: all launches of a kernel added up, by source and entry.
    """

    def __init__(
        self,
        arch: str = "80",
        *,
        strict: bool = False,
        checks: bool = True,
        counters: bool = False,
    ) -> None:
        self.arch, self.strict, self.checks, self.counters = arch, strict, checks, counters
        self.report: ptx.Report | None = None
        self.reports: dict[str, ptx.Report] = {}
        self._parsed: dict[str, dict[str, ptx.Kernel]] = {}
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
        types = entry_of(text, entry, source)
        if text not in self._parsed:
            self._parsed[text] = ptx.parse(text)
        return Kernel(self, source, entry, types, self._parsed[text][entry])

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
        places: list[Array] = []
        given = [_one_buffer(a, places) if isinstance(a, np.ndarray) else a for a in args]
        report = ptx.launch(
            kernel.handle,
            grid,
            block,
            given,
            shared_bytes=shared,
            races=self.checks,
            strict=self.strict,
            counters=self.counters,
        )
        for before, after in zip(args, given, strict=True):
            if before is not after and not before.flags.writeable and (before != after).any():
                raise ptx.DefectError(f"{kernel.name} writes into an array that is read-only")
        key = f"{kernel.source}:{kernel.name}"
        self.report = report
        self.reports[key] = self.reports[key] + report if key in self.reports else report


def _one_buffer(array: Array, places: list[Array]) -> Array:
    """The array under which the machine shall know this memory: one object for one address.

    Read-only memory goes in as a copy. Two arrays that overlap otherwise are refused: the machine
    copies each in and out, and one would undo what a kernel wrote through the other.
    """
    for known in places:
        if known.ctypes.data == array.ctypes.data and known.nbytes == array.nbytes:
            return known if known.flags.writeable else known.copy()
        if np.may_share_memory(known, array):
            raise TinymoeError(
                f"arguments {known.shape} and {array.shape} {array.dtype} overlap in memory: pass "
                "the whole buffer once, and where to begin as a number"
            )
    places.append(array)
    return array if array.flags.writeable else array.copy()


class CupyDevice:
    """The current CUDA device. Raises TinymoeError, and says what is missing, where there is none.

    Never run on a GPU yet.
    """

    def __init__(self) -> None:
        self.cupy = _cupy()
        capability = self.cupy.cuda.Device().compute_capability  # "90", "120"
        # the `a` opens this one chip's own instructions; CuPy itself never asks for it
        self.arch = capability + ("a" if int(capability) >= 90 else "")
        self._folder = Path(tempfile.mkdtemp(prefix="tinymoe_cubin_"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
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
            types = entry_of(text, entry, source)
            self._kernels[key] = Kernel(self, source, entry, types, module.get_function(entry))
        return self._kernels[key]

    def from_ptx(self, text: str, entry: str, source: str = "this PTX") -> Kernel:
        """An entry of PTX from elsewhere, as Numba's; the driver translates it."""
        key = text, entry, ()
        if key not in self._kernels:
            module = self._loaded(text.encode(), "ptx")
            types = entry_of(text, entry, source)
            self._kernels[key] = Kernel(self, source, entry, types, module.get_function(entry))
        return self._kernels[key]

    def _module(self, source: str, defines: tuple[str, ...]) -> tuple[Any, str]:
        """The exact chip's CUBIN; or committed PTX, which the driver translates."""
        key = source, defines
        if key not in self._modules:
            made = build(source, self.arch, defines)
            binary = made.cubin or made.ptx.encode()
            module = self._loaded(binary, "cubin" if made.cubin else "ptx")
            self._modules[key] = module, made.ptx
        return self._modules[key]

    def _loaded(self, binary: bytes, kind: str) -> Any:
        """A module by way of a file: so no compiler of CuPy's own has a say in it."""
        path = self._folder / f"{len(list(self._folder.iterdir()))}.{kind}"
        path.write_bytes(binary)
        return self.cupy.RawModule(path=str(path))

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

    def capture(self, step: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
        """A CUDA graph of what `step` launches; the step's results, and how to start the graph.

        On a stream of its own: a capture cannot begin on the legacy default stream.
        """
        stream = self.cupy.cuda.Stream(non_blocking=True)
        self.cupy.cuda.Device().synchronize()  # what the warm-up did, on another stream
        with stream:
            stream.begin_capture()
            try:
                result = step()
            finally:
                graph = stream.end_capture()

        def replay() -> None:
            graph.launch(stream)
            stream.synchronize()

        return result, replay


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
