"""Wrong readings of stored bytes: 13 of 70 collected engine bugs are in layouts and scales."""

from __future__ import annotations

import numpy as np

from tinymoe.formats import e4m3
from tinymoe.oracle.mutants.mutant import FormatMutant
from tinymoe.oracle.mutants.stored import (
    both,
    codes_as,
    e5m2,
    e8m0_bytes,
    first_scale_for_all,
    format_mutant,
    fp8_values,
    has_scale,
    integers,
    largest_scale_for_all,
    linear_as_tiles,
    matrices,
    needs_format,
    nibbles_as,
    other_way,
    reading,
    scales_as,
    scales_differ,
    scales_read,
    several_blocks,
    several_scales,
    square_scales,
    squared,
    tiles_as_linear,
    tiles_of_8,
    transposed_blocks,
    wide_blocks,
    without_scale,
)

_four_bits = needs_format("nvfp4", "mxfp4")
_nvfp4, _mxfp4, _fp8 = (needs_format(name) for name in ("nvfp4", "mxfp4", "fp8"))

FORMATS: tuple[FormatMutant, ...] = (
    format_mutant(
        "format.nibbles-swapped",
        "the first value of a byte is taken from its high four bits",
        codes_as(lambda b: (b >> 4) | (b << 4)),
        _four_bits,
    ),
    format_mutant(
        "format.nibbles-by-halves",
        "a byte is read as values j and j + half a block, as in GGUF files",
        nibbles_as(
            lambda c: np.concatenate(
                [(b := c.reshape(*c.shape[:-1], -1, 16))[..., 0::2], b[..., 1::2]], axis=-1
            ).reshape(c.shape)
        ),
        _four_bits,
        case="llama.cpp#23629",
    ),
    format_mutant(
        "format.codes-as-integers",
        "E2M1 codes are read as sign and whole number",
        integers,
        _four_bits,
    ),
    format_mutant(
        "format.sign-lost",
        "the sign bit of E2M1 codes is dropped",
        nibbles_as(lambda codes: codes & 7),
        _four_bits,
    ),
    format_mutant(
        "format.subnormal-flushed",
        "the code of 0.5, E2M1's one subnormal, is read as 0",
        nibbles_as(lambda codes: np.where(codes & 7 == 1, 0, codes)),
        _four_bits,
    ),
    format_mutant(
        "format.block-twice-as-wide",
        "each block scale is spread over twice as many values",
        wide_blocks,
        both(_four_bits, several_blocks, scales_differ),
    ),
    format_mutant(
        "format.scales-zero",
        "block scales are all zero",
        scales_as(np.zeros_like),
        needs_format("nvfp4", "fp8"),
        case="flashinfer#3398",
    ),
    format_mutant(
        "format.scales-never-attached",
        "block scales are taken as 1",
        scales_read(lambda s: np.ones(s.shape, np.float32)),
        _four_bits,
        case="llama.cpp#23629",
    ),
    format_mutant(
        "format.global-scale-inverted",
        "a tensor scale that multiplies is used as a divisor, or the other way round",
        reading(other_way),
        both(_nvfp4, has_scale),
        case="modular#6600",
    ),
    format_mutant(
        "format.global-scale-lost",
        "the tensor scale is taken as 1",
        reading(without_scale),
        both(_nvfp4, has_scale),
    ),
    format_mutant(
        "format.global-scale-twice",
        "the tensor scale is applied twice",
        reading(squared),
        both(_nvfp4, has_scale),
    ),
    format_mutant(
        "format.global-scale-of-gate",
        "the gate's tensor scale is used for the up projection as well",
        first_scale_for_all,
        both(_nvfp4, has_scale, several_scales),
        case="vllm#54974",
    ),
    format_mutant(
        "format.global-scale-largest",
        "the larger of two tensor scales is used for both, without requantising",
        largest_scale_for_all,
        both(_nvfp4, has_scale, several_scales),
        case="vllm#55073",
    ),
    format_mutant(
        "format.scales-as-e5m2",
        "E4M3 block scales are read as E5M2",
        scales_read(e5m2),
        _nvfp4,
    ),
    format_mutant(
        "format.scales-as-e8m0",
        "E4M3 block scales are read as powers of two",
        scales_read(e8m0_bytes),
        _nvfp4,
    ),
    format_mutant(
        "format.scales-e4m3-bias-8",
        "E4M3 block scales are read with exponent bias 8 (E4M3FNUZ): half of each",
        scales_read(lambda s: e4m3.decode(s) / np.float32(2)),
        _nvfp4,
    ),
    format_mutant(
        "format.e8m0-bias-off-by-one",
        "the bias of E8M0 scales is 128 in place of 127",
        scales_read(lambda s: e8m0_bytes(np.maximum(s, 1) - np.uint8(1))),
        _mxfp4,
    ),
    format_mutant(
        "format.scales-as-e4m3",
        "E8M0 block scales are read as E4M3",
        scales_read(e4m3.decode),
        _mxfp4,
    ),
    format_mutant(
        "format.e4m3-as-e5m2",
        "E4M3 weights are read as E5M2",
        fp8_values(e5m2),
        _fp8,
    ),
    format_mutant(
        "format.e4m3-bias-8",
        "E4M3 weights are read with exponent bias 8 (E4M3FNUZ): half of each",
        fp8_values(lambda codes: e4m3.decode(codes) / np.float32(2)),
        _fp8,
    ),
    format_mutant(
        "format.scale-inv-as-divisor",
        "weight_scale_inv divides, as its name suggests; it multiplies",
        scales_as(lambda s: np.float32(1) / s),
        _fp8,
    ),
)

LAYOUTS: tuple[FormatMutant, ...] = (
    format_mutant(
        "layout.scales-shifted",
        "each block has the scale of the block before it",
        scales_as(lambda s: np.roll(s, 1, axis=-1)),
        both(several_blocks, scales_differ),
    ),
    format_mutant(
        "layout.scale-rows-shifted",
        "each row has the scales of the row before it",
        scales_as(lambda s: np.roll(s, 1, axis=-2)),
        scales_differ,
    ),
    format_mutant(
        "layout.linear-as-tiles",
        "row-major scales are read as 128x4 tiles",
        scales_as(matrices(linear_as_tiles)),
        both(_four_bits, scales_differ),
        case="vllm#50084",
    ),
    format_mutant(
        "layout.tiles-as-linear",
        "scales tiled 128x4 are read as row-major",
        scales_as(matrices(tiles_as_linear)),
        both(_four_bits, scales_differ),
        case="modular#6600",
    ),
    format_mutant(
        "layout.tiles-of-8-for-128",
        "scales tiled 128x4 are read as tiles of 8x4",
        scales_as(matrices(tiles_of_8)),
        both(_four_bits, scales_differ),
    ),
    format_mutant(
        "layout.block-scales-transposed",
        "the matrix of block scales is read column by column",
        transposed_blocks,
        both(square_scales, scales_differ),
    ),
)
