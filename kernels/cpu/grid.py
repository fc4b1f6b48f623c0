"""Rows of tiles times one number each: what attention over pages is made of. See `pages.py`.

    scores   s[q][0..15] = x_q[0] * row 0 + x_q[1] * row 1 + ...    x a query, a row for a dimension
    mix      P[q][0..15] += w_q[0] * row 0 + w_q[1] * row 1 + ...   w weights, a row for a position

Each sum is one chain of fused products in the order of the rows, held in registers, however many
queries and tiles are taken together: sharing a row among queries changes no bit.

A context comes from memory once a step, and a CPU does not guess past a page what is read next. So
for each line of keys that is computed with, a line of their values is asked for, and for each line
of values one of the next span's keys, or, of each pair, the first: there is always something under
way. Of keys, which lie forward, the CPU then finds the second by itself, and has not as many
requests to wait for: 1 to 9 % less time of a context of 32,768. Of values, of which a head's parts
are read in turns, it does not: all lines have to be asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from tinymoe.kernels.cpu.kernel import Kernel, _caller
from tinymoe.kernels.cpu.lazily import cgutils, operation, types
from tinymoe.kernels.cpu.pages import TILE
from tinymoe.kernels.cpu.simd import F32, fused, prefetch_at, spread

_WORD, _FLOAT = ir.IntType(64), ir.FloatType()
LINE, PAIR = 64, 128  # bytes of a cache line, and of two that a CPU likes to fetch together
_PAIRS, _HALF = ir.VectorType(ir.IntType(32), 8), ir.VectorType(_FLOAT, 8)


def _pointer(builder: Any, address: Any, offset: int, kind: Any) -> Any:
    return builder.inttoptr(builder.add(address, _WORD(offset)), kind.as_pointer())


def _row(builder: Any, address: Any, item: int) -> Any:
    """16 numbers of a tile, of `item` bytes each, as float32."""
    if item == 4:
        return builder.load(_pointer(builder, address, 0, F32.llvm), align=4)
    words = builder.load(_pointer(builder, address, 0, _PAIRS), align=4)
    low = builder.shl(words, ir.Constant(_PAIRS, [16] * 8))
    high = builder.and_(words, ir.Constant(_PAIRS, [-65536] * 8))
    both = ir.Constant(ir.VectorType(ir.IntType(32), TILE), list(range(TILE)))
    return builder.shuffle_vector(*(builder.bitcast(v, _HALF) for v in (low, high)), both)


class _Sums:
    """16 sums of each query and tile, in registers."""

    def __init__(self, builder: Any, queries: int, tiles: int, item: int) -> None:
        self.builder, self.item = builder, item
        self.held = [
            [cgutils.alloca_once(builder, F32.llvm) for _ in range(tiles)] for _ in range(queries)
        ]

    def each(self, sums: Any, step: Any) -> Any:
        """(where it is in memory, where it is held) of each."""
        for q, row in enumerate(self.held):
            place = self.builder.add(sums, self.builder.mul(step, _WORD(q)))
            for tile, held in enumerate(row):
                yield _pointer(self.builder, place, 64 * tile, F32.llvm), held

    def add(self, xs: list[Any], rows: list[Any], ahead: list[Any], count: Any, apart: int) -> None:
        """`count` numbers at each address of xs times as many rows at each of `rows`.

        Two rows at a time; of as many bytes at each address of `ahead`, lines so many bytes apart
        are asked for: `LINE` or `PAIR`.
        """
        builder, size = self.builder, self.item * TILE
        with cgutils.for_range(builder, builder.udiv(count, _WORD(2))) as loop:
            at = builder.mul(loop.index, _WORD(2 * size))
            begun = builder.icmp_unsigned("==", builder.and_(at, _WORD(apart - 1)), _WORD(0))
            with builder.if_then(begun):  # always, where two rows are `apart` bytes or more
                for line in range(0, 2 * size, apart):
                    for address in ahead:
                        prefetch_at(builder, builder.add(builder.add(address, at), _WORD(line)))
            for number in range(2):
                first = builder.add(builder.mul(loop.index, _WORD(2)), _WORD(number))
                self._add_one(xs, rows, first)
        with builder.if_then(builder.trunc(count, ir.IntType(1)), likely=False):
            self._add_one(xs, rows, builder.sub(count, _WORD(1)))

    def _add_one(self, xs: list[Any], rows: list[Any], number: Any) -> None:
        builder = self.builder
        at = builder.mul(number, _WORD(self.item * TILE))
        values = [_row(builder, builder.add(row, at), self.item) for row in rows]
        for address, sums in zip(xs, self.held, strict=True):
            place = builder.add(address, builder.mul(number, _WORD(4)))
            x = builder.load(_pointer(builder, place, 0, _FLOAT), align=4)
            x = spread(builder, x, F32.llvm)
            for value, held in zip(values, sums, strict=True):
                builder.store(fused(builder, x, value, builder.load(held)), held)


def _listed(builder: Any, list_: Any, number: int, skip: Any) -> Any:
    return builder.add(builder.load(_pointer(builder, list_, 8 * number, _WORD)), skip)


def score_grid(queries: int, tiles: int, item: int) -> Callable[..., Any]:
    """`f(xs, keys, skip, dims, ahead, ahead_skip, sums, step)`: scores of 16 keys a tile, written.

    xs, keys, ahead: lists of addresses, of queries, of tiles, and of what is asked for meanwhile;
    so many bytes of each tile are skipped. sums: 16 float32 a tile, a query's `step` bytes apart.
    """

    def build(
        builder: Any,
        xs: Any,
        keys: Any,
        skip: Any,
        dims: Any,
        ahead: Any,
        ahead_skip: Any,
        sums: Any,
        step: Any,
    ) -> None:
        made = _Sums(builder, queries, tiles, item)
        for row in made.held:
            for held in row:
                builder.store(ir.Constant(F32.llvm, [0.0] * TILE), held)
        rows = [_listed(builder, keys, tile, skip) for tile in range(tiles)]
        later = [_listed(builder, ahead, tile, ahead_skip) for tile in range(tiles)]
        made.add(
            [_listed(builder, xs, q, _WORD(0)) for q in range(queries)], rows, later, dims, LINE
        )
        for place, held in made.each(sums, step):
            builder.store(builder.load(held), place, align=4)

    return operation(types.void, (types.int64,) * 8, build, f"{queries} queries, {tiles} tiles.")


def mix_grid(queries: int, tiles: int, item: int) -> Callable[..., Any]:
    """`f(xs, values, skip, begin, end, ahead, ahead_skip, sums, step)`: onto 16 sums a tile.

    xs: where queries have their weights of a span. values, ahead: lists with an address for each 16
    of its positions; begin .. end - 1 are mixed. Tiles of 16 dimensions follow one another.
    """

    def build(
        builder: Any,
        xs: Any,
        values: Any,
        skip: Any,
        begin: Any,
        end: Any,
        ahead: Any,
        ahead_skip: Any,
        sums: Any,
        step: Any,
    ) -> None:
        made = _Sums(builder, queries, tiles, item)
        for place, held in made.each(sums, step):
            builder.store(builder.load(place, align=4), held)
        starts = [_listed(builder, xs, q, _WORD(0)) for q in range(queries)]
        size = _WORD(TILE)
        stop = builder.udiv(builder.add(end, _WORD(TILE - 1)), size)
        with cgutils.for_range(builder, stop, builder.udiv(begin, size)) as loop:
            base = builder.mul(loop.index, size)
            first = builder.select(builder.icmp_unsigned("<", base, begin), begin, base)
            last = builder.add(base, size)
            last = builder.select(builder.icmp_unsigned("<", end, last), end, last)
            offset = builder.mul(loop.index, _WORD(8))
            page = _listed(builder, builder.add(values, offset), 0, skip)
            later = _listed(builder, builder.add(ahead, offset), 0, ahead_skip)
            skipped = builder.mul(builder.sub(first, base), _WORD(item * TILE))
            bytes_ = item * TILE * TILE
            rows = [
                builder.add(builder.add(page, skipped), _WORD(bytes_ * tile))
                for tile in range(tiles)
            ]
            asked = [builder.add(later, _WORD(bytes_ * tile)) for tile in range(tiles)]
            at = builder.mul(first, _WORD(4))
            count = builder.sub(last, first)
            made.add([builder.add(x, at) for x in starts], rows, asked, count, PAIR)
        for place, held in made.each(sums, step):
            builder.store(builder.load(held), place, align=4)

    return operation(types.void, (types.int64,) * 9, build, f"{queries} queries, {tiles} tiles.")


def _scores(item: int) -> Callable[..., None]:
    six, four, two, one = (score_grid(queries, 1, item) for queries in (6, 4, 2, 1))
    two_wide, one_wide = score_grid(2, 2, item), score_grid(1, 4, item)

    def scores(
        queries: Any, xs: Any, keys: Any, count: Any, skip: Any, dims: Any,
        ahead: Any, ahead_skip: Any, sums: Any, step: Any,
    ) -> None:  # fmt: skip
        q = 0
        while q < queries:
            left, k, mine, to = queries - q, 0, xs + 8 * q, sums + step * q
            together = 6 if left >= 6 else 4 if left >= 4 else 2 if left >= 2 else 1
            while k < count:
                at, later, place = keys + 8 * k, ahead + 8 * k, to + 64 * k
                if together == 1 and k + 4 <= count:
                    one_wide(mine, at, skip, dims, later, ahead_skip, place, step)
                    k += 3
                elif together == 2 and k + 2 <= count:
                    two_wide(mine, at, skip, dims, later, ahead_skip, place, step)
                    k += 1
                elif together == 6:
                    six(mine, at, skip, dims, later, ahead_skip, place, step)
                elif together == 4:
                    four(mine, at, skip, dims, later, ahead_skip, place, step)
                elif together == 2:
                    two(mine, at, skip, dims, later, ahead_skip, place, step)
                else:
                    one(mine, at, skip, dims, later, ahead_skip, place, step)
                k += 1
            q += together

    return scores


def _mixes(item: int) -> Callable[..., None]:
    six, four, two, one = (mix_grid(queries, 1, item) for queries in (6, 4, 2, 1))
    two_wide, one_wide = mix_grid(2, 2, item), mix_grid(1, 4, item)
    size = item * TILE * TILE

    def mixes(
        queries: Any, xs: Any, values: Any, skip: Any, begin: Any, end: Any,
        ahead: Any, ahead_skip: Any, tiles: Any, sums: Any, step: Any,
    ) -> None:  # fmt: skip
        q = 0
        while q < queries:
            left, k, mine = queries - q, 0, xs + 8 * q
            together = 6 if left >= 6 else 4 if left >= 4 else 2 if left >= 2 else 1
            while k < tiles:
                at, later, to = skip + size * k, ahead_skip + size * k, sums + step * q + 64 * k
                if together == 1 and k + 4 <= tiles:
                    one_wide(mine, values, at, begin, end, ahead, later, to, step)
                    k += 3
                elif together == 2 and k + 2 <= tiles:
                    two_wide(mine, values, at, begin, end, ahead, later, to, step)
                    k += 1
                elif together == 6:
                    six(mine, values, at, begin, end, ahead, later, to, step)
                elif together == 4:
                    four(mine, values, at, begin, end, ahead, later, to, step)
                elif together == 2:
                    two(mine, values, at, begin, end, ahead, later, to, step)
                else:
                    one(mine, values, at, begin, end, ahead, later, to, step)
                k += 1
            q += together

    return mixes


def _helper(make: Callable[[int], Callable[..., None]], item: int, arity: int) -> Kernel:
    return Kernel(lambda: make(item), f"{make.__name__[1:]}_{8 * item}", __name__, (), arity)


# As the grids, for any number of queries, any `count` of tiles of keys or `tiles` of a value. Six
# queries share a row. Fewer leave registers for more tiles. By bytes of a number in pages.
SCORES = {item: _helper(_scores, item, 10) for item in (4, 2)}
MIXES = {item: _helper(_mixes, item, 11) for item in (4, 2)}
call_scores, call_mixes = _caller(10), _caller(11)
