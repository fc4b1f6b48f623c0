"""Order between blocks: what one block wrote before a fence, another may read after a flag.

Blocks have no barrier, so for the race detector two of them always conflict, but for one pattern:
a thread calls `__threadfence()` and then updates a flag by an atomic (or stores it with
`.release`), and a thread of another block reads that flag by an atomic. What the first block did
before is then in order before what the second does after: all that lies behind its last barrier,
and what the warp of the releasing thread did itself. A thread hands on what it has learnt in the
same way.

Not looked at: whether the value read is the one that was released, and accesses between the fence
and the flag. Both count as ordered.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinymoe.kernels.ptx.race import ALL, BLOCK, BLOCKS, WARP

Array = np.ndarray[Any, Any]
Clock = dict[int, tuple[int, int]]  # block -> barriers it had passed, and a mask of its warps


def join(one: Clock, two: Clock) -> None:
    """Add to `one` what `two` knows."""
    for block, (barriers, warps) in two.items():
        mine = one.get(block, (-1, 0))
        if barriers > mine[0]:
            one[block] = (barriers, warps)
        elif barriers == mine[0]:
            one[block] = (barriers, warps | mine[1])


class Fences:
    """What each block of a grid knows of the others."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.known: dict[int, Clock] = {}
        self.words: dict[int, Clock] = {}  # what was released at a place in global memory

    def meet(self, index: Array, stamp: Array, fenced: Array, reads: bool, writes: bool) -> None:
        """Threads access flags at `index` (N,), one after the other; `fenced`: after a fence."""
        if not self.words and not (writes and fenced.any()):
            return
        some = np.isin(index, np.fromiter(self.words, np.int64, len(self.words)))
        for k in np.flatnonzero(some | (fenced & writes)):
            word, held = int(index[k]), int(stamp[k])
            mine = self.known.setdefault(held >> BLOCK, {})
            if reads:
                join(mine, self.words.get(word, {}))
            if writes and fenced[k]:
                low = held & (1 << BLOCK) - 1
                join(mine, {held >> BLOCK: (low >> WARP, 1 << (low & ALL))})
                join(self.words.setdefault(word, {}), mine)

    def ordered(self, held: Array, stamp: Array) -> Array:
        """Which of the conflicts of stamps `held` (N,) with accesses `stamp` (N,) are none."""
        pairs = zip(held.tolist(), (stamp >> BLOCK).tolist(), strict=True)
        return np.array([self._ordered(h, b) for h, b in pairs], bool)

    def _ordered(self, held: int, block: int) -> bool:
        mine = self.known.get(block, {})
        if held == BLOCKS:
            return len(mine.keys() | {block}) == self.blocks
        barriers, warps = mine.get(held >> BLOCK, (-1, 0))
        low = held & (1 << BLOCK) - 1
        passed, warp = low >> WARP, low & ALL
        return passed < barriers or (passed == barriers and warp != ALL and bool(warps >> warp & 1))
