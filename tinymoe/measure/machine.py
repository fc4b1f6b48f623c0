"""The machine that was measured: processor, memory, libraries, threads, and who else is on it."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tinymoe.core import TinymoeError
from tinymoe.families.memory import available_memory

Clock = Callable[[], float]  # seconds; only differences mean something

THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE",
)  # fmt: skip
CACHE_UNKNOWN = 32 * 2**20  # bytes assumed where the system does not say
BEYOND_CACHE = 8  # the read probe's array is so many times the last-level cache ...
PROBE_LEAST, PROBE_MOST = 128 * 2**20, 2 * 2**30  # ... within these bytes


def describe() -> dict[str, Any]:
    """What a reader needs to judge or repeat a measurement. Unknown: None."""
    return {
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "cpu_quota": _cpu_quota(),
        "last_level_cache_bytes": last_level_cache(),
        "free_memory_bytes": free_memory(),
        "load_average_1min": load_average(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": _blas(),
        "thread_settings": {n: os.environ[n] for n in THREAD_VARIABLES if n in os.environ},
    }


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def process_threads() -> int | None:
    """Threads of this process now, the linear-algebra library's among them (Linux)."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else None


def load_average() -> float | None:
    """Mean number of processes that ran or wanted to in the last minute, all users."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def free_memory() -> int | None:
    """Bytes that can still be taken: the system's, or what a limit on this process leaves."""
    return available_memory()


def last_level_cache() -> int | None:
    """Bytes of the largest cache that core 0 reads through (Linux)."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    known = [1024 * n for path in sizes for n in _numbers(str(path), r"^(\d+)K$")]
    return max(known, default=None)


def _cpu_model() -> str | None:
    found = re.search(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    return found[1] if found else platform.processor() or None


def _cpu_quota() -> float | None:
    """Cores' worth of time that a container may use, where it is limited (Linux, cgroup 2)."""
    found = re.match(r"(\d+) (\d+)", _text("/sys/fs/cgroup/cpu.max"))
    return int(found[1]) / int(found[2]) if found else None


def _blas() -> dict[str, str | None]:
    """The linear-algebra library NumPy was built with."""
    config: Any = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {})
    keys = {"name": "name", "version": "version", "configuration": "openblas configuration"}
    return {ours: blas.get(theirs) for ours, theirs in keys.items()}


def _numbers(path: str, pattern: str) -> list[int]:
    return [int(found) for found in re.findall(pattern, _text(path), re.MULTILINE)]


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


# ------------------------------------------------------------------------------- bandwidth


def probe_bytes() -> int:
    """Size of the read probe's array."""
    wanted = BEYOND_CACHE * (last_level_cache() or CACHE_UNKNOWN)
    return min(max(wanted, PROBE_LEAST), PROBE_MOST)


class ReadProbe:
    """How fast this machine reads memory: a BLAS dot product of a long array with itself.

    Each byte is read once, forward, by as many threads as BLAS takes; two multiply-adds a
    number hide behind the reading. The array is far beyond the caches, so it comes from memory.
    """

    def __init__(self, size: int) -> None:
        """`size` bytes, which are taken at once."""
        free = free_memory()
        if free is not None and size > free // 2:
            raise TinymoeError(
                f"measuring the read bandwidth takes {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are "
                "free: close other programs"
            )
        # ones: pages of zeros that nobody has written may all be one page, and come from cache
        self._array = np.ones(size // 4, np.float32)
        self.size = self._array.nbytes

    def __call__(self, clock: Clock) -> float:
        """Bytes a second, once."""
        begin = clock()
        np.dot(self._array, self._array)
        return self.size / (clock() - begin)
