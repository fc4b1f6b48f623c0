"""`cvt` of two numbers at once: f16x2, bf16x2, and the 8, 6 and 4-bit formats of quantised models.

`cvt...x2.f32 d, a, b` puts a in the upper half and b in the lower. The codes of a small format are
in the order of the magnitudes they stand for, so rounding to nearest is a search among the middles
between neighbours; a tie goes to the even code. Source: PTX ISA 9.0, cvt; OCP MX v1.0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from tinymoe.kernels.ptx import halves
from tinymoe.kernels.ptx.dispatch import Action, UnsupportedError
from tinymoe.kernels.ptx.kernel import Instruction, Kernel
from tinymoe.kernels.ptx.operands import Array, reader, writer


class Small(NamedTuple):
    """A format of sign, exponent and mantissa; `nan` is the code a NaN becomes."""

    exponent: int
    mantissa: int
    bias: int
    last: int  # code of the greatest finite number
    nan: int
    inf: int = 0  # 0: none

    @property
    def bits(self) -> int:
        """The bits of a number, with its sign."""
        return 1 + self.exponent + self.mantissa


SMALL = {
    "e4m3x2": Small(4, 3, 7, 0x7E, 0x7F),
    "e5m2x2": Small(5, 2, 15, 0x7B, 0x7F, 0x7C),
    "e3m2x2": Small(3, 2, 3, 0x1F, 0x1F),
    "e2m3x2": Small(2, 3, 1, 0x1F, 0x1F),
    "e2m1x2": Small(2, 1, 1, 0x7, 0x7),
}
WIDE = ("f16x2", "bf16x2")
KNOWN = (*SMALL, *WIDE, "ue8m0x2")


@lru_cache
def magnitudes(name: str) -> Array:
    """The finite values of a format's codes, without sign, ascending, in f64."""
    f = SMALL[name]
    codes = np.arange(f.last + 1)
    e, m = codes >> f.mantissa, codes & ((1 << f.mantissa) - 1)
    fraction = np.where(e > 0, 1.0, 0.0) + m / (1 << f.mantissa)
    return np.ldexp(fraction, np.maximum(e, 1) - f.bias)


def encode(x: Array, name: str) -> Array:
    """f64 to codes, to nearest even, beyond the greatest finite number to that (`.satfinite`)."""
    f, values = SMALL[name], magnitudes(name)
    middles, size = (values[1:] + values[:-1]) / 2, np.abs(x)
    code = np.searchsorted(middles, size)  # a tie stays at the lower code
    tie = middles[np.minimum(code, len(middles) - 1)] == size
    code = code + (tie & (code & 1 == 1))
    signed = code | np.where(np.signbit(x), 1 << (f.bits - 1), 0)
    return np.where(np.isnan(x), f.nan, signed).astype("u4")


def decode(codes: Array, name: str) -> Array:
    """Codes to f64, exact."""
    f, values = SMALL[name], magnitudes(name)
    size = codes & ((1 << (f.bits - 1)) - 1)
    out = values[np.minimum(size, f.last)]
    if f.last < (1 << (f.bits - 1)) - 1:
        out = np.where(size > f.last, np.nan, out)
        out = np.where((size == f.inf) & (f.inf > 0), np.inf, out)
    return np.where(codes >> (f.bits - 1) & 1, -out, out)


def finite(codes: Array, kind: str) -> Array:
    """f16 or bf16 codes with infinities replaced by the greatest finite number."""
    last = 0x7BFF if kind == "f16" else 0x7F7F
    return np.where((codes & 0x7FFF) == last + 1, (codes & 0x8000) | last, codes).astype("u2")


def is_packed(i: Instruction) -> bool:
    """Whether a `cvt` has a paired type."""
    return any(m in KNOWN for m in i.opcode)


def convert(kernel: Kernel, i: Instruction) -> Action:
    """The paired forms of `cvt`."""
    kinds = [m for m in i.opcode[1:] if m in KNOWN or m == "f32"]
    mods = set(i.opcode[1:]) - set(kinds)
    if len(kinds) != 2 or not mods <= {"rn", "rz", "rp", "satfinite", "relu"}:
        raise UnsupportedError("conversion not supported")
    to, source = kinds
    lift, into = _sources(kernel, i, source), _lower(to, mods)
    bits = 16 if to in WIDE else 8 if to == "ue8m0x2" else _slot(to)
    put = writer(kernel, i.operands[0], np.dtype(f"u{bits // 4}"))

    def run(m: Any) -> None:
        high, low = (np.where(x < 0, 0.0, x) if "relu" in mods else x for x in lift(m))
        pair = (into(high).astype("u4") << np.uint32(bits)) | into(low)
        put(m, pair.astype(f"u{bits // 4}"))

    return run


def _slot(name: str) -> int:
    """The bits that one number of a pair takes: 6-bit formats are padded to a byte."""
    return 4 if name == "e2m1x2" else 8


def _sources(kernel: Kernel, i: Instruction, kind: str) -> Callable[[Any], tuple[Array, Array]]:
    """A function giving the upper and the lower number, in f64."""
    if kind == "f32":
        if len(i.operands) != 3:
            raise UnsupportedError("expected two sources")
        a, b = (reader(kernel, name, np.dtype("f4")) for name in i.operands[1:])
        return lambda m: (a(m).astype("f8"), b(m).astype("f8"))
    bits = 16 if kind in WIDE else 8 if kind == "ue8m0x2" else _slot(kind)
    pair = reader(kernel, i.operands[1], np.dtype(f"u{bits // 4}"))
    mask = (1 << bits) - 1

    def value(codes: Array) -> Array:
        if kind in WIDE:
            lift = halves.from_f16 if kind == "f16x2" else halves.from_bf16
            return lift(codes.astype("u2")).astype("f8")
        if kind == "ue8m0x2":
            out = np.ldexp(1.0, codes.astype("i4") - 127)
            return np.where(codes == 0xFF, np.nan, out)
        return decode(codes.astype("i8"), kind)

    def both(m: Any) -> tuple[Array, Array]:
        codes = pair(m).astype("u4")
        return value(codes >> np.uint32(bits)), value(codes & np.uint32(mask))

    return both


def _lower(to: str, mods: set[str]) -> Callable[[Array], Array]:
    """The rounding into one number of the pair."""
    if to == "ue8m0x2":
        if not mods <= {"rz", "rp", "satfinite"} or not mods & {"rz", "rp"}:
            raise UnsupportedError("conversion not supported")
        return lambda x: exponent(x, up="rp" in mods)
    if to in SMALL:
        if not {"rn", "satfinite"} <= mods:
            raise UnsupportedError("a small float wants .rn.satfinite")
        return lambda x: encode(x, to)
    if "rp" in mods:
        raise UnsupportedError("conversion not supported")
    kind, mode = to[:-2], "rz" if "rz" in mods else "rn"
    from tinymoe.kernels.ptx.convert import to_half

    def half(x: Array) -> Array:
        codes = to_half(x, kind, mode)
        return finite(codes, kind) if "satfinite" in mods else codes

    return half


def exponent(x: Array, up: bool) -> Array:
    """f64 to ue8m0: a power of two at or below |x| (`up`: at or above), 2^-127 to 2^127."""
    fraction, power = np.frexp(np.abs(x))  # |x| = fraction * 2^power, fraction from 1/2 to 1
    power = power - 1 + (up & (fraction > 0.5))
    code = np.where(x == 0, 0, np.clip(power + 127, 0, 254))
    return np.where(np.isnan(x), 255, np.where(np.isinf(x), 254, code)).astype("u4")
