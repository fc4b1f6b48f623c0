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
from numpy.lib.mixins import NDArrayOperatorsMixin

from tinymoe.kernels.cuda import devices
from tinymoe.kernels.cuda.compile import build
from tinymoe.kernels.cuda.devices import PtxDevice
from tinymoe.kernels.cuda.launch import Kernel
from tinymoe.kernels.cuda.source import FOLDER
from tinymoe.kernels.cuda.timed_devices import TimedCupy, TimedPtx

Fault = Callable[[str, list[Any]], None]  # of an entry and its arguments, after it has run


class FarArray(NDArrayOperatorsMixin):
    """An array on the GPU. `near` is where its numbers really are."""

    __array_priority__ = 100

    def __init__(self, near: Any) -> None:
        self.near = near

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **named: Any) -> Any:
        for one in inputs:
            if isinstance(one, np.ndarray) and one.ndim:
                raise TypeError(f"Unsupported type {type(one)}")  # CuPy's words
        return far(getattr(ufunc, method)(*near(inputs), **near(named)))

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return far(getattr(self.near, name))

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.near.ctypes.data)

    def __len__(self) -> int:
        return len(self.near)

    def __getitem__(self, at: Any) -> Any:
        return far(self.near[near(at)])

    def __setitem__(self, at: Any, value: Any) -> None:
        self.near[near(at)] = near(value)


def far(value: Any) -> Any:
    """What CuPy gives where NumPy gives this: arrays and numbers on the GPU, functions of them."""
    if isinstance(value, np.ndarray | np.generic):
        return FarArray(np.asarray(value))
    if isinstance(value, tuple | list):
        return type(value)(map(far, value))
    if callable(value) and not isinstance(value, type):
        return lambda *args, **named: far(value(*near(args), **near(named)))
    return value


def near(value: Any) -> Any:
    """The way back."""
    if isinstance(value, FarArray):
        return value.near
    if isinstance(value, tuple | list):
        return type(value)(map(near, value))
    if isinstance(value, dict):
        return {name: near(one) for name, one in value.items()}
    return value


class Module(ModuleType):
    """CuPy's functions are NumPy's, on its own arrays."""

    def __getattr__(self, name: str) -> Any:
        return far(getattr(np, name))


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
        self.captured: list[Callable[[], None]] | None = None  # launches, while a graph is made

    def check(self) -> None:
        if self.broken:
            raise CUDARuntimeError(self.broken)

    def module(self, path: str) -> Any:
        text = Path(path).read_text("utf-8")
        return SimpleNamespace(get_function=lambda entry: self.function(text, entry))

    def function(self, text: str, entry: str) -> Any:
        kernel = self.machine.from_ptx(text, entry)

        def run(grid: Any, block: Any, args: tuple[Any, ...], shared_mem: int) -> None:
            if self.captured is not None:
                self.captured.append(lambda: now(grid, block, args, shared_mem))
            else:
                now(grid, block, args, shared_mem)

        def now(grid: Any, block: Any, args: tuple[Any, ...], shared_mem: int) -> None:
            self.check()
            given = near(list(args))
            self.machine.run(kernel, grid, block, given, shared_mem)
            if self.fault is not None:
                try:
                    self.fault(entry, given)
                except CUDARuntimeError as error:  # seen when somebody waits, not at the launch
                    self.broken = str(error)

        return run

    def asnumpy(self, array: Any) -> Any:
        assert self.captured is None  # CUDA refuses to wait in a capture
        self.check()
        return np.array(near(array))


class Stream:
    """One that is not the default one, and can be captured."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def begin_capture(self) -> None:
        self.gpu.captured = []

    def end_capture(self) -> Any:
        launches, self.gpu.captured = self.gpu.captured or [], None
        return SimpleNamespace(launch=lambda stream: [one() for one in launches])

    def synchronize(self) -> None:
        pass


def stand_in(capability: str = "80", fault: Fault | None = None) -> ModuleType:
    """A module to be found as `cupy`."""
    arch = capability + "a" * (int(capability) >= 90)
    gpu, cupy = Gpu(arch, fault), Module("cupy")
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
        asarray=lambda a, dtype=None: a if isinstance(a, FarArray) else far(np.array(a, dtype)),
        ascontiguousarray=lambda a: a if a.near.flags.c_contiguous else far(a.near.copy()),
        asnumpy=gpu.asnumpy,
        cuda=SimpleNamespace(
            Device=lambda: SimpleNamespace(
                compute_capability=capability, id=0, synchronize=lambda: None
            ),
            Stream=lambda non_blocking: Stream(gpu),
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
