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

from collections.abc import Callable, Iterable
from functools import cache
from itertools import product
from typing import Any

from llvmlite import ir

from tinymoe.kernels.cpu.chains import _rolled
from tinymoe.kernels.cpu.fixed_rows import BLOCK, DIGIT_BYTES, FEW, RADIX, WORD_BYTES
from tinymoe.kernels.cpu.integers import (
    as_words,
    byte_pairs,
    interleaved,
    lifted,
    nibbles,
    pairs_times,
    word_pairs,
)
from tinymoe.kernels.cpu.kernel import Kernel
from tinymoe.kernels.cpu.lazily import cgutils, operation, types
from tinymoe.kernels.cpu.multiply import _clear
from tinymoe.kernels.cpu.simd import F32, I32, U8, fused, spread
from tinymoe.kernels.cpu.tiles import FORMATS, Format, ask_ahead, load_at

FOUR_BITS = ("nvfp4", "mxfp4")  # formats of weights that this is for
_WORD, _INT = ir.IntType(64), ir.IntType(32)
_BYTES, _HALVES = ir.VectorType(ir.IntType(8), 64), ir.VectorType(ir.IntType(16), 32)
TILES, DIGITS = 2, 2
DEEP = 128  # columns that are laid out at a time
_SCALES, _PAIR = TILES * 64, TILES * 64  # bytes of a block laid out: its scales, two columns
_LAID_OUT = _SCALES + BLOCK // 2 * _PAIR
SCRATCH = DEEP // BLOCK * _LAID_OUT


def _at(builder: Any, address: Any, kind: Any, offset: int = 0) -> Any:
    return builder.inttoptr(builder.add(address, _WORD(offset)), kind.as_pointer())


def _plus(builder: Any, base: Any, index: Any, step: int) -> Any:
    return builder.add(base, builder.mul(index, _WORD(step)))


class _Row:
    """Where a row of x is read."""

    def __init__(self, builder: Any, start: Any, blocks: Any) -> None:
        self.builder, self.digits = builder, start
        self.whole = _plus(builder, self.digits, blocks, DIGIT_BYTES)
        self.more = _plus(builder, self.whole, blocks, WORD_BYTES)

    def digit(self, block: Any, pair: Any, digit: int, offset: int) -> Any:
        """One digit of two columns, 32 times: 64 bytes."""
        at = _plus(self.builder, _plus(self.builder, self.digits, block, DIGIT_BYTES), pair, 4)
        return self.builder.bitcast(self._spread(at, 2 * BLOCK * digit + offset), _BYTES)

    def words(self, block: Any, pair: Any) -> Any:
        """q of two columns, 16 times: 32 int16."""
        at = _plus(self.builder, _plus(self.builder, self.whole, block, WORD_BYTES), pair, 4)
        return self.builder.bitcast(self._spread(at, 0), _HALVES)

    def _spread(self, at: Any, offset: int) -> Any:
        four = self.builder.load(_at(self.builder, at, _INT, offset), align=4)
        return spread(self.builder, four, I32.llvm)

    def lift(self, block: Any) -> Any:
        """-12 sum q, 16 times."""
        return self._spread(_plus(self.builder, self.more, block, 8), 0)

    def half_unit(self, block: Any) -> Any:
        """unit / 2, 16 times."""
        at = _at(self.builder, _plus(self.builder, self.more, block, 8), ir.FloatType(), 4)
        return spread(self.builder, self.builder.load(at, align=4), F32.llvm)


class _Held:
    """Whole numbers, in registers as long as a block lasts: a vector for each name."""

    def __init__(self, builder: Any, kind: Any, names: Iterable[Any]) -> None:
        self.builder, self.kind = builder, kind
        self.places = {name: cgutils.alloca_once(builder, kind) for name in names}

    def clear(self) -> None:
        """A block begins."""
        for place in self.places.values():
            self.builder.store(ir.Constant(self.kind, [0] * self.kind.count), place)

    def add(self, name: Any, products: Any) -> None:
        """Two columns more."""
        place = self.places[name]
        self.builder.store(self.builder.add(self.builder.load(place), products), place)

    def __getitem__(self, name: Any) -> Any:
        return self.builder.load(self.places[name])


def _tiles(builder: Any, low: Any, high: Any) -> list[Any]:
    """Both digits' sums, 32 int16 of two tiles, as whole numbers: of each tile 16 int32."""
    halves = [
        pairs_times(builder, interleaved(builder, low, high, half), (1, RADIX)) for half in range(2)
    ]  # rows 0 .. 7 of both tiles, rows 8 .. 15
    lanes = [[8 * tile + k + side for side in (0, 16) for k in range(8)] for tile in range(TILES)]
    return [builder.shuffle_vector(*halves, ir.Constant(I32.llvm, each)) for each in lanes]


def _add_term(builder: Any, whole: Any, scale: Any, to: Any) -> None:
    """One block more of 16 rows' sums."""
    number = builder.sitofp(whole, F32.llvm)
    builder.store(fused(builder, number, scale, builder.load(to, align=4)), to, align=4)


