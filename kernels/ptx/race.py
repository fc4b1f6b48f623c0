"""The race detector: who touched each word of memory since the last barrier.

Two accesses to a word conflict when they come from different warps, no barrier lies between
them, one of them writes, and they are not both atomic. Blocks have no barrier between them; what
puts them in order is in `fences.py`.
In strict mode the same holds for two lanes of one warp, which only `__syncwarp` puts in order:
a shuffle or a vote exchanges values and orders no memory (CUDA C++ Programming Guide, warp
functions).

Each word keeps one stamp for reads, one for writes and one for atomic updates. A stamp says who
(block, barriers passed so far, warp) in one number, later barriers being greater:

    stamp = block << BLOCK | barriers << WARP | warp        warp = ALL: several warps
                                                            stamp = BLOCKS: several blocks

Shared memory belongs to one block, and its stamps do without the block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
WARP, BLOCK = 6, 34
ALL = (1 << WARP) - 1
BLOCKS = np.int64(2**63 - 1)
NOBODY = np.int64(-1)
AGAINST = {
    "read": ("write", "atomic"),
    "write": ("write", "read", "atomic"),
    "atomic": ("write", "read"),
}


class Shadow:
    """Stamps for `size` bytes, one for each `grain` bytes (no access is narrower).

    `private`: no byte is reached by more than one block.
    """

    def __init__(self, size: int, grain: int, private: bool) -> None:
        self.private = private
        self.shift = grain.bit_length() - 1
        words = -(-size // grain)
        self.stamps = {kind: np.full(words, NOBODY) for kind in AGAINST}
        self.used = dict.fromkeys(AGAINST, False)
        self.within: Within | None = None  # strict mode
        self.pardon: Callable[[Array, Array], Array] | None = None  # fences between blocks
        self.count = words

    def watch_lanes(self, order: Order) -> None:
        """Strict mode; `order` is that of the warps that run now."""
        self.within = self.within or Within(self.count)
        self.within.order = order

    def words(self, index: Array, size: int) -> Array:
        """The words (N * per access,) that accesses of `size` bytes at `index` touch."""
        first = index >> self.shift
        per = max(1, size >> self.shift)
        return first if per == 1 else (first[:, None] + np.arange(per)).ravel()

    def access(self, kind: str, words: Array, stamp: Array) -> tuple[int, str] | None:
        """Record accesses of one instruction; a conflicting one's place and with what it is."""
        if self.private:
            stamp = stamp & np.int64((1 << BLOCK) - 1)
        epoch = stamp & ~np.int64(ALL)
        # most words were last touched before the last barrier, or never: one look tells
        floor = int(epoch.min()) if self.private else 0
        for other in AGAINST[kind]:
            if not self.used[other]:
                continue
            held = self.stamps[other].take(words)
            if int(held.max()) < floor:
                continue
            clash = (held != stamp) & _live(held, stamp, epoch)
            if self.pardon is not None and clash.any():
                some = np.flatnonzero(clash)
                clash[some] = ~self.pardon(held[some], stamp[some])
            if np.count_nonzero(clash):
                k = int(np.argmax(clash))
                return k, f"an earlier {other} by {_by(int(held[k]), int(stamp[k]))}"
        return self._record(kind, words, stamp, epoch, floor)

    def _record(
        self, kind: str, words: Array, stamp: Array, epoch: Array, floor: int
    ) -> tuple[int, str] | None:
        stamps = self.stamps[kind]
        new = stamp
        if self.used[kind] and kind != "write":  # other writers were found above
            held = stamps.take(words)
            if int(held.min()) == BLOCKS:
                return None
            if int(held.max()) >= floor:
                mixed = (held != stamp) & _live(held, stamp, epoch)
                several = np.where(held >> BLOCK == stamp >> BLOCK, epoch | ALL, BLOCKS)
                new = np.where(mixed, several, stamp)
        self.used[kind] = True
        stamps[words] = new
        back = stamps.take(words)
        mixed = back != new  # others touched the same word in this very instruction
        if np.count_nonzero(mixed):
            if kind == "write":
                k = int(np.argmax(mixed))
                by = _by(int(back[k]), int(stamp[k]))
                return k, f"a write of the same instruction by {by}"
            same = mixed & (back >> BLOCK == stamp >> BLOCK)
            stamps[words[same]] = epoch[same] | ALL
            stamps[words[mixed & ~same]] = BLOCKS
        return None


