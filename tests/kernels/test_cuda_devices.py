"""Devices: the PTX machine, and what a GPU is handed, seen by a stand-in for CuPy."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tinymoe.core import NUMERICS, Array, TinymoeError
from tinymoe.kernels.cuda.devices import CupyDevice, PtxDevice
from tinymoe.kernels.cuda.launch import launch
from tinymoe.kernels.cuda.recorder import Recorder
from tinymoe.kernels.ptx import DefectError

pytestmark = pytest.mark.kernels
FP32 = NUMERICS["fp32"]
SHIFT = """
extern "C" __global__ void shift(float* out, const float* x, int n, float by) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = x[i] + by;
}
"""

# ------------------------------------------------------------------------- the PTX machine


def shift(device: Any, out: Any, x: Any, by: float) -> None:
    launch(device.kernel(SHIFT, "shift"), 1, 32, [out, x, np.int32(len(out)), np.float32(by)])


def test_one_memory_is_one_buffer() -> None:
    # the machine copies in and out: two objects for one memory would undo each other's stores
    device, x = PtxDevice(), np.arange(8, dtype="f4")
    shift(device, x[:], x[:], 1)
    assert x.tolist() == list(range(1, 9))
    with pytest.raises(TinymoeError, match=r"overlap in memory: pass the whole buffer once"):
        shift(device, x[:4], x[2:6], 1)


def test_read_only_memory_is_read_and_not_written() -> None:
    device, x, out = PtxDevice(), np.arange(8, dtype="f4"), np.zeros(8, "f4")
    x.flags.writeable = False
    shift(device, out, x, 1)
    assert out.tolist() == list(range(1, 9))
    with pytest.raises(DefectError, match="shift writes into an array that is read-only"):
        shift(device, x, out, 1)


def test_what_ran_is_counted_by_kernel() -> None:
    device, x = PtxDevice(), np.zeros(8, "f4")
    shift(device, x, x.copy(), 1)
    first = device.reports[f"{SHIFT}:shift"].thread_instructions
    shift(device, x, x.copy(), 1)
    assert device.reports[f"{SHIFT}:shift"].thread_instructions == 2 * first


# ------------------------------------------------------------------------- a stand-in for CuPy


class Error(RuntimeError):
    """CUDARuntimeError."""


class FarArray:
    """A CuPy array: memory that NumPy cannot take for its own."""

    def __init__(self, inner: Array) -> None:
        self.inner = inner
        self.shape, self.dtype, self.size = inner.shape, inner.dtype, inner.size
        self.flags = {"C_CONTIGUOUS": inner.flags.c_contiguous}
        self.data = SimpleNamespace(ptr=inner.ctypes.data)

    def __len__(self) -> int:
        return len(self.inner)


class Stream:
    """Logs what is asked of it."""

    def __init__(self, log: list[str], non_blocking: bool) -> None:
        assert non_blocking  # a capture cannot begin on the legacy default stream
        self.log = log

    def __enter__(self) -> None:
        self.log.append("enter")

    def __exit__(self, *_: object) -> None:
        self.log.append("exit")

    def begin_capture(self) -> None:
        self.log.append("begin")

    def end_capture(self) -> Any:
        self.log.append("end")
        return SimpleNamespace(launch=lambda stream: self.log.append("launch"))

    def synchronize(self) -> None:
        self.log.append("wait")


def stand_in(log: list[Any], capability: str = "120") -> ModuleType:
    """The part of CuPy that `CupyDevice` uses; kernels are logged instead of run."""
    cupy = ModuleType("cupy")

    def module(path: str) -> Any:
        def function(entry: str) -> Any:
            return lambda grid, block, args, shared_mem: log.append(
                (Path(path), entry, grid, block, args, shared_mem)
            )

        return SimpleNamespace(get_function=function)

    def device() -> Any:
        return SimpleNamespace(compute_capability=capability, synchronize=lambda: None)

    vars(cupy).update(
        ndarray=FarArray,
        RawModule=module,
        empty=lambda shape, dtype: FarArray(np.zeros(shape, dtype)),
        zeros=lambda shape, dtype: FarArray(np.zeros(shape, dtype)),
        asarray=lambda a: a if isinstance(a, FarArray) else FarArray(np.asarray(a)),
        ascontiguousarray=lambda a: a,
        asnumpy=lambda a: a.inner.copy(),
        cuda=SimpleNamespace(
            Device=device,
            Stream=lambda non_blocking: Stream(log, non_blocking),
            runtime=SimpleNamespace(getDeviceCount=lambda: 1, CUDARuntimeError=Error),
        ),
    )
    return cupy


def test_a_gpu_gets_the_cubin_of_its_exact_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[Any] = []
    monkeypatch.setitem(sys.modules, "cupy", stand_in(log))
    device = CupyDevice()
    assert device.arch == "120a"  # CuPy itself would compile for sm_120, without FP4
    x, out = device.asarray(np.arange(8, dtype="f4")), device.empty((8,), np.float32)
    shift(device, out, x, 1)
    ((path, entry, grid, block, args, shared),) = log
    assert (entry, grid, block, shared) == ("shift", (1, 1, 1), (32, 1, 1), 0)
    assert path.suffix == ".cubin"
    assert path.read_bytes().startswith(b"\x7fELF")
    assert args[:2] == (out, x)
    assert [type(a) for a in args[2:]] == [np.int32, np.float32]
    with pytest.raises(TinymoeError, match="a NumPy array is not on the GPU"):
        shift(device, out, np.arange(8, dtype="f4"), 1)


def test_ampere_has_no_suffix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", stand_in([], "86"))
    assert CupyDevice().arch == "86"


def test_a_graph_is_captured_on_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[Any] = []
    monkeypatch.setitem(sys.modules, "cupy", stand_in(log))
    device = CupyDevice()
    recorder, x = Recorder(device), device.asarray(np.arange(8, dtype="f4"))

    def step() -> Any:
        out = recorder.empty((8,), np.float32)
        shift(recorder, out, x, 1)
        return out

    out = recorder.record(step)
    recorder.replay()
    names = [entry if isinstance(entry, str) else entry[1] for entry in log]
    assert names == ["shift", "enter", "begin", "shift", "end", "exit", "launch", "wait"]
    assert log[0][4][0] is log[3][4][0] is out  # the same buffer in both runs


def test_without_cupy_the_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(TinymoeError, match=r"the package cupy is missing; .*pip install 'tinymoe"):
        CupyDevice()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("cudaErrorInsufficientDriver", "CuPy is here, but no NVIDIA driver, or too old a one"),
        ("cudaErrorNoDevice", "CuPy is here, but no CUDA device"),
    ],
)
def test_without_a_gpu_the_message_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, error: str, message: str
) -> None:
    cupy = stand_in([])

    def fail() -> int:
        raise Error(error)

    cupy.cuda.runtime.getDeviceCount = fail
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(TinymoeError, match=message):
        CupyDevice()
