"""e^x and what is made of it, 16 at a time.

A CPU has no instruction for e^x, and a C library's differs from machine to machine. This one is
a few fused products, so it is the same bits wherever `fma` rounds once.

    x = n ln 2 + r, |r| <= ln 2 / 2        e^x = 2^n e^r,  e^r = 1 + r (1 + r (1/2 + r (...)))

Cody and Waite 1980, "Software Manual for the Elementary Functions", chapter 6.
"""

from __future__ import annotations

from tinymoe.kernels.cpu.kernel import inlined, part
from tinymoe.kernels.cpu.simd import (
    absolute,
    as_f32,
    bits,
    fma,
    lane0,
    left,
    pick,
    right,
    splat,
    splat_i32,
)

LOG2_E = 1.4426950408889634
LN2_HIGH = 0.693147182464599609375  # the nearest float32
LN2_LOW = -1.904654299957767e-09  # ln 2 - LN2_HIGH
# (e^r - 1 - r - r^2 / 2) / r^3, lowest power first: least largest error of e^r, fitted over
# |r| <= ln 2 / 2 and rounded to float32. Off by at most 2^-27.9 of e^r.
CUBIC = (0.16666534543037415, 0.041667237877845764, 0.008367476984858513, 0.0013863785425201058)
LOWEST, HIGHEST = -104.0, 89.0  # from here on 0 and infinity: 2^-150 is e^-103.97, 2^128 e^88.72
# 1.5 * 2^23: added to a number below 2^22 it leaves that number, rounded, in the lowest bits
MAGIC = 12582912.0
MAGIC_BITS = 0x4B400000


@inlined
def exp(x):
    """e^x of 16 float32, within 1 unit in the last place (of 2^-149 where that is subnormal).

    e^-inf is 0, from 88.73 on it is inf, NaN stays NaN. The bound, in u = 2^-24 of the result:
    n ln 2 comes off exactly but for its low part's rounding, 2^-26 or u/4; the polynomial is off
    by u/14; its last two steps round by u/2 each where r < 0 (a unit in the last place is u
    there), by u where r > 0 (it is 2 u), the first of them times |r| <= 0.35. 2^n is exact until
    the result is subnormal, and rounds once there.
    """
    x = pick(x, splat(LOWEST), splat(LOWEST), x)  # NaN is not below, nor above
    x = pick(splat(HIGHEST), x, splat(HIGHEST), x)
    rounded = fma(x, splat(LOG2_E), splat(MAGIC))
    n = rounded - splat(MAGIC)
    r = fma(n, splat(-LN2_HIGH), x)
    r = fma(n, splat(-LN2_LOW), r)
    p = fma(r, splat(CUBIC[3]), splat(CUBIC[2]))
    p = fma(r, p, splat(CUBIC[1]))
    p = fma(r, p, splat(CUBIC[0]))
    p = fma(r, p, splat(0.5))
    p = fma(r, p, splat(1.0))
    p = fma(r, p, splat(1.0))
    # 2^n as two factors, as n may be -150 or 128, for which float32 has no power of two
    power = bits(rounded) - splat_i32(MAGIC_BITS)
    half = right(power + splat_i32(256), 1) - splat_i32(128)
    return p * _two_to(half) * _two_to(power - half)


@inlined
def _two_to(power):
    """2^power for whole numbers from -126 to 127: the exponent's bits."""
    return as_f32(left(power + splat_i32(127), 23))


@inlined
def sigmoid(x):
    """1 / (1 + e^-x), by the half that does not overflow, as the definition has it."""
    power = exp(splat(0.0) - absolute(x))
    return pick(x, splat(0.0), power, splat(1.0)) / (splat(1.0) + power)


@inlined
def silu(x):
    """x / (1 + e^-x), as the definition has it: -0 where e^-x is infinite, NaN at -inf."""
    return x / (splat(1.0) + exp(splat(0.0) - x))


@part
def exp_one(x):
    """e^x of one float32: the same bits as in a vector."""
    return lane0(exp(splat(x)))
