"""What the lanes of a warp tell one another: shuffles, votes, matches, reductions.

By the time an action here runs, all lanes that its mask names are among the running threads and
agree about the mask (`warp_wait.py`). Several warps, and several groups in one warp, run together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinymoe.kernels.ptx.compute import modifiers, types
from tinymoe.kernels.ptx.dispatch import Action, UnsupportedError, decoder
from tinymoe.kernels.ptx.kernel import Instruction, Kernel
from tinymoe.kernels.ptx.operands import TYPES, U32, Array, reader, writer

PRED = TYPES["pred"]
BIT = np.uint32(1) << np.arange(32, dtype=np.uint32)
FULL = np.array([0xFFFFFFFF], "u4")


@decoder("shfl")
def shfl(kernel: Kernel, i: Instruction) -> Action:
    """`shfl.sync.mode.b32 d|p, a, b, c, mask`: the value of another lane; p: it was in range."""
    mode = modifiers(i, "sync", "up", "down", "bfly", "idx") - {"sync"}
    if "sync" not in i.opcode or len(mode) != 1 or types(i) != ["b32"]:
        raise UnsupportedError("instruction not supported")
    pick = PICK[mode.pop()]
    first, _, second = i.operands[0].partition("|")
    put = writer(kernel, first, U32)
    flag = writer(kernel, second, PRED) if second else None
    a, b, c, mask = (reader(kernel, name, U32) for name in i.operands[1:5])
    seen: dict[tuple[int, int, int, int], tuple[Array, Array]] = {}

    def pattern(lanes: Array, offset: Array, clamp: Array) -> tuple[Array, Array]:
        """The slot that each lane reads, and whether that is the one it asked for."""
        lane, offset, clamp = lanes & 31, offset.astype("i8") & 31, clamp.astype("i8")
        segment = (clamp >> 8) & 31
        low = lane & segment
        source, valid = pick(lane, offset, low, low | (clamp & 31 & ~segment), segment)
        return (lanes & ~31) | np.where(valid, source, lane), valid

    def run(m: Any) -> None:
        offset, clamp, value = b(m), c(m), m.spread(a(m))
        first = int(m.lanes[0])
        whole = isinstance(m.select, slice) and first % 32 == 0 and len(m.lanes) % 32 == 0
        if whole and len(offset) == len(clamp) == 1:  # the same each time: look it up
            key = (first, len(m.lanes), int(offset[0]), int(clamp[0]))
            if key not in seen:
                seen[key] = pattern(m.lanes, offset, clamp)
            where, valid = seen[key]
        else:
            where, valid = pattern(m.lanes, offset, clamp)
        _present(m, where, mask(m))
        if whole:
            put(m, value[where - first])
        else:
            scattered = np.zeros(m.size, "u4")
            scattered[m.lanes] = value
            put(m, scattered[where])
        if flag:
            flag(m, valid)

    return run


PICK: dict[str, Callable[[Array, Array, Array, Array, Array], tuple[Array, Array]]] = {
    "up": lambda lane, b, low, top, s: (lane - b, lane - b >= top),
    "down": lambda lane, b, low, top, s: (lane + b, lane + b <= top),
    "bfly": lambda lane, b, low, top, s: (lane ^ b, (lane ^ b) <= top),
    "idx": lambda lane, b, low, top, s: (low | (b & ~s), (low | (b & ~s)) <= top),
}


def _present(m: Any, where: Array, mask: Array) -> None:
    """Raise a finding where a lane reads from one that takes no part."""
    if len(m.lanes) == m.size and int(mask.min()) == 0xFFFFFFFF:
        return
    named = ((mask & BIT[where & 31]) != 0) & m.exists[where]
    if not named.all():
        k = int(np.argmin(named))
        m.fail(f"reads lane {int(where[k]) & 31}, which takes no part", int(m.lanes[k]))


def ballot(m: Any, votes: Array, mask: Array) -> Array:
    """(N,) uint32: the lanes of each thread's mask whose vote is true."""
    there = np.zeros(m.size, bool)
    there[m.lanes] = votes
    words = np.packbits(there.reshape(-1, 32), axis=1, bitorder="little").view("<u4")[:, 0]
    return words[m.lanes >> 5] & mask


