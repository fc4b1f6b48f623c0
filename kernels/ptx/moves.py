"""`mov`, `cvta`, `isspacep`, and instructions that only hint or order: nothing to do for those."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinymoe.kernels.ptx import arithmetic, compare, integers
from tinymoe.kernels.ptx.compute import compute, modifiers, only_type, types
from tinymoe.kernels.ptx.dispatch import Action, UnsupportedError, decoder, elements
from tinymoe.kernels.ptx.kernel import Instruction, Kernel
from tinymoe.kernels.ptx.machine import GLOBAL, WINDOW
from tinymoe.kernels.ptx.operands import TYPES, U32, U64, Array, reader, writer


@decoder("add", "sub", "mul", "mad", "fma", "div", "rem", "min", "max", "neg", "abs")
@decoder("sqrt", "rcp", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh")
def number(kernel: Kernel, i: Instruction) -> Action:
    """Arithmetic, by the type at the end of the opcode."""
    if i.opcode[-1] in arithmetic.REALS:
        if i.opcode[0] in ("neg", "abs"):
            return compare.sign(kernel, i)
        return arithmetic.decode(kernel, i)
    return integers.decode(kernel, i)


@decoder("mov")
def mov(kernel: Kernel, i: Instruction) -> Action:
    """One register to another, a symbol's address, or parts packed into or out of a register."""
    names = types(i)
    modifiers(i)
    if len(names) != 1 or len(i.operands) != 2:
        raise UnsupportedError("instruction not supported")
    dtype = TYPES[names[0]]
    raw = dtype if dtype.kind == "b" else np.dtype(f"u{dtype.itemsize}")
    if i.operands[0][0] == "{":
        return _unpack(kernel, i, raw)
    if i.operands[1][0] == "{":
        return _pack(kernel, i, raw)
    return compute(kernel, i, lambda a: a, [raw], raw)


def _part(raw: np.dtype[Any], count: int) -> np.dtype[Any]:
    if raw.itemsize % count or raw.itemsize // count not in (1, 2, 4):
        raise UnsupportedError(f"{count} parts do not make {raw.itemsize * 8} bits")
    return np.dtype(f"u{raw.itemsize // count}")


def _pack(kernel: Kernel, i: Instruction, raw: np.dtype[Any]) -> Action:
    names = elements(i.operands[1])
    part = _part(raw, len(names))
    sources = [reader(kernel, n, part) for n in names]
    put, bits = writer(kernel, i.operands[0], raw), part.itemsize * 8

    def run(m: Any) -> None:
        out = sources[0](m).astype(raw)
        for k, source in enumerate(sources[1:], 1):
            out = out | (source(m).astype(raw) << raw.type(k * bits))
        put(m, out)

    return run


def _unpack(kernel: Kernel, i: Instruction, raw: np.dtype[Any]) -> Action:
    names = elements(i.operands[0])
    part = _part(raw, len(names))
    source, puts = reader(kernel, i.operands[1], raw), [writer(kernel, n, part) for n in names]
    bits = part.itemsize * 8

    def run(m: Any) -> None:
        value = source(m)
        parts = [(value >> raw.type(k * bits)).astype(part) for k in range(len(puts))]
        for put, found in zip(puts, parts, strict=True):  # a part may replace the source
            put(m, found)

    return run


def _base(space: str) -> np.uint64:
    return np.uint64(0 if space == "global" else WINDOW[space])


@decoder("cvta")
def cvta(kernel: Kernel, i: Instruction) -> Action:
    """To a generic address, and with `.to` back from one."""
    mods, dtype = modifiers(i, "to", "global", *WINDOW), only_type(i, "u")
    space = next((m for m in mods if m != "to"), "")
    if not space:
        raise UnsupportedError("instruction not supported")
    base = _base(space)
    change: Callable[[Array], Array] = (
        (lambda a: a - base) if "to" in mods else (lambda a: a + base)
    )
    if dtype == U32:
        raise UnsupportedError("32-bit generic addresses are not supported")
    if "to" not in mods and i.operands[1] in kernel.variables and space == "global":
        change = lambda a: a  # noqa: E731  (a global symbol's address is generic already)
    return compute(kernel, i, change, [dtype], dtype)


@decoder("isspacep")
def isspacep(kernel: Kernel, i: Instruction) -> Action:
    """Whether a generic address lies in a state space."""
    space = i.opcode[1]
    if space == "global":
        return compute(kernel, i, lambda a: a >= np.uint64(GLOBAL), [U64], TYPES["pred"])
    if space not in WINDOW:
        raise UnsupportedError("instruction not supported")
    window = np.uint64(WINDOW[space] >> 32)
    return compute(kernel, i, lambda a: a >> np.uint64(32) == window, [U64], TYPES["pred"])


def _nothing(machine: Any) -> None:
    pass


@decoder("membar", "fence")
def fence(kernel: Kernel, i: Instruction) -> Action:
    """`__threadfence()` and its kin: see `fences.py`; inside a block memory is in order here."""
    mods = modifiers(i, "sc", "acq_rel", "gl", "gpu", "sys", "cta")
    if mods & {"gl", "gpu", "sys"}:
        return lambda m: m.fenced.__setitem__(m.select, True)
    return _nothing


@decoder("prefetch", "prefetchu", "nanosleep", "pmevent", "griddepcontrol")
@decoder("applypriority", "discard", "createpolicy", "setmaxnreg")
def accept(kernel: Kernel, i: Instruction) -> Action:
    """Instructions that hint: nothing is slow here."""
    if i.opcode[0] == "createpolicy":
        put = writer(kernel, i.operands[0], U64)
        return lambda m: put(m, np.zeros(1, "u8"))
    return _nothing


@decoder("call")
def call(kernel: Kernel, i: Instruction) -> Action:
    """Device functions that were not inlined; a failed `assert` is a finding."""
    if any("__assertfail" in name for name in i.operands):
        return lambda m: m.fail("an assertion failed", int(m.lanes[0]))
    raise UnsupportedError("calls of functions that were not inlined are not supported")
