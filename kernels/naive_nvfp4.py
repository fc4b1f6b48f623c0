"""The naive twin of `quantize_nvfp4`: block after block, value after value, in Python floats.

Each convention gives the scale byte of a block, and what E2M1 then rounds as a function of the
value. The degenerate blocks are in: zeros, scales that underflow, tensor scales that are too small.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinymoe.core import Array
from tinymoe.formats.conventions import NVFP4, Source
from tinymoe.kernels.formats_ops import Packed
from tinymoe.kernels.naive_scalars import (
    bf16,
    e2m1_code,
    e4m3_code,
    e4m3_value,
    f32,
    flushed,
    quotient,
)

SIXTH = f32(1 / 6)
LARGEST = float(np.finfo(np.float32).max)
Element = Callable[[float], float]
Scaled = tuple[int, Element]


def quantize_nvfp4(x: Array, tensor_scale: float | None, convention: str, source: Source) -> Packed:
    """One block at a time; a tile of 16 rows shares its loudest block in "te_2d"."""
    rows = x.reshape(-1, x.shape[-1]).tolist()
    blocks = [[row[k : k + 16] for k in range(0, len(row), 16)] for row in rows]
    codes, scales = [], []
    for r, row in enumerate(blocks):
        sharing = blocks[r - r % 16 : r - r % 16 + 16] if convention == "te_2d" else [row]
        packed, bytes_ = [], []
        for k, block in enumerate(row):
            amax = max(abs(value) for other in sharing for value in other[k])
            byte, element = _block(
                amax, 1.0 if tensor_scale is None else tensor_scale, convention, source
            )
            nibbles = [e2m1_code(element(v), NVFP4[convention].element) for v in block]
            packed += [nibbles[i] + 16 * nibbles[i + 1] for i in range(0, 16, 2)]
            bytes_.append(byte)
        codes.append(packed)
        scales.append(bytes_)
    return Packed(
        np.array(codes, np.uint8).reshape(*x.shape[:-1], -1),
        np.array(scales, np.uint8).reshape(*x.shape[:-1], -1),
    )


def _block(amax: float, scale: float, convention: str, source: Source) -> Scaled:
    if convention in ("te", "te_2d"):
        return _plain_division(amax, min(quotient(2688, scale), LARGEST))
    if convention == "kernel_flashinfer_exact":
        return _plain_division(amax, scale)
    if convention == "ct":
        return _ct(amax, scale, source)
    steps = {
        "modelopt": _modelopt,
        "torchao": _torchao,
        "torchao_one_level": _torchao_one_level,
        "kernel": _kernel,
        "kernel_flashinfer": _flashinfer,
        "kernel_vllm": _vllm,
        "vllm_ref": _vllm_ref,
    }
    return steps[convention](amax, scale)


def _modelopt(amax: float, g: float) -> Scaled:
    s = quotient(amax, f32(6 * g)) or 1.0
    byte = e4m3_code(max(s, 2.0**-9))
    step = f32(e4m3_value(byte) * g)
    return byte, lambda value: quotient(value, step)


def _ct(amax: float, G: float, source: Source) -> Scaled:
    sixth = f32(amax / 6)
    byte = e4m3_code(f32(G * (bf16(sixth) if source == "bfloat16" else sixth))) or 0x20
    step = quotient(e4m3_value(byte), G)
    return byte, lambda value: quotient(value, step)


def _torchao(amax: float, g: float) -> Scaled:
    byte = e4m3_code(max(quotient(f32(amax / 6), g), 2.0**-6))
    factor = quotient(quotient(1, g), e4m3_value(byte))
    return byte, lambda value: f32(value * factor)


def _torchao_one_level(amax: float, _: float) -> Scaled:
    byte = e4m3_code(max(f32(amax / 6), 2.0**-6))
    factor = quotient(1, e4m3_value(byte))
    return byte, lambda value: f32(value * factor)


def _plain_division(amax: float, S: float) -> Scaled:
    byte = e4m3_code(f32(amax * f32(S * SIXTH)))
    factor = min(quotient(1, f32(e4m3_value(byte) * quotient(1, S))), LARGEST)
    return byte, lambda value: f32(value * factor)


def _kernel(amax: float, S: float) -> Scaled:
    byte = e4m3_code(f32(S * f32(amax * SIXTH)))
    e = e4m3_value(byte)
    factor = quotient(1, f32(e * quotient(1, S))) if e else 0.0
    return byte, lambda value: f32(value * factor)


def _rcp(value: float) -> float:
    return flushed(quotient(1, flushed(value)))


def _flashinfer(amax: float, S: float) -> Scaled:
    amax, S = flushed(amax), flushed(S)
    byte = e4m3_code(flushed(f32(S * flushed(f32(amax * _rcp(6))))))
    factor = _rcp(flushed(f32(e4m3_value(byte) * _rcp(S)))) if amax else 0.0
    return byte, lambda value: flushed(f32(flushed(value) * factor))


def _vllm(amax: float, S: float) -> Scaled:
    byte = e4m3_code(f32(S * f32(amax * _rcp(6))))
    e = e4m3_value(byte)
    factor = _rcp(f32(e * _rcp(S))) if e else 0.0
    return byte, lambda value: f32(value * factor)


def _vllm_ref(amax: float, S: float) -> Scaled:
    byte = e4m3_code(f32(S * f32(amax * SIXTH)))
    step = f32(e4m3_value(byte) * quotient(1, S or f32(1e8)))
    factor = quotient(1, step or f32(1e8))
    return byte, lambda value: f32(value * factor)
