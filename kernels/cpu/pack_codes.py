"""Codes and scales to tiles, without becoming values: a quantised checkpoint stays as small.

A matrix may be made of several tensors (q, k and v; gate and up), each under its own tensor scale.

    format   in the tiles                                    what is multiplied
    mxfp4    E2M1, E8M0 of 32 columns                        a block's sum by its scale
    fp8      E4M3, float32 of 128 columns of a row: those    the same
             of a block, a row or the tensor, repeated
    nvfp4    E2M1, UE5M3 of 16 columns; of each row the      the same, and the whole sum by g
             tensor's scale g, or 1/G where it divides

No weight is rounded; the definition rounds those of FP8 and NVFP4 once, or twice, by their
convention. Against exact weights the kernel's y has, of each term, at most B roundings of its
block's chain and K/B of the blocks', one of 1/G and one of y = sum * g, B the block's columns:
|error| <= n u / (1 - n u) * sum |w| |x|, n = K + 2 >= B + K/B + 2 where K has two blocks or more
(with one block B + 3), u = 2^-24.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinymoe.core import Array, QuantTensor, TinymoeError
from tinymoe.kernels.cpu.packed import Packed, empty, order_of, placed, quads
from tinymoe.kernels.cpu.simd import LANES
from tinymoe.kernels.cpu.tiles import FORMATS, NIBBLE_BYTE, UE5M3, Format
from tinymoe.model.on_demand import CodedRows, OnDemand

NVFP4_LARGEST = np.float32(2688)  # 6 * 448: where a tensor scale is given as the largest magnitude
# which row's two bytes lie at each place of a tile's quad
LANE_AT = np.argsort([first for first, _ in NIBBLE_BYTE])


class Joined(NamedTuple):
    """One matrix (N, K), of all its tensors."""

    codes: Array  # uint8 (N, K/2) or (N, K)
    scales: Array  # (N, blocks of the tiles' format)
    factors: Array | None  # (N,) float32


def pack_codes(stack: OnDemand, *, gate_up: bool = False) -> Packed | None:
    """A matrix or stack as it is stored; None where its tiles cannot say it: pack its values."""
    if stack.codes is None:
        return None
    experts = range(stack.shape[0]) if len(stack.shape) == 3 else (None,)
    parts = (stack.codes(expert) for expert in experts)
    return _pack(parts, len(experts), stack.shape[-2], stack.shape[-1], gate_up)


def pack_quantised(tensor: QuantTensor, *, gate_up: bool = False) -> Packed:
    """One tensor (N, K), or (E, N, K) with a tensor scale for all or for each of its experts.

    Errors: what tiles cannot say.
    """
    *lead, rows, columns = tensor.shape
    count = lead[0] if lead else 1
    each = [_member(tensor, expert) for expert in range(count)] if lead else [tensor]
    whole = np.arange(rows)
    packed = _pack(([CodedRows(whole, one)] for one in each), count, rows, columns, gate_up)
    if packed is None:
        raise TinymoeError(
            f"{tensor.format} with blocks {tensor.block} cannot be laid out as it is: expected "
            "FP8 scales of 128 columns or of whole rows, MXFP4 scales above 2^-127; pack its values"
        )
    return packed


def _member(stack: QuantTensor, expert: int) -> QuantTensor:
    scales = stack.scales[expert] if stack.scales.ndim == 3 else stack.scales
    scale: Any = stack.tensor_scale
    return QuantTensor(
        format=stack.format,
        convention=stack.convention,
        codes=stack.codes[expert],
        scales=scales,
        block=stack.block,
        tensor_scale=scale[expert] if np.ndim(scale) else scale,
        tensor_scale_is=stack.tensor_scale_is,
    )


def _pack(
    experts: Iterable[Sequence[CodedRows]], count: int, rows: int, columns: int, gate_up: bool
) -> Packed | None:
    """Experts one by one, so that only one of them is in memory as it was stored."""
    order, packed = order_of(rows, gate_up), None
    there = order >= 0
    for expert, parts in enumerate(experts):
        form, joined = FORMATS[parts[0].tensor.format], _joined(parts, rows)
        if joined is None:
            return None
        if packed is None:
            scaled = joined.factors is not None
            packed = empty(form, (count, rows, columns), order, scaled=scaled)
        put = _put_fp8 if form.name == "fp8" else _put_fp4
        put(packed.blocks[expert], joined, order, form)
        if packed.row_scales is not None and joined.factors is not None:
            packed.row_scales[expert, there] = joined.factors[order[there]]
    return packed


def _joined(parts: Sequence[CodedRows], rows: int) -> Joined | None:
    """Tensors of one format into one matrix: every row in its place."""
    scales = [_scales_of_rows(part.tensor) for part in parts]
    if len(parts) == 1 and np.array_equal(parts[0].rows, np.arange(rows)):
        tensor, own = parts[0].tensor, scales[0]
        factor = _factor(tensor)
        whole = None if factor is None else np.full(rows, factor, np.float32)
        return None if own is None else Joined(tensor.codes, own, whole)
    first = parts[0].tensor
    codes = np.empty((rows, first.codes.shape[1]), np.uint8)
    joined: Array | None = None
    factors = None if _factor(first) is None else np.empty(rows, np.float32)
    for part, own in zip(parts, scales, strict=True):
        if own is None:
            return None
        joined = np.empty((rows, own.shape[1]), own.dtype) if joined is None else joined
        codes[part.rows], joined[part.rows] = part.tensor.codes, own
        if factors is not None:
            factors[part.rows] = _factor(part.tensor)
    return None if joined is None else Joined(codes, joined, factors)


def _factor(tensor: QuantTensor) -> np.float32 | None:
    """What a row's sum is multiplied with. A divisor's reciprocal is rounded once."""
    if tensor.tensor_scale is None or tensor.tensor_scale_is == "none":
        return None
    scale = np.float32(tensor.tensor_scale)
    if tensor.tensor_scale_is == "divisor":
        return np.float32(1) / scale
    return scale / NVFP4_LARGEST if tensor.tensor_scale_is == "amax" else scale


def _scales_of_rows(tensor: QuantTensor) -> Array | None:
    """(N, blocks): each row's own; None: the tiles have no place for them."""
    if tensor.format == "fp8":
        return _fp8_scales(tensor)
    _refuse_nan(tensor)
    if tensor.format == "nvfp4" or tensor.scales.all():
        return tensor.scales
    # 2^-127 is no normal float32. A block of zeros has the same values under 2^-126; others are
    # left to `pack`, which takes values
    empty, codes = tensor.scales == 0, tensor.codes.reshape(*tensor.scales.shape, -1)
    if (codes[empty] & 0x77).any():
        return None
    return np.where(empty, np.uint8(1), tensor.scales)


