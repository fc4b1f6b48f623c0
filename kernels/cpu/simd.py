"""Vectors as values: 16 numbers that move together, for functions that Numba compiles.

A CPU does one instruction on several numbers at once. `F32` is 16 float32, `I32` 16 int32 (or
uint32), `U8` 32 bytes; LLVM cuts them into what the CPU has (two AVX2 registers, one of AVX512,
four of NEON). The same source gives the same bits on each: every operation is exact or rounds
once, a sum across lanes has one order (`total`), and `fma` is one rounding, in software where a
CPU has no instruction for it. Nothing here is fast-math.

    y = fma(splat(x), load(address), y)       # 16 rows of a matrix times one x

Addresses are integers, as in C; nothing checks them. Whoever calls must own the memory.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from tinymoe.kernels.cpu.lazily import Vector, cgutils, njit, types
from tinymoe.kernels.cpu.lazily import operation as _op

LANES = 16
_F, _I, _L = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_B, _H = ir.IntType(8), ir.IntType(16)


F32 = Vector("f32x16", ir.VectorType(_F, LANES))
I32 = Vector("i32x16", ir.VectorType(_I, LANES))
U8 = Vector("u8x32", ir.VectorType(_B, 32))
_ADDRESS = types.int64


def _at(builder: Any, address: Any, llvm_type: Any) -> Any:
    return builder.inttoptr(address, llvm_type.as_pointer())


def _loader(llvm_type: Any, align: int) -> Callable[..., Any]:
    def build(builder: Any, address: Any) -> Any:
        return builder.load(_at(builder, address, llvm_type), align=align)

    return build


def _storer(llvm_type: Any, align: int) -> Callable[..., Any]:
    def build(builder: Any, address: Any, value: Any) -> None:
        builder.store(value, _at(builder, address, llvm_type), align=align)

    return build


def _call(name: str, llvm_type: Any) -> Callable[..., Any]:
    """An LLVM intrinsic from equal arguments to one result of their type."""

    def build(builder: Any, *values: Any) -> Any:
        kind = ir.FunctionType(llvm_type, [value.type for value in values])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)

    return build


def spread(builder: Any, value: Any, llvm_type: Any) -> Any:
    """One number in every lane."""
    first = builder.insert_element(ir.Constant(llvm_type, ir.Undefined), value, _I(0))
    zeros = ir.Constant(ir.VectorType(_I, llvm_type.count), [0] * llvm_type.count)
    return builder.shuffle_vector(first, ir.Constant(llvm_type, ir.Undefined), zeros)


# ---------------------------------------------------------------------------- memory, one number

f32_at = _op(types.float32, (_ADDRESS,), _loader(_F, 4), "The float32 at an address.")
i64_at = _op(types.int64, (_ADDRESS,), _loader(_L, 8), "The int64 at an address.")
bf16_at = _op(
    types.float32,
    (_ADDRESS,),
    lambda b, at: b.bitcast(b.shl(b.zext(_loader(_H, 2)(b, at), _I), _I(16)), _F),
    "The BF16 at an address, as a float32.",
)
put_f32 = _op(types.void, (_ADDRESS, types.float32), _storer(_F, 4), "Write a float32.")
put_i64 = _op(types.void, (_ADDRESS, types.int64), _storer(_L, 8), "Write an int64.")
f64_of = _op(
    types.float64,
    (types.int64,),
    lambda b, bits: b.bitcast(bits, ir.DoubleType()),
    "The float64 that these 64 bits are.",
)

# ---------------------------------------------------------------------------- memory, 16 numbers

load = _op(F32, (_ADDRESS,), _loader(F32.llvm, 4), "16 float32 from an address.")
load_i32 = _op(I32, (_ADDRESS,), _loader(I32.llvm, 4), "16 int32 from an address.")
store = _op(types.void, (_ADDRESS, F32), _storer(F32.llvm, 4), "16 float32 to an address.")


def _widened(builder: Any, address: Any) -> Any:
    small = ir.VectorType(_B, LANES)
    return builder.zext(builder.load(_at(builder, address, small), align=1), I32.llvm)


load_u8 = _op(I32, (_ADDRESS,), _widened, "16 bytes from an address, each as an int32.")


def _mask(builder: Any, count: Any) -> Any:
    """Lanes 0 .. count - 1."""
    lanes = ir.Constant(I32.llvm, list(range(LANES)))
    return builder.icmp_signed("<", lanes, spread(builder, builder.trunc(count, _I), I32.llvm))


def _load_part(builder: Any, address: Any, count: Any) -> Any:
    mask = _mask(builder, count)
    kind = ir.FunctionType(F32.llvm, [F32.llvm.as_pointer(), _I, mask.type, F32.llvm])
    name = "llvm.masked.load.v16f32.p0v16f32"
    masked = cgutils.get_or_insert_function(builder.module, kind, name)
    zero = ir.Constant(F32.llvm, [0.0] * LANES)
    return builder.call(masked, [_at(builder, address, F32.llvm), _I(4), mask, zero])


def _store_part(builder: Any, address: Any, value: Any, count: Any) -> None:
    mask = _mask(builder, count)
    kind = ir.FunctionType(ir.VoidType(), [F32.llvm, F32.llvm.as_pointer(), _I, mask.type])
    name = "llvm.masked.store.v16f32.p0v16f32"
    masked = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.call(masked, [value, _at(builder, address, F32.llvm), _I(4), mask])


load_part = _op(
    F32, (_ADDRESS, types.int64), _load_part, "The first `count` float32, zeros in other lanes."
)
store_part = _op(
    types.void, (_ADDRESS, F32, types.int64), _store_part, "Write the first `count` lanes alone."
)


def prefetch_at(builder: Any, address: Any) -> None:
    """Ask for a line: for builders of LLVM instructions."""
    kind = ir.FunctionType(ir.VoidType(), [_B.as_pointer(), _I, _I, _I])
    name = "llvm.prefetch.p0i8"
    hint = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.call(hint, [_at(builder, address, _B), _I(0), _I(3), _I(1)])


prefetch = _op(types.void, (_ADDRESS,), prefetch_at, "Ask for a cache line that is needed soon.")

# ---------------------------------------------------------------------------- arithmetic

splat = _op(
    F32, (types.float32,), lambda b, x: spread(b, x, F32.llvm), "One float32 in every lane."
)
splat_i32 = _op(
    I32, (types.int32,), lambda b, x: spread(b, x, I32.llvm), "One int32 in every lane."
)
fused = _call("llvm.fma.v16f32", F32.llvm)  # for builders of LLVM instructions
fma = _op(F32, (F32, F32, F32), fused, "a * b + c, rounded once.")
sqrt = _op(F32, (F32,), _call("llvm.sqrt.v16f32", F32.llvm), "Rounded once.")
nearest = _op(F32, (F32,), _call("llvm.nearbyint.v16f32", F32.llvm), "Whole, ties to even.")
least = _op(F32, (F32, F32), _call("llvm.minnum.v16f32", F32.llvm), "The smaller; NaN loses.")
most = _op(F32, (F32, F32), _call("llvm.maxnum.v16f32", F32.llvm), "The larger; NaN loses.")
absolute = _op(F32, (F32,), _call("llvm.fabs.v16f32", F32.llvm), "Without its sign.")
bits = _op(I32, (F32,), lambda b, x: b.bitcast(x, I32.llvm), "The same 32 bits as whole numbers.")
as_f32 = _op(F32, (I32,), lambda b, x: b.bitcast(x, F32.llvm), "The same 32 bits as float32.")
whole = _op(I32, (F32,), lambda b, x: b.fptosi(x, I32.llvm), "To int32, towards zero.")
pick = _op(
    F32,
    (F32, F32, F32, F32),
    lambda b, x, y, yes, no: b.select(b.fcmp_ordered("<", x, y), yes, no),
    "Lane by lane: `yes` where x < y, else `no`.",
)


# `a + b` and so on for two vectors of a kind, lane by lane: Numba learns them in `vector_types.py`
OPERATORS: dict[Vector, dict[Any, Callable[..., Any]]] = {
    F32: {
        operator.add: lambda b, x, y: b.fadd(x, y),
        operator.sub: lambda b, x, y: b.fsub(x, y),
        operator.mul: lambda b, x, y: b.fmul(x, y),
        operator.truediv: lambda b, x, y: b.fdiv(x, y),
    },
    I32: {
        operator.add: lambda b, x, y: b.add(x, y),
        operator.sub: lambda b, x, y: b.sub(x, y),
        operator.and_: lambda b, x, y: b.and_(x, y),
        operator.or_: lambda b, x, y: b.or_(x, y),
        operator.xor: lambda b, x, y: b.xor(x, y),
    },
    U8: {},
}


def _shift(how: str) -> Callable[..., Any]:
    def build(builder: Any, x: Any, count: Any) -> Any:
        return getattr(builder, how)(x, spread(builder, count, I32.llvm))

    return build


left = _op(I32, (I32, types.int32), _shift("shl"), "Bits towards the high end; zeros come in.")
right = _op(I32, (I32, types.int32), _shift("lshr"), "Bits towards the low end; zeros come in.")

# ---------------------------------------------------------------------------- across lanes


def lanes_of(builder: Any, x: Any, start: int, count: int) -> Any:
    """Some consecutive lanes: for builders of LLVM instructions."""
    lanes = ir.Constant(ir.VectorType(_I, count), list(range(start, start + count)))
    return builder.shuffle_vector(x, x, lanes)


def halved(combine: Callable[..., Any]) -> Callable[..., Any]:
    """Lane i with lane i + 8, then i + 4, i + 2, i + 1: one order, whatever the CPU."""

    def build(builder: Any, x: Any) -> Any:
        lanes = LANES
        while lanes > 1:
            lanes //= 2
            parts = [lanes_of(builder, x, start, lanes) for start in (0, lanes)]
            x = combine(builder, *parts)
        return builder.extract_element(x, _I(0))

    return build


total = _op(
    types.float32,
    (F32,),
    halved(lambda b, x, y: b.fadd(x, y)),
    "The sum of all lanes: ((x0 + x8) + (x4 + x12)) + ...: by halves.",
)
largest = _op(
    types.float32,
    (F32,),
    halved(lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y)),
    "The largest lane.",
)
lane0 = _op(types.float32, (F32,), lambda b, x: b.extract_element(x, _I(0)), "The first lane.")


@njit(inline="always")
def to_bf16(x):
    """Rounded to BF16, ties to even, kept as float32. NaN stays NaN."""
    word = bits(x)
    odd = right(word, 16) & splat_i32(1)
    rounded = (word + splat_i32(0x7FFF) + odd) & splat_i32(-65536)
    kept = as_f32(rounded)
    return pick(absolute(x), splat(float("inf")), kept, x)  # inf and NaN as they are