def _parts(form: Format) -> range:
    """A weight's block has so many of ours."""
    return range(form.block // BLOCK)


def _few(form: Format, tokens: int) -> Callable[..., Any]:
    """`f(weight, columns, rows, sums)`: 32 rows of a weight times `tokens` rows of x."""

    def build(builder: Any, weight: Any, columns: Any, rows: Any, sums: Any) -> None:
        blocks = builder.udiv(columns, _WORD(BLOCK))
        starts = [builder.load(_at(builder, rows, _WORD, 8 * t)) for t in range(tokens)]
        xs = [_Row(builder, start, blocks) for start in starts]
        held = _Held(builder, _HALVES, product(range(tokens), range(DIGITS)))
        count = builder.udiv(columns, _WORD(form.block))
        with cgutils.for_range(builder, count) as loop:
            at = _plus(builder, weight, loop.index, form.block_bytes)
            ask_ahead(builder, form, at)
            for part in _parts(form):
                block = builder.add(builder.mul(loop.index, _WORD(len(_parts(form)))), _WORD(part))
                quads = builder.add(at, _WORD(2 * form.scale_bytes + part * 8 * form.quad_bytes))
                held.clear()

                def quad(number: Any, quads: Any = quads, block: Any = block) -> None:
                    place = _plus(builder, quads, number, 2 * form.quad_bytes)
                    both = nibbles(builder, load_at(builder, place, _BYTES))  # of both tiles
                    pair = builder.mul(number, _WORD(2))
                    for half, codes in enumerate(both):
                        w = lifted(builder, codes)
                        for t, digit in product(range(tokens), range(DIGITS)):
                            two = xs[t].digit(block, pair, digit, 4 * half)
                            held.add((t, digit), byte_pairs(builder, w, two))

                _rolled(builder, 0, BLOCK // 4, quad)
                scales = [
                    form.scale(builder, builder.add(at, _WORD(form.scale_bytes * tile)))  # type: ignore[misc]
                    for tile in range(TILES)
                ]
                for t, x in enumerate(xs):
                    whole = _tiles(builder, held[t, 0], held[t, 1])
                    for tile in range(TILES):
                        number = builder.add(whole[tile], x.lift(block))
                        scale = builder.fmul(scales[tile], x.half_unit(block))
                        to = _at(builder, sums, F32.llvm, 128 * t + 64 * tile)
                        _add_term(builder, number, scale, to)

    return _op(4, build)


def _lay_out(form: Format) -> Callable[..., Any]:
    """`f(weight, columns, out)`: of each block the scales, and twice the values as int16."""

    def build(builder: Any, weight: Any, columns: Any, out: Any) -> None:
        count, parts = builder.udiv(columns, _WORD(form.block)), len(_parts(form))
        with cgutils.for_range(builder, count) as loop:
            at = _plus(builder, weight, loop.index, form.block_bytes)
            ask_ahead(builder, form, at)
            first = _plus(builder, out, loop.index, parts * _LAID_OUT)
            for part, tile in product(_parts(form), range(TILES)):
                to = builder.add(first, _WORD(part * _LAID_OUT))
                place = builder.add(at, _WORD(form.scale_bytes * tile))
                scale = form.scale(builder, place)  # type: ignore[misc]
                builder.store(scale, _at(builder, to, F32.llvm, 64 * tile), align=4)
                own = 2 * form.scale_bytes + form.tile_step * tile
                for quad in range(BLOCK // 4):
                    offset = own + 2 * form.quad_bytes * (BLOCK // 4 * part + quad)
                    both = nibbles(builder, load_at(builder, at, U8.llvm, offset))
                    for half, codes in enumerate(both):
                        place = _SCALES + _PAIR * (2 * quad + half) + 64 * tile
                        place = _at(builder, to, _HALVES, place)
                        builder.store(as_words(builder, codes), place, align=2)

    return _op(3, build)


def _many(tokens: int) -> Callable[..., Any]:
    """`f(laid_out, first, columns, blocks, rows, sums)`: `tokens` rows of x, from block `first`."""

    def build(
        builder: Any, laid_out: Any, first: Any, columns: Any, blocks: Any, rows: Any, sums: Any
    ) -> None:
        starts = [builder.load(_at(builder, rows, _WORD, 8 * t)) for t in range(tokens)]
        xs = [_Row(builder, start, blocks) for start in starts]
        held = _Held(builder, I32.llvm, product(range(tokens), range(TILES)))
        with cgutils.for_range(builder, builder.udiv(columns, _WORD(BLOCK))) as loop:
            at = _plus(builder, laid_out, loop.index, _LAID_OUT)
            block = builder.add(first, loop.index)
            held.clear()

            def pair(number: Any) -> None:
                place = _plus(builder, at, number, _PAIR)
                twos = [x.words(block, number) for x in xs]
                for t, tile in product(range(tokens), range(TILES)):
                    w = builder.load(_at(builder, place, _HALVES, _SCALES + 64 * tile), align=2)
                    held.add((t, tile), word_pairs(builder, twos[t], w))

            _rolled(builder, 0, BLOCK // 2, pair)
            for tile in range(TILES):
                scale = load_at(builder, at, F32.llvm, 64 * tile)
                for t, x in enumerate(xs):
                    to = _at(builder, sums, F32.llvm, 128 * t + 64 * tile)
                    both = builder.fmul(scale, x.half_unit(block))
                    _add_term(builder, held[t, tile], both, to)

    return _op(6, build)


def _op(arity: int, build: Callable[..., None]) -> Callable[..., Any]:
    made: Callable[..., Any] = operation(types.void, (types.int64,) * arity, build)
    return made


@cache
def multiply_fixed(name: str) -> Kernel:
    """`f(weight, columns, rows, tokens, sums, scratch)`: as `multiply`, of rows in fixed point."""
    return Kernel(lambda: _product(FORMATS[name]), f"multiply_fixed_{name}", __name__, (), 6)


def _product(form: Format) -> Callable[..., None]:
    one, two = _few(form, 1), _few(form, 2)
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
                double(scratch, first, count, columns // BLOCK, rows + 8 * t, sums + 128 * t)
                t += 2
            if t < tokens:
                single(scratch, first, count, columns // BLOCK, rows + 8 * t, sums + 128 * t)

    return multiplied
