"""The two devices with a clock in every launch, and what there is to say about each of them.

`CupyDevice` is timed with CUDA events around each launch: the GPU's own clock, so that copies and
Python are left out; a launch onto an idle GPU has its own few microseconds in it. The PTX machine
is timed with `perf_counter` around the same launches. No GPU has run this yet.
"""

from __future__ import annotations

import platform
from importlib import metadata
from time import perf_counter
from typing import Any

import numpy as np

from tinymoe.core import TinymoeError
from tinymoe.kernels.cuda.compile import nvrtc_version
from tinymoe.kernels.cuda.devices import CupyDevice, PtxDevice
from tinymoe.kernels.cuda.launch import Dim3, Kernel


class TimedPtx(PtxDevice):
    """The PTX machine, all launches since `forget` added up. `launched`: as source:entry.

    `timing`: whether launches are timed.
    """

    def __init__(self, arch: str = "80") -> None:
        super().__init__(arch)
        self._seconds, self.timing = 0.0, True
        self.launched: set[str] = set()

    def forget(self) -> None:
        """A new call begins."""
        self._seconds = 0.0

    def last_call_ms(self) -> float:
        """Milliseconds of the launches since `forget`."""
        return self._seconds * 1e3

    def also(self, milliseconds: float) -> None:
        """Time that somebody took beside the launches."""
        self._seconds += milliseconds / 1e3

    def run(self, kernel: Kernel, grid: Dim3, block: Dim3, args: list[Any], shared: int) -> None:
        """As `PtxDevice.run`, timed."""
        self.launched.add(f"{kernel.source}:{kernel.name}")
        begin = perf_counter()
        try:
            super().run(kernel, grid, block, args, shared)
        finally:
            self._seconds += (perf_counter() - begin) * self.timing


class TimedCupy(CupyDevice):
    """The GPU, an event before and after each launch since `forget`. The rest as `TimedPtx`."""

    def __init__(self) -> None:
        super().__init__()
        self._events: list[tuple[Any, Any]] = []
        self._more, self.timing = 0.0, True
        self.launched: set[str] = set()

    def forget(self) -> None:
        """A new call begins."""
        self._events, self._more = [], 0.0

    def last_call_ms(self) -> float:
        """Milliseconds of the launches since `forget`; waits for the last of them."""
        if self._events:
            self._events[-1][1].synchronize()
        elapsed = self.cupy.cuda.get_elapsed_time
        return self._more + float(sum(elapsed(begin, end) for begin, end in self._events))

    def also(self, milliseconds: float) -> None:
        """Time that somebody took beside the launches."""
        self._more += milliseconds

    def run(self, kernel: Kernel, grid: Dim3, block: Dim3, args: list[Any], shared: int) -> None:
        """As `CupyDevice.run`, timed."""
        self.launched.add(f"{kernel.source}:{kernel.name}")
        if not self.timing:
            super().run(kernel, grid, block, args, shared)
            return
        begin, end = self.cupy.cuda.Event(), self.cupy.cuda.Event()
        begin.record()
        super().run(kernel, grid, block, args, shared)
        end.record()
        self._events.append((begin, end))


Timed = TimedPtx | TimedCupy


def open_device(name: str) -> Timed:
    """A device by the name that `conform --device` takes; TinymoeError says what a GPU lacks."""
    kind, colon, arch = name.partition(":")
    if name == "cuda":
        return TimedCupy()
    if kind == "ptx" and bool(colon) == bool(arch):
        arch = arch or "80"
        if not arch.rstrip("af").isdigit() or int(arch.rstrip("af")) < 50:
            raise TinymoeError(f"--device {name!r}: expected a chip's number, as in ptx:120a")
        return TimedPtx(arch)
    raise TinymoeError(
        f"--device {name!r}: expected cuda (a GPU), ptx (the PTX machine, as sm_80), or ptx:ARCH "
        "as ptx:120a"
    )


def described(device: Timed) -> dict[str, str]:
    """The device in words."""
    about = {"arch": f"sm_{device.arch}", "host": f"{platform.system()} {platform.machine()}"}
    if isinstance(device, TimedPtx):
        return {"name": device.name, "kind": "PTX machine, no silicon", **about}
    cupy = device.cupy
    here = cupy.cuda.Device()
    found = cupy.cuda.runtime.getDeviceProperties(here.id)
    name = found["name"]
    return {
        "name": name.decode() if isinstance(name, bytes) else str(name),
        "kind": "GPU",
        **about,
        "compute_capability": str(here.compute_capability),
        "multiprocessors": str(found["multiProcessorCount"]),
        "memory_bytes": str(found["totalGlobalMem"]),
        # the newest CUDA that the driver speaks, as 12090; the runtime has no other name for it
        "driver": str(cupy.cuda.runtime.driverGetVersion()),
    }


def versions(device: Timed) -> dict[str, str]:
    """What was between the sources and the device, and what drew the inputs."""
    found = {"python": platform.python_version(), "numpy": np.__version__}
    for package in ("tinymoe", "hypothesis", "numba-cuda"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "missing"
    try:
        found["nvrtc"] = nvrtc_version()
    except TinymoeError:
        found["nvrtc"] = "missing: the committed PTX was run"
    if isinstance(device, TimedCupy):
        found["cupy"] = str(device.cupy.__version__)
    return found
