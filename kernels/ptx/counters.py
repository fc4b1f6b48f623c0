"""What the memory system would do: shared-memory banks and 32-byte sectors, warp by warp.

Shared memory has 32 banks of 4 bytes. A warp's access takes as many passes as the busiest bank
has different words to give; accesses of 8 (16) bytes a thread are served half (quarter) a warp at
a time, so the passes that cannot be avoided are 1 (2, 4). Global memory moves sectors of 32
bytes: the least number is that of the bytes asked for, without counting any byte twice.
Source: CUDA C++ Best Practices Guide, coalesced access and memory banks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Traffic:
    """Sums over warp accesses; `+` adds two of them."""

    accesses: int = 0  # warp-wide accesses
    needed: int = 0  # passes without conflicts, or sectors the bytes fit in
    used: int = 0  # passes, or sectors touched

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.accesses + other.accesses, self.needed + other.needed, self.used + other.used
        )

    @property
    def efficiency(self) -> float:
        """needed / used: 1.0 is conflict-free or coalesced."""
        return self.needed / self.used if self.used else 1.0


def banks(at: Array, size: int, slots: Array) -> Traffic:
    """A shared-memory access of `size` bytes at byte offsets `at` (N,) by the threads `slots`."""
    parts = max(1, size // 4)
    warp = (slots >> 5) * parts + (slots & 31) * parts // 32  # the part of a warp served at once
    words = (at // 4)[:, None] + np.arange(parts)
    key = np.unique((np.repeat(warp, parts) << 40) | words.ravel().astype(np.int64))
    bank = (key >> 40) * 32 + key % 32
    _, first, counts = np.unique(bank, return_index=True, return_counts=True)
    group = key[first] >> 40
    passes = np.zeros(int(group.max()) + 1, np.int64)
    np.maximum.at(passes, group, counts)
    served = len(np.unique(warp))
    return Traffic(len(np.unique(slots >> 5)), served, int(passes.sum()))


def sectors(at: Array, size: int, slots: Array) -> Traffic:
    """A global-memory access of `size` bytes at addresses `at` (N,) by the threads `slots`."""
    warp = slots >> 5
    first, last = at // 32, (at + size - 1) // 32
    touched = np.concatenate([(warp << 40) | first, (warp << 40) | last])
    distinct = np.unique((warp << 44) | at)
    needed = -(-np.bincount(distinct >> 44) * size // 32)
    return Traffic(len(np.unique(warp)), int(needed.sum()), len(np.unique(touched)))
