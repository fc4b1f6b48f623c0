"""The FP4 matrix product: exactly, as tensor cores would emulate it, and how far they may differ.

    D[m,n] = sum over blocks b of (sa[m,b] * sw[n,b]) * sum over i in b of a[m,i] * w[n,i]
    y[m,n] = alpha * D[m,n]          alpha = input_scale * weight_scale_2

Twice an E2M1 value is a whole number up to 12, and 512 times an E4M3 scale is one, so each block's
term, scales included, is a whole multiple of 2^-20 with at most 20 significant bits: exact in
float32. Only the additions across blocks, the product with alpha and the output's cast round. So D
in integers is a true oracle, and the bound for an engine that sums in float32 is short. MXFP4
scales are powers of two, and the same holds.

Not the same, though often called reference: dequantising both sides to BF16 first (vLLM's
run_nvfp4_emulations), and the other places of alpha in `epilogue`.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import numpy as np

from tinymoe.core import Array, QuantTensor, TinymoeError
from tinymoe.formats import bf16, e2m1, e4m3, e8m0

UNIT_FLOAT32 = 2.0**-24  # the most that one float32 operation is off, relative to its result
UNIT_14_BIT = 2.0**-13  # of an accumulator that keeps 14 bits, as Hopper's FP8 was found to

Output = Literal["float32", "bfloat16"]
Placement = Literal[
    "float32",  # alpha * D in float32, one cast: CUTLASS, FlashInfer, cuBLASLt
    "after_bfloat16",  # D cast to BF16, times float32 alpha, cast again: vLLM's torch backend
    "bfloat16_alpha",  # D cast to BF16, times alpha cast to BF16: torchao's _addmm_nvfp4
]


class ExactProduct(NamedTuple):
    """D = integers * 2^exponent, (M, N), before alpha."""

    integers: Array  # int64, or Python integers (object) where MXFP4 exponents lie far apart
    exponent: int

    def as_float64(self) -> Array:
        """D rounded once to float64: exact up to 53 bits."""
        return np.ldexp(self.integers.astype(np.float64), self.exponent)


def exact(x: QuantTensor, w: QuantTensor) -> ExactProduct:
    """x (M, K) and w (N, K), both NVFP4 or both MXFP4, to D (M, N) without any rounding."""
    _check_pair(x, w)
    (a, ea), (b, eb) = _integers(x), _integers(w)
    K = x.shape[-1]
    largest = K * int(np.abs(a).max()) * int(np.abs(b).max())
    if largest < 2**53:  # every partial sum is exact in float64, so BLAS may take any order
        total = a.astype(np.float64) @ b.T.astype(np.float64)
        return ExactProduct(total.astype(np.int64), ea + eb)
    kind = np.int64 if largest < 2**63 else object
    return ExactProduct(a.astype(kind) @ b.T.astype(kind), ea + eb)


def exact_naive(x: QuantTensor, w: QuantTensor, m: int, n: int) -> Fraction:
    """The twin: one element of D, term by term in rational numbers."""
    size = x.block[1]
    scale = e4m3.decode if x.format == "nvfp4" else _e8m0
    a, b = (e2m1.decode(e2m1.unpack(q.codes[i]), code_8="+0") for q, i in ((x, m), (w, n)))
    sa, sb = scale(x.scales[m]), scale(w.scales[n])
    return sum(
        (
            Fraction(float(p))
            * Fraction(float(q))
            * Fraction(float(sa[i // size]))
            * Fraction(float(sb[i // size]))
            for i, (p, q) in enumerate(zip(a, b, strict=True))
        ),
        Fraction(0),
    )


def alpha(x: QuantTensor, w: QuantTensor) -> np.floating[Any]:
    """The factor of the whole product, float32, as the kernels' callers compute it.

    Multipliers as they are, divisors by their rounded reciprocal, one rounded product; both amax
    (TransformerEngine): (amax_x * amax_w) / (6*6*448*448). 1 without tensor scales.
    """
    one = np.float32(1)
    if x.tensor_scale_is == "amax" and w.tensor_scale_is == "amax":
        product = np.float32(x.tensor_scale or 0) * np.float32(w.tensor_scale or 0)
        return np.float32(product / np.float32(6 * 6 * 448 * 448))
    factors = []
    for q in (x, w):
        if q.tensor_scale_is == "amax":
            raise TinymoeError("alpha: expected an amax on both sides or on none, got it on one")
        scale = one if q.tensor_scale is None else np.float32(q.tensor_scale)
        factors.append(one / scale if q.tensor_scale_is == "divisor" else scale)
    return np.float32(factors[0] * factors[1])


def emulated(x: QuantTensor, w: QuantTensor) -> Array:
    """D (M, N) float32, blocks added one by one along K, each addition rounded.

    A block's term is exact (MXFP4: unless it leaves float32's range). The order is that of
    TransformerEngine's qgemm; PTX leaves order and rounding open.
    """
    total = np.zeros((x.shape[0], w.shape[0]), np.float32)
    with np.errstate(over="ignore", under="ignore"):
        for term in _terms(x, w):
            total += term.astype(np.float32)
    return total


def epilogue(
    D: Array, factor: np.floating[Any], *, placement: Placement, output: Output, bias: Array | None
) -> Array:
    """y (M, N) from the accumulators: alpha where the engine applies it, then bias, then the cast.

    bias: (N,) float32, added after alpha.
    """
    a = np.float32(factor)
    if placement == "float32":
        y = D * a
    else:
        factors = bf16.round_to_bf16(np.asarray(a)) if placement == "bfloat16_alpha" else a
        y = bf16.round_to_bf16(D) * factors
    if bias is not None:
        y = y + bias
    return bf16.round_to_bf16(y) if output == "bfloat16" else y


def bound(x: QuantTensor, w: QuantTensor, *, unit_roundoff: float, output: Output) -> Array:
    """(M, N) float64: how far y = alpha * D may be from exact, whatever the order of the sum.

    n = K/16 (K/32) blocks: n - 1 additions and the product with alpha are n roundings, so the
    error is at most n*u / (1 - n*u) of alpha * sum |term|; (n + 2) * u covers that while
    n^2 * u < 2 (K < 90,000 in float32) and is what is used there. Its second spare u also covers
    the rounding of this function's own float64. 2^-150 for each rounding
    that may be of a subnormal, and half an ulp of BF16
    if the output is that.

    unit_roundoff: 2^-24 for a float32 accumulator, 2^-13 for one of 14 bits.
    """
    n = x.scales.shape[-1]
    if n * unit_roundoff >= 1:
        raise TinymoeError(
            f"unit_roundoff: expected less than 1/{n} for {n} blocks, got {unit_roundoff}: "
            "an accumulator so narrow may lose everything"
        )
    share = max((n + 2) * unit_roundoff, n * unit_roundoff / (1 - n * unit_roundoff))
    factor = float(alpha(x, w))
    reach = share * factor * magnitude(x, w) + (n + 1) * 2.0**-150
    if output == "bfloat16":
        largest = np.abs(factor * exact(x, w).as_float64()) + reach
        reach = reach + np.ldexp(1.0, np.maximum(np.frexp(largest)[1] - 9, -134))
    return reach


def magnitude(x: QuantTensor, w: QuantTensor) -> Array:
    """sum over blocks of |term|, (M, N) float64: what rounding errors are relative to."""
    total = np.zeros((x.shape[0], w.shape[0]))
    for term in _terms(x, w):
        total += np.abs(term)
    return total


def measured_roundoff(y: Array, x: QuantTensor, w: QuantTensor) -> float:
    """The smallest unit_roundoff of a float32 output for which (n + 2) * u covers y's error.

    At most 2^-24 for a float32 accumulator; a report, for the engine whose accumulator is unknown.
    """
    scale = (x.scales.shape[-1] + 2) * float(alpha(x, w)) * magnitude(x, w)
    error = np.abs(y - float(alpha(x, w)) * exact(x, w).as_float64())
    return float(
        np.max(np.divide(error, scale, out=np.where(error > 0, np.inf, 0.0), where=scale > 0))
    )


def fp8_product(x: QuantTensor, w: QuantTensor) -> Array:
    """FP8 with 1 x 128 groups of x (M, K) and 128 x 128 blocks of w (N, K): y (M, N) float32.

    acc += ((a_block . b_block) * sa) * sb, per 128 of K, in float32. The dot product of a block is
    exact here (multiples of 2^-18 below 2^25) and rounded once; hardware's own may round more.
    """
    if x.block != (1, 128) or w.block != (128, 128) or x.shape[-1] != w.shape[-1]:
        raise TinymoeError(
            f"x, w: expected groups (1, 128) and blocks (128, 128) of one K, got {x.block} "
            f"{x.shape} and {w.block} {w.shape}"
        )
    a, b = (e4m3.decode(q.codes).astype(np.float64) for q in (x, w))
    total = np.zeros((len(a), len(b)), np.float32)
    for k in range(math.ceil(a.shape[1] / 128)):
        part = np.s_[:, k * 128 : (k + 1) * 128]
        dot = (a[part] @ b[part].T).astype(np.float32)
        sw = np.repeat(w.scales[:, k], 128)[: len(b)]  # (N,)
        total += (dot * x.scales[:, k, None]) * sw
    return total


def _e8m0(codes: Array) -> Array:
    return e8m0.decode(codes, reading="nan")


def _terms(x: QuantTensor, w: QuantTensor) -> Any:
    """The terms of D, block after block along K: (M, N) float64, each exact."""
    _check_pair(x, w)
    size = x.block[1]
    a, b = (e2m1.decode(e2m1.unpack(q.codes), code_8="+0").astype(np.float64) for q in (x, w))
    scale = e4m3.decode if x.format == "nvfp4" else _e8m0
    sa, sb = scale(x.scales).astype(np.float64), scale(w.scales).astype(np.float64)
    for k in range(x.scales.shape[-1]):
        part = np.s_[:, k * size : (k + 1) * size]
        yield np.outer(sa[:, k], sb[:, k]) * (a[part] @ b[part].T)


def _integers(q: QuantTensor) -> tuple[Array, int]:
    """Code times block scale as whole numbers (rows, K), and the power of two they count."""
    twice = (2 * e2m1.decode(e2m1.unpack(q.codes), code_8="+0")).astype(np.int64)
    if q.format == "nvfp4":
        scale, exponent = (512 * e4m3.decode(q.scales)).astype(np.int64), -1 - 9
    else:
        shift = q.scales.astype(np.int64) - int(q.scales.min())
        exponent = int(q.scales.min()) - e8m0.BIAS - 1
        if shift.max() < 59:  # 12 * 2^59 < 2^63
            scale = np.int64(1) << shift
        else:
            scale = np.array([1 << int(s) for s in shift.flat], object).reshape(shift.shape)
    return twice * np.repeat(scale, q.block[1], axis=-1), exponent


def _check_pair(x: QuantTensor, w: QuantTensor) -> None:
    if x.format not in ("nvfp4", "mxfp4") or x.format != w.format or x.codes.ndim != 2:
        raise TinymoeError(
            f"x, w: expected two NVFP4 or two MXFP4 matrices, got {x.format} {x.shape} and "
            f"{w.format} {w.shape}"
        )
    if w.codes.ndim != 2 or x.shape[-1] != w.shape[-1]:
        raise TinymoeError(f"x, w: expected (M, K) and (N, K) of one K, got {x.shape}, {w.shape}")
    limit = 0x7E if x.format == "nvfp4" else e8m0.MAX_BYTE
    for name, q in (("x", x), ("w", w)):
        if q.scales.size and q.scales.max() > limit:
            raise TinymoeError(
                f"{name}.scales: expected bytes up to {limit:#x}, got {int(q.scales.max()):#x}: "
                "NaN, or a sign that tensor cores ignore; the product is not defined"
            )
