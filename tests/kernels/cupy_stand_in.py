"""A GPU made of the PTX machine: as much of CuPy as `CupyDevice` uses, and kernels that really run.

It is as strict as CuPy where that has broken code before: an array of its own and one of NumPy's do
not meet in an expression. `opens_*` are what a child of `check_device` opens instead of a GPU; the
faulty ones do what a GPU does when a kernel goes wrong.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tinymoe.kernels.cuda import devices
from tinymoe.kernels.cuda.compile import build
from tinymoe.kernels.cuda.devices import PtxDevice
from tinymoe.kernels.cuda.launch import Kernel
from tinymoe.kernels.cuda.source import FOLDER
from tinymoe.kernels.cuda.timed_devices import TimedCupy, TimedPtx

Fault = Callable[[str, list[Any]], None]  # of an entry and its arguments, after it has run


class FarArray(np.ndarray[Any, np.dtype[Any]]):
    """An array on the GPU."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **named: Any) -> Any:
        for one in inputs:
            if isinstance(one, np.ndarray) and one.ndim and not isinstance(one, FarArray):
                raise TypeError(f"Unsupported type {type(one)}")  # CuPy's words
        near = [np.asarray(one) if isinstance(one, FarArray) else one for one in inputs]
        result = getattr(ufunc, method)(*near, **named)
        return far(result) if isinstance(result, np.ndarray) else result


def far(array: Any) -> FarArray:
    """Copied to the GPU."""
    return np.array(array).view(FarArray)


class CUDARuntimeError(RuntimeError):
    """As CuPy's."""


class Event:
    """A moment, in milliseconds."""

    def __init__(self) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter() * 1e3

    def synchronize(self) -> None:
        pass


class Gpu:
    """What runs modules. After a fault that raises, every call raises: the error sticks."""

    def __init__(self, arch: str, fault: Fault | None) -> None:
        self.machine, self.fault, self.broken = PtxDevice(arch, checks=False), fault, ""

    def check(self) -> None:
        if self.broken:
            raise CUDARuntimeError(self.broken)

    def module(self, path: str) -> Any:
        text = Path(path).read_text("utf-8")
        return SimpleNamespace(get_function=lambda entry: self.function(text, entry))

    def function(self, text: str, entry: str) -> Any:
        kernel = self.machine.from_ptx(text, entry)

        def run(grid: Any, block: Any, args: tuple[Any, ...], shared_mem: int) -> None:
            self.check()
            near = [np.asarray(a) if isinstance(a, FarArray) else a for a in args]
            self.machine.run(kernel, grid, block, near, shared_mem)
            if self.fault is not None:
                try:
                    self.fault(entry, near)
                except CUDARuntimeError as error:  # seen when somebody waits, not at the launch
                    self.broken = str(error)

        return run

    def asnumpy(self, array: Any) -> Any:
        self.check()
        return np.array(array)


def stand_in(capability: str = "80", fault: Fault | None = None) -> ModuleType:
    """A module to be found as `cupy`."""
    arch = capability + "a" * (int(capability) >= 90)
    gpu, cupy = Gpu(arch, fault), ModuleType("cupy")
    about = {"name": b"Stand-in", "multiProcessorCount": 1, "totalGlobalMem": 2**30}
    runtime = SimpleNamespace(
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda number: about,
        driverGetVersion=lambda: 12090,
        CUDARuntimeError=CUDARuntimeError,
    )
    vars(cupy).update(
        __version__="0",
        ndarray=FarArray,
        RawModule=gpu.module,
        empty=lambda shape, dtype: far(np.empty(shape, dtype)),
        zeros=lambda shape, dtype: far(np.zeros(shape, dtype)),
        asarray=lambda a: a if isinstance(a, FarArray) else far(a),
        ascontiguousarray=lambda a: a if a.flags.c_contiguous else far(np.ascontiguousarray(a)),
        asnumpy=gpu.asnumpy,
        cuda=SimpleNamespace(
            Device=lambda: SimpleNamespace(compute_capability=capability, id=0),
            Event=Event,
            get_elapsed_time=lambda begin, end: end.at - begin.at,
            runtime=runtime,
        ),
    )
    return cupy


def opened(capability: str = "80", fault: Fault | None = None) -> TimedCupy:
    """`open_device("cuda")` on a machine with such a GPU. For processes that end soon."""
    sys.modules["cupy"] = stand_in(capability, fault)

    def as_ptx(*args: Any) -> Any:  # the machine cannot run a CUBIN
        return replace(build(*args), cubin=b"")

    vars(devices)["build"] = as_ptx
    return TimedCupy()


def opens(name: str) -> TimedCupy:
    """A GPU that works."""
    return opened()


def opens_blackwell(name: str) -> TimedCupy:
    """One with FP4 tensor cores."""
    return opened("120")


def opens_faulty(name: str) -> TimedCupy:
    """`combine_scatter` reads past the end of several rows; the driver crashes in `combine`."""

    def fault(entry: str, args: list[Any]) -> None:
        if entry == "combine_scatter" and len(args[0]) > 1:
            raise CUDARuntimeError("cudaErrorIllegalAddress")
        if entry == "combine" and len(args) == 8:  # not the twin in Numba-CUDA
            os.kill(os.getpid(), signal.SIGKILL)

    return opened(fault=fault)


def opens_hanging(name: str) -> TimedCupy:
    """`rope` never ends."""

    def fault(entry: str, args: list[Any]) -> None:
        while entry == "rope":
            time.sleep(1)

    return opened(fault=fault)


def opens_imprecise(name: str) -> TimedCupy:
    """`rmsnorm` is an ulp off everywhere: where the contract allows it, not the machine's bits."""

    def fault(entry: str, args: list[Any]) -> None:
        if entry == "rmsnorm":
            args[0].view(np.uint32)[...] ^= 1

    return opened(fault=fault)


def opens_nothing(name: str) -> TimedCupy:
    """Not even the driver answers."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("dead already")


class MutantPtx(TimedPtx):
    """The PTX machine, on which `combine.cu` drops the last of the K experts where K > 1."""

    def kernel(self, source: str, entry: str, defines: tuple[str, ...] = ()) -> Kernel:
        if source == "combine":
            text = (FOLDER / "combine.cu").read_text("utf-8")
            source = text.replace("k < top_k;", "k < top_k - (top_k > 1);")
            assert source != text
        return super().kernel(source, entry, defines)


def opens_mutant(name: str) -> MutantPtx:
    """For `device="ptx"`."""
    return MutantPtx()
