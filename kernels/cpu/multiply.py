"""32 rows of a weight times any number of tokens: the one product that all of a model is made of.

For few tokens weights are decoded in registers as they come from memory. For many, formats with
scales are decoded once, 128 columns at a time, into a few kilobytes that stay in the nearest
cache, and every token is multiplied there; the others cost nothing to decode. Few and many have
the same order of sums: see `chains.py`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from tinymoe.kernels.cpu.chains import times, unpack
from tinymoe.kernels.cpu.kernel import Kernel
from tinymoe.kernels.cpu.lazily import njit
from tinymoe.kernels.cpu.lookup import features
from tinymoe.kernels.cpu.simd import splat, store
from tinymoe.kernels.cpu.tiles import FORMATS, Format, unpacked

FEW = 4  # tokens for which weights are decoded again rather than unpacked
DEEP = 128  # columns that are unpacked at a time: 16 KB, half of a nearest cache
SCRATCH = DEEP * 32 * 4 + DEEP // 16 * 128  # bytes; scales, too
UNSCALED = tuple(name for name, form in FORMATS.items() if form.scale is None)  # routers' formats


@cache
def multiply(name: str, narrow: bool = False) -> Kernel:
    """`f(weight, columns, rows, tokens, sums, scratch)` of a format.

    weight: address of a pair of tiles. rows: address of `tokens` addresses of x, each of `columns`
    float32. sums: (tokens, 32) float32, written. scratch: `SCRATCH` bytes of this thread's own.
    narrow: the first tile alone, of a format without scales; the other's sums are 0.
    """
    form = FORMATS[name]
    if narrow:
        return Kernel(lambda: _narrow(form), f"multiply_{name}_narrow", __name__, (), 6)
    make = _plain if form.scale is None else _scaled
    # the CPU that is compiled for decides what it is made of: not before it is compiled
    return Kernel(lambda: make(form), f"multiply_{name}", __name__, (), 6)


def _plain(form: Format) -> Any:
    many = _many(form)

    def product(weight: Any, columns: Any, rows: Any, tokens: Any, sums: Any, scratch: Any) -> None:
        _clear(sums, tokens)
        many(weight, rows, 0, columns, tokens, sums)

    return product


def _scaled(form: Format) -> Any:
    few, many, opened = _few(form), _many(unpacked(form)), unpack(form)
    piece = DEEP // form.block * form.block_bytes

    def product(weight: Any, columns: Any, rows: Any, tokens: Any, sums: Any, scratch: Any) -> None:
        _clear(sums, tokens)
        if tokens <= FEW:
            few(weight, rows, 0, columns, tokens, sums)
            return
        for done in range(0, columns, DEEP):
            count = min(DEEP, columns - done)
            opened(weight + done // DEEP * piece, count, scratch)
            many(scratch, rows, 4 * done, count, tokens, sums)

    return product


def _narrow(form: Format) -> Any:
    """Of a weight that is no higher than one tile, as a router's: the other is not looked at."""
    tile = replace(form, ahead=False)  # which would ask for both
    four, one = times(tile, 4, 1), times(tile, 1, 1)

    def product(weight: Any, columns: Any, rows: Any, tokens: Any, sums: Any, scratch: Any) -> None:
        _clear(sums, tokens)
        t = 0
        while t + 4 <= tokens:
            four(weight, 0, rows + 8 * t, 0, columns, sums + 128 * t)
            t += 4
        while t < tokens:
            one(weight, 0, rows + 8 * t, 0, columns, sums + 128 * t)
            t += 1

    return product


@njit(inline="always")
def _clear(sums, tokens):
    for t in range(tokens):
        store(sums + 128 * t, splat(0.0))
        store(sums + 128 * t + 64, splat(0.0))


def _together() -> int:
    """Tiles whose sums, of 6 tokens, are in registers at once.

    AVX2 has 16 registers, and one tile takes 12 of them; AVX512 has 32, and two tiles take 12.
    """
    return 2 if "+avx512f" in features() else 1


def _many(form: Format) -> Any:
    """`f(weight, rows, skip, count, tokens, sums)`: every token times `count` columns."""
    tiles, few = _together(), _few(form)
    # what is decoded on the way needs registers of its own
    most = 5 if form.name == "bf16" else 6
    all_of_them = times(form, most, tiles)

    @njit(inline="always")
    def many(weight, rows, skip, count, tokens, sums):
        t = 0
        while t + most <= tokens:
            for tile in range(0, 2, tiles):
                all_of_them(weight, tile, rows + 8 * t, skip, count, sums + 128 * t)
            t += most
        few(weight, rows + 8 * t, skip, count, tokens - t, sums + 128 * t)

    return many


def _few(form: Format) -> Any:
    """The same for fewer than 6 tokens."""
    tiles = _together()
    four, three = times(form, 4, tiles), times(form, 3, tiles)
    two, one = times(form, 2, 2), times(form, 1, 2)

    @njit(inline="always")
    def few(weight, rows, skip, count, tokens, sums):
        t = 0
        if tokens >= 4:
            for tile in range(0, 2, tiles):
                four(weight, tile, rows, skip, count, sums)
            t = 4
        if tokens - t == 3:
            for tile in range(0, 2, tiles):
                three(weight, tile, rows, skip, count, sums)
        elif tokens - t == 2:
            two(weight, 0, rows, skip, count, sums)
        elif tokens - t == 1:
            one(weight, 0, rows + 8 * t, skip, count, sums + 128 * t)

    return few
