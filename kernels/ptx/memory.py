"""One state space as bytes, with the checks of bounds and alignment that a GPU does not make.

Between any two variables lie at least `GAP` bytes that belong to nobody, so an access just past
the end of one never lands in the next.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinymoe.kernels.ptx.race import Shadow

Array = np.ndarray[Any, Any]
GAP = 256
POISON = 0xFF
WIDEST = 32  # bytes: the widest access there is, ld.v8.b32


@dataclass(frozen=True)
class Owned:
    """Bytes `start` to `start + size` of a space, and whose they are."""

    start: int
    size: int
    name: str
    fixed: bool = False  # nobody may write here


class Memory:
    """Equal parts of `stride` bytes: one a block (shared), one a thread (local), or just one.

    `private` parts are fresh for every block or thread, and hold NaN of every format at first: what
    relies on zeros there shows. `grain` is the narrowest access in bytes, for the race detector;
    without it there is none.
    """

    def __init__(
        self, regions: list[Owned], grain: int | None = None, private: bool = False
    ) -> None:
        self.regions, self.grain, self.private = regions, grain, private
        end = max((r.start + r.size for r in regions), default=0)
        self.stride = -(-end // GAP) * GAP + GAP
        # how many bytes from here to the end of the variable, at most WIDEST: 0 is nobody's
        self.room = np.zeros(self.stride, np.uint8)
        for region in regions:
            left = np.arange(region.size, 0, -1)
            self.room[region.start : region.start + region.size] = np.minimum(left, WIDEST)
        self.fixed = any(r.fixed for r in regions)
        self._fill(1)

    def _fill(self, copies: int) -> None:
        self.data = np.full(self.stride * copies, POISON if self.private else 0, np.uint8)
        self.views = {1: self.data} | {n: self.data.view(f"u{n}") for n in (2, 4, 8)}
        grain = self.grain
        self.shadow = Shadow(len(self.data), grain, self.private) if grain else None

    def again(self, copies: int) -> Memory:
        """The same layout, fresh, so many times."""
        other = copy(self)
        other._fill(copies)
        return other

    def fault(self, at: Array, size: int) -> tuple[int, str] | None:
        """The first of the accesses `at` (offsets in a part) that is wrong, and how."""
        if len(at) == 0:
            return None
        if int(np.bitwise_or.reduce(at)) & (size - 1):
            bad = int(np.argmax((at & np.uint64(size - 1)) != 0))
            return bad, f"is not aligned to its {size} bytes"
        beyond = int(at.max()) >= self.stride
        inside = np.minimum(at, np.uint64(self.stride - 1)) if beyond else at
        room = self.room.take(inside.view(np.int64))
        if beyond or int(room.min()) < size:
            bad = int(np.argmax((room < size) | (at >= self.stride)))
            return bad, self.whose(int(at[bad]), size)
        return None

    def locked(self, at: Array) -> tuple[int, str] | None:
        """The first of the stores `at` (inside variables) to a place that nobody may write."""
        for region in self.regions:
            inside = (at >= region.start) & (at < region.start + region.size)
            if region.fixed and inside.any():
                return int(np.argmax(inside)), f"is read only: it belongs to {region.name}"
        return None

    def whose(self, at: int, size: int) -> str:
        """For a message: where an address outside every variable lies."""
        before = [r for r in self.regions if r.start <= at < r.start + r.size + GAP]
        if before:
            r = before[-1]
            over = at + size - r.start - r.size
            return (
                f"is outside every buffer: {over} bytes past the end of {r.name} ({r.size} bytes)"
            )
        after = [r for r in self.regions if at < r.start <= at + GAP]
        if after:
            r = after[0]
            return f"is outside every buffer: {r.start - at} bytes before {r.name} ({r.size} bytes)"
        return "is outside every buffer"

    def load(self, index: Array, dtype: np.dtype[Any]) -> Array:
        """Values at aligned byte offsets `index` of the whole array."""
        size = dtype.itemsize
        return self.views[size].take(index >> (size.bit_length() - 1)).view(dtype)

    def store(self, index: Array, values: Array) -> None:
        """Write at aligned byte offsets; of two to one place, the last stays."""
        size = values.dtype.itemsize
        self.views[size][index >> (size.bit_length() - 1)] = values.view(f"u{size}")
