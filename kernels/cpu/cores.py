"""How many cores this process may use."""

from __future__ import annotations

import os
from pathlib import Path


def physical_cores() -> int:
    """Cores that this process may use: not two threads of one, not more than its quota."""
    try:
        mine = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return max(1, (os.cpu_count() or 2) // 2)
    cores = {_siblings(cpu) for cpu in mine}
    return max(1, min(len(cores), _quota()))


def _siblings(cpu: int) -> str:
    """The CPUs that share a core with this one, as the system names them."""
    file = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return file.read_text("ascii").strip()
    except OSError:
        return str(cpu)


def _quota() -> int:
    """CPUs that a container's limit leaves, rounded down, at least 1."""
    for file in ("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"):
        try:
            words = Path(file).read_text("ascii").split()
            period = words[1] if len(words) > 1 else _period(file)
            if words[0] not in ("max", "-1"):
                return max(1, int(words[0]) // int(period))
        except (OSError, ValueError):
            continue
    return os.cpu_count() or 1


def _period(file: str) -> str:
    return Path(file.replace("quota", "period")).read_text("ascii").strip()
