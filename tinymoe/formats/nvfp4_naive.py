"""The NVFP4 encoders' twin: one block, rational numbers, each float32 rounding written out.

For finite blocks whose scale neither underflows nor overflows float32; the fast forms' degenerate
answers are in their tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from tinymoe.formats import e4m3
from tinymoe.formats.conventions import NVFP4, Source
from tinymoe.formats.e2m1 import encode_naive
from tinymoe.formats.exact import bf16, fp32

SIXTH = fp32(Fraction(1, 6))
E4M3 = tuple(
    Fraction(code % 8 + 8 * (code > 7)) * Fraction(2) ** (max(code // 8, 1) - 10)
    for code in range(127)
)


def encode_block(
    block: Sequence[float], scale: float, *, convention: str, source: Source
) -> tuple[int, list[int]]:
    """16 values and the tensor scale to the scale byte and the codes."""
    amax = max(abs(Fraction(value)) for value in block)
    byte = _scale_byte(amax, Fraction(scale), convention, bf16 if source == "bfloat16" else fp32)
    quotient = _element(E4M3[byte], Fraction(scale), convention)
    rule = NVFP4[convention].element
    return byte, [encode_naive(float(quotient(Fraction(value))), rule) for value in block]


def _scale_byte(
    amax: Fraction, scale: Fraction, convention: str, rd: Callable[[Fraction], Fraction]
) -> int:
    if convention == "modelopt":
        s = fp32(amax / fp32(6 * scale)) or Fraction(1)
    elif convention == "ct":
        s = fp32(scale * rd(amax / 6))
    elif convention == "torchao":
        s = fp32(fp32(amax / 6) / scale)
    elif convention == "te":
        s = fp32(amax * fp32(fp32(2688 / scale) * SIXTH))
    else:  # the kernels
        s = fp32(scale * fp32(amax * SIXTH))
    lowest = {"modelopt": 0x01, "torchao": 0x08}.get(convention, 0)
    byte = max(e4m3.encode_naive(float(s), overflow="saturate"), lowest)
    return byte or (0x20 if convention == "ct" else 0)


def _element(e: Fraction, scale: Fraction, convention: str) -> Callable[[Fraction], Fraction]:
    """What E2M1 rounds, as a function of the value."""
    if convention == "modelopt":
        return lambda w: fp32(w / fp32(e * scale))
    if convention == "ct":
        return lambda w: fp32(w / fp32(e / scale))
    if convention == "torchao":
        return lambda w: fp32(w * fp32(fp32(1 / scale) / e))
    inverse = fp32(1 / fp32(2688 / scale) if convention == "te" else 1 / scale)
    return lambda w: fp32(w * fp32(1 / fp32(e * inverse)))
