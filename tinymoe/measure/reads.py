"""Where the weights were, what was read of them, and the memory and the disk of this process."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tinymoe.measure.child import high_water
from tinymoe.model.on_demand import Reads


def describe(reads: Reads | None) -> dict[str, Any]:
    """Plain values for --json; None where the system does not say.

    `peak_resident_bytes` counts pages of mapped files, which the system takes back when it needs
    them; `anonymous_bytes` are this process's own at the moment, `file_bytes` such pages.
    `disk_read_bytes` came from a disk, and not from what the system kept of a file.
    """
    status, disk = Path("/proc/self/status"), Path("/proc/self/io")
    process = {
        "peak_resident_bytes": high_water(),
        "anonymous_bytes": _number(status, r"^RssAnon:\s*(\d+) kB", 1024),
        "file_bytes": _number(status, r"^RssFile:\s*(\d+) kB", 1024),
        "disk_read_bytes": _number(disk, r"^read_bytes: (\d+)$", 1),
    }
    if reads is None:
        return {"held": "resident", "process": process}
    return {
        "held": "on demand",
        "budget_bytes": reads.budget,
        "resident_bytes": reads.whole,
        "most_held_bytes": reads.most_held,
        "bytes_read": reads.bytes_read,
        "expert_matrices_read": reads.experts_read,
        "expert_matrices_found": reads.experts_found,
        "process": process,
    }


def memory_lines(reads: Reads | None) -> list[str]:
    """The same for a reader."""
    facts = describe(reads)
    lines = ["  all weights are in memory"]
    if reads is not None:
        asked = reads.experts_read + reads.experts_found
        lines = [
            f"  weights are read when they are used: {_gb(reads.bytes_read)} as stored; at most "
            f"{_gb(reads.most_held)} of them at once, {_gb(reads.budget)} allowed",
            f"  experts: {asked:,} matrices used, {reads.experts_found:,} of them still in memory",
        ]
    process = facts["process"]
    known = {name: _gb(value) for name, value in process.items() if value is not None}
    names = {
        "peak_resident_bytes": "peak resident memory",
        "anonymous_bytes": "its own now",
        "file_bytes": "pages of files now, which can be dropped",
        "disk_read_bytes": "read from disk",
    }
    listed = [f"{names[name]} {value}" for name, value in known.items()]
    return [*lines, f"  {'; '.join(listed)}"] if listed else lines


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 10**8 else f"{size / 1e6:.1f} MB"


def _number(path: Path, pattern: str, unit: int) -> int | None:
    try:
        found = re.search(pattern, path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * unit if found else None
