"""Global buffers and shared memory, with the checks that a GPU does not make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinymoe.kernels.ptx.arithmetic import Array

GAP = 256  # bytes nobody owns between two buffers: a store past the end lands in none
SEVERAL = -2


class Memory:
    """Bytes, which of them exist, and who touched each 4-byte word since the last barrier.

    Two accesses to a word from different warps conflict when no barrier lies between them, one
    of them writes and they are not both atomic; warps of different blocks have no barrier at all.
    The order inside one warp is not checked.
    """

    def __init__(self, size: int) -> None:
        size = -(-size // GAP) * GAP + GAP
        self.data = np.zeros(size, np.uint8)
        self.exists = np.zeros(size, bool)
        words = size // 4
        self.owner = {kind: np.full(words, -1, np.int64) for kind in ("read", "write", "atomic")}
        self.block = {kind: np.full(words, -1, np.int64) for kind in self.owner}
        self.epoch = {kind: np.full(words, -1, np.int64) for kind in self.owner}

    def check(self, at: Array, size: int) -> tuple[int, str] | None:
        """The first of the accesses `at` that is misaligned or outside, and what is wrong."""
        for bad, what in (
            (at % size != 0, f"is not aligned to its {size} bytes"),
            ((at < 0) | (at + size > len(self.data)), "is outside every buffer"),
        ):
            if bad.any():
                return int(np.argmax(bad)), what
        outside = ~self.exists[at[:, None] + np.arange(size)].all(axis=1)
        return (int(np.argmax(outside)), "is outside every buffer") if outside.any() else None

    def load(self, at: Array, dtype: np.dtype[Any]) -> Array:
        """Values at byte offsets `at` (N,)."""
        raw = self.data[at[:, None] + np.arange(dtype.itemsize)]
        return np.ascontiguousarray(raw).view(dtype)[:, 0]

    def store(self, at: Array, values: Array) -> None:
        """Write `values` (N,) at byte offsets `at`; of two to one place, the last stays."""
        size = values.dtype.itemsize
        raw = np.ascontiguousarray(values).view(np.uint8).reshape(-1, size)
        self.data[at[:, None] + np.arange(size)] = raw

    def update(self, at: Array, values: Array, change: Callable[[Any, Any], Any]) -> Array:
        """Apply `change` one thread after another, in their order; what each of them found."""
        old = np.zeros_like(values)
        for k in range(len(at)):
            one = at[k : k + 1]
            old[k] = self.load(one, values.dtype)[0]
            self.store(one, np.array([change(old[k], values[k])], values.dtype))
        return old

    def race(
        self, kind: str, words: Array, warp: int, block: int, epoch: int
    ) -> tuple[int, str] | None:
        """Record one warp's access; the index of a conflicting one and what it conflicts with."""
        against = {"read": ("write", "atomic"), "write": ("read", "write", "atomic")}
        for other in against.get(kind, ("read", "write")):
            clash = self._other(other, words, warp, block, epoch)
            if clash.any():
                return int(np.argmax(clash)), f"an earlier {other}"
        first = self.owner[kind][words] == -1
        mixed = self._other(kind, words, warp, block, epoch)
        self.owner[kind][words] = np.where(mixed, SEVERAL, warp)
        same = first | (self.block[kind][words] == block)
        self.block[kind][words] = np.where(same, block, SEVERAL)
        self.epoch[kind][words] = epoch
        return None

    def _other(self, kind: str, words: Array, warp: int, block: int, epoch: int) -> Array:
        owner, where = self.owner[kind][words], self.block[kind][words]
        live = (where != block) | (self.epoch[kind][words] == epoch)
        return (owner != -1) & (owner != warp) & live


ATOMIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda old, new: old + new,
    "min": min,
    "max": max,
    "exch": lambda old, new: new,
    "and": lambda old, new: old & new,
    "or": lambda old, new: old | new,
}
