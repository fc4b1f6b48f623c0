"""Floating-point arithmetic: f32, f64, and f16 and bf16, alone and in pairs.

Exact: + - * / fma sqrt rcp, each with one rounding in the mode asked for (f64: directions for
+ - * only). An `approx` is computed as its correctly rounded twin: near the hardware's result, not
its bits. A NaN that f32 or a half computes is the hardware's 0x7fffffff or 0x7fff.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from tinymoe.kernels.ptx import halves, rounding
from tinymoe.kernels.ptx.compute import apply, types
from tinymoe.kernels.ptx.dispatch import Action, UnsupportedError
from tinymoe.kernels.ptx.kernel import Instruction, Kernel
from tinymoe.kernels.ptx.operands import TYPES, DType, reader, writer

Array = np.ndarray[Any, Any]
TINY = np.float32(2.0**-126)


class Real(NamedTuple):
    """A number type: how a register holds it, and to and from the floats we compute with."""

    stored: DType
    lift: Callable[[Array], Array]
    lower: Callable[[Array], Array]


def canonical(x: Array) -> Array:
    """The f32 result of an operation, its NaNs those of the hardware."""
    x = x.astype("f4", copy=False)
    squares = np.dot(x, x)
    if squares == squares:  # no infinities cancel here: the sum is NaN only if an element is
        return x
    return np.where(np.isnan(x), np.uint32(0x7FFFFFFF), x.view("u4")).view("f4")


def _same(x: Array) -> Array:
    return x


REALS = {
    "f32": Real(TYPES["f32"], _same, canonical),
    "f64": Real(TYPES["f64"], _same, _same),
    "f16": Real(TYPES["u16"], halves.from_f16, halves.to_f16),
    "bf16": Real(TYPES["u16"], halves.from_bf16, halves.to_bf16),
    "f16x2": Real(
        TYPES["u32"],
        lambda x: halves.from_f16(x.view("u2")),
        lambda x: halves.to_f16(x).view("u4"),
    ),
    "bf16x2": Real(
        TYPES["u32"],
        lambda x: halves.from_bf16(x.view("u2")),
        lambda x: halves.to_bf16(x).view("u4"),
    ),
}
QUIET = {"approx", "full", "ftz", "rn"}
LAST = {"NaN", "sat", "relu", "ftz", "xorsign", "abs"}


def flush(x: Array) -> Array:
    """`.ftz`: an f32 below the smallest normal number becomes a zero of its sign."""
    small = np.abs(x) < TINY
    return np.where(small, np.copysign(np.float32(0), x), x) if np.count_nonzero(small) else x


def fma32(a: Array, b: Array, c: Array, mode: str = "rn") -> Array:
    """a * b + c in f32 with a single rounding."""
    return rounding.to_f32(rounding.fma_odd(a, b, c), mode)


def _sum(a: Array, b: Array, mode: str) -> Array:
    if mode == "rn":
        return a + b
    if a.dtype == np.float64:
        out = rounding.add_direct(a, b, mode)
    else:
        out = rounding.to_f32(rounding.add_odd(a.astype("f8"), b.astype("f8")), mode)
    return np.where((a == -b) & (a != 0), _nothing(out, mode), out)


def _nothing(out: Array, mode: str) -> Array:
    """x - x in the type of `out`: -0 when rounding down."""
    return np.full(1, -0.0 if mode == "rm" else 0.0, out.dtype)


def _product(a: Array, b: Array, mode: str) -> Array:
    if mode == "rn":
        return a * b
    if a.dtype == np.float64:
        return rounding.multiply_direct(a, b, mode)
    return rounding.to_f32(a.astype("f8") * b.astype("f8"), mode)


def _fma(a: Array, b: Array, c: Array, mode: str) -> Array:
    if a.dtype == np.float64:
        if mode != "rn":
            raise UnsupportedError("fma.f64 rounds to nearest only on this machine")
        return rounding.fma64(a, b, c)
    out = fma32(a, b, c, mode)
    if mode == "rn":
        return out
    product = a.astype("f8") * b.astype("f8")
    return np.where((product == -c.astype("f8")) & (product != 0), _nothing(out, mode), out)


def _quotient(a: Array, b: Array, mode: str) -> Array:
    if mode == "rn":
        return a / b
    return rounding.to_f32(rounding.divide_odd(a, b), mode)


def _root(a: Array, mode: str) -> Array:
    return np.sqrt(a) if mode == "rn" else rounding.to_f32(rounding.sqrt_odd(a), mode)


def lower(a: Array, b: Array) -> Array:
    """The smaller: -0 is below +0, which np.fmin does not promise; one NaN gives the other."""
    negative = np.where(np.signbit(a), a, b)
    return np.where(a == b, negative, np.fmin(a, b))


def higher(a: Array, b: Array) -> Array:
    """The greater, by the same rules."""
    positive = np.where(np.signbit(a), b, a)
    return np.where(a == b, positive, np.fmax(a, b))


def in_f64(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """`function` in f64, rounded to the type of its argument."""
    return lambda x: function(x.astype("f8")).astype(x.dtype)


ROUNDED: dict[str, tuple[int, Callable[..., Array]]] = {  # sources, function(..., mode)
    "add": (2, _sum),
    "sub": (2, lambda a, b, mode: _sum(a, -b, mode)),
    "mul": (2, _product),
    "fma": (3, _fma),
    "mad": (3, _fma),
    "div": (2, _quotient),
    "rcp": (1, lambda a, mode: _quotient(a.dtype.type(1), a, mode)),
    "sqrt": (1, _root),
}
APPROXIMATE: dict[str, Callable[[Array], Array]] = {
    "rsqrt": in_f64(lambda x: 1 / np.sqrt(x)),
    "ex2": in_f64(np.exp2),
    "lg2": in_f64(np.log2),
    "sin": in_f64(np.sin),
    "cos": in_f64(np.cos),
    "tanh": in_f64(np.tanh),
}
CHOICE = {"min": lower, "max": higher}


def decode(kernel: Kernel, i: Instruction) -> Action:
    """An arithmetic instruction whose type is a float."""
    base, kind = i.opcode[0], i.opcode[-1]
    real, mods = REALS[kind], set(i.opcode[1:-1])
    function = _rounded(base, kind, mods)
    if base in CHOICE:
        function = _choice(base, mods)
    elif base in APPROXIMATE and mods <= QUIET:
        function = APPROXIMATE[base]
    if function is None or len(types(i)) > 1:
        raise UnsupportedError("instruction not supported")
    ftz = "ftz" in mods and kind == "f32"
    paired = kind.endswith("x2")

    def run(*values: Array) -> Array:
        lifted = [real.lift(v) for v in values]
        if ftz:
            lifted = [flush(v) for v in lifted]
        out = function(*lifted)
        if "sat" in mods:
            out = np.where(out > 0, np.minimum(out, 1), 0)  # a NaN becomes 0 as well
        if "relu" in mods:
            out = np.where(out < 0, 0, out)
        out = real.lower(out.astype(lifted[0].dtype, copy=False) if kind == "f32" else out)
        return flush(out) if ftz else out

    sources = [reader(kernel, name, real.stored) for name in i.operands[1:]]
    if paired:  # an immediate stands for both halves of every thread
        sources = [_spread(s) for s in sources]
    return apply(run, sources, writer(kernel, i.operands[0], real.stored))


def _spread(source: Callable[[Any], Array]) -> Callable[[Any], Array]:
    return lambda m: m.spread(source(m))


def _rounded(base: str, kind: str, mods: set[str]) -> Callable[..., Array] | None:
    if base not in ROUNDED or mods - set(rounding.MODES) - QUIET - {"sat", "relu"}:
        return None
    count, function = ROUNDED[base]
    mode = next((m for m in rounding.MODES if m in mods), "rn")
    half = kind not in ("f32", "f64")
    if half and (mode != "rn" or base in ("div", "rcp", "sqrt", "mad")):
        return None
    if kind == "f64" and mode != "rn" and base not in ("add", "sub", "mul"):
        return None
    if half and count == 3:
        return rounding.fma_odd
    return lambda *values: function(*values, mode)


def _choice(base: str, mods: set[str]) -> Callable[..., Array] | None:
    """`min` and `max`, of two or three."""
    if mods - LAST:
        return None
    choose = CHOICE[base]

    def run(*values: Array) -> Array:
        if "xorsign" not in mods:
            out = reduce(choose, values)
        else:
            signs = reduce(np.logical_xor, map(np.signbit, values))
            out = np.abs(reduce(choose, map(np.abs, values)))
            out = np.where(signs, -out, out)
        if "NaN" in mods:
            lost = reduce(np.logical_or, map(np.isnan, values))
            out = np.where(lost, out.dtype.type(np.nan), out)
        return out

    return run
