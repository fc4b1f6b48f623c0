"""Loads and stores: `ld`, `ldu`, `st`, of one value or a vector, in every state space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinymoe.kernels.ptx.compute import types
from tinymoe.kernels.ptx.dispatch import Action, UnsupportedError, decoder, elements
from tinymoe.kernels.ptx.kernel import Instruction, Kernel
from tinymoe.kernels.ptx.machine import ALL
from tinymoe.kernels.ptx.operands import TYPES, Array, Writer, address, reader, writer

SPACES = ("global", "shared", "local", "const", "param")
# Cache hints and the like change nothing here
HINTS = {
    *("ca", "cg", "cs", "cv", "lu", "wb", "wt", "nc", "weak", "unified"),
    *("L1::no_allocate", "L1::evict_normal", "L1::evict_first", "L1::evict_last"),
    *("L1::evict_unchanged", "L2::64B", "L2::128B", "L2::256B", "L2::cache_hint"),
    *("L2::evict_first", "L2::evict_last", "L2::evict_normal"),
}
# These order themselves against other threads' accesses, so two of them do not race
STRONG = {"volatile", "relaxed", "acquire", "release", "acq_rel", "mmio"}
SCOPES = {"cta", "cluster", "gpu", "sys"}
VECTORS = {"v2": 2, "v4": 4, "v8": 8}


def space_of(i: Instruction) -> str:
    """The state space of an access; "" is generic."""
    found = [m.split("::")[0] for m in i.opcode[1:] if m.split("::")[0] in SPACES]
    return found[0] if found else ""


def _plan(i: Instruction) -> tuple[str, str, int, bool]:
    """Space, type, count of a vector, and whether the access is a strong one."""
    mods = {m for m in i.opcode[1:] if m.split("::")[0] not in SPACES}
    names = types(i)
    left = mods - HINTS - STRONG - SCOPES - set(VECTORS) - set(names)
    cluster = any(m == "shared::cluster" for m in i.opcode)
    if left or cluster or len(names) != 1 or names[0] == "pred":
        raise UnsupportedError("instruction not supported")
    count = next((n for v, n in VECTORS.items() if v in mods), 1)
    return space_of(i), names[0], count, bool(mods & STRONG)


@decoder("ld", "ldu")
def load(kernel: Kernel, i: Instruction) -> Action:
    """`ld.space.type d, [a]`; a vector goes to `{d0, d1, ...}`."""
    space, name, count, strong = _plan(i)
    dtype, names = TYPES[name], elements(i.operands[0])
    if len(names) != count:
        raise UnsupportedError(f"expected {count} registers")
    raw = dtype if dtype.kind == "i" else np.dtype(f"u{dtype.itemsize}")
    puts = [writer(kernel, n, raw) for n in names]
    at = address(kernel, i.operands[1])
    size = dtype.itemsize
    if space == "param" and i.operands[1].strip("[]").partition("+")[0] in kernel.params:
        return _parameter(at, puts, raw)
    kind = "atomic read" if strong else "read"

    def run(m: Any) -> None:
        for part, memory, index in m.touch(space, m.spread(at(m)), size * count, kind):
            for k, put in enumerate(puts):
                value = memory.load(index + k * size if k else index, raw)
                if part is ALL:
                    put(m, value)
                else:
                    m.some(put, part, value)

    return run


def _parameter(at: Callable[[Any], Array], puts: list[Writer], raw: np.dtype[Any]) -> Action:
    """A load at a fixed place of the parameters: one value for all threads."""

    def run(m: Any) -> None:
        place = at(m)
        for _, memory, index in m.touch("param", place, raw.itemsize * len(puts), "read"):
            for k, put in enumerate(puts):
                put(m, memory.load(index + k * raw.itemsize, raw))

    return run


@decoder("st")
def store(kernel: Kernel, i: Instruction) -> Action:
    """`st.space.type [a], b`."""
    space, name, count, strong = _plan(i)
    dtype, names = TYPES[name], elements(i.operands[1])
    if len(names) != count:
        raise UnsupportedError(f"expected {count} registers")
    raw = np.dtype(f"u{dtype.itemsize}")
    sources = [reader(kernel, n, raw) for n in names]
    at, size = address(kernel, i.operands[0]), dtype.itemsize
    kind = "atomic write" if strong else "write"
    releases = "release" in i.opcode

    def run(m: Any) -> None:
        if releases:
            m.fenced[m.lanes] = True
        values = [m.spread(s(m)) for s in sources]
        for part, memory, index in m.touch(space, m.spread(at(m)), size * count, kind):
            for k, value in enumerate(values):
                memory.store(index + k * size if k else index, value[part])
            for k, value in enumerate(values):
                _agree(m, memory.load(index + k * size if k else index, raw), value, part)

    return run


def _agree(m: Any, found: Array, value: Array, part: Any) -> None:
    """Several threads may store to one place, if they store the same."""
    apart = found != value[part]
    if np.count_nonzero(apart):
        lane = int(m.lanes[part][np.argmax(apart)])
        m.fail("another thread stores a different value to the same address", lane)