def _by(held: int, stamp: int) -> str:
    """Whose stamp a word holds, for a message to whom has the other."""
    if held == BLOCKS:
        return "several blocks"
    if held >> BLOCK != stamp >> BLOCK:
        return f"block {held >> BLOCK}"
    warp = held & ALL
    return "several other warps" if warp == ALL else f"another warp ({warp} of the block)"


def _live(held: Array, stamp: Array, epoch: Array) -> Array:
    """Whether no barrier lies between a stamp `held` by a word and an access now."""
    block = stamp >> BLOCK << BLOCK
    return (held >= epoch) | ((held >= 0) & (held < block))


class Within:
    """Strict mode: the lanes of one warp are in order only where `bar.warp.sync` puts them.

    Every warp counts its syncs. A word keeps which lanes of a warp touched it, and at what count
    the last of them did; `Order.known` says which of these touches a lane has waited for.
    """

    def __init__(self, words: int) -> None:
        self.order = Order(0)
        self.lanes = {kind: np.zeros(words, np.uint32) for kind in AGAINST}
        self.count = {kind: np.zeros(words, np.int32) for kind in AGAINST}
        self.stamp = {kind: np.full(words, NOBODY) for kind in AGAINST}

    def access(self, kind: str, words: Array, stamp: Array, slot: Array) -> tuple[int, str] | None:
        """Like Shadow.access, for the lanes of each warp; all arrays are as long as `words`."""
        for other in AGAINST[kind]:
            clash = self._unknown(other, words, stamp, slot)
            if clash.any():
                return int(np.argmax(clash)), f"an earlier {other} by another lane of this warp"
        self._record(kind, words, stamp, slot)
        return None

    def _unknown(self, kind: str, words: Array, stamp: Array, slot: Array) -> Array:
        """Whether another lane touched the word and this lane has not waited for it since."""
        mine = np.uint32(1) << (slot & 31).astype(np.uint32)
        same = self.stamp[kind][words] == stamp
        touched = np.where(same, self.lanes[kind][words] & ~mine, 0)
        out = np.zeros(len(words), bool)
        some = np.flatnonzero(touched)
        if len(some):
            who = slot[some]
            known = self.order.known[who >> 5, who & 31] > self.count[kind][words[some]][:, None]
            bits = np.packbits(known, axis=1, bitorder="little").view("<u4")[:, 0]
            out[some] = (touched[some] & ~bits) != 0
        return out

    def _record(self, kind: str, words: Array, stamp: Array, slot: Array) -> None:
        """Add these lanes to each word's; touches that all of them waited for are forgotten."""
        lanes = self.lanes[kind]
        unknown = self._unknown(kind, words, stamp, slot)
        kept, held = words[unknown], lanes[words[unknown]]
        lanes[words[~unknown]] = 0
        np.bitwise_or.at(lanes, kept, held)
        np.bitwise_or.at(lanes, words, np.uint32(1) << (slot & 31).astype(np.uint32))
        self.stamp[kind][words] = stamp
        self.count[kind][words] = self.order.syncs[slot >> 5]


class Order:
    """What the lanes of each warp know of one another, advanced by `bar.warp.sync`.

    `known[warp, a, b]`: lane a has waited for all that lane b did before this count of syncs.
    """

    def __init__(self, warps: int) -> None:
        self.syncs = np.zeros(warps, np.int32)
        self.known = np.zeros((warps, 32, 32), np.int32)

    def sync(self, warps: Array, members: Array) -> None:
        """The lanes `members` (W, 32) bool of each of `warps` (W,) wait for one another."""
        self.syncs[warps] += 1
        known = np.where(members[:, :, None], self.known[warps], 0).max(axis=1)  # (W, 32)
        known = np.where(members, self.syncs[warps][:, None], known)
        spread = np.broadcast_to(known[:, None, :], (len(warps), 32, 32))
        self.known[warps] = np.where(members[:, :, None], spread, self.known[warps])
