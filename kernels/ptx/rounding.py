"""Exact sums and products, and one rounding of them.

An operation in f32 is computed in f64 and the result "rounded to odd": where it is inexact, its
last bit is set. That bit stands for all digits lost, so that a second rounding, to nearest or in
a direction, comes out as if there had been only one. f64 keeps its own error as a second number.
Sources: Knuth (two-sum), Dekker (two-product), Boldo and Melquiond 2008 (emulation of fma by
rounding to odd).
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
MODES = ("rn", "rz", "rm", "rp")
SAFE = 2.0**450  # products of numbers between 1/SAFE and SAFE neither overflow nor underflow


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b in f64 and what it lost: together exact, where finite."""
    s = a + b
    back = s - a
    return s, (a - (s - back)) + (b - back)


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """a * b in f64 and what it lost, for magnitudes within SAFE."""
    p = a * b
    a1 = a * 134217729.0 - (a * 134217729.0 - a)  # the upper 26 bits
    b1 = b * 134217729.0 - (b * 134217729.0 - b)
    a2, b2 = a - a1, b - b1
    return p, ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2


def to_odd(s: Array, lost: Array) -> Array:
    """s + lost in f64, rounded to odd."""
    bits = s.view("i8")
    fix = np.isfinite(s) & (lost != 0) & ((bits & 1) == 0)
    if not np.count_nonzero(fix):
        return s
    return np.where(fix, bits + np.where((lost > 0) == (s > 0), 1, -1), bits).view("f8")


def add_odd(a: Array, b: Array) -> Array:
    """a + b, rounded to odd f64."""
    return to_odd(*two_sum(a, b))


def fma_odd(a: Array, b: Array, c: Array) -> Array:
    """a * b + c in f64, rounded to odd; for f32, f16 or bf16 values, whose product is exact."""
    return add_odd(a.astype("f8") * b.astype("f8"), c.astype("f8"))


def divide_odd(a: Array, b: Array) -> Array:
    """a / b of f32 values, rounded to odd f64."""
    a, b = a.astype("f8"), b.astype("f8")
    q = a / b
    p, lost = two_product(q, b)
    rest = (a - p) - lost
    return to_odd(q, np.where(np.isfinite(rest), rest * np.sign(b), 0))


def sqrt_odd(a: Array) -> Array:
    """The square root of f32 values, rounded to odd f64."""
    a = a.astype("f8")
    s = np.sqrt(a)
    p, lost = two_product(s, s)
    rest = (a - p) - lost
    return to_odd(s, np.where(np.isfinite(rest), rest, 0))


def to_f32(x: Array, mode: str) -> Array:
    """f64 (rounded to odd) to f32, to nearest even or in a direction."""
    y = x.astype("f4")
    if mode == "rn":
        return y
    back = y.astype("f8")
    toward = {"rz": np.float32(0), "rm": np.float32(-np.inf), "rp": np.float32(np.inf)}[mode]
    past = {"rz": np.abs(back) > np.abs(x), "rm": back > x, "rp": back < x}[mode]
    return np.where(past, np.nextafter(y, toward), y)


def direct_f64(s: Array, lost: Array, mode: str) -> Array:
    """The f64 sum s + lost, s being its nearest, in a direction."""
    toward = {"rz": 0.0, "rm": -np.inf, "rp": np.inf}[mode]
    past = {"rz": lost * np.sign(s) < 0, "rm": lost < 0, "rp": lost > 0}[mode]
    return np.where(past & np.isfinite(lost), np.nextafter(s, toward), s)


def add_direct(a: Array, b: Array, mode: str) -> Array:
    """a + b in f64, rounded in a direction."""
    s, lost = two_sum(a, b)
    over = np.isinf(s) & np.isfinite(a) & np.isfinite(b)
    return direct_f64(s, np.where(over, -np.sign(s), lost), mode)


def multiply_direct(a: Array, b: Array, mode: str) -> Array:
    """a * b in f64, rounded in a direction."""
    a, b = np.broadcast_arrays(a, b)
    s, lost = two_product(a, b)
    for k in np.flatnonzero(_far(a) | _far(b) | _far(s)):
        if np.isfinite([a[k], b[k]]).all():
            exact = Fraction(float(a[k])) * Fraction(float(b[k]))
            over = np.isinf(s[k])
            lost[k] = -np.sign(s[k]) if over else float((exact > s[k]) - (exact < s[k]))
    return direct_f64(s, lost, mode)


def _far(x: Array) -> Array:
    """Where two_product may overflow or lose what it should keep."""
    return (np.abs(x) > SAFE) | ((np.abs(x) < 1 / SAFE) & (x != 0))


def fma64(a: Array, b: Array, c: Array) -> Array:
    """a * b + c in f64, rounded once to nearest."""
    a, b, c = np.broadcast_arrays(a, b, c)
    p, e = two_product(a, b)
    u, ul = two_sum(c, e)
    t, tl = two_sum(p, u)
    out = t + add_odd(tl, ul)
    for k in np.flatnonzero(_far(a) | _far(b) | _far(c)):
        out[k] = _exactly(float(a[k]), float(b[k]), float(c[k]))
    finite = np.isfinite(a) & np.isfinite(b)
    out = np.where(~finite | (a == 0) | (b == 0), a * b + c, out)
    return np.where(finite & ~np.isfinite(c), c, out)  # a product that overflows is still finite


def _exactly(a: float, b: float, c: float) -> float:
    if not np.isfinite([a, b, c]).all():
        return float("nan")  # replaced by the caller
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return a * b + c
    try:
        return float(exact)
    except OverflowError:
        return float("inf") if exact > 0 else float("-inf")
