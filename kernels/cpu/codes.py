"""Numbers to codes and back, 16 at a time: E2M1, E4M3, powers of two. What `tinymoe/formats` says.

Comparisons are of floats and choose whole numbers, so no lane takes another way than its
neighbours. The definition's own tables say who breaks ties how: `Rounding` turns a `Rule` into
what kernels are given.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from tinymoe.core import Array
from tinymoe.formats.e2m1 import MIDPOINTS, Rule
from tinymoe.kernels.cpu.kernel import inlined
from tinymoe.kernels.cpu.lazily import operation as _op
from tinymoe.kernels.cpu.lazily import types
from tinymoe.kernels.cpu.simd import (
    F32,
    I32,
    LANES,
    absolute,
    as_f32,
    bits,
    f32_at,
    halved,
    lanes_of,
    least,
    left,
    nearest,
    right,
    splat,
    splat_i32,
    to_bf16,
    whole,
)

_BYTE, _WORD, _LONG = ir.IntType(8), ir.IntType(32), ir.IntType(64)
INFINITY, LARGEST = float("inf"), float(np.finfo(np.float32).max)

# ------------------------------------------------------------------------- whole numbers

choose = _op(
    I32,
    (F32, F32, I32, I32),
    lambda b, x, y, yes, no: b.select(b.fcmp_ordered("<", x, y), yes, no),
    "Lane by lane: `yes` where x < y, else `no`, of whole numbers.",
)
most_i32 = _op(
    I32,
    (I32, I32),
    lambda b, x, y: b.select(b.icmp_signed(">", x, y), x, y),
    "The larger int32.",
)
least_i32 = _op(
    I32,
    (I32, I32),
    lambda b, x, y: b.select(b.icmp_signed("<", x, y), x, y),
    "The smaller int32.",
)


def _largest(builder: Any, x: Any) -> Any:
    lanes = LANES
    while lanes > 1:
        lanes //= 2
        low, high = (lanes_of(builder, x, start, lanes) for start in (0, lanes))
        x = builder.select(builder.icmp_signed(">", low, high), low, high)
    return builder.extract_element(x, _WORD(0))


largest_i32 = _op(types.int32, (I32,), _largest, "The largest of all lanes.")


sum_i32 = _op(types.int32, (I32,), halved(lambda b, x, y: b.add(x, y)), "The sum of all lanes.")


def _pointer(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _store(kind: Any, align: int) -> Any:
    def build(builder: Any, address: Any, value: Any) -> None:
        builder.store(value, _pointer(builder, address, kind), align=align)

    return build


put_i32 = _op(types.void, (types.int64, types.int32), _store(_WORD, 4), "Write an int32.")
i32_at = _op(
    types.int32,
    (types.int64,),
    lambda b, at: b.load(_pointer(b, at, _WORD), align=4),
    "The int32 at an address.",
)
store_i32 = _op(types.void, (types.int64, I32), _store(I32.llvm, 4), "16 int32 to an address.")


def _put_bytes(builder: Any, address: Any, value: Any) -> None:
    small = ir.VectorType(_BYTE, LANES)
    _store(small, 1)(builder, address, builder.trunc(value, small))


put_bytes = _op(types.void, (types.int64, I32), _put_bytes, "The low byte of each lane: 16 bytes.")


_TWICE = [2 * (place // 4) + place % 2 for place in range(2 * LANES)]


def _put_pairs(builder: Any, address: Any, value: Any) -> None:
    small = builder.trunc(value, ir.VectorType(_BYTE, LANES))
    order = ir.Constant(ir.VectorType(_WORD, len(_TWICE)), _TWICE)
    _store(ir.VectorType(_BYTE, len(_TWICE)), 1)(
        builder, address, builder.shuffle_vector(small, small, order)
    )


put_pairs = _op(
    types.void,
    (types.int64, I32),
    _put_pairs,
    "The low byte of each lane, each pair of lanes twice: 0 1 0 1 2 3 2 3 ...: 32 bytes.",
)


def _put_nibbles(builder: Any, address: Any, value: Any) -> None:
    pairs, small = ir.VectorType(_LONG, 8), ir.VectorType(_BYTE, 8)
    both = builder.bitcast(value, pairs)  # lane 2j below lane 2j + 1
    high = builder.lshr(both, ir.Constant(pairs, [28] * 8))
    _store(small, 1)(builder, address, builder.trunc(builder.or_(both, high), small))


put_nibbles = _op(
    types.void, (types.int64, I32), _put_nibbles, "16 codes 0 .. 15 as 8 bytes, low nibble first."
)


def _nibbles_at(builder: Any, address: Any) -> Any:
    small, kind = ir.VectorType(_BYTE, 8), ir.VectorType(_WORD, 8)
    packed = builder.zext(builder.load(_pointer(builder, address, small), align=1), kind)
    lanes = ir.Constant(I32.llvm, [i // 2 for i in range(LANES)])
    each = builder.shuffle_vector(packed, packed, lanes)
    shifts = ir.Constant(I32.llvm, [0, 4] * (LANES // 2))
    return builder.and_(builder.lshr(each, shifts), ir.Constant(I32.llvm, [15] * LANES))


nibbles_at = _op(I32, (types.int64,), _nibbles_at, "8 bytes as 16 codes, low nibble first.")

# ---------------------------------------------------------------------------------- E2M1

# signs
KEPT, LOST_AT_ZERO, NEVER, ZEROS_NEGATIVE = 0, 1, 2, 3
# NaN
SIX, ZERO, TORCHAO = 0, 1, 2
_SIGNS = {
    "kept": KEPT,
    "lost_at_zero": LOST_AT_ZERO,
    "never": NEVER,
    "zeros_negative": ZEROS_NEGATIVE,
}
# where a rule leaves NaN unsaid none comes: a finite number times a power of two
_NANS = {"six": SIX, "zero": ZERO, "torchao": TORCHAO, "unspecified": SIX}


class Rounding(NamedTuple):
    """A rule of `formats.e2m1` as kernels take it."""

    bounds: Array  # (7,) float32: a code is the number of them below |x|
    signs: int
    nans: int


def rounding_of(rule: Rule) -> Rounding:
    """Ties move a bound to the float32 just below it: away from zero, or up to an even code."""
    bounds = np.array(MIDPOINTS, np.float32)
    up = {"even": np.arange(7) % 2 == 1, "away": np.ones(7, bool), "toward_zero": np.zeros(7, bool)}
    bounds = np.where(up[rule.ties], np.nextafter(bounds, np.float32(0)), bounds)
    return Rounding(bounds, _SIGNS[rule.zero_sign], _NANS[rule.nan])


@inlined
def e2m1(x, bounds, signs, nans):
    """16 float32 to codes 0 .. 15: nearest, saturating at 6; the rule says ties, signs and NaN."""
    size, one, none = absolute(x), splat_i32(1), splat_i32(0)
    code = none
    for i in range(7):
        code = code + choose(splat(f32_at(bounds + 4 * i)), size, one, none)
    minus = splat_i32(8)
    if signs == KEPT:
        sign = left(right(bits(x), 31), 3)
    elif signs == ZEROS_NEGATIVE:  # x <= 0
        sign = choose(splat(0.0), x, none, minus)
    else:
        sign = choose(x, splat(0.0), minus, none)
        if signs == NEVER:
            sign = choose(splat(f32_at(bounds)), size, sign, none)
    code = code | sign
    if nans == SIX:
        nan = splat_i32(7)
    elif nans == ZERO:
        nan = none
    else:  # what its bit arithmetic leaves of a NaN: `e2m1._nan_codes`
        word = bits(x)
        odd = right(word, 22) & one
        cut = bits(size) + splat_i32(0x1FFFFF - 0x3F000000) + odd
        nan = (right(cut, 22) & splat_i32(7)) | left(right(word, 31), 3)
    # infinity is not below infinity; it is above every number, which NaN is not
    return choose(size, splat(INFINITY), code, choose(splat(LARGEST), size, code, nan))


# ---------------------------------------------------------------------------------- E4M3


@inlined
def e4m3_bytes(x):
    """16 float32 to E4M3 (int32 lanes): nearest, ties to even, saturating; NaN is 0x7f, signed."""
    size = absolute(x)
    # normals: half of the 20 dropped bits is added, they are dropped, the exponent is rebiased
    word = bits(least(size, splat(512.0)))
    normal = right(word + splat_i32(0x7FFFF) + (right(word, 20) & splat_i32(1)), 20)
    normal = normal - splat_i32(120 << 3)
    # subnormals: whole numbers of 2^-9
    small = whole(nearest(least(size, splat(2.0**-6)) * splat(512.0)))
    code = choose(size, splat(2.0**-6), small, normal)
    code = choose(splat(464.0), size, splat_i32(0x7E), code)
    nan = choose(splat(LARGEST), size, splat_i32(0x7E), splat_i32(0x7F))
    code = choose(size, splat(INFINITY), code, nan)
    return code | left(right(bits(x), 31), 7)


@inlined
def e4m3_value(code):
    """16 bytes (int32 lanes) to float32: into place, times 2^120. 0x7f and 0xff are NaN."""
    low = code & splat_i32(0x7F)
    size = bits(as_f32(left(low, 20)) * splat(2.0**120))
    # 480, which 0x7f would be, is above 448
    size = choose(splat(448.0), as_f32(size), splat_i32(0x7FC00000), size)
    return as_f32(size | left(right(code, 7), 31))


# -------------------------------------------------------------------------- powers of two


@inlined
def two_to(byte):
    """2^(byte - 127) of bytes 0 .. 254 (int32 lanes); at 0 that is subnormal."""
    above = left(byte, 23)
    return as_f32(choose(as_f32(above), splat(2.0**-126), splat_i32(0x00400000), above))


@inlined
def rounded(x, source):
    """To the dtype of the tensor: BF16 if `source`."""
    if source:
        x = to_bf16(x)
    return x


def log2_misses() -> Array:
    """(256,) int32: by exponent byte, up to which fraction float32's log2 is a whole number.

    ceil(log2(x)) of x just above a power of two: the logarithm is rounded onto that power, and the
    ceiling stays there. Asked of NumPy's own log2, whose ceiling the definition takes. Below 2^-126
    the fraction counts from 0, so 2^-127 has half of it.
    """
    bytes_ = np.arange(255, dtype=np.uint32)
    first = np.where(bytes_ == 0, np.uint32(0x00400000), bytes_ << 23)
    steps = np.arange(64, dtype=np.uint32)  # it misses at most 22
    values = (first[:, None] + steps).view(np.float32)
    missed = np.ceil(np.log2(values)).astype(np.int64) == bytes_[:, None].astype(np.int64) - 127
    count = missed.sum(axis=1) - 1
    out = np.zeros(256, np.int32)
    out[:255] = (first & 0x7FFFFF) + count
    return out
