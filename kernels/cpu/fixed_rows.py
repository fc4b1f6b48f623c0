"""Activations in fixed point, laid out for `fixed.py`: of each 16 columns whole numbers, a unit.

16 numbers x of a row become q = x / unit, rounded to whole ones, ties to even. The unit is a power
of two, such that |q| <= 2^13: with 2^e the least power of two above all |x|, unit = 2^(e - 13).

    |x - q unit| <= unit / 2 = 2^-14 2^e <= 2^-13 max |x|

BF16 keeps 8 bits of a number, and these 13 are those of the block's loudest: x in BF16 stay what
they are, down to a 32nd of the loudest; what is fainter loses its last bits. (llama.cpp's products
of the same weights take activations in 8 bits.) Below 2^-110 a block becomes 0; where it holds NaN
or infinity its unit is NaN, and so is every sum that it is part of.

A CPU multiplies bytes, so q goes as two digits, q = 128 d1 + d0, -64 <= d <= 64; and as a whole:

    64 bytes a block   d0 in pairs of columns, each pair twice: 0 1 0 1 2 3 2 3 ...; d1 likewise
    32 bytes a block   q, int16
    12 bytes a block   of each digit -12 sum d, int16, twice, see `integers.py`; float32 unit / 2,
                       as weights are doubled

First of all blocks the first kind, then of all the second, which products of few tokens never
read, then the third.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from tinymoe.kernels.cpu.batch import TOKENS, share, share_tokens, word
from tinymoe.kernels.cpu.codes import largest_i32, put_i32, put_pairs, sum_i32
from tinymoe.kernels.cpu.integers import LIFT, twice
from tinymoe.kernels.cpu.kernel import ALWAYS, arguments, inlined, kernel, part
from tinymoe.kernels.cpu.lazily import operation, types
from tinymoe.kernels.cpu.rows import piece
from tinymoe.kernels.cpu.simd import (
    I32,
    absolute,
    as_f32,
    bits,
    i64_at,
    left,
    nearest,
    splat,
    splat_i32,
    whole,
)
from tinymoe.kernels.cpu.whole import COLUMNS, RADIX, Rows

BLOCK = COLUMNS  # share a unit
FEW = 8  # tokens whose products read digits; a step with more lays out both kinds
ROWS = Rows(digits=2, term=BLOCK, between=2 * BLOCK)  # between: q
DIGITS, WORDS, TERM = ROWS.digit_bytes, ROWS.between, ROWS.term_bytes  # bytes of a block
_EXPONENT, _BITS = 23, 13  # where a float32's exponent begins; of q
_LEAST = 127 - 110  # a smaller exponent is taken for this one: its unit would be no normal number
_LINE = 64
NAN = 0x7FC00000


def row_bytes(columns: int) -> int:
    """From one row to the next: a line more than whole ones, see `buffers.stride_of`."""
    size = ROWS.bytes_of(-(-columns // BLOCK) * BLOCK)
    return (-(-size // _LINE) + 1) * _LINE


def _store_words(builder: Any, address: Any, numbers: Any) -> None:
    small = builder.trunc(numbers, ir.VectorType(ir.IntType(16), BLOCK))
    builder.store(small, builder.inttoptr(address, small.type.as_pointer()), align=2)


store_words = operation(types.void, (types.int64, I32), _store_words, "16 numbers as int16.")
shifted = operation(
    I32,
    (I32,),
    lambda b, x: b.ashr(x, ir.Constant(I32.llvm, [RADIX.bit_length() - 1] * BLOCK)),
    "Over RADIX, which divides them.",
)


@inlined
def code_block(v, to, words, more):
    """A block's digits to `to`, q to `words`, unless that is 0, lifts and unit to `more`."""
    exponent = largest_i32(bits(absolute(v))) >> _EXPONENT
    finite, exponent = exponent < 255, max(exponent, _LEAST)
    if not finite:
        v = splat(0.0)
    factor = as_f32(splat_i32((2 * 127 + _BITS - 1 - exponent) << _EXPONENT))
    q = whole(nearest(v * factor))
    half = splat_i32(RADIX // 2)
    low = ((q + half) & splat_i32(RADIX - 1)) - half
    high = shifted(q - low)
    put_pairs(to, low)
    put_pairs(to + 2 * BLOCK, high)
    if words:
        store_words(words, q)
    both = sum_i32(low + left(high, 16))  # one sum for two: the low digits' has 11 bits and a sign
    of_low = ((both + (1 << 15)) & 0xFFFF) - (1 << 15)
    put_i32(more, twice(-LIFT * of_low))
    put_i32(more + 4, twice(-LIFT * ((both - of_low) >> 16)))
    put_i32(more + 8, (exponent - _BITS) << _EXPONENT if finite else NAN)


@inlined
def put_block(v, row, blocks, b, both):
    """16 numbers as block b of a row of so many; both: q as well as the digits."""
    words = row + blocks * DIGITS
    at = words + WORDS * b if both else 0
    code_block(v, row + DIGITS * b, at, words + blocks * WORDS + TERM * b)


FIELDS = "x x_stride count rows per_token columns blocks out out_bytes"


@kernel(FIELDS)
def fixed_rows(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """Rows of x, float32, as rows of `out_bytes` bytes, see above.

    `count`, `rows`: as `linear` has them; of each of these tokens `per_token` rows, one after
    another. `columns` are x's own: what lies behind them is not looked at, and 0 in the other of
    the `blocks` that a row of the weight has. Threads share blocks.
    """
    given = arguments(args, 7)
    count = word(batch, given[2]) * given[4] * given[6]
    first, last = share(count, thread, threads)
    _code_blocks(args, batch, first, last)


@kernel(FIELDS, by_token=ALWAYS)
def fixed_rows_by_token(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """The same, of all of a step's tokens, which threads share."""
    given = arguments(args, 7)
    first, last = share_tokens(batch, thread, threads)
    _code_blocks(args, batch, first * given[4] * given[6], last * given[4] * given[6])


@part
def _code_blocks(args, batch, first, last):
    """Blocks first .. last - 1 of all rows' blocks."""
    (x, x_stride, _, listed, per_token, columns, blocks, out, out_bytes) = arguments(args, 9)
    rows = word(batch, listed) if listed else 0
    both = word(batch, TOKENS) * per_token > FEW
    while first < last:
        row, b = first // blocks, first % blocks
        stop = min(blocks, b + last - first)
        first += stop - b
        if rows:
            row = i64_at(rows + 8 * row)
        from_, to = x + 4 * x_stride * row, out + out_bytes * row
        while b < stop:
            v = piece(from_ + 4 * BLOCK * b, columns - BLOCK * b)
            put_block(v, to, blocks, b, both)
            b += 1
