"""E2M1, the four-bit float: 1 sign, 2 exponent and 1 fraction bits, two codes to a byte.

Bias 1, one subnormal, no infinity, no NaN. Codes 0..15 are kept one to a uint8 until packed.

Libraries agree on the sixteen values and on the nearest one. They part on ties, on the sign of
zero and on NaN, so those three are a `Rule` that every call names; `RULES` has the ones in use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np

from tinymoe.core import Array, TinymoeError
from tinymoe.formats import exact
from tinymoe.formats.checks import as_bytes, as_float32
from tinymoe.formats.exact import Ties

# The values of codes 0..7; bit 3 is the sign.
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# Half way between neighbours: a tie there is between code i and code i + 1.
MIDPOINTS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
MAX = 6.0  # larger magnitudes, infinity included, become 6

ZeroSign = Literal[
    "kept",  # the sign bit is copied: -0.0 and -0.1 give code 8
    "lost_at_zero",  # -0.0 gives 0, -0.1 gives 8: the sign is found by comparing with zero
    "never",  # no input gives code 8
    "zeros_negative",  # +0.0 and -0.0 give 8 (ModelOpt's (2 - sign(x)) // 2 is 1 for zero)
]
Nan = Literal[
    "six",  # +6, whatever its sign
    "zero",  # code 0
    "flipped_zero",  # NaN gives 8, -NaN gives 0
    "torchao",  # what its bit arithmetic leaves of the payload: 3 for the default NaN
    "unspecified",  # refused here
]


class Rule(NamedTuple):
    """How one library turns a float32 into a code, beyond "the nearest, saturating at 6"."""

    ties: Ties
    zero_sign: ZeroSign
    nan: Nan


RULES: Mapping[str, Rule] = {
    "cuda": Rule(ties="even", zero_sign="kept", nan="six"),  # PTX cvt.rn.satfinite, cuda_fp4.hpp
    "ml_dtypes": Rule(ties="even", zero_sign="kept", nan="flipped_zero"),
    "torchao": Rule(ties="even", zero_sign="kept", nan="torchao"),
    "modelopt_nvfp4": Rule(ties="even", zero_sign="lost_at_zero", nan="six"),
    "ct": Rule(ties="even", zero_sign="lost_at_zero", nan="zero"),  # compressed-tensors
    "te": Rule(ties="even", zero_sign="lost_at_zero", nan="zero"),  # TransformerEngine, reference
    "modelopt_mxfp4": Rule(ties="toward_zero", zero_sign="zeros_negative", nan="unspecified"),
    "deepgemm": Rule(ties="toward_zero", zero_sign="never", nan="zero"),
    "ggml": Rule(ties="toward_zero", zero_sign="never", nan="zero"),
    "triton_kernels": Rule(ties="away", zero_sign="kept", nan="unspecified"),  # gpt-oss
}

# `code = number of bounds below |x|`. Ties away and to an odd code's even neighbour above need
# ">=": the bound moves to the float32 just below (0.75, 1.75 and 3.5 for even ties; an
# implementation that forgets those three is right on all but one input in a million).
_MIDS = np.array(MIDPOINTS, np.float32)
_BELOW = np.nextafter(_MIDS, np.float32(0))
_BOUNDS = {
    "toward_zero": _MIDS,
    "away": _BELOW,
    "even": np.where(np.arange(7) % 2 == 1, _BELOW, _MIDS),
}
_SIGNED = np.array(MAGNITUDES + tuple(-value for value in MAGNITUDES), np.float32)
_UNSIGNED_ZERO = np.where(_SIGNED == 0, np.float32(0), _SIGNED)
_TABLES = {"-0": _SIGNED, "+0": _UNSIGNED_ZERO}
# The two values of every byte, eight bytes that are copied as one number: (256,)
_BYTES = np.arange(256)
_PAIRS = {
    zero: np.stack([table[_BYTES & 0xF], table[_BYTES >> 4]], axis=-1).view(np.uint64)[:, 0]
    for zero, table in _TABLES.items()
}


def encode(values: Array, rule: Rule) -> Array:
    """float32 values (any shape) to codes 0..15 (uint8, same shape): nearest, saturating at 6.

    >>> x = np.array([0.75, -0.1, 5.0, 100.0], np.float32)
    >>> for name in ("cuda", "ggml", "triton_kernels"):
    ...     print(name, encode(x, RULES[name]).tolist())
    cuda [2, 8, 6, 7]
    ggml [1, 0, 6, 7]
    triton_kernels [2, 8, 7, 7]
    """
    x = as_float32("values", values)
    magnitude = np.searchsorted(_BOUNDS[rule.ties], np.abs(x)).astype(np.uint8)
    sign = np.signbit(x)
    if rule.zero_sign == "lost_at_zero":
        sign = x < 0
    elif rule.zero_sign == "never":
        sign = (x < 0) & (magnitude > 0)
    elif rule.zero_sign == "zeros_negative":
        sign = x <= 0
    codes = magnitude | (sign.astype(np.uint8) << 3)
    nan = np.isnan(x)
    if nan.any():
        codes[nan] = _nan_codes(np.atleast_1d(x)[np.atleast_1d(nan)], rule.nan)
    return codes


def _nan_codes(nans: Array, rule: Nan) -> Array:
    """The codes of float32 NaNs (n,)."""
    if rule == "unspecified":
        raise TinymoeError(
            f"values: expected no NaN (this E2M1 rule does not define one), got {nans.size}"
        )
    if rule == "torchao":
        # its rounding step, run on a NaN: exponent rebiased by -126, half of the dropped bits
        # added, shifted, cut to a byte
        bits = nans.view(np.uint32)
        odd = (bits >> 22) & 1
        cut = (((bits & 0x7FFFFFFF) - 0x3F000000 + 0x1FFFFF + odd) >> 22) & 0x7
        return (cut | (bits >> 31 << 3)).astype(np.uint8)
    positive = {"six": 0x7, "zero": 0x0, "flipped_zero": 0x8}[rule]
    negative = {"six": 0x7, "zero": 0x0, "flipped_zero": 0x0}[rule]
    return np.where(np.signbit(nans), negative, positive).astype(np.uint8)


def encode_naive(value: float, rule: Rule) -> int:
    """The twin: one finite value, the nearest of eight magnitudes by exact distance."""
    magnitude = exact.nearest(abs(Fraction(value)), MAGNITUDES, ties=rule.ties)
    negative = {
        "kept": math.copysign(1, value) < 0,
        "lost_at_zero": value < 0,
        "never": value < 0 and magnitude > 0,
        "zeros_negative": value <= 0,
    }[rule.zero_sign]
    return magnitude + 8 * negative


def decode(codes: Array, *, code_8: Literal["-0", "+0"]) -> Array:
    """Codes 0..15 (uint8, any shape) to float32.

    code_8: "-0" in CUDA, ml_dtypes, torchao, gpt-oss, transformers, vLLM, TransformerEngine;
    "+0" in ModelOpt, FlashInfer's CPU table and ggml. Compare dequantised tensors with -0 == +0.
    """
    return _TABLES[code_8][_checked_codes(codes)]


def decode_packed(packed: Array, *, code_8: Literal["-0", "+0"]) -> Array:
    """Bytes (..., K / 2) to float32 (..., K): `decode(unpack(packed))`, one look-up a byte."""
    return np.take(_PAIRS[code_8], as_bytes("packed", packed)).view(np.float32)


def pack(codes: Array) -> Array:
    """Codes (..., K) to bytes (..., K / 2): element 2j in the low four bits, 2j + 1 in the high.

    Low nibble first is the order of every safetensors checkpoint; GGUF's is another (`ggml.py`).
    """
    c = _checked_codes(codes)
    if c.ndim == 0 or c.shape[-1] % 2:
        raise TinymoeError(f"codes: expected an even last axis to pack in pairs, got {c.shape}")
    return c[..., 0::2] | (c[..., 1::2] << 4)  # (..., K / 2)


def unpack(packed: Array) -> Array:
    """Bytes (..., K / 2) to codes (..., K), low nibble first."""
    b = as_bytes("packed", packed)
    pairs = np.stack([b & 0xF, b >> 4], axis=-1)  # (..., K / 2, 2)
    return pairs.reshape(*b.shape[:-1], -1)  # (..., K)


def _checked_codes(codes: Array) -> Array:
    c = as_bytes("codes", codes)
    if c.size and c.max() > 15:
        raise TinymoeError(
            f"codes: expected E2M1 codes 0..15, one to a byte, got {int(c.max())} in shape "
            f"{c.shape}; unpack a packed tensor first"
        )
    return c


def round_microxcaling(values: Array, *, ties: Literal["even", "away"]) -> Array:
    """float32 to the nearest E2M1 value as microxcaling rounds: values, not codes.

    It adds 0.5 in float32 and takes the floor, so a value just below a midpoint of the first
    step moves up: 0.24999999 becomes 0.5. "away" is its "nearest", which is its default.
    """
    x = as_float32("values", values)
    size = np.minimum(np.abs(x), np.float32(MAX))
    # exponent of the step: 0 below 2, 1 in [2, 4), 2 in [4, 6]
    step = np.float32(0.5) * 2.0 ** np.clip(np.frexp(size)[1] - 1, 0, 2).astype(np.float32)
    units = size / step
    up = np.floor(units + np.float32(0.5))
    if ties == "even":
        up -= (units - np.float32(0.5)) % 2 == 0
    return np.copysign(np.minimum(up * step, np.float32(MAX)), x)