def _fp8_scales(tensor: QuantTensor) -> Array | None:
    """float32 (N, ceil(K / 128)), from one a tensor, a row or a block of rows and columns."""
    rows, columns = tensor.shape
    high, wide = tensor.block
    if ((tensor.codes & 0x7F) == 0x7F).any():
        raise TinymoeError("an FP8 weight is NaN: use --backend numpy for this checkpoint")
    if not np.isfinite(tensor.scales).all():
        raise TinymoeError("an FP8 scale is not finite: use --backend numpy for this checkpoint")
    deep = FORMATS["fp8"].block
    if wide < columns and wide % deep:
        return None  # two scales in one block of the tiles
    grid = np.asarray(tensor.scales, np.float32).reshape(-(-rows // high), -(-columns // wide))
    starts = np.arange(0, columns, deep)
    spread: Array = grid[np.arange(rows)[:, None] // high, starts // wide]
    return spread


def _refuse_nan(tensor: QuantTensor) -> None:
    """E4M3's NaN and E8M0's: the kernels would read 480 and infinity."""
    scales = tensor.scales
    bad = (scales & 0x7F) == 0x7F if tensor.format == "nvfp4" else scales == 0xFF
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise TinymoeError(
            f"block scale {int(scales[where])} at {where} is no finite {tensor.format} scale; "
            "use --backend numpy for this checkpoint"
        )


def _put_fp4(tiles: Array, joined: Joined, order: Array, form: Format) -> None:
    """codes (N, K/2), scales (N, K/block) uint8 into tiles (pairs, blocks, bytes of a block).

    A row's quad is a word of nibbles 0 1 2 3, and becomes one of nibbles 0 2 1 3.
    """
    pairs, blocks, _ = tiles.shape
    lanes = order.reshape(-1, LANES)[:, LANE_AT].reshape(-1)
    codes, scales = joined.codes, joined.scales
    if form.name == "nvfp4":
        codes, scales = _without_sign(codes, scales)
    words = placed(codes, lanes, blocks * form.block // 2).view("<u2")
    unlike = (words ^ words >> 4) & 0x00F0
    words ^= unlike ^ unlike << 4
    body = tiles[:, :, 2 * form.scale_bytes :].view(np.uint16)
    shape = (pairs, blocks, -1, 2, LANES)
    body.reshape(shape)[...] = quads(words, 1).reshape(shape)
    _put_scales(tiles, scales, order)


def _without_sign(codes: Array, scales: Array) -> tuple[Array, Array]:
    """The same products: a negative scale's sign goes to its codes. Scales become UE5M3."""
    negative = scales >= 0x80
    if negative.any():
        codes = codes ^ np.where(np.repeat(negative, 8, axis=1), np.uint8(0x88), np.uint8(0))
    return codes, UE5M3[scales & 0x7F]


def _put_fp8(tiles: Array, joined: Joined, order: Array, form: Format) -> None:
    """codes (N, K) uint8, scales float32 (N, ceil(K / 128)) into tiles (pairs, blocks, bytes)."""
    pairs, blocks, _ = tiles.shape
    words = placed(joined.codes, order, blocks * form.block).view(np.uint32)
    body = tiles[:, :, 2 * form.scale_bytes :].view(np.uint32)
    shape = (pairs, blocks, -1, 2, LANES)
    body.reshape(shape)[...] = quads(words, 1).reshape(shape)
    _put_scales(tiles, joined.scales, order)


def _put_scales(tiles: Array, scales: Array, order: Array) -> None:
    """Scales (N, blocks) before each block: 16 rows' of the one tile, then of the other."""
    pairs, blocks, _ = tiles.shape
    head = tiles[:, :, : 2 * LANES * scales.itemsize].view(scales.dtype)
    there = placed(scales, order, blocks)
    head.reshape(pairs, blocks, 2, LANES)[...] = there.transpose(0, 3, 1, 2)
