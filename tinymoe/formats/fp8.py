"""FP8: E4M3 values with float32 scales, one a tensor, a row, a 128 x 128 block or a 1 x 128 group.

    s = amax / 448,   q = e4m3(w / s),   w ~= q * s

The stored scale multiplies in every checkpoint, also where it is called `weight_scale_inv`.
Operations are float32, one rounding each; `rd` rounds to the dtype of the tensor (BF16). Values
beyond 448 saturate. `conventions.FP8` says who computes what; scale shapes are

    tensor ()   channel (N, 1)   block (ceil(N/128), ceil(K/128))   group (N, ceil(K/128))

and exporters reshape them: compressed-tensors writes (1,) for a tensor, ModelOpt (N,) for channels
and (N/128, 1, K/128, 1) for blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from tinymoe.core import Array, QuantTensor, TinymoeError
from tinymoe.formats import bf16, conventions, e4m3
from tinymoe.formats.checks import as_bytes, finite_blocks
from tinymoe.formats.conventions import FP8, Fp8, Source

SIDE = 128  # of a block, and the length of a group
TOP = np.float32(e4m3.MAX)
ONE = np.float32(1)
DEEPSEEK_MIN_AMAX = np.float32(1e-4)  # DeepSeek's act_quant, DeepGEMM
VLLM_MIN_SCALE = np.float32(1) / (TOP * np.float32(512))
TRITON_MIN_AMAX = np.float32(1e-10)
FAKE_MIN_AMAX = np.float32(2.0**-24)
EPSILON = {"float32": np.float32(2.0**-23), "bfloat16": np.float32(2.0**-7)}  # finfo.eps

Granularity = Literal["tensor", "channel", "block", "group"]
PowerOfTwo = Literal[
    "no",
    "bits",  # up to a power of two by the bits of the scale, byte in 1..254: DeepGEMM
    "log2",  # 2^ceil(log2(s)): DeepSeek
]


def encode(
    w: Array,
    *,
    convention: str,
    granularity: Granularity,
    source: Source,
    power_of_two: PowerOfTwo,
) -> QuantTensor:
    """w (N, K) float32 to FP8, scales from w itself.

    source: dtype of w before it was widened; ModelOpt per tensor and compressed-tensors round in
    it. power_of_two: scales rounded up to a power of two (`scale_fmt: "ue8m0"`).
    A ragged edge is scaled as if padded with zeros to whole blocks.
    Errors: w not a matrix, not finite, or not BF16 where source says so; a block of zeros where
    the convention would divide zero by zero and store NaN.
    """
    row = conventions.row(FP8, convention)
    w = _matrix(w, source)
    block = _block(w.shape, granularity)
    amax = _block_maxima(w, block)
    rd = _rounding(source)
    if power_of_two != "no" and row.element not in ("w/s", "w*(1/s)"):
        raise TinymoeError(
            f"power_of_two: {convention!r} does not divide by its stored scale; 'div32', "
            "'deepseek_act', 'deepgemm' and vLLM's do"
        )
    with np.errstate(all="ignore"):  # zero maxima: the convention says what becomes of them
        scales = _scales(amax, row, rd, source)
        if (scales == 0).any():
            raise TinymoeError(
                f"w: expected a non-zero value in each {granularity}, got "
                f"{int(np.count_nonzero(scales == 0))} without; {convention!r} would divide 0 by 0 "
                "and store NaN: 'ct', 'deepgemm', 'transformers' and vLLM's have a floor"
            )
        if power_of_two != "no":
            scales = _up_to_power_of_two(scales, power_of_two)
        fine, fine_amax = _spread(scales, block, w.shape), _spread(amax, block, w.shape)
        codes = e4m3.saturated(_quotient(w, fine, fine_amax, row, rd))
    return _assembled(
        codes, scales.reshape(()) if granularity == "tensor" else scales, convention, block
    )


def encode_static(x: Array, scale: float, *, convention: str, source: Source) -> QuantTensor:
    """x (N, K) float32 under one calibrated scale (`input_scale`, `k_scale`): the louder clip."""
    row = conventions.row(FP8, convention)
    if "amax" in row.element:
        raise TinymoeError(f"convention: {convention!r} has no static form; 'div32' has")
    x = _matrix(x, source)
    s = np.asarray(scale, np.float32)
    with np.errstate(all="ignore"):
        codes = e4m3.saturated(_quotient(x, s, s, row, _rounding(source)))
    return _assembled(codes, s, convention, (x.shape[0], x.shape[1]))


def decode(q: QuantTensor) -> Array:
    """The values (N, K) float32: code times the scale of its block, edges cropped."""
    codes = as_bytes("codes", q.codes)
    return decode_blocks(codes, q.scales, q.block)


def decode_blocks(codes: Array, scales: Array, block: tuple[int, int]) -> Array:
    """Codes (N, K) uint8 and multipliers, one for each `block` of (rows, columns), to float32."""
    v = e4m3.decode(codes)
    expected = (math.ceil(v.shape[0] / block[0]), math.ceil(v.shape[1] / block[1]))
    if scales.shape not in {expected, () if expected == (1, 1) else expected}:
        raise TinymoeError(
            f"scales: expected {expected}, one for each block {block} of {v.shape}, got "
            f"{scales.shape}; ModelOpt's (N/128, 1, K/128, 1) is the same bytes reshaped"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        return v * _spread(scales, block, v.shape)


def encode_naive(w: Array, block: tuple[int, int]) -> tuple[Array, Array]:
    """The twin, "div32": block after block, each cut out and scaled by itself."""
    codes = np.zeros(w.shape, np.uint8)
    scales = np.zeros([math.ceil(n / b) for n, b in zip(w.shape, block, strict=True)], np.float32)
    for i, j in np.ndindex(*scales.shape):
        part = np.s_[i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]]
        scales[i, j] = np.abs(w[part]).max() / TOP
        for (r, c), value in np.ndenumerate(w[part]):
            code = e4m3.encode_naive(float(value / scales[i, j]), overflow="saturate")
            codes[part][r, c] = code
    return codes, scales


def _scales(amax: Array, row: Fp8, rd: Callable[[Array], Array], source: Source) -> Array:
    """The multipliers, one a block."""
    if row.scale == "amax/448":
        return amax / TOP
    if row.scale in ("rd(amax/448)", "rd(amax/448) or eps"):
        s = rd(amax / TOP)
        return s if row.scale == "rd(amax/448)" else np.where(s == 0, EPSILON[source], s)
    if row.scale == "max(amax,1e-4)/448":
        return np.maximum(amax, DEEPSEEK_MIN_AMAX) / TOP
    if row.scale == "max(amax/448,1/(448*512))":
        return np.maximum(amax / TOP, VLLM_MIN_SCALE)
    if row.scale == "max(amax,1e-10)*(1/448)":
        return np.maximum(amax, TRITON_MIN_AMAX) * (ONE / TOP)
    if row.scale == "1/((1/amax)*448)":
        return np.where(amax == 0, ONE, ONE / ((ONE / amax) * TOP))
    return ONE / np.where(amax <= FAKE_MIN_AMAX, ONE, TOP / amax)  # "1/(448/amax)"


def _quotient(w: Array, s: Array, amax: Array, row: Fp8, rd: Callable[[Array], Array]) -> Array:
    """What E4M3 rounds."""
    if row.element == "w/s":
        return w / s
    if row.element == "rd(w/s)":
        return rd(w / s)
    if row.element == "w*(1/s)":
        return w * (ONE / s)
    if row.element == "w*((1/amax)*448)":
        return w * np.where(amax == 0, ONE, (ONE / amax) * TOP)
    return w * np.where(amax <= FAKE_MIN_AMAX, ONE, TOP / amax)


def _up_to_power_of_two(scales: Array, how: PowerOfTwo) -> Array:
    if how == "log2":
        return np.exp2(np.ceil(np.log2(scales)))
    byte = np.clip((scales.view(np.uint32).astype(np.int64) + 0x7FFFFF) >> 23, 1, 254)
    return (byte.astype(np.uint32) << 23).view(np.float32)


def _block(shape: tuple[int, ...], granularity: Granularity) -> tuple[int, int]:
    return {
        "tensor": (shape[0], shape[1]),
        "channel": (1, shape[1]),
        "block": (SIDE, SIDE),
        "group": (1, SIDE),
    }[granularity]


def _block_maxima(w: Array, block: tuple[int, int]) -> Array:
    """(N, K) to (ceil(N / rows), ceil(K / columns)); zeros stand in beyond the edge."""
    rows, columns = block
    padded = np.pad(np.abs(w), ((0, -w.shape[0] % rows), (0, -w.shape[1] % columns)))
    tiles = padded.reshape(padded.shape[0] // rows, rows, -1, columns)
    return tiles.max(axis=(1, 3))


def _spread(scales: Array, block: tuple[int, int], shape: tuple[int, ...]) -> Array:
    """One scale a block to one a value (N, K), cropped."""
    if scales.ndim == 0:
        return scales
    wide = np.repeat(np.repeat(scales, block[0], axis=0), block[1], axis=1)
    return wide[: shape[0], : shape[1]]


def _matrix(w: Array, source: Source) -> Array:
    if np.ndim(w) != 2:
        raise TinymoeError(
            f"w: expected a matrix (N, K), got shape {np.shape(w)}; quantise experts one by one"
        )
    flat = finite_blocks("w", w, 1)[..., 0]
    if source == "bfloat16" and not np.array_equal(bf16.round_to_bf16(flat), flat):
        raise TinymoeError(
            f"w: expected BF16 values, as source='bfloat16' says, got others in shape {flat.shape}"
        )
    return flat


def _rounding(source: Source) -> Callable[[Array], Array]:
    return bf16.round_to_bf16 if source == "bfloat16" else (lambda values: values)


def _assembled(codes: Array, scales: Array, convention: str, block: tuple[int, int]) -> QuantTensor:
    return QuantTensor(
        format="fp8",
        convention=convention,
        codes=codes,
        scales=np.asarray(scales, np.float32),
        block=block,
        tensor_scale=None,
        tensor_scale_is="none",
    )
