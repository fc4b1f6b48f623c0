"""A step recorded once and replayed: CUDA graphs, and the discipline that they ask for.

A decode step is hundreds of small launches, and each costs the host more than the GPU. A CUDA graph
is recorded once and started as a whole. What is recorded are launches with their pointers, so a
step must use the same buffers every time, allocate nothing, and never ask for a value:

    recorder = Recorder(device)
    step = lambda: ops(recorder).route(x, ...)      # all ops built on the recorder
    out = recorder.record(step)                     # runs it twice: to warm up, and to record
    x[...] = the next input; recorder.replay()      # out now holds the next result

The n-th allocation of a step gets the buffer of the n-th allocation of its first run; so no op
needs to know of any of this. On the PTX machine the same rules hold, and what breaks them raises:
that is the proof, on a CPU, that a step can be captured. On a GPU, nobody has run it yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from tinymoe.core import TinymoeError
from tinymoe.kernels.cuda.devices import CupyDevice, PtxDevice
from tinymoe.kernels.cuda.launch import Dim3, Kernel

Result = TypeVar("Result")


class CaptureError(TinymoeError):
    """A step does what a recorded step cannot do."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One recorded launch. `buffers`: for each pointer argument, a number by address."""

    kernel: Kernel  # of the inner device
    grid: Dim3
    block: Dim3
    args: list[Any]
    shared: int
    buffers: tuple[int, ...]


@dataclass(eq=False)
class Recorder:
    """A device over another one, for the length of one step."""

    device: PtxDevice | CupyDevice
    state: Literal["idle", "warming", "recording"] = "idle"
    launches: list[Launch] = field(default_factory=list)
    _kernels: dict[tuple[str, str, tuple[str, ...]], Kernel] = field(default_factory=dict)
    _buffers: list[Any] = field(default_factory=list)  # in the order a step asks for them
    _asked: int = 0
    _numbers: dict[int, int] = field(default_factory=dict)  # of a buffer, by address
    _replay: Callable[[], None] | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return f"a recorder on {self.device.name}"

    def record(self, step: Callable[[], Result]) -> Result:
        """Run `step` to compile and allocate; record it; its (static) results."""
        if self.state != "idle" or self._replay:
            raise CaptureError("a recorder takes one step: make another one for another step")
        self.state = "warming"
        try:
            step()
            self.state, self._asked = "recording", 0
            if isinstance(self.device, CupyDevice):
                result, self._replay = self.device.capture(step)
            else:
                result, self._replay = step(), self._run_all
            if self._asked != len(self._buffers):
                self._refuse(f"it allocated {self._asked} buffers, {len(self._buffers)} before")
        finally:
            self.state = "idle"
        return result

    def replay(self) -> None:
        """Everything that was recorded, on the same buffers, whatever they hold now."""
        if self._replay is None:
            raise CaptureError("nothing is recorded yet: record(step) comes first")
        self._replay()

    def _run_all(self) -> None:
        for one in self.launches:
            self.device.run(one.kernel, one.grid, one.block, one.args, one.shared)

    def _refuse(self, what: str) -> NoReturn:
        raise CaptureError(f"this step cannot be recorded: {what}")

    # ------------------------------------------------------------------ the device's members

    def kernel(self, source: str, entry: str, defines: tuple[str, ...] = ()) -> Kernel:
        """Loading allocates, so every kernel must have been used when warming up."""
        key = source, entry, defines
        if key not in self._kernels:
            if self.state == "recording":
                self._refuse(f"it loads kernel {entry}, which its first run did not use")
            inner = self.device.kernel(*key)
            self._kernels[key] = Kernel(self, source, entry, inner.parameters, inner)
        return self._kernels[key]

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        """A buffer that is the same one in every run."""
        if self.state == "idle":
            return self.device.empty(shape, dtype)
        if self.state == "warming":
            self._buffers.append(self.device.empty(shape, dtype))
            return self._buffers[-1]
        if self._asked == len(self._buffers):
            self._refuse(f"it allocates {shape} {np.dtype(dtype)}, one buffer more than before")
        buffer = self._buffers[self._asked]
        if buffer.shape != shape or buffer.dtype != dtype:
            self._refuse(
                f"its buffer {self._asked} is {shape} {np.dtype(dtype)}, and was {buffer.shape} "
                f"{buffer.dtype} before: shapes must not depend on the data"
            )
        self._asked += 1
        return _watched(buffer, self) if isinstance(buffer, np.ndarray) else buffer

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        """Refused in a step: zeros written when recording are not written again by a replay."""
        if self.state != "idle":
            self._refuse(f"zeros {shape}: only kernels are replayed; let one write them")
        return self.device.zeros(shape, dtype)

    def asarray(self, array: Any) -> Any:
        """In a step, only what is on the device already."""
        if self.state == "recording" and not self.device.is_array(array):
            self._refuse("it copies from the host: write into a buffer before the replay")
        placed = self.device.asarray(array)
        if (
            self.state == "recording"
            and placed is not array
            and _address(placed) != _address(array)
        ):
            self._refuse(f"it copies an array {array.shape} to make it contiguous")
        return placed

    def to_numpy(self, array: Any) -> npt.NDArray[Any]:
        """Not in a step."""
        if self.state == "recording":
            self._refuse("it reads a result back, which waits for work that is not started")
        return self.device.to_numpy(array)

    def is_array(self, value: Any) -> bool:
        """As the inner device says."""
        return self.device.is_array(value)

    def run(self, kernel: Kernel, grid: Dim3, block: Dim3, args: list[Any], shared: int) -> None:
        """Log when recording, and on a GPU let the stream record; else run."""
        inner: Kernel = kernel.handle
        if self.state == "recording":
            arrays = [a for a in args if self.device.is_array(a)]
            seen = tuple(self._numbers.setdefault(_address(a), len(self._numbers)) for a in arrays)
            plain = [a.view(np.ndarray) if isinstance(a, np.ndarray) else a for a in args]
            self.launches.append(Launch(inner, grid, block, plain, shared, seen))
            if not isinstance(self.device, CupyDevice):
                return
        self.device.run(inner, grid, block, args, shared)


