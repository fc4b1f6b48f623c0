"""The steps of each NVFP4 convention, as its library takes them.

Each function takes x (..., K/16, 16), the blocks' maxima (..., K/16, 1), the tensor scale and
`rd`, and gives the scale bytes (..., K/16, 1) and the values (..., K/16, 16) that E2M1 then
rounds. Every operation is float32 and rounds once. `s` is a scale before E4M3, `e` after it.

| | zero block | block too small for a scale |
|---|---|---|
| modelopt | 0x38 | 0x01 |
| ct | 0x20 | 0x20: read back 64 times too large, its values are 0 |
| torchao | 0x08 | 0x08 |
| te | 0x00 | 0x00, codes 6 and -6 |
| kernel, kernel_vllm, vllm_ref | 0x00 | 0x00, codes 0 |
| kernel_flashinfer | 0x00 | 0x00, codes 6 and -6, and 7 for its zeros (0 * inf) |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np

from tinymoe.core import Array
from tinymoe.formats import e2m1, e4m3
from tinymoe.formats.e2m1 import RULES
from tinymoe.formats.e4m3 import saturated

PEAK = np.float32(2688)  # 6 * 448: the largest code times the largest block scale
ONE = np.float32(1)
SIX = np.float32(6)
SIXTH = ONE / SIX  # 0x3e2aaaab, 1/6 rounded
TOP = np.float32(e4m3.MAX)
FLT_MAX = np.finfo(np.float32).max
TINY = np.finfo(np.float32).tiny  # 2^-126, the smallest normal, of BF16 too
CT_ZERO = np.uint8(0x20)  # 0.125, where compressed-tensors would get a zero scale

Scalar = np.floating[Any]
Rounding = Callable[[Array], Array]
Scaled = tuple[Array, Array]
Encoder = Callable[[Array, Array, Scalar, Rounding], Scaled]


def modelopt(x: Array, amax: Array, g: Scalar, rd: Rounding) -> Scaled:
    """One division by the rounded product. Never a zero scale.

    Sources up to December 2025 lack the lower clamp: checkpoints of then may hold 0x00 scales.
    """
    s = amax / (SIX * g)
    s = np.where(s == 0, ONE, s)
    scales = saturated(np.clip(s, np.float32(e4m3.MIN_SUBNORMAL), TOP))
    return scales, x / (e4m3.decode(scales) * g)


def ct(x: Array, amax: Array, G: Scalar, rd: Rounding) -> Scaled:
    """compressed-tensors: the whole scale computation in the dtype of the weights."""
    s = G * rd(amax / SIX)
    scales = saturated(np.clip(s, -TOP, TOP))
    scales = np.where(scales == 0, CT_ZERO, scales)
    return scales, np.clip(x / (e4m3.decode(scales) / G), -SIX, SIX)


def torchao(x: Array, amax: Array, g: Scalar, rd: Rounding) -> Scaled:
    """Two levels. The smallest normal E4M3 is the floor: the seven subnormals are never used."""
    scales = saturated(np.clip((amax / SIX) / g, np.float32(e4m3.MIN_NORMAL), TOP))
    return scales, np.clip(x * ((ONE / g) / e4m3.decode(scales)), -SIX, SIX)


def torchao_one_level(x: Array, amax: Array, g: Scalar, rd: Rounding) -> Scaled:
    """per_tensor_scale=None: block scales alone."""
    scales = saturated(np.clip(amax / SIX, np.float32(e4m3.MIN_NORMAL), TOP))
    return scales, x * (ONE / e4m3.decode(scales))


def te(x: Array, amax: Array, amax_tensor: Scalar, rd: Rounding) -> Scaled:
    """TransformerEngine's reference and its kernels without fast math.

    For a tensor of zeros S is FLT_MAX here and 1 in the kernels; scales and codes are 0 in both.
    """
    S = np.minimum(PEAK / amax_tensor, FLT_MAX)
    return _plain_division(x, amax, S)


def flashinfer_exact(x: Array, amax: Array, S: Scalar, rd: Rounding) -> Scaled:
    """FLASHINFER_DISABLE_FP4_QUANT_FAST_MATH: TransformerEngine's arithmetic, CUDA's cast."""
    return _plain_division(x, amax, S)


def _plain_division(x: Array, amax: Array, S: Scalar) -> Scaled:
    scales = saturated(np.minimum(amax * (S * SIXTH), TOP))
    r = np.minimum(ONE / (e4m3.decode(scales) * (ONE / S)), FLT_MAX)
    return scales, np.clip(x * r, -SIX, SIX)


def kernel(x: Array, amax: Array, S: Scalar, rd: Rounding) -> Scaled:
    """The arithmetic of the GPU kernels with 1/x correctly rounded and nothing flushed to zero."""
    return _kernel(x, amax, S, (0, 0, 0))


def flashinfer(x: Array, amax: Array, S: Scalar, rd: Rounding) -> Scaled:
    """FlashInfer = TensorRT-LLM, subnormals flushed as its -use_fast_math builds do.

    rcp.approx is taken as correctly rounded: the hardware's may be 1 ulp off, see `ambiguous`.
    r is zero only for a block of zeros: where the scale underflows, r is infinite.
    """
    x, amax, S = _flushed(x), _flushed(amax), _flushed(S)
    scales = saturated(_flushed(S * _flushed(amax * _rcp(SIX))))
    r = np.where(amax != 0, _rcp(_flushed(e4m3.decode(scales) * _rcp(S))), np.float32(0))
    return scales, _flushed(x * r)


def vllm(x: Array, amax: Array, S: Scalar, rd: Rounding) -> Scaled:
    """scaled_fp4_quant: r is zero where the scale is, so an underflowed block has codes 0.

    Only its reciprocals flush; whether its build flushes products too is not known.
    """
    scales = saturated(S * (amax * _rcp(SIX)))
    e = e4m3.decode(scales)
    return scales, x * np.where(e != 0, _rcp(e * _rcp(S)), np.float32(0))


def vllm_ref(x: Array, amax: Array, S: Scalar, rd: Rounding) -> Scaled:
    """ref_nvfp4_quant, vLLM's emulation: 1 / 1e8 stands in for 1 / 0."""

    def rec(v: Any) -> Any:
        return ONE / (v + (v == 0) * np.float32(1e8))

    scales = saturated(np.clip(S * (amax * SIXTH), -TOP, TOP))
    return scales, np.clip(x * rec(e4m3.decode(scales) * rec(S)), -SIX, SIX)