def taking_part(m: Any, mask: Array) -> Array:
    """(N,) uint32: the lanes of each thread's mask that exist."""
    return ballot(m, np.ones(len(m.lanes), bool), mask)


@decoder("vote")
def vote(kernel: Kernel, i: Instruction) -> Action:
    """`vote.sync.all / any / uni.pred` and `vote.sync.ballot.b32`."""
    mode = modifiers(i, "sync", "all", "any", "uni", "ballot") - {"sync"}
    if "sync" not in i.opcode or len(mode) != 1:
        raise UnsupportedError("instruction not supported")
    how, name = mode.pop(), i.operands[1]
    put = writer(kernel, i.operands[0], U32 if how == "ballot" else PRED)
    source, mask = reader(kernel, name.lstrip("!"), PRED), reader(kernel, i.operands[2], U32)

    def run(m: Any) -> None:
        votes = m.spread(source(m))
        named = mask(m)
        yes = ballot(m, ~votes if name[0] == "!" else votes, named)
        if how == "ballot":
            put(m, yes)
        elif how == "any":
            put(m, yes != 0)
        else:
            every = yes == taking_part(m, named)
            put(m, every if how == "all" else every | (yes == 0))

    return run


@decoder("activemask")
def activemask(kernel: Kernel, i: Instruction) -> Action:
    """The lanes that run this instruction together, here and now."""
    put = writer(kernel, i.operands[0], U32)
    return lambda m: put(m, taking_part(m, FULL))


@decoder("match")
def match(kernel: Kernel, i: Instruction) -> Action:
    """`match.any`: the lanes with my value. `match.all`: the mask if all agree, else 0."""
    mode, names = modifiers(i, "any", "all", "sync") - {"sync"}, types(i)
    if len(mode) != 1 or names not in (["b32"], ["b64"]):
        raise UnsupportedError("instruction not supported")
    first, _, second = i.operands[0].partition("|")
    put = writer(kernel, first, U32)
    flag = writer(kernel, second, PRED) if second else None
    source, mask = (
        reader(kernel, i.operands[1], TYPES[names[0]]),
        reader(kernel, i.operands[2], U32),
    )

    def run(m: Any) -> None:
        values = np.zeros(m.size, TYPES[names[0]])
        values[m.lanes] = source(m)
        mates = values.reshape(-1, 32)[m.lanes >> 5]
        same = (mates == values[m.lanes][:, None]) * BIT
        named = taking_part(m, mask(m))
        found = same.sum(axis=1, dtype="u4") & named
        if mode == {"all"}:
            found = np.where(found == named, found, 0).astype("u4")
        put(m, found)
        if flag:
            flag(m, found != 0)

    return run


REDUCE: dict[str, np.ufunc] = {
    **{"add": np.add, "min": np.minimum, "max": np.maximum},
    **{"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor},
}


@decoder("redux")
def redux(kernel: Kernel, i: Instruction) -> Action:
    """`redux.sync.op`: one value made of those of all lanes of the mask."""
    mode, names = modifiers(i, "sync", *REDUCE) - {"sync"}, types(i)
    if len(mode) != 1 or names not in (["u32"], ["s32"], ["b32"]):
        raise UnsupportedError("instruction not supported")
    function, dtype = REDUCE[mode.pop()], TYPES[names[0]]
    source, mask = reader(kernel, i.operands[1], dtype), reader(kernel, i.operands[2], U32)
    put = writer(kernel, i.operands[0], dtype)

    def run(m: Any) -> None:
        values, group = m.spread(source(m)), (m.lanes >> 5) << 32 | m.spread(mask(m))
        order = np.argsort(group, kind="stable")
        first = np.flatnonzero(np.diff(group[order], prepend=-1))
        totals = function.reduceat(values[order], first)
        out = np.empty_like(values)
        out[order] = np.repeat(totals, np.diff(first, append=len(order)))
        put(m, out)

    return run


@decoder("bar.warp")
def syncwarp(kernel: Kernel, i: Instruction) -> Action:
    """`bar.warp.sync`: waiting was all there is to do."""
    return lambda m: None
