"""What one arithmetic instruction computes, on arrays of one element a thread.

Exact: integers, and + - * / fma sqrt rcp in f32 with one rounding to nearest even. A float `approx`
is computed as its correctly rounded twin: near the hardware's result, not its bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
KIND = {"u": "u", "s": "i", "b": "u", "f": "f"}
TYPES = {
    **{k + str(b): np.dtype(f"{KIND[k]}{b // 8}") for k in "usb" for b in (8, 16, 32, 64)},
    **{f"f{b}": np.dtype(f"f{b // 8}") for b in (16, 32, 64)},
}
QUIET = {"rn", "ftz", "approx", "full", "lo", "hi", "wide"}


def fma32(a: Array, b: Array, c: Array) -> Array:
    """a * b + c in f32 with a single rounding.

    The product is exact in f64. The sum is rounded to odd there (its last bit set when inexact),
    which keeps the second rounding, to f32, from seeing a false tie.
    """
    p, c = a.astype("f8") * b.astype("f8"), c.astype("f8")
    s = p + c
    back = s - p
    lost = (p - (s - back)) + (c - back)
    bits = s.view("i8")
    fix = np.isfinite(s) & (lost != 0) & ((bits & 1) == 0)
    odd = np.where(fix, bits + np.where((lost > 0) == (s > 0), 1, -1), bits)
    return odd.view("f8").astype("f4")


def _product(a: Array, b: Array, mods: set[str]) -> Array:
    if a.dtype.kind == "f":
        return a * b
    bits = a.dtype.itemsize * 8
    if "wide" in mods:
        wide = np.dtype(f"{a.dtype.kind}{bits // 4}")
        return a.astype(wide) * b.astype(wide)
    if "hi" in mods:
        high = (a.astype(object) * b.astype(object)) >> bits
        return high.astype(a.dtype)
    return a * b


def _divide(a: Array, b: Array, mods: set[str]) -> Array:
    if a.dtype.kind == "f":
        return a / b
    wide = a.astype(object)
    with_sign = [abs(int(x)) // abs(int(y)) if y else -1 for x, y in zip(wide, b, strict=True)]
    signs = np.where((a < 0) != (b < 0), -1, 1)
    mask = (1 << a.dtype.itemsize * 8) - 1
    raw = [(q * int(s)) & mask for q, s in zip(with_sign, signs, strict=True)]
    return np.array(raw, dtype=f"u{a.dtype.itemsize}").view(a.dtype)


def _shift_left(a: Array, n: Array, mods: set[str]) -> Array:
    bits = a.dtype.itemsize * 8  # a shift by the width or more gives 0, it does not wrap
    return np.where(n >= bits, a.dtype.type(0), a << np.minimum(n, bits - 1).astype(a.dtype))


def _shift_right(a: Array, n: Array, mods: set[str]) -> Array:
    bits = a.dtype.itemsize * 8
    out = a >> np.minimum(n, bits - 1).astype(a.dtype)
    return out if a.dtype.kind == "i" else np.where(n >= bits, a.dtype.type(0), out)


def _low(a: Array, b: Array, mods: set[str]) -> Array:
    # -0 is below +0, which np.fmin does not promise; one NaN gives the other number
    negative = np.where(np.signbit(a), a, b)
    return np.where(a == b, negative, np.fmin(a, b))


def _high(a: Array, b: Array, mods: set[str]) -> Array:
    positive = np.where(np.signbit(a), b, a)
    return np.where(a == b, positive, np.fmax(a, b))


def _fma(a: Array, b: Array, c: Array, mods: set[str]) -> Array:
    return fma32(a, b, c)


def _mad(a: Array, b: Array, c: Array, mods: set[str]) -> Array:
    out = _product(a, b, mods)
    return out + c.astype(out.dtype)


ALU: dict[str, Callable[..., Array]] = {
    "add": lambda a, b, mods: a + b,
    "sub": lambda a, b, mods: a - b,
    "mul": _product,
    "mad": _mad,
    "fma": _fma,
    "div": _divide,
    "rem": lambda a, b, mods: a - _divide(a, b, mods) * b,
    "min": _low,
    "max": _high,
    "and": lambda a, b, mods: a & b,
    "or": lambda a, b, mods: a | b,
    "xor": lambda a, b, mods: a ^ b,
    "not": lambda a, mods: ~a,
    "neg": lambda a, mods: -a,
    "abs": lambda a, mods: np.abs(a),
    "shl": _shift_left,
    "shr": _shift_right,
    "sqrt": lambda a, mods: np.sqrt(a),
    "rcp": lambda a, mods: a.dtype.type(1) / a,
    "ex2": lambda a, mods: np.exp2(a.astype("f8")).astype(a.dtype),
    "lg2": lambda a, mods: np.log2(a.astype("f8")).astype(a.dtype),
}
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
}


def flush(x: Array) -> Array:
    """`.ftz`: an f32 below the smallest normal number becomes a zero of its sign."""
    small = np.abs(x) < np.finfo("f4").tiny
    return np.where(small, np.copysign(np.float32(0), x), x)


def convert(x: Array, to: np.dtype[Any], rounding: str) -> Array:
    """`cvt`: integers keep their low bits, floats to an integer saturate and NaN gives 0."""
    if x.dtype.kind != "f" or to.kind == "f":
        return x.astype(to)
    how = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[rounding]
    whole = how(x.astype("f8"))
    limits = np.iinfo(to)
    return np.clip(np.nan_to_num(whole, nan=0.0), limits.min, limits.max).astype(to)
