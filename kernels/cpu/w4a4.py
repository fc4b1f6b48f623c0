"""Four-bit weights times four-bit activations: whole numbers within a block, float32 across them.

    y[t, n] = alpha * sum over blocks b of (sx[t, b] * sw[n, b]) * (sum of codes' products, exact)

A block's term is exact, scales included: E4M3 scales have 4 bits and E8M0's one, the whole number
13. So there is one rounding a block, where the term is added, and the order of these sums is
written: from the first block to the last.

    y = fma(n[0], sx[0] * sw[0], 0); y = fma(n[1], sx[1] * sw[1], y); ...; y = y * alpha

That is `formats.gemm.emulated`, bit for bit. Against the sum in whole numbers K/B - 1 additions
and alpha's product are rounded: |error| <= n u / (1 - n u) * alpha * sum |terms|, n = K/B.

A row of x is laid out for this (`coded_rows.py`): of each block its codes as bytes, twice the
value plus `LIFT`, and its scale. Weights are the tiles that all products read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from llvmlite import ir

from tinymoe.kernels.cpu.integers import LIFT, byte_pairs, four_columns, half_pairs, joined
from tinymoe.kernels.cpu.kernel import Kernel
from tinymoe.kernels.cpu.lazily import cgutils, operation, types
from tinymoe.kernels.cpu.simd import F32, U8, fused, splat, spread, store
from tinymoe.kernels.cpu.tiles import FORMATS, Format

_WORD, _INT = ir.IntType(64), ir.IntType(32)
TILES = 2


def _at(builder: Any, address: Any, kind: Any, offset: int = 0) -> Any:
    return builder.inttoptr(builder.add(address, _WORD(offset)), kind.as_pointer())


def _weights(builder: Any, form: Format, quads: Any, tile: int) -> tuple[list[Any], list[Any]]:
    """A block of one tile: its columns by fours, each 2 x 8 rows; and -LIFT times their sums."""
    found, lifts = [], [ir.Constant(ir.VectorType(ir.IntType(16), 16), [0] * 16)] * 2
    lift = ir.Constant(U8.llvm, [LIFT] * 32)
    for number in range(form.block // 4):
        offset = 2 * form.quad_bytes * number + form.tile_step * tile
        parts = four_columns(builder, builder.load(_at(builder, quads, U8.llvm, offset), align=1))
        found.append(parts)
        lifts = [
            builder.sub(sum_, byte_pairs(builder, lift, part))
            for sum_, part in zip(lifts, parts, strict=True)
        ]
    return found, lifts


def _block_of_token(
    builder: Any, form: Format, x: Any, weights: list[Any], lifts: list[Any]
) -> Any:
    """16 rows times a block of x: whole numbers, as float32."""
    sums = list(lifts)
    for number, parts in enumerate(weights):
        four = builder.load(_at(builder, x, _INT, 4 * number), align=4)
        many = builder.bitcast(spread(builder, four, ir.VectorType(_INT, 8)), U8.llvm)
        sums = [
            builder.add(sum_, byte_pairs(builder, many, part))
            for sum_, part in zip(sums, parts, strict=True)
        ]
    whole = joined(builder, *(half_pairs(builder, sum_) for sum_ in sums))
    return builder.sitofp(whole, F32.llvm)


def _sums(form: Format) -> Callable[..., Any]:
    """`f(weight, columns, rows, tokens, sums)`: 32 rows of a weight times every token.

    A block of 16 rows is decoded once, into registers, and all tokens pass by.
    """

    def build(builder: Any, weight: Any, columns: Any, rows: Any, tokens: Any, sums: Any) -> None:
        count = builder.udiv(columns, _WORD(form.block))
        starts = builder.inttoptr(rows, _WORD.as_pointer())
        quarter = ir.Constant(F32.llvm, [0.25] * 16)  # both sides were doubled
        with cgutils.for_range(builder, count) as loop:
            at = builder.add(weight, builder.mul(loop.index, _WORD(form.block_bytes)))
            skip = builder.mul(loop.index, _WORD(form.block + 4))
            for tile in range(TILES):
                quads = builder.add(at, _WORD(2 * form.scale_bytes))
                weights, lifts = _weights(builder, form, quads, tile)
                place = builder.add(at, _WORD(form.scale_bytes * tile))
                scale = builder.fmul(form.scale(builder, place), quarter)  # type: ignore[misc]
                with cgutils.for_range(builder, tokens) as inner:
                    x = builder.add(builder.load(builder.gep(starts, [inner.index])), skip)
                    whole = _block_of_token(builder, form, x, weights, lifts)
                    own = builder.load(_at(builder, x, ir.FloatType(), form.block), align=4)
                    both = builder.fmul(spread(builder, own, F32.llvm), scale)
                    place = builder.add(sums, builder.mul(inner.index, _WORD(128)))
                    to = _at(builder, place, F32.llvm, 64 * tile)
                    sum_ = builder.load(to, align=4)
                    builder.store(fused(builder, whole, both, sum_), to, align=4)

    made: Callable[..., Any] = operation(types.void, (types.int64,) * 5, build)
    return made


@cache
def multiply_codes(name: str) -> Kernel:
    """`f(weight, columns, rows, tokens, sums, scratch)`: as `multiply`, of rows that are coded."""
    return Kernel(lambda: _product(FORMATS[name]), f"multiply_codes_{name}", __name__, (), 6)


def _product(form: Format) -> Callable[..., None]:
    summed = _sums(form)

    def product(weight: Any, columns: Any, rows: Any, tokens: Any, sums: Any, scratch: Any) -> None:
        for t in range(tokens):
            store(sums + 128 * t, splat(0.0))
            store(sums + 128 * t + 64, splat(0.0))
        summed(weight, columns, rows, tokens, sums)

    return product
