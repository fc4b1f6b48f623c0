"""Single numbers, as the naive twins round them: Python floats, each rounding written out.

A float64 operation on float32 numbers, rounded to float32 afterwards, is the float32 operation:
53 bits are more than twice 24. Infinities and NaN come out as IEEE 754 has them.
"""

from __future__ import annotations

import ctypes
import math
from fractions import Fraction

from tinymoe.formats import exact
from tinymoe.formats.e2m1 import MAGNITUDES, MIDPOINTS, Rule

SMALLEST = 2.0**-126  # the smallest normal float32


def f32(value: float) -> float:
    """Rounded to float32; too large is infinite."""
    return ctypes.c_float(value).value


def bf16(value: float) -> float:
    """A finite value rounded to BF16; -0 stays -0."""
    return math.copysign(float(exact.bf16(Fraction(value))), value)


def quotient(a: float, b: float) -> float:
    """a / b in float32, where b may be zero."""
    if b:
        return f32(a / b)
    if a == 0 or math.isnan(a):
        return math.nan
    return math.copysign(math.inf, a) * math.copysign(1, b)


def flushed(value: float) -> float:
    """A subnormal to zero, sign kept."""
    return math.copysign(0.0, value) if abs(value) < SMALLEST else value


def e2m1_code(value: float, rule: Rule) -> int:
    """The code 0..15 of one value."""
    if math.isnan(value):
        return {"six": 7, "zero": 0}[rule.nan]
    size = abs(value)
    code = sum(size > midpoint for midpoint in MIDPOINTS)
    if size in MIDPOINTS:  # between `code` and the next
        code += {"even": code % 2, "toward_zero": 0, "away": 1}[rule.ties]
    negative = {
        "kept": math.copysign(1, value) < 0,
        "lost_at_zero": value < 0,
        "never": value < 0 and code > 0,
        "zeros_negative": value <= 0,
    }[rule.zero_sign]
    return code + 8 * negative


def e2m1_value(code: int, code_8: str = "-0") -> float:
    """What a code stands for."""
    if code == 8 and code_8 == "+0":
        return 0.0
    return -MAGNITUDES[code - 8] if code > 7 else MAGNITUDES[code]


def e4m3_code(value: float) -> int:
    """The byte of one number that is not NaN; what is too large becomes 448."""
    size = min(abs(value), 448.0)
    if size < 2.0**-6:
        code = round(size * 512)  # whole multiples of 2^-9; round() takes ties to even
    else:
        mantissa, exponent = math.frexp(size)  # mantissa in [0.5, 1): eight steps of 1/16
        code = (exponent + 6) * 8 + round(mantissa * 16) - 8
    return code + 128 * (math.copysign(1, value) < 0)


def e4m3_value(code: int) -> float:
    """What a byte stands for."""
    sign, magnitude = (-1.0 if code & 128 else 1.0), code & 127
    if magnitude == 127:
        return math.nan
    exponent, fraction = divmod(magnitude, 8)
    return sign * (fraction * 2.0**-9 if exponent == 0 else (8 + fraction) * 2.0 ** (exponent - 10))
