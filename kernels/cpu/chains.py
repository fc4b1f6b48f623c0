"""A matrix times vectors, as chains of fused multiply-adds: loops that Python writes for LLVM.

Every output has one order of sums, for one token or many, for any number of threads. Where there
are no scales between columns, it is one chain, beginning at 0:

    y = fma(w[0], x[0], 0); y = fma(w[1], x[1], y); ...; y = fma(w[K-1], x[K-1], y)

Where a block of columns has a scale s, the block is such a chain of its codes, and blocks are a
chain of their sums; the scale enters once a block, not once a weight:

    y = fma(chain of block 0, s[0], 0); y = fma(chain of block 1, s[1], y); ...

A chain waits for its last sum before it takes the next, so a core needs several at once: eight
vectors of them on CPUs that begin two multiply-adds a cycle and end them four cycles later. And
it needs them in registers, of which AVX2 has 16: hence how many tokens and tiles go together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from tinymoe.kernels.cpu.lazily import cgutils, operation, types
from tinymoe.kernels.cpu.simd import F32, fused, spread
from tinymoe.kernels.cpu.tiles import Format, ask_ahead, load_at, unpacked

_WORD = ir.IntType(64)


def _store_at(builder: Any, value: Any, address: Any, offset: int = 0) -> None:
    place = builder.add(address, _WORD(offset))
    builder.store(value, builder.inttoptr(place, F32.llvm.as_pointer()), align=4)


def _x_at(builder: Any, address: Any, offset: int) -> Any:
    """One float32, in every lane."""
    place = builder.inttoptr(builder.add(address, _WORD(offset)), ir.FloatType().as_pointer())
    return spread(builder, builder.load(place, align=4), F32.llvm)


def _rolled(builder: Any, start: int, stop: int, body: Callable[[Any], None]) -> None:
    """`body(start) .. body(stop - 1)` as a loop that LLVM leaves one.

    Written out, the decoding of 16 columns has more values alive at once than there are
    registers, in the order that LLVM takes them, and these go to memory and back.
    """
    if start == stop:
        return
    before, block = builder.basic_block, builder.append_basic_block("quads")
    after = builder.append_basic_block("quads.end")
    builder.branch(block)
    builder.position_at_end(block)
    index = builder.phi(_WORD)
    body(index)
    following = builder.add(index, _WORD(1))
    index.add_incoming(_WORD(start), before)
    index.add_incoming(following, builder.basic_block)
    jump = builder.cbranch(builder.icmp_unsigned("<", following, _WORD(stop)), block, after)
    module = builder.module
    loop = ir.MDValue(module, [], name=str(len(module.metadata)))
    loop.operands = (loop, module.add_metadata(["llvm.loop.unroll.disable"]))  # itself first
    jump.set_metadata("llvm.loop", loop)
    builder.position_at_end(after)


def _blocks(
    builder: Any,
    form: Format,
    tiles: int,
    weight: Any,
    begin: Any,
    columns: Any,
    visit: Callable[..., None],
    ended: Callable[..., None],
) -> None:
    """Walk forward, block by block, over so many tiles from the one numbered `begin`.

    `visit(column, tile, the four columns' 16 rows, begins)` for each quad of each tile, `begins`
    at a scaled block's first; after a block with scales, `ended(block, tile, its scales)`.
    """
    quads, scaled = form.block // 4, form.scale is not None
    count = builder.udiv(columns, _WORD(form.block))
    own_quads, own_scales = (
        builder.mul(begin, _WORD(step)) for step in (form.tile_step, form.scale_bytes)
    )
    with cgutils.for_range(builder, count) as loop:
        at = builder.add(weight, builder.mul(loop.index, _WORD(form.block_bytes)))
        body = builder.add(builder.add(at, own_quads), _WORD(2 * form.scale_bytes))
        first = builder.mul(loop.index, _WORD(form.block))
        if form.ahead:
            ask_ahead(builder, form, at)

        def both(number: Any, begins: bool = False) -> None:
            place = builder.add(body, builder.mul(number, _WORD(2 * form.quad_bytes)))
            column = builder.add(first, builder.mul(number, _WORD(4)))
            for tile in range(tiles):
                own = builder.add(place, _WORD(form.tile_step * tile))
                visit(column, tile, form.quad(builder, own), begins)

        written_out = quads if quads <= form.short else 1
        for number in range(written_out):
            both(_WORD(number), scaled and number == 0)
        _rolled(builder, written_out, quads, both)
        if form.scale is not None:
            for tile in range(tiles):
                place = builder.add(builder.add(at, own_scales), _WORD(form.scale_bytes * tile))
                ended(loop.index, tile, form.scale(builder, place))


def times(form: Format, tokens: int, tiles: int) -> Callable[..., Any]:
    """`f(weight, tile, rows, skip, columns, sums)`: 16 or 32 rows times `tokens` vectors.

    tile: the first of the two (0), or, of 16 rows, the second (1). rows: address of so many
    addresses of x; `skip` bytes of each are left out. sums: (tokens, 32) float32, added to.
    Registers are named by Python while it writes the loop: `tokens * tiles` sums, which must be
    fewer than the CPU has. The sums of blocks have none: they are met once a block, in memory.
    """
    every = [(t, tile) for t in range(tokens) for tile in range(tiles)]

    def build(
        builder: Any, weight: Any, begin: Any, rows: Any, skip: Any, columns: Any, sums: Any
    ) -> None:
        sums = builder.add(sums, builder.mul(begin, _WORD(64)))
        pointer = builder.inttoptr(rows, _WORD.as_pointer())
        starts = [
            builder.add(builder.load(builder.gep(pointer, [_WORD(t)])), skip) for t in range(tokens)
        ]
        chain = {each: cgutils.alloca_once(builder, F32.llvm) for each in every}
        place = {(t, tile): builder.add(sums, _WORD(128 * t + 64 * tile)) for t, tile in every}

        def visit(column: Any, tile: int, four: list[Any], begins: bool) -> None:
            offset = builder.mul(column, _WORD(4))
            ats = [builder.add(start, offset) for start in starts]
            for k, value in enumerate(four):
                for t, at in enumerate(ats):
                    x = _x_at(builder, at, 4 * k)
                    if begins and k == 0:  # fma(w, x, 0) without a register for the 0
                        result = builder.fmul(value, x)
                    else:
                        result = fused(builder, value, x, builder.load(chain[t, tile]))
                    builder.store(result, chain[t, tile])

        def ended(block: Any, tile: int, scale: Any) -> None:
            for t in range(tokens):
                part, at = builder.load(chain[t, tile]), place[t, tile]
                sum_ = load_at(builder, at, F32.llvm)
                _store_at(builder, fused(builder, part, scale, sum_), at)

        if form.scale is None:
            for each in every:
                builder.store(load_at(builder, place[each], F32.llvm), chain[each])
        _blocks(builder, form, tiles, weight, begin, columns, visit, ended)
        if form.scale is None:
            for each in every:
                _store_at(builder, builder.load(chain[each]), place[each])

    return operation(types.void, (types.int64,) * 6, build)


def unpack(form: Format) -> Callable[..., Any]:
    """`f(weight, columns, out)`: 32 rows, decoded, in the form that `unpacked` says."""
    to = unpacked(form)

    def build(builder: Any, weight: Any, columns: Any, out: Any) -> None:
        def block_at(number: Any) -> Any:
            return builder.add(out, builder.mul(number, _WORD(to.block_bytes)))

        def visit(column: Any, tile: int, four: list[Any], begins: bool) -> None:
            at = block_at(builder.udiv(column, _WORD(form.block)))
            inside = builder.urem(column, _WORD(form.block))
            at = builder.add(at, builder.mul(inside, _WORD(128)))
            for k, value in enumerate(four):
                _store_at(builder, value, at, 2 * to.scale_bytes + 128 * k + 64 * tile)

        def ended(block: Any, tile: int, scale: Any) -> None:
            _store_at(builder, scale, block_at(block), 64 * tile)

        _blocks(builder, form, 2, weight, _WORD(0), columns, visit, ended)

    return operation(types.void, (types.int64,) * 3, build)