def _kernel(x: Array, amax: Array, S: Scalar, ulps: tuple[int, int, int]) -> Scaled:
    """The kernels' steps, each of the three reciprocals moved by so many ulps."""
    sixth, inverse = _moved(SIXTH, ulps[0]), _moved(ONE / S, ulps[1])
    scales = saturated(S * (amax * sixth))
    e = e4m3.decode(scales)
    return scales, x * np.where(e != 0, _moved(ONE / (e * inverse), ulps[2]), np.float32(0))


def ambiguous(x: Array, amax: Array, S: Scalar) -> tuple[Array, Array]:
    """Where hardware may differ from `kernel`: blocks (..., K/16, 1), elements (..., K/16, 16).

    rcp.approx may be 1 ulp off, so each of the three reciprocals is tried at -1, 0 and +1 ulp;
    True where any of the 27 gives another scale byte or another code.
    """
    scales, elements = _kernel(x, amax, S, (0, 0, 0))
    codes = e2m1.encode(elements, RULES["cuda"])
    blocks, places = np.zeros(scales.shape, bool), np.zeros(codes.shape, bool)
    for ulps in product((-1, 0, 1), repeat=3):
        other, elements = _kernel(x, amax, S, (ulps[0], ulps[1], ulps[2]))
        blocks |= other != scales
        places |= e2m1.encode(elements, RULES["cuda"]) != codes
    return blocks, places


def _flushed(v: Array | Scalar) -> Any:
    """Subnormals to zero, sign kept: ftz."""
    return np.where(np.abs(v) < TINY, np.copysign(np.float32(0), v), v)


def _rcp(v: Array | Scalar) -> Any:
    """rcp.approx.ftz.f32 with its approximation perfect: 1/0 is infinite."""
    return _flushed(ONE / _flushed(v))


def _moved(v: Array | Scalar, ulps: int) -> Any:
    """v, one float32 up or down."""
    return np.nextafter(v, np.float32(ulps * np.inf)) if ulps else v


ENCODERS: Mapping[str, Encoder] = {
    "modelopt": modelopt,
    "ct": ct,
    "torchao": torchao,
    "torchao_one_level": torchao_one_level,
    "te": te,
    "te_2d": te,
    "kernel": kernel,
    "kernel_flashinfer": flashinfer,
    "kernel_flashinfer_exact": flashinfer_exact,
    "kernel_vllm": vllm,
    "vllm_ref": vllm_ref,
}
