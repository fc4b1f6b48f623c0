"""Four-bit weights times activations in fixed point: whole numbers in a block, float32 across them.

    y[n] = sum over blocks b of 16 columns of (unit[b] / 2 * s[n, b]) * sum of q[k] 2 w[n, k]

q and its unit: `fixed_rows.py`. The inner sum is exact, however it is made: |sum| <= 16 * 2^13 *
12 < 2^24, so that float32 holds it, too. So is unit / 2 * s, a power of two times four bits. There
is one rounding a block, where its term is added, from the first block to the last:

    y = fma(sum[0], unit[0] / 2 * s[0], 0); y = fma(sum[1], unit[1] / 2 * s[1], y); ...

Against the exact product of x and w: |error| <= n u / (1 - n u) * sum |terms|, n = K / 16, and
what fixed point takes from x, sum over b of 2^-14 2^e[b] sum |w| of the block. A chain of float32
in `chains.py` has K roundings in place of the first, and nothing of the second.

Why: to multiply a four-bit code as float32 a CPU first makes 32 bits of it; here it stays a byte,
and an instruction multiplies 32 of them. That is twice the weights in a second, on AVX2.

For few tokens a weight's codes go through registers, for two rows of x at a time, with LIFT on
their side (`integers.py`), and q comes in two digits of a byte. For many they are laid out once,
128 columns at a time, as 16 bits each, and so is q: half as many products in an instruction, but
half as many to make, and nothing to put together. Both make the same whole number.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

from tinymoe.kernels.cpu.chains import _rolled
from tinymoe.kernels.cpu.fixed_rows import BLOCK, FEW, ROWS
from tinymoe.kernels.cpu.integers import as_words, nibbles, word_pairs
from tinymoe.kernels.cpu.kernel import Kernel
from tinymoe.kernels.cpu.lazily import cgutils, operation, types
from tinymoe.kernels.cpu.multiply import _clear
from tinymoe.kernels.cpu.simd import F32, I32, U8
from tinymoe.kernels.cpu.tiles import FORMATS, Format, ask_ahead, load_at
from tinymoe.kernels.cpu.whole import (
    HALVES,
    TILES,
    WORD,
    Held,
    Row,
    add_term,
    at_,
    plus,
    times_whole,
)

FOUR_BITS = ("nvfp4", "mxfp4")  # formats of weights that this is for
DEEP = 128  # columns that are laid out at a time
_SCALES, _PAIR = TILES * 64, TILES * 64  # bytes of a block laid out: its scales, two columns
_LAID_OUT = _SCALES + BLOCK // 2 * _PAIR
SCRATCH = DEEP // BLOCK * _LAID_OUT


def _lay_out(form: Format) -> Callable[..., Any]:
    """`f(weight, columns, out)`: of each block the scales, and twice the values as int16."""

    def build(builder: Any, weight: Any, columns: Any, out: Any) -> None:
        count, parts = builder.udiv(columns, WORD(form.block)), form.block // BLOCK
        with cgutils.for_range(builder, count) as loop:
            at = plus(builder, weight, loop.index, form.block_bytes)
            ask_ahead(builder, form, at)
            first = plus(builder, out, loop.index, parts * _LAID_OUT)
            for part, tile in product(range(form.block // BLOCK), range(TILES)):
                to = builder.add(first, WORD(part * _LAID_OUT))
                place = builder.add(at, WORD(form.scale_bytes * tile))
                scale = form.scale(builder, place)  # type: ignore[misc]
                builder.store(scale, at_(builder, to, F32.llvm, 64 * tile), align=4)
                own = 2 * form.scale_bytes + form.tile_step * tile
                for quad in range(BLOCK // 4):
                    offset = own + 2 * form.quad_bytes * (BLOCK // 4 * part + quad)
                    both = nibbles(builder, load_at(builder, at, U8.llvm, offset))
                    for half, codes in enumerate(both):
                        place = _SCALES + _PAIR * (2 * quad + half) + 64 * tile
                        place = at_(builder, to, HALVES, place)
                        builder.store(as_words(builder, codes), place, align=2)

    return _op(3, build)


def _two(builder: Any, x: Row, block: Any, pair: Any) -> Any:
    """q of two columns, 16 times: 32 int16."""
    at = plus(builder, plus(builder, x.between, block, ROWS.between), pair, 4)
    return builder.bitcast(x.four(at), HALVES)


def _many(tokens: int) -> Callable[..., Any]:
    """`f(laid_out, first, count, columns, rows, sums)`: `tokens` rows of x, `count` of its columns.

    first: block of the first of them.
    """

    def build(
        builder: Any, laid_out: Any, first: Any, count: Any, columns: Any, rows: Any, sums: Any
    ) -> None:
        starts = [builder.load(at_(builder, rows, WORD, 8 * t)) for t in range(tokens)]
        xs = [Row(builder, ROWS, start, columns) for start in starts]
        held = Held(builder, I32.llvm, product(range(tokens), range(TILES)))
        with cgutils.for_range(builder, builder.udiv(count, WORD(BLOCK))) as loop:
            at = plus(builder, laid_out, loop.index, _LAID_OUT)
            block = builder.add(first, loop.index)
            held.clear()

            def pair(number: Any) -> None:
                place = plus(builder, at, number, _PAIR)
                twos = [_two(builder, x, block, number) for x in xs]
                for t, tile in product(range(tokens), range(TILES)):
                    w = builder.load(at_(builder, place, HALVES, _SCALES + 64 * tile), align=2)
                    held.add((t, tile), word_pairs(builder, twos[t], w))

            _rolled(builder, 0, BLOCK // 2, pair)
            for tile in range(TILES):
                scale = load_at(builder, at, F32.llvm, 64 * tile)
                for t, x in enumerate(xs):
                    to = at_(builder, sums, F32.llvm, 128 * t + 64 * tile)
                    both = builder.fmul(scale, x.unit(block))
                    add_term(builder, held[t, tile], both, to)

    return _op(6, build)


def _op(arity: int, build: Callable[..., None]) -> Callable[..., Any]:
    made: Callable[..., Any] = operation(types.void, (types.int64,) * arity, build)
    return made


@cache
def multiply_fixed(name: str) -> Kernel:
    """`f(weight, columns, rows, tokens, sums, scratch)`: as `multiply`, of rows in fixed point."""
    return Kernel(lambda: _product(FORMATS[name]), f"multiply_fixed_{name}", __name__, (), 6)


def _product(form: Format) -> Callable[..., None]:
    one, two = times_whole(form, ROWS, 1), times_whole(form, ROWS, 2)
    laid_out, single, double = _lay_out(form), _many(1), _many(2)
    piece = DEEP // form.block * form.block_bytes

    def multiplied(
        weight: Any, columns: Any, rows: Any, tokens: Any, sums: Any, scratch: Any
    ) -> None:
        _clear(sums, tokens)
        t = 0
        if tokens <= FEW:
            while t + 2 <= tokens:
                two(weight, columns, rows + 8 * t, sums + 128 * t)
                t += 2
            if t < tokens:
                one(weight, columns, rows + 8 * t, sums + 128 * t)
            return
        for done in range(0, columns, DEEP):
            count, first = min(DEEP, columns - done), done // BLOCK
            laid_out(weight + done // DEEP * piece, count, scratch)
            t = 0
            while t + 2 <= tokens:
                double(scratch, first, count, columns, rows + 8 * t, sums + 128 * t)
                t += 2
            if t < tokens:
                single(scratch, first, count, columns, rows + 8 * t, sums + 128 * t)

    return multiplied
