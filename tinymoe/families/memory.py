"""How much memory there is for weights: what the system has left, and every limit on this process.

A process is stopped by the lowest of them: a container on a machine of 64 GB may have 3.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tinymoe.core import TinymoeError

GROUPS = Path("/sys/fs/cgroup")
SHARE_ON_DEMAND = 0.5  # of what is available: caches, activations and one tensor need the rest


def parse_bytes(text: str | int) -> int:
    """Bytes of "3GB" (10^9), "3GiB" (2^30), "500 MB", or a plain number.

    >>> parse_bytes("3GB"), parse_bytes("1.5 GiB"), parse_bytes(7)
    (3000000000, 1610612736, 7)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?\s*", str(text).upper())
    if found is None or (found[3] and not found[2]):
        raise TinymoeError(f"memory: expected a size, as 3GB, 500MB or 3GiB, got {text!r}")
    power = "KMGT".find(found[2]) + 1 if found[2] else 0
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)


def available_memory() -> int | None:
    """Bytes that this process can still take; None where nobody says."""
    known = [1024 * n for n in _numbers(Path("/proc/meminfo"), r"^MemAvailable:\s*(\d+) kB")]
    known += [*_left_in_groups(), *_left_of_limits()]
    if not known and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        known = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]  # all, used or not
    return max(0, min(known)) if known else None


def _left_in_groups() -> Iterator[int]:
    """What each control group around this process leaves (Linux).

    Pages of files count as used there, but make room when it is needed: they are left out.
    """
    names = {"": ("max", "current"), "memory": ("limit_in_bytes", "usage_in_bytes")}
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        _, controllers, place = line.split(":", 2)
        kind = "memory" if "memory" in controllers.split(",") else controllers
        if kind not in names:
            continue
        root, (most, now) = GROUPS / kind, names[kind]
        for parent in (PurePosixPath(place), *PurePosixPath(place).parents):
            group = root / str(parent).lstrip("/")
            limits = _numbers(group / f"memory.{most}", r"^(\d+)$")
            used = _numbers(group / f"memory.{now}", r"^(\d+)$")
            pages = _numbers(group / "memory.stat", r"^(?:in)?active_file (\d+)$")
            if limits and used:
                yield limits[0] - max(0, used[0] - sum(pages))


def _left_of_limits() -> Iterator[int]:
    """What `ulimit -d` and `ulimit -v` leave (Linux says what is taken)."""
    try:
        import resource
    except ImportError:  # Windows
        return
    status = Path("/proc/self/status")
    for limit, taken in ((resource.RLIMIT_DATA, "VmData"), (resource.RLIMIT_AS, "VmSize")):
        soft = resource.getrlimit(limit)[0]
        used = _numbers(status, rf"^{taken}:\s*(\d+) kB")
        if soft != resource.RLIM_INFINITY and used:
            yield soft - 1024 * used[0]


def budget_of(needed: int, memory: str | int | None, on_demand: bool = False) -> int | None:
    """Bytes for weights that are read on demand; None if all `needed` bytes shall be resident.

    `memory` as asked for; None: by what is available, less a tenth that other things need.
    `on_demand`: never None.
    """
    if memory is not None:
        asked = parse_bytes(memory)
        return asked if on_demand or needed > asked else None
    free = available_memory()
    if not on_demand and (free is None or needed <= 0.9 * free):
        return None
    return needed if free is None else int(free * SHARE_ON_DEMAND)


def _numbers(path: Path, pattern: str) -> list[int]:
    return [int(found) for found in re.findall(pattern, _text(path), re.MULTILINE)]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
