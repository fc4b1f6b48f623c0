"""Weights to tiles: as they are stored where they are quantised (`pack_codes.py`), else by value.

What a format cannot say exactly is never rounded: see `tiles.py` for the layout.
"""

from __future__ import annotations

import numpy as np

from tinymoe.core import Array, TinymoeError
from tinymoe.kernels.cpu.batch import aligned
from tinymoe.kernels.cpu.pack_codes import pack_codes
from tinymoe.kernels.cpu.pack_codes import pack_quantised as pack_quantised
from tinymoe.kernels.cpu.packed import Packed as Packed
from tinymoe.kernels.cpu.packed import order_of as order_of
from tinymoe.kernels.cpu.packed import placed
from tinymoe.kernels.cpu.simd import LANES
from tinymoe.kernels.cpu.tiles import FORMATS, ROWS, Format
from tinymoe.model.on_demand import OnDemand


def is_bf16(values: Array) -> bool:
    """Every float32 is a BF16 value: its lower half is empty."""
    return not (np.ascontiguousarray(values, np.float32).view(np.uint32) & 0xFFFF).any()


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

    `form`: "f32" or "bf16" instead; BF16 of values that are none is refused. A stack that is read
    on demand is read one expert at a time.
    """
    stack = values if len(values.shape) == 3 else values[:][None]
    for name in (form,) if form else ("bf16", "f32"):
        packed = _packed(stack, FORMATS[name], order_of(stack.shape[1], gate_up))
        if packed is not None:
            return packed
    raise TinymoeError("a weight has values that are no BF16 numbers: pack it as 'f32'")


def _packed(stack: Array | OnDemand, kind: Format, order: Array) -> Packed | None:
    """The tiles; None where BF16 would round a value."""
    experts, rows, columns = stack.shape
    pairs = len(order) // ROWS
    data = aligned(experts * pairs * kind.pair_bytes(columns), np.uint8)
    for expert, out in enumerate(data.reshape(experts, -1)):
        values = np.asarray(stack[expert], np.float32)
        if kind.name == "bf16" and not is_bf16(values):
            return None
        rows_placed = placed(values, order, kind.columns(columns))
        tiles = _f32_tiles(rows_placed) if kind.name == "f32" else _bf16_tiles(rows_placed)
        out[:] = tiles.reshape(-1).view(np.uint8)
    return Packed(kind, data, experts, rows, columns, pairs, None)


def _f32_tiles(rows: Array) -> Array:
    pairs, _, _, columns = rows.shape
    quads = rows.reshape(pairs, 2, LANES, columns // 4, 4)
    return np.ascontiguousarray(quads.transpose(0, 3, 1, 4, 2))  # pair, quad, tile, column, row


def _bf16_tiles(rows: Array) -> Array:
    pairs, _, _, columns = rows.shape
    halves = (np.ascontiguousarray(rows).view(np.uint32) >> 16).astype(np.uint16)
    words = halves.reshape(pairs, 2, LANES, columns // 4, 2, 2)
    return np.ascontiguousarray(words.transpose(0, 3, 1, 4, 2, 5))
