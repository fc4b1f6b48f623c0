"""Rational arithmetic with each rounding written out: what the twins of this package compute in.

A twin says `fp32(a / b)` where the fast form divides two float32 arrays. Nothing is rounded that
is not said to be, so a fused multiply-add, a flush to zero or a detour through float64 in the
fast form shows as a difference. Finite values only.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

Ties = Literal["even", "toward_zero", "away"]  # even: to the even code, not the even value


def rounded(x: Fraction, *, bits: int, smallest: int) -> Fraction:
    """x to the nearest number of `bits` significant bits and no step below 2^smallest.

    Ties to even. No largest value: overflow is the caller's business.
    """
    if x == 0:
        return x
    exponent = 0  # 2^exponent <= |x| < 2^(exponent + 1)
    while Fraction(2) ** exponent > abs(x):
        exponent -= 1
    while Fraction(2) ** (exponent + 1) <= abs(x):
        exponent += 1
    step = Fraction(2) ** max(exponent - bits + 1, smallest)
    return round(x / step) * step  # Python's round of a Fraction is to even, and exact


def fp32(x: Fraction) -> Fraction:
    """x rounded to float32: 24 significant bits, smallest step 2^-149."""
    return rounded(x, bits=24, smallest=-149)


def bf16(x: Fraction) -> Fraction:
    """x rounded to BF16: 8 significant bits, smallest step 2^-133."""
    return rounded(x, bits=8, smallest=-133)


def nearest(x: Fraction, values: Sequence[float], *, ties: Ties) -> int:
    """Index of the value nearest to x, by distance to each; values ascend and are not negative."""
    distances = [abs(x - Fraction(value)) for value in values]
    least = min(distances)
    best = [index for index, distance in enumerate(distances) if distance == least]
    if ties == "even":
        return min(best, key=lambda index: index % 2)
    return best[0] if ties == "toward_zero" else best[-1]
