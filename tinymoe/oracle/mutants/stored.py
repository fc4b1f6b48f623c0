"""Ways to read stored bytes wrongly: a right `QuantTensor` to another, or to wrong values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from tinymoe.core import Array, QuantTensor, TinymoeError
from tinymoe.formats import e2m1, e8m0, fp8, mxfp4, nvfp4
from tinymoe.formats.scale_layout import (
    swizzle_128x4,
    unswizzle_8x4,
    unswizzle_128x4,
)
from tinymoe.oracle.mutants.mutant import FormatMutant, Mutant, Stored, Values

WhyNotStored: TypeAlias = Callable[[Stored], str | None]


def decode(tensor: QuantTensor) -> Array:
    """The values (..., N, K) float32, read rightly."""
    reader = {"nvfp4": nvfp4.decode, "mxfp4": mxfp4.decode, "fp8": fp8.decode}[tensor.format]
    return reader(tensor)


def reading(change: Callable[[QuantTensor], QuantTensor]) -> Callable[[Stored], Values]:
    """Each tensor changed, then read rightly."""
    return lambda stored: tuple(decode(change(tensor)) for tensor in stored)


def scales_as(change: Callable[[Array], Array]) -> Callable[[Stored], Values]:
    """The block scales changed, in shape (..., N, Ks)."""
    return reading(lambda q: replace(q, scales=np.ascontiguousarray(change(q.scales))))


def codes_as(change: Callable[[Array], Array]) -> Callable[[Stored], Values]:
    """The bytes of the codes changed."""
    return reading(lambda q: replace(q, codes=np.ascontiguousarray(change(q.codes))))


def nibbles_as(change: Callable[[Array], Array]) -> Callable[[Stored], Values]:
    """The four-bit codes 0..15, one to an entry (..., N, K), changed."""
    return codes_as(lambda packed: e2m1.pack(change(e2m1.unpack(packed)).astype(np.uint8)))


def matrices(change: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A change of one scale matrix (N, Ks), for stacks of them."""

    def each(scales: Array) -> Array:
        flat = scales.reshape(-1, *scales.shape[-2:])
        return np.stack([change(matrix) for matrix in flat]).reshape(scales.shape)

    return each


def linear_as_tiles(scales: Array) -> Array:
    """Row-major bytes read as 128x4 tiles."""
    rows, columns = scales.shape
    padded = np.pad(scales, ((0, -rows % 128), (0, -columns % 4)))
    return unswizzle_128x4(padded.ravel(), rows, columns)


def tiles_as_linear(scales: Array) -> Array:
    """128x4 tiles read as row-major bytes, padded rows and all."""
    rows, columns = scales.shape
    flat = swizzle_128x4(scales).reshape(-1, columns + -columns % 4)
    return flat[:rows, :columns]


def tiles_of_8(scales: Array) -> Array:
    """128x4 tiles read as 8x4 tiles."""
    rows, columns = scales.shape
    room = (rows + -rows % 8) * (columns + -columns % 4)
    return unswizzle_8x4(swizzle_128x4(scales)[:room], rows, columns)


def other_way(tensor: QuantTensor) -> QuantTensor:
    """A multiplier used as a divisor, or the other way round."""
    scale = np.float32(1 if tensor.tensor_scale is None else tensor.tensor_scale)
    return replace(tensor, tensor_scale=np.float32(1) / scale)


def squared(tensor: QuantTensor) -> QuantTensor:
    """The tensor scale applied twice."""
    scale = np.float32(1 if tensor.tensor_scale is None else tensor.tensor_scale)
    return replace(tensor, tensor_scale=scale * scale)


def without_scale(tensor: QuantTensor) -> QuantTensor:
    """The tensor scale taken as 1."""
    return replace(tensor, tensor_scale=np.float32(1))


def first_scale_for_all(stored: Stored) -> Values:
    """The first tensor's scale, the gate's, used for the others too."""
    return tuple(decode(replace(q, tensor_scale=stored[0].tensor_scale)) for q in stored)


def largest_scale_for_all(stored: Stored) -> Values:
    """The larger of both scales used for both, codes as they are."""
    scales = [q.tensor_scale for q in stored if q.tensor_scale is not None]
    return tuple(decode(replace(q, tensor_scale=max(scales))) for q in stored)


