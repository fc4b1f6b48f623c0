"""Four-bit codes as whole numbers: products that are exact because nothing is ever rounded.

Twice an E2M1 value is a whole number w, up to 12, and so are the x that it meets (`whole.py`), in
digits so small that a block's sum needs no more than 16 bits; and a CPU has an instruction that
multiplies and adds bytes: 32 products at once, where float32 has 8. It wants one side without
sign, which is what `LIFT` is for:

    sum x w = sum x (w + 12) - 12 sum x

Here are the few operations that this takes, for builders of LLVM instructions. The second place,
after `lookup.py`, where an instruction is named: on AVX2 and AVX512, whose vectors of 64 bytes take
half as many instructions. Elsewhere the same whole numbers are made of what LLVM finds.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from tinymoe.kernels.cpu.kernel import inlined
from tinymoe.kernels.cpu.lookup import by_register, byte_table, features
from tinymoe.kernels.cpu.tiles import NIBBLE_BYTE

LIFT = 12  # makes w, -12 .. 12, a number without sign
DOUBLED = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12]  # 2 * E2M1, by code
LIFTED = [value + LIFT for value in DOUBLED]
_BYTE, _HALF, _INT = ir.IntType(8), ir.IntType(16), ir.IntType(32)


@inlined
def twice(number):
    """An int16 in both halves of an int32: what 32 sums begin with takes one load."""
    return (number & 0xFFFF) * 0x10001


def of_type(element: Any, like: Any) -> Any:
    """The type of as many bytes in other elements."""
    return ir.VectorType(element, like.type.count * like.type.element.width // element.width)


def doubled(builder: Any, codes: Any) -> Any:
    """Codes 0 .. 15 to twice their values, int8."""
    return byte_table(builder, [value & 0xFF for value in DOUBLED], codes)


def lifted(builder: Any, codes: Any) -> Any:
    """Codes 0 .. 15 to twice their values plus LIFT."""
    return byte_table(builder, LIFTED, codes)


def nibbles(builder: Any, both: Any) -> list[Any]:
    """Bytes as twice as many codes: the low nibbles, and the high ones."""
    low = ir.Constant(both.type, [15] * both.type.count)
    return [builder.and_(part, low) for part in (both, _down_four(builder, both))]


def _down_four(builder: Any, both: Any) -> Any:
    """Each byte's high nibble in the place of its low one: CPUs shift words, not bytes."""
    kind = of_type(_HALF, both)
    words = builder.lshr(builder.bitcast(both, kind), ir.Constant(kind, [4] * kind.count))
    return builder.bitcast(words, both.type)


def interleaved(builder: Any, x: Any, y: Any, half: int) -> Any:
    """x and y by turns, of the lower or upper half of each 8 lanes: as many int16 as x has."""
    count = x.type.count
    starts = range(4 * half, count, 8)
    lanes = [start + k + side for start in starts for k in range(4) for side in (0, count)]
    return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(_INT, count), lanes))


def _every_second(builder: Any, x: Any, first: int) -> Any:
    lanes = list(range(first, x.type.count, 2))
    mask = ir.Constant(ir.VectorType(_INT, len(lanes)), lanes)
    return builder.shuffle_vector(x, x, mask)


def byte_pairs(builder: Any, unsigned: Any, signed: Any) -> Any:
    """Bytes u times bytes s -> half as many int16: u[2i] s[2i] + u[2i+1] s[2i+1].

    Below 2^15 in size, as all sums of codes are: the instruction would stop there, not wrap.
    """
    if "+avx2" in features():
        names = {32: "llvm.x86.avx2.pmadd.ub.sw", 64: "llvm.x86.avx512.pmaddubs.w.512"}
        return by_register(builder, names, _HALF, [unsigned, signed])
    kind = of_type(_HALF, unsigned)
    products = [
        builder.mul(
            builder.zext(_every_second(builder, unsigned, first), kind),
            builder.sext(_every_second(builder, signed, first), kind),
        )
        for first in (0, 1)
    ]
    return builder.add(*products)


def word_pairs(builder: Any, x: Any, y: Any) -> Any:
    """int16 times int16 -> half as many int32: x[2i] y[2i] + x[2i+1] y[2i+1]."""
    if "+avx2" in features():
        names = {32: "llvm.x86.avx2.pmadd.wd", 64: "llvm.x86.avx512.pmaddw.d.512"}
        return by_register(builder, names, _INT, [x, y])
    kind = of_type(_INT, x)
    products = [
        builder.mul(*(builder.sext(_every_second(builder, side, first), kind) for side in (x, y)))
        for first in (0, 1)
    ]
    return builder.add(*products)


def pairs_times(builder: Any, x: Any, factors: tuple[int, int]) -> Any:
    """int16 -> half as many int32: x[2i] times the one factor plus x[2i+1] times the other."""
    return word_pairs(builder, x, ir.Constant(x.type, [*factors] * (x.type.count // 2)))


def as_words(builder: Any, codes: Any) -> Any:
    """Twice the values of 32 codes as int16, row after row: a tile's 16 rows of two columns.

    Of bytes that lie as `tiles.NIBBLE_BYTE` says.
    """
    places = [NIBBLE_BYTE[row][k] for row in range(16) for k in (0, 1)]
    mask = ir.Constant(ir.VectorType(_INT, 32), places)
    values = doubled(builder, codes)
    in_order = builder.shuffle_vector(values, values, mask)
    return builder.sext(in_order, ir.VectorType(_HALF, 32))
