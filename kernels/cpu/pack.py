"""Weights to tiles: from (N, K) matrices, or a quantised tensor's codes and scales.

What a format cannot say exactly is refused here, never rounded: see `tiles.py` for the layout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinymoe.core import Array, QuantTensor, TinymoeError
from tinymoe.kernels.cpu.batch import aligned
from tinymoe.kernels.cpu.simd import LANES
from tinymoe.kernels.cpu.tiles import FORMATS, NIBBLE_BYTE, ROWS, Format
from tinymoe.model.on_demand import OnDemand


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A matrix (N, K), or E of them, as tiles."""

    form: Format
    data: Array  # uint8, E * pairs * pair_bytes of them
    experts: int  # 1 of a plain matrix
    rows: int  # N
    columns: int  # K
    pairs: int  # of 32 rows, in each matrix
    row_scales: Array | None  # (E, pairs * 32) float32: factors that come last; None: all 1

    @property
    def pair_bytes(self) -> int:
        """Of 32 rows."""
        return self.form.pair_bytes(self.columns)

    @property
    def padded(self) -> int:
        """K as kernels see it; what lies behind K in x must be finite, its weights are 0."""
        return self.form.columns(self.columns)

    @property
    def nbytes(self) -> int:
        """In memory."""
        return self.data.nbytes + (0 if self.row_scales is None else self.row_scales.nbytes)


