"""Weights to tiles: as they are stored where they are quantised (`pack_codes.py`), else by value.

What a format cannot say exactly is never rounded: see `tiles.py` for the layout. A stack is packed
one expert at a time and a matrix some rows at a time, so that little of it is in memory twice.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinymoe.core import Array, TinymoeError
from tinymoe.kernels.cpu.pack_codes import pack_codes
from tinymoe.kernels.cpu.pack_codes import pack_quantised as pack_quantised
from tinymoe.kernels.cpu.packed import Packed as Packed
from tinymoe.kernels.cpu.packed import empty, placed, quads
from tinymoe.kernels.cpu.packed import order_of as order_of
from tinymoe.kernels.cpu.simd import LANES
from tinymoe.kernels.cpu.tiles import FORMATS, ROWS, Format
from tinymoe.model.on_demand import OnDemand

WORDS = {"f32": 4, "bf16": 2}  # of 32 bits, of a row's quad


def pack(values: Array | OnDemand, *, gate_up: bool = False, form: str | None = None) -> Packed:
    """A matrix (N, K) or stack (E, N, K) to multiply with: its codes, where it is stored in them.

    `form`: "f32" or "bf16" tiles of its values instead.
    """
    if isinstance(values, OnDemand) and form is None:
        packed = pack_codes(values, gate_up=gate_up)
        if packed is not None:
            return packed
    return pack_values(values, gate_up=gate_up, form=form)


def pack_values(
    values: Array | OnDemand, *, gate_up: bool = False, form: str | None = None
) -> Packed:
    """A float32 matrix (N, K) or stack (E, N, K): BF16 tiles if every value is one, else float32.

    `form`: "f32" or "bf16" instead; BF16 of values that are none is refused.
    """
    order = order_of(values.shape[-2], gate_up)
    for name in (form,) if form else ("bf16", "f32"):
        packed = _packed(values, FORMATS[name], order, gate_up)
        if packed is not None:
            return packed
    raise TinymoeError("a weight has values that are no BF16 numbers: pack it as 'f32'")


def _packed(weight: Array | OnDemand, form: Format, order: Array, gate_up: bool) -> Packed | None:
    """The tiles; None where BF16 would round a value."""
    packed = empty(form, weight.shape, order)
    stacked = len(weight.shape) == 3
    for expert, tiles in enumerate(packed.blocks):
        for pairs, values in _pieces(weight[expert] if stacked else weight, gate_up):
            own = order if len(values) == packed.rows else order_of(len(values), gate_up)
            if not _put(tiles[pairs], np.asarray(values, np.float32), own, form):
                return None
    return packed


def _pieces(matrix: Array | OnDemand, gate_up: bool) -> Iterator[tuple[slice, Array]]:
    """Some rows after another, and which pairs they are; of a matrix that is in memory all."""
    rows = len(matrix)
    step = rows
    if isinstance(matrix, OnDemand) and not gate_up:  # else a pair's rows lie in two places
        step = max(ROWS, matrix.rows_at_once // ROWS * ROWS)
    for first in range(0, rows, step):
        values = matrix[first : first + step]
        yield slice(first // ROWS, -(-(first + len(values)) // ROWS)), values


def _put(tiles: Array, values: Array, order: Array, form: Format) -> bool:
    """Values (n, K) into tiles (pairs, blocks, bytes); False where BF16 would round one."""
    bits: Array = np.ascontiguousarray(values).view(np.uint32)
    if form.name == "bf16":
        if (np.bitwise_or.reduce(bits, axis=0) & 0xFFFF).any():
            return False
        bits = bits.view(np.uint16)[:, 1::2]  # the upper halves
    words, of_one = placed(bits, order, form.columns(values.shape[1])), WORDS[form.name]
    words = words.view(np.uint32)
    tiles.view(np.uint32).reshape(len(words), -1, 2, of_one, LANES)[...] = quads(words, of_one)
    return True
