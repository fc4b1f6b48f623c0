"""Comparisons and choices: `setp`, `set`, `selp`, `slct`, `testp`, and signs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinymoe.kernels.ptx.arithmetic import REALS, flush
from tinymoe.kernels.ptx.compute import compute, modifiers, types
from tinymoe.kernels.ptx.dispatch import Action, UnsupportedError, decoder
from tinymoe.kernels.ptx.kernel import Instruction, Kernel
from tinymoe.kernels.ptx.operands import TYPES, Array, DType, reader, writer

PRED = TYPES["pred"]
COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    **{"eq": np.equal, "lt": np.less, "le": np.less_equal, "lo": np.less, "ls": np.less_equal},
    **{"gt": np.greater, "ge": np.greater_equal, "hi": np.greater, "hs": np.greater_equal},
    "ne": lambda a, b: (a != b) & (a == a) & (b == b),  # false on a NaN, unlike NumPy's
    "equ": lambda a, b: ~((a != b) & (a == a) & (b == b)),
    "neu": np.not_equal,
    "ltu": lambda a, b: ~(a >= b),
    "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b),
    "geu": lambda a, b: ~(a < b),
    "num": lambda a, b: (a == a) & (b == b),
    "nan": lambda a, b: (a != a) | (b != b),
}
UNSIGNED = {"lo", "ls", "hi", "hs"}
COMBINE: dict[str, Callable[[Array, Array], Array]] = {
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
}


def _comparison(i: Instruction, kind: str) -> tuple[DType, Callable[[Array, Array], Array]]:
    """What `.lt.f32` and friends compare, and how."""
    name = next((m for m in i.opcode[1:] if m in COMPARE), "")
    if not name or (name in UNSIGNED and kind[0] != "u"):
        raise UnsupportedError("instruction not supported")
    test = COMPARE[name]
    if name == "ne" and kind[0] != "f" and "f" not in kind:
        test = np.not_equal
    if kind in ("f16", "bf16"):
        real = REALS[kind]
        return real.stored, lambda a, b: test(real.lift(a), real.lift(b))
    if kind not in TYPES:
        raise UnsupportedError("instruction not supported")
    if "ftz" in i.opcode:
        return TYPES[kind], lambda a, b: test(flush(a), flush(b))
    return TYPES[kind], test


@decoder("setp", "set")
def compare(kernel: Kernel, i: Instruction) -> Action:
    """`setp.lt.s32 p|q, a, b`: p, and q its opposite; `.and` / `.or` / `.xor` combine with c."""
    kinds = [m for m in i.opcode[1:] if m in TYPES or m in ("f16", "bf16")]
    mods = modifiers(i, *COMPARE, *COMBINE, "ftz", "bf16")
    dtype, test = _comparison(i, kinds[-1] if kinds else "")
    a, b = (reader(kernel, name, dtype) for name in i.operands[1:3])
    combine = next((COMBINE[m] for m in i.opcode[1:] if m in COMBINE), None)
    third = i.operands[3] if len(i.operands) > 3 else ""
    if bool(combine) != bool(third) or (mods & set(COMBINE) and not third):
        raise UnsupportedError("instruction not supported")
    c = reader(kernel, third.lstrip("!"), PRED) if third else None

    def result(m: Any, found: Array) -> Array:
        if combine is None or c is None:
            return found
        other = c(m)
        return combine(found, ~other if third[0] == "!" else other)

    if i.opcode[0] == "setp":
        return _setp(kernel, i, a, b, test, result)
    put = writer(kernel, i.operands[0], TYPES[kinds[0]])
    one = np.array([1], "f4") if kinds[0] == "f32" else np.array([-1], TYPES["s32"]).view("u4")
    zero = np.zeros(1, one.dtype)

    def run(m: Any) -> None:
        out = np.where(result(m, test(a(m), b(m))), one, zero)
        put(m, out.view(TYPES[kinds[0]]))

    return run


def _setp(
    kernel: Kernel,
    i: Instruction,
    a: Callable[[Any], Array],
    b: Callable[[Any], Array],
    test: Callable[[Array, Array], Array],
    result: Callable[[Any, Array], Array],
) -> Action:
    first, _, second = i.operands[0].partition("|")
    put = writer(kernel, first, PRED)
    if not second:
        if len(i.operands) == 3:
            return lambda m: put(m, test(a(m), b(m)))
        return lambda m: put(m, result(m, test(a(m), b(m))))
    also = writer(kernel, second, PRED)

    def both(m: Any) -> None:
        found = test(a(m), b(m))
        yes, no = result(m, found), result(m, ~found)
        put(m, yes)
        also(m, no)

    return both


@decoder("selp")
def select(kernel: Kernel, i: Instruction) -> Action:
    """`selp d, a, b, p`: a where p, else b."""
    names = types(i)
    modifiers(i)
    if len(names) != 1 or len(i.operands) != 4:
        raise UnsupportedError("instruction not supported")
    dtype = TYPES[names[0]]
    raw = np.dtype(f"u{dtype.itemsize}")
    return compute(kernel, i, _where, [raw, raw, PRED], raw)


def _where(a: Array, b: Array, p: Array) -> Array:
    return np.where(p, a, b)


@decoder("slct")
def choose(kernel: Kernel, i: Instruction) -> Action:
    """`slct d, a, b, c`: a where c >= 0, else b; c is s32 or f32."""
    names, mods = types(i), modifiers(i, "ftz")
    if len(names) != 2 or names[1] not in ("s32", "f32"):
        raise UnsupportedError("instruction not supported")
    dtype, by = TYPES[names[0]], TYPES[names[1]]

    def run(a: Array, b: Array, c: Array) -> Array:
        return np.where((flush(c) if "ftz" in mods else c) >= 0, a, b)

    return compute(kernel, i, run, [dtype, dtype, by], dtype)


CLASSES: dict[str, Callable[[Array], Array]] = {
    "finite": np.isfinite,
    "infinite": np.isinf,
    "number": lambda x: ~np.isnan(x),
    "notanumber": np.isnan,
    "normal": lambda x: np.isfinite(x) & (np.abs(x) >= np.finfo(x.dtype).tiny),
    "subnormal": lambda x: (x != 0) & (np.abs(x) < np.finfo(x.dtype).tiny),
}


@decoder("testp")
def testp(kernel: Kernel, i: Instruction) -> Action:
    """`testp.finite.f32 p, a` and the other classes; a zero is neither normal nor subnormal."""
    mods, names = modifiers(i, *CLASSES), types(i)
    if len(mods) != 1 or names not in (["f32"], ["f64"]):
        raise UnsupportedError("instruction not supported")
    return compute(kernel, i, CLASSES[mods.pop()], [TYPES[names[0]]], PRED)


@decoder("copysign")
def copysign(kernel: Kernel, i: Instruction) -> Action:
    """`copysign d, a, b`: the magnitude of b with the sign of a."""
    names = types(i)
    modifiers(i)
    if names not in (["f32"], ["f64"]):
        raise UnsupportedError("instruction not supported")
    dtype = TYPES[names[0]]
    return compute(kernel, i, lambda a, b: np.copysign(b, a), [dtype, dtype], dtype)


SIGN = {"f16": 0x8000, "bf16": 0x8000, "f16x2": 0x80008000, "bf16x2": 0x80008000}
SIGN |= {"f32": 1 << 31, "f64": 1 << 63}


def sign(kernel: Kernel, i: Instruction) -> Action:
    """`neg` and `abs` of floats: they move the sign bit and nothing else."""
    kind, ftz = i.opcode[-1], "ftz" in i.opcode
    if set(i.opcode[1:-1]) - {"ftz"}:
        raise UnsupportedError("instruction not supported")
    stored = REALS[kind].stored
    raw = np.dtype(f"u{stored.itemsize}")
    bit = raw.type(SIGN[kind])

    def run(a: Array) -> Array:
        if ftz and kind == "f32":
            a = flush(a.view("f4")).view("u4")
        return a ^ bit if i.opcode[0] == "neg" else a & ~bit

    return compute(kernel, i, run, [raw], raw)
