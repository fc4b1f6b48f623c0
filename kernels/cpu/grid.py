"""Small products whose operands lie scattered in memory: what attention is made of.

    sums[r] += x[r][0] * rows[0] + x[r][1] * rows[1] + ...      16 lanes of each row at once

Scores: x is a query, rows[d] dimension d of 64 keys. Mixing: x is a query's weights, rows[j] the
value of key j, wherever its page is. Each sum is one chain of fused products in the order of the
rows, however many queries are taken together: sharing a row among queries changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from tinymoe.kernels.cpu.ahead import prefetch_far
from tinymoe.kernels.cpu.kernel import _caller, helper, part
from tinymoe.kernels.cpu.lazily import cgutils, types
from tinymoe.kernels.cpu.lazily import operation as _op
from tinymoe.kernels.cpu.simd import (
    F32,
    f32_at,
    fma,
    fused,
    i64_at,
    load_part,
    put_f32,
    splat,
    spread,
    store_part,
)

_WORD, _FLOAT = ir.IntType(64), ir.FloatType()
FOUR, EIGHT = (ir.VectorType(_FLOAT, count) for count in (4, 8))


def _pointer(builder: Any, address: Any, offset: int, kind: Any) -> Any:
    return builder.inttoptr(builder.add(address, _WORD(offset)), kind.as_pointer())


def grid(queries: int, tiles: int) -> Callable[..., Any]:
    """`f(xs, x_skip, rows, row_skip, count, ahead, sums, sums_step)`: `queries` x `tiles` sums.

    xs, rows: lists of addresses, of `queries` and of `count`; so many bytes of each are skipped.
    ahead: how many bytes later in the list the row is that is asked for meanwhile; 0 is none.
    sums: 16 * tiles float32 of each query, `sums_step` bytes apart, added to. 2 * queries * tiles
    registers hold them: at most 12 of the 16 that AVX2 has.
    """

    def build(
        builder: Any,
        xs: Any,
        x_skip: Any,
        rows: Any,
        row_skip: Any,
        count: Any,
        ahead: Any,
        sums: Any,
        sums_step: Any,
    ) -> None:
        starts = [
            builder.add(builder.load(_pointer(builder, xs, 8 * q, _WORD)), x_skip)
            for q in range(queries)
        ]
        places = [builder.add(sums, builder.mul(sums_step, _WORD(q))) for q in range(queries)]
        held = [[cgutils.alloca_once(builder, F32.llvm) for _ in range(tiles)] for _ in starts]
        for q in range(queries):
            for tile in range(tiles):
                where = _pointer(builder, places[q], 64 * tile, F32.llvm)
                builder.store(builder.load(where, align=4), held[q][tile])
        with cgutils.for_range(builder, count) as loop:
            listed = builder.add(rows, builder.mul(loop.index, _WORD(8)))
            row = builder.add(builder.load(_pointer(builder, listed, 0, _WORD)), row_skip)
            values = [
                builder.load(_pointer(builder, row, 64 * tile, F32.llvm), align=4)
                for tile in range(tiles)
            ]
            later = builder.load(_pointer(builder, builder.add(listed, ahead), 0, _WORD))
            for tile in range(tiles):
                prefetch_far(builder, builder.add(builder.add(later, row_skip), _WORD(64 * tile)))
            offset = builder.mul(loop.index, _WORD(4))
            for q, start in enumerate(starts):
                at = _pointer(builder, builder.add(start, offset), 0, _FLOAT)
                x = spread(builder, builder.load(at, align=4), F32.llvm)
                for tile, value in enumerate(values):
                    sum_ = builder.load(held[q][tile])
                    builder.store(fused(builder, x, value, sum_), held[q][tile])
        for q in range(queries):
            for tile in range(tiles):
                where = _pointer(builder, places[q], 64 * tile, F32.llvm)
                builder.store(builder.load(held[q][tile]), where, align=4)

    doc = f"{queries} queries, {16 * tiles} lanes of the rows."
    return _op(types.void, (types.int64,) * 8, build, doc)


_SIX, _FOUR, _TWO, _ONE = (grid(queries, 1) for queries in (6, 4, 2, 1))
_TWO_WIDE, _ONE_WIDE = grid(2, 2), grid(1, 4)


@helper
def products(
    queries: Any,
    xs: Any,
    x_skip: Any,
    rows: Any,
    row_skip: Any,
    count: Any,
    ahead: Any,
    sums: Any,
    sums_step: Any,
    width: Any,
) -> None:
    """As `grid`, for any number of queries and any width of the rows.

    Six queries share a row's 16 lanes. Fewer than six leave registers for more of the lanes.
    """
    q = 0
    while q < queries:
        left, k = queries - q, 0
        mine, to = xs + 8 * q, sums + sums_step * q
        if left == 1:
            while k + 64 <= width:
                _ONE_WIDE(mine, x_skip, rows, row_skip + 4 * k, count, ahead, to + 4 * k, sums_step)
                k += 64
        if 2 <= left < 4:
            while k + 32 <= width:
                _TWO_WIDE(mine, x_skip, rows, row_skip + 4 * k, count, ahead, to + 4 * k, sums_step)
                k += 32
        while k + 16 <= width:
            skip, place = row_skip + 4 * k, to + 4 * k
            if left >= 6:
                _SIX(mine, x_skip, rows, skip, count, ahead, place, sums_step)
            elif left >= 4:
                _FOUR(mine, x_skip, rows, skip, count, ahead, place, sums_step)
            elif left >= 2:
                _TWO(mine, x_skip, rows, skip, count, ahead, place, sums_step)
            else:
                _ONE(mine, x_skip, rows, skip, count, ahead, place, sums_step)
            k += 16
        together = 6 if left >= 6 else 4 if left >= 4 else 2 if left >= 2 else 1
        if k < width:
            for each in range(together):
                _last(
                    i64_at(mine + 8 * each) + x_skip,
                    rows,
                    row_skip + 4 * k,
                    count,
                    to + sums_step * each + 4 * k,
                    width - k,
                )
        q += together


call_products = _caller(10)  # (address of `products`, its numbers)


@part
def _last(x, rows, row_skip, count, sums, left):
    """One query and the last lanes of rows, fewer than 16: nothing past them is read."""
    total = load_part(sums, left)
    for k in range(count):
        value = load_part(i64_at(rows + 8 * k) + row_skip, left)
        total = fma(splat(f32_at(x + 4 * k)), value, total)
    store_part(sums, total, left)


# Of two vectors a (lanes 0 .. 7) and b (8 .. 15): what AVX2 has as one instruction each.
_EXCHANGES = (
    (1, [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]),
    (2, [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]),
)
_PLACES = (0, 2, 1, 3)  # which of the results is dimension 0, 1, 2, 3


def _transpose(builder: Any, rows: Any, row_skip: Any, to: Any, step: Any) -> None:
    """8 x 8 numbers. Halves of rows are put together as they are loaded; the rest are exchanges."""
    places = [
        builder.add(builder.load(_pointer(builder, rows, 8 * r, _WORD)), row_skip) for r in range(8)
    ]
    both = ir.Constant(ir.VectorType(ir.IntType(32), 8), list(range(8)))
    for half in range(2):
        parts = [
            builder.load(_pointer(builder, place, 16 * half, FOUR), align=4) for place in places
        ]
        values = [builder.shuffle_vector(parts[r], parts[r + 4], both) for r in range(4)]
        for apart, *orders in _EXCHANGES:
            for low in (i for i in range(4) if not i & apart):
                pair = values[low], values[low + apart]
                for place, order in zip((low, low + apart), orders, strict=True):
                    mask = ir.Constant(ir.VectorType(ir.IntType(32), 8), order)
                    values[place] = builder.shuffle_vector(*pair, mask)
        for d, place in enumerate(_PLACES):
            at = builder.add(to, builder.mul(step, _WORD(4 * half + d)))
            builder.store(values[place], _pointer(builder, at, 0, EIGHT), align=4)


transpose = _op(
    types.void,
    (types.int64,) * 4,
    _transpose,
    "`f(rows, row_skip, to, step)`: 8 numbers of each of 8 listed rows to 8 rows at `to`.",
)


def _ask(builder: Any, rows: Any, row_skip: Any) -> None:
    for r in range(8):
        row = builder.load(_pointer(builder, rows, 8 * r, _WORD))
        prefetch_far(builder, builder.add(row, row_skip))


ask = _op(types.void, (types.int64,) * 2, _ask, "`f(rows, row_skip)`: a line of each of 8 rows.")


@helper
def turned(rows: Any, row_skip: Any, count: Any, ahead: Any, dims: Any, to: Any, step: Any) -> None:
    """`dims` numbers of each of `count` listed rows, as `dims` rows at `to`, `step` bytes apart.

    Of each row `row_skip` bytes are skipped. `count` is a multiple of 8. ahead: see `grid`.
    """
    whole = dims // 8 * 8
    for r in range(0, count, 8):
        listed = rows + 8 * r
        for d in range(0, whole, 8):
            if d % 16 == 0:  # a line is 16 numbers
                ask(listed + ahead, row_skip + 4 * d)
            transpose(listed, row_skip + 4 * d, to + 4 * r + step * d, step)
    for r in range(count):
        for d in range(whole, dims):
            put_f32(to + step * d + 4 * r, f32_at(i64_at(rows + 8 * r) + row_skip + 4 * d))


call_turned = _caller(7)