def _address(array: Any) -> int:
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)


class _Watched(np.ndarray[Any, np.dtype[Any]]):
    """A buffer while a step is recorded: it may be passed on, reshaped and sliced, and not read."""

    _recorder: Recorder | None = None

    def __array_finalize__(self, parent: Any) -> None:
        self._recorder = getattr(parent, "_recorder", None)

    def _check(self, what: str) -> None:
        if self._recorder is not None and self._recorder.state == "recording":
            self._recorder._refuse(f"it {what} a buffer on the host; nothing is in it yet")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
        self._check(f"computes {ufunc.__name__} of")
        plain = [a.view(np.ndarray) if isinstance(a, _Watched) else a for a in inputs]
        if "out" in keywords:
            keywords["out"] = tuple(a.view(np.ndarray) for a in keywords["out"])
        return getattr(ufunc, method)(*plain, **keywords)

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        if not isinstance(found, np.ndarray):
            self._check("takes a number from")
        return found

    def __setitem__(self, key: Any, value: Any) -> None:
        self._check("writes into")
        super().__setitem__(key, value)

    def __int__(self) -> int:
        self._check("takes a number from")
        return int(self.view(np.ndarray))

    def __float__(self) -> float:
        self._check("takes a number from")
        return float(self.view(np.ndarray))

    def __bool__(self) -> bool:
        self._check("branches on")
        return bool(self.view(np.ndarray))

    def tolist(self) -> Any:
        """The values as Python numbers, outside a recording."""
        self._check("reads")
        return self.view(np.ndarray).tolist()

    def item(self, *at: Any) -> Any:
        """One value as a Python number, outside a recording."""
        self._check("reads")
        return self.view(np.ndarray).item(*at)


def _watched(buffer: npt.NDArray[Any], recorder: Recorder) -> _Watched:
    array = buffer.view(_Watched)
    array._recorder = recorder
    return array