def order_of(rows: int, gate_up: bool) -> Array:
    """Which row lies at each place of the tiles; -1: none.

    Of a gate-up matrix (2I, K), gate rows above, each pair holds 16 of gate, then the same of up.
    """
    if not gate_up:
        place = np.arange(-(-rows // ROWS) * ROWS)
        return np.where(place < rows, place, -1)
    half = rows // 2
    unit = np.arange(-(-half // LANES) * LANES)
    unit = np.where(unit < half, unit, -1).reshape(-1, 1, LANES)
    up = np.where(unit < 0, -1, unit + half)
    return np.concatenate([unit, up], axis=1).reshape(-1)


def _placed(values: Array, order: Array, columns: int) -> Array:
    """Rows in the order of the tiles, zeros where there is none: (pairs, 2, 16, columns)."""
    out = np.zeros((len(order), columns), values.dtype)
    there = order >= 0
    out[there, : values.shape[1]] = values[order[there]]
    return out.reshape(-1, 2, LANES, columns)


def is_bf16(values: Array) -> bool:
    """Every float32 is a BF16 value: its lower half is empty."""
    return not (np.ascontiguousarray(values, np.float32).view(np.uint32) & 0xFFFF).any()


def pack(values: Array | OnDemand, *, gate_up: bool = False, form: str | None = None) -> Packed:
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
        placed = _placed(values, order, kind.columns(columns))
        tiles = _f32_tiles(placed) if kind.name == "f32" else _bf16_tiles(placed)
        out[:] = tiles.reshape(-1).view(np.uint8)
    return Packed(kind, data, experts, rows, columns, pairs, None)


def _f32_tiles(placed: Array) -> Array:
    pairs, _, _, columns = placed.shape
    quads = placed.reshape(pairs, 2, LANES, columns // 4, 4)
    return np.ascontiguousarray(quads.transpose(0, 3, 1, 4, 2))  # pair, quad, tile, column, row


def _bf16_tiles(placed: Array) -> Array:
    pairs, _, _, columns = placed.shape
    halves = (np.ascontiguousarray(placed).view(np.uint32) >> 16).astype(np.uint16)
    words = halves.reshape(pairs, 2, LANES, columns // 4, 2, 2)
    return np.ascontiguousarray(words.transpose(0, 3, 1, 4, 2, 5))


def pack_quantised(tensor: QuantTensor, *, gate_up: bool = False) -> Packed:
    """Codes and scales of (N, K) or (E, N, K), with factors of whole rows where there are some.

    NVFP4: the tensor scale is a factor of every row. FP8: scales of blocks of 128 columns stay
    with their block, those of rows or of the tensor are factors.
    """
    codes, scales = tensor.codes, tensor.scales
    if codes.ndim == 2:
        codes, scales = codes[None], scales[None]
    kind = FORMATS[tensor.format]
    experts, rows, columns = (*codes.shape[:2], tensor.shape[-1])
    order = order_of(rows, gate_up)
    pairs = len(order) // ROWS
    data = aligned(experts * pairs * kind.pair_bytes(columns), np.uint8)
    for expert, out in enumerate(data.reshape(experts, -1)):
        tiles = _fp8_tiles if tensor.format == "fp8" else _fp4_tiles
        out[:] = tiles(kind, codes[expert], scales[expert], order, columns).reshape(-1)
    factor = _tensor_factor(tensor)
    row_scales = None
    if factor is not None:
        row_scales = aligned(experts * len(order)).reshape(experts, -1)
        row_scales[:] = np.broadcast_to(factor, (experts,))[:, None]
    return Packed(kind, data, experts, rows, columns, pairs, row_scales)


def _tensor_factor(tensor: QuantTensor) -> Array | None:
    scale = tensor.tensor_scale
    if scale is None:
        return None
    if tensor.tensor_scale_is == "divisor":
        return np.float32(1) / np.asarray(scale, np.float32)
    if tensor.tensor_scale_is == "amax":
        return np.asarray(scale, np.float32) / np.float32(2688)
    return np.asarray(scale, np.float32)


def _fp4_tiles(kind: Format, codes: Array, scales: Array, order: Array, columns: int) -> Array:
    """codes (N, K/2), scales (N, K/block) uint8 -> (pairs, blocks, bytes of a block)."""
    _refuse_scales(kind, scales)
    padded, block = kind.columns(columns), kind.block
    nibbles = np.empty((len(codes), 2 * codes.shape[1]), np.uint8)
    nibbles[:, ::2], nibbles[:, 1::2] = codes & 15, codes >> 4
    placed = _placed(nibbles, order, padded)
    pairs, blocks = len(placed), padded // block
    quads = placed.reshape(pairs, 2, LANES, blocks, block // 4, 2, 2)
    both = quads[..., 0, :] | quads[..., 1, :] << 4  # pair, tile, row, block, quad, column of two
    body = np.empty((pairs, blocks, block // 4, 2, 32), np.uint8)
    body[..., np.array(NIBBLE_BYTE)] = both.transpose(0, 3, 4, 1, 2, 5)
    heads = _placed(scales, order, blocks).transpose(0, 3, 1, 2)  # pair, block, tile, row
    flat = (heads.reshape(pairs, blocks, -1), body.reshape(pairs, blocks, -1))
    return np.concatenate(flat, axis=2)


def _refuse_scales(kind: Format, scales: Array) -> None:
    bad = ((scales & 0x7F) == 0x7F) if kind.name == "nvfp4" else ((scales == 0) | (scales == 255))
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise TinymoeError(
            f"block scale {int(scales[where])} at {where} is no finite {kind.name} scale that the "
            "fast kernels know; use --backend numpy for this checkpoint"
        )


def _fp8_tiles(kind: Format, codes: Array, scales: Array, order: Array, columns: int) -> Array:
    """codes (N, K) uint8, scales float32 (N, ceil(K / 128)) -> (pairs, blocks, bytes)."""
    if ((codes & 0x7F) == 0x7F).any():
        raise TinymoeError("an FP8 weight is NaN: use --backend numpy for this checkpoint")
    padded = kind.columns(columns)
    placed = _placed(codes, order, padded)
    pairs, blocks = len(placed), padded // kind.block
    quads = placed.reshape(pairs, 2, LANES, blocks, kind.block // 4, 4)
    body = np.ascontiguousarray(quads.transpose(0, 3, 4, 1, 2, 5))
    heads = np.ascontiguousarray(_placed(scales, order, blocks).transpose(0, 3, 1, 2))
    flat = (
        heads.view(np.uint8).reshape(pairs, blocks, -1),
        body.reshape(pairs, blocks, -1),
    )
    return np.concatenate(flat, axis=2)
