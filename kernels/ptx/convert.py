"""`cvt`: between integers and floats, and floats of different widths.

Integers keep their low bits, or are clamped with `.sat`. A float to an integer is clamped always;
NaN gives 0, or the top bit alone where f64 or 64 bits are concerned (PTX ISA, cvt). Into a float
there is one rounding, in the mode named.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinymoe.kernels.ptx import halves, packed, rounding
from tinymoe.kernels.ptx.arithmetic import canonical, flush
from tinymoe.kernels.ptx.compute import compute
from tinymoe.kernels.ptx.dispatch import Action, UnsupportedError, decoder
from tinymoe.kernels.ptx.kernel import Instruction, Kernel
from tinymoe.kernels.ptx.operands import TYPES, U32, Array, DType

WHOLE: dict[str, Callable[[Array], Array]] = {
    **{"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil},
}
FLOATS = ("f16", "bf16", "f32", "f64")
CLAMPS = {"sat", "satfinite", "relu", "ftz"}


def stored(kind: str) -> DType:
    """How a type lies in a register."""
    return TYPES["u16"] if kind in ("f16", "bf16") else TYPES[kind]


def to_f64(x: Array, kind: str) -> Array:
    """A source value in f64: exact, but for 64-bit integers, which are rounded to odd."""
    if kind == "bf16":
        return halves.from_bf16(x).astype("f8")
    if kind == "f16":
        return halves.from_f16(x).astype("f8")
    if x.dtype.kind in "iu" and x.dtype.itemsize == 8:
        return rounding.to_odd(*_two_parts(x))
    return x.astype("f8")


def _two_parts(x: Array) -> tuple[Array, Array]:
    """A 64-bit integer as the nearest f64 and the rest."""
    low = (x & x.dtype.type(0xFFFFFFFF)).astype("f8")
    high = (x >> x.dtype.type(32)).astype("f8") * 2.0**32
    return rounding.two_sum(high, low)


def directed(x: Array, codes: Array, back: Array, mode: str) -> Array:
    """16-bit float codes nearest to x, moved to the neighbour on the side of `mode`."""
    grow = {"rz": np.zeros(x.shape, bool), "rm": x < 0, "rp": x > 0}[mode]
    shrink = {"rz": x != 0, "rm": x > 0, "rp": x < 0}[mode]
    less, more = np.abs(back) < np.abs(x), np.abs(back) > np.abs(x)
    step = np.where(grow & less, 1, 0) - np.where(shrink & more, 1, 0)
    return (codes + step.astype("u2")).astype("u2")


def to_half(x: Array, kind: str, mode: str) -> Array:
    """f64 (exact or rounded to odd) to the codes of f16 or bf16."""
    into = halves.to_f16 if kind == "f16" else halves.to_bf16
    codes = into(x)
    if mode == "rn":
        return codes
    back = (halves.from_f16 if kind == "f16" else halves.from_bf16)(codes)
    return directed(x, codes, back.astype("f8"), mode)


def to_integer(x: Array, to: DType, nan: int = 0) -> Array:
    """Whole f64 numbers to an integer type, clamped; `nan` is what a NaN gives."""
    limits = np.iinfo(to)
    over, under = x >= float(limits.max) + 1, x < float(limits.min)
    if to.itemsize < 8:
        over = x > limits.max
    inside = np.where(over | under | np.isnan(x), 0.0, x).astype(to)
    inside = np.where(np.isnan(x), to.type(nan), inside)
    return np.where(over, to.type(limits.max), np.where(under, to.type(limits.min), inside))


@decoder("cvt")
def convert(kernel: Kernel, i: Instruction) -> Action:
    """Every form with one number; the paired ones are in `packed`."""
    if "tf32" in i.opcode:
        return _tf32(kernel, i)
    if packed.is_packed(i):
        return packed.convert(kernel, i)
    if len(i.opcode) < 3:
        raise UnsupportedError("instruction not supported")
    to, source, mods = i.opcode[-2], i.opcode[-1], set(i.opcode[1:-2])
    if not all(k in TYPES or k == "bf16" for k in (to, source)):
        raise UnsupportedError("conversion not supported")
    rounds = mods - CLAMPS
    if len(rounds) > 1 or not rounds <= {*WHOLE, *rounding.MODES}:
        raise UnsupportedError("conversion not supported")
    how = rounds.pop() if rounds else ""
    function = _function(to, source, how, mods)
    return compute(kernel, i, function, [stored(source)], stored(to))


def _function(to: str, source: str, how: str, mods: set[str]) -> Callable[[Array], Array]:
    if source not in FLOATS and to not in FLOATS:
        if how:
            raise UnsupportedError("an integer to an integer is not rounded")
        return _integers(TYPES[to], "sat" in mods)
    if to not in FLOATS:
        if how not in WHOLE:
            raise UnsupportedError("a float to an integer wants .rni, .rzi, .rmi or .rpi")
        dtype = TYPES[to]
        wide = source == "f64" or dtype.itemsize == 8
        nan = int(np.iinfo(dtype).min or 1 << (8 * dtype.itemsize - 1)) if wide else 0
        return lambda x: to_integer(WHOLE[how](to_f64(_ftz(x, source, mods), source)), dtype, nan)
    return lambda x: _to_float(_ftz(x, source, mods), to, source, how, mods)


def _ftz(x: Array, kind: str, mods: set[str]) -> Array:
    return flush(x) if kind == "f32" and "ftz" in mods else x


def _integers(to: DType, sat: bool) -> Callable[[Array], Array]:
    if not sat:
        return lambda x: x.astype(to)
    limits = np.iinfo(to)

    def run(x: Array) -> Array:
        own = np.iinfo(x.dtype)
        low, top = max(limits.min, own.min), min(limits.max, own.max)
        return np.clip(x, x.dtype.type(low), x.dtype.type(top)).astype(to)

    return run


def _to_float(x: Array, to: str, source: str, how: str, mods: set[str]) -> Array:
    if to == source and how == "" and not mods:
        return x
    value = to_f64(x, source)
    if how in WHOLE:
        value = WHOLE[how](value)
    if "sat" in mods:
        value = np.where(value > 0, np.minimum(value, 1.0), 0.0)
    if "relu" in mods:
        value = np.where(value < 0, 0.0, value)
    mode = how if how in rounding.MODES else "rn"
    if to == "f64":
        if x.dtype.kind in "iu" and x.dtype.itemsize == 8:
            s, lost = _two_parts(x)
            return s if mode == "rn" else rounding.direct_f64(s, lost, mode)
        return value
    if to in ("f16", "bf16"):
        codes = to_half(value, to, mode)
        return packed.finite(codes, to) if "satfinite" in mods else codes
    out = canonical(rounding.to_f32(value, mode))
    return flush(out) if "ftz" in mods else out


def _tf32(kernel: Kernel, i: Instruction) -> Action:
    """f32 with 10 digits of mantissa, kept in 32 bits; `.rna` rounds a tie away from zero."""
    mods = set(i.opcode[1:]) - {"tf32", "f32"}
    if mods not in ({"rna"}, {"rn"}, {"rz"}):
        raise UnsupportedError("conversion not supported")

    def run(x: Array) -> Array:
        half = np.full(1, 0 if mods == {"rz"} else 0x1000, "u4")
        if mods == {"rn"}:
            half = np.uint32(0xFFF) + ((x >> np.uint32(13)) & np.uint32(1))
        special = (x & np.uint32(0x7F800000)) == np.uint32(0x7F800000)
        return np.where(special, x, (x + half) & np.uint32(0xFFFFE000))

    return compute(kernel, i, run, [U32], U32)