def block_values(tensor: QuantTensor, scales: Array) -> Array:
    """E2M1 codes times given scales (..., N, Ks), times the tensor scale as a multiplier."""
    codes = e2m1.decode(e2m1.unpack(tensor.codes), code_8="-0")
    spread = np.repeat(scales, codes.shape[-1] // scales.shape[-1], axis=-1)
    g = np.float32(1 if tensor.tensor_scale is None else tensor.tensor_scale)
    if tensor.tensor_scale_is == "divisor":
        g = np.float32(1) / g
    with np.errstate(all="ignore"):
        return (codes * spread * g).astype(np.float32)


def scales_read(read: Callable[[Array], Array]) -> Callable[[Stored], Values]:
    """Scale bytes taken for another type."""
    return lambda stored: tuple(block_values(q, read(q.scales)) for q in stored)


def e5m2(codes: Array) -> Array:
    """Bytes read as E5M2, the upper byte of a half float."""
    with np.errstate(invalid="ignore"):
        return (codes.astype(np.uint16) << 8).view(np.float16).astype(np.float32)


def e8m0_bytes(scales: Array) -> Array:
    """Bytes read as powers of two."""
    return e8m0.decode(scales, reading="inf")


def fp8_values(read: Callable[[Array], Array]) -> Callable[[Stored], Values]:
    """FP8 codes taken for another type, then times their scales."""

    def apply(stored: Stored) -> Values:
        out = []
        for q in stored:
            ones = np.full_like(q.codes, 0x38)  # 1.0: what is left is the scale of each element
            with np.errstate(all="ignore"):
                out.append(read(q.codes) * decode(replace(q, codes=ones)))
        return tuple(out)

    return apply


def integers(stored: Stored) -> Values:
    """Codes read as sign and a whole number 0..7 in place of E2M1."""
    table = np.array([*range(8), *(-n for n in range(8))], np.float32)
    out = []
    for q in stored:
        codes = e2m1.unpack(q.codes)
        ones = replace(q, codes=np.full_like(q.codes, 0x22))  # 1.0 twice
        out.append(table[codes] * decode(ones))
    return tuple(out)


def wide_blocks(stored: Stored) -> Values:
    """Each scale spread over twice as many values as it belongs to; the last half is not used."""

    def stretch(scales: Array) -> Array:
        return np.repeat(scales, 2, axis=-1)[..., : scales.shape[-1]]

    return scales_as(stretch)(stored)


def transposed_blocks(stored: Stored) -> Values:
    """The square of block scales read column by column."""
    return scales_as(lambda s: s.swapaxes(-1, -2))(stored)


# ---------------------------------------------------------------------------- when they apply


def needs_format(*formats: str) -> WhyNotStored:
    """Only tensors of these formats."""

    def why(stored: Stored) -> str | None:
        if not stored:
            raise TinymoeError("a format mutant reads one stored tensor or more, got none")
        found = stored[0].format
        return None if found in formats else f"the format is {found}, not {' or '.join(formats)}"

    return why


def both(*reasons: WhyNotStored) -> WhyNotStored:
    """It applies if nothing speaks against it."""
    return lambda stored: next((w for r in reasons if (w := r(stored)) is not None), None)


def has_scale(stored: Stored) -> str | None:
    """Whether there is a second level that multiplies or divides."""
    fine = stored[0].tensor_scale_is in ("multiplier", "divisor")
    return None if fine else "there is no tensor scale that multiplies or divides"


def several_scales(stored: Stored) -> str | None:
    """Whether fused tensors have scales of their own."""
    if len({None if q.tensor_scale is None else float(q.tensor_scale) for q in stored}) < 2:
        return "there is one tensor scale for all"
    return None


def scales_differ(stored: Stored) -> str | None:
    """Whether a move of the block scales can show."""
    scales = stored[0].scales
    return "all block scales are the same" if (scales == scales.flat[0]).all() else None


def square_scales(stored: Stored) -> str | None:
    """Whether the block scales can be read transposed."""
    shape = stored[0].scales.shape
    return None if shape[-1] == shape[-2] else f"the scales {shape} are no square"


def several_blocks(stored: Stored) -> str | None:
    """Whether a row has more than one block."""
    return None if stored[0].scales.shape[-1] > 1 else "a row has one block"


def format_mutant(
    name: str,
    says: str,
    apply: Callable[[Stored], Values],
    why_not: WhyNotStored,
    case: str = "",
) -> FormatMutant:
    """A mutant of the reading of stored bytes."""
    return Mutant(
        name=name,
        kind="format",
        says=says,
        case=case,
        first_tap="weights",
        why_not=why_not,
        apply=apply,
    )
