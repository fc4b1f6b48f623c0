"""The naive twins of dequantisers, of MXFP4's and FP8's quantisers, and of the tiles of scales.

One value at a time, in Python floats; `naive_nvfp4.py` has NVFP4's quantisers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinymoe.core import Array
from tinymoe.formats.conventions import FP8, MXFP4, NVFP4, Source
from tinymoe.formats.fp8 import Granularity, PowerOfTwo
from tinymoe.formats.scale_layout import offset_128x4
from tinymoe.kernels.formats_ops import Packed
from tinymoe.kernels.naive_scalars import (
    bf16,
    e2m1_code,
    e2m1_value,
    e4m3_code,
    e4m3_value,
    f32,
    quotient,
)

# ------------------------------------------------------------------------- codes to values


def _nibbles(codes: Array) -> list[list[int]]:
    """Codes (..., K/2) to one list of nibbles a row."""
    return [[n for b in row for n in (b & 15, b >> 4)] for row in _rows(codes)]


def _rows(array: Array) -> list[Any]:
    rows: list[Any] = array.reshape(-1, array.shape[-1]).tolist()
    return rows


def _step(s: float, g: float, association: str) -> float:
    """Block scale and tensor scale together; "left" never stands in a convention."""
    if association == "product":
        return f32(s * g)
    if association == "quotient":
        return quotient(s, g)
    if association == "reciprocal":
        return f32(s * quotient(1, g))
    if association == "amax":
        return f32(f32(s * g) * f32(1 / 2688))
    return s


def dequantize_nvfp4(
    codes: Array, scales: Array, tensor_scale: float | None, convention: str
) -> Array:
    """Code, block scale and tensor scale, in the convention's order."""
    row, g = NVFP4[convention], 1.0 if tensor_scale is None else tensor_scale
    out = [
        [
            f32(
                e2m1_value(code, row.code_8)
                * _step(e4m3_value(bytes_[i // 16]), g, row.association)
            )
            for i, code in enumerate(nibbles)
        ]
        for nibbles, bytes_ in zip(_nibbles(codes), _rows(scales), strict=True)
    ]
    return np.array(out, np.float32).reshape(*codes.shape[:-1], -1)


def _e8m0_value(byte: int, reading: str) -> float:
    if byte == 255 and reading != "ldexp":
        return math.nan if reading == "nan" else math.inf
    return 0.0 if byte == 0 and reading == "shift" else 2.0 ** (byte - 127)


def dequantize_mxfp4(codes: Array, scales: Array, convention: str) -> Array:
    """Code times a power of two."""
    row = MXFP4[convention]
    out = [
        [
            f32(e2m1_value(code, row.code_8) * _e8m0_value(bytes_[i // 32], row.reading))
            for i, code in enumerate(nibbles)
        ]
        for nibbles, bytes_ in zip(_nibbles(codes), _rows(scales), strict=True)
    ]
    return np.array(out, np.float32).reshape(*codes.shape[:-1], -1)


def dequantize_fp8(codes: Array, scales: Array, block: tuple[int, int]) -> Array:
    """Each code's block looked up by its place."""
    grid = np.asarray(scales).reshape([-(-n // b) for n, b in zip(codes.shape, block, strict=True)])
    out = np.zeros(codes.shape, np.float32)
    for n, k in np.ndindex(*codes.shape):
        scale = float(grid[n // block[0], k // block[1]])
        out[n, k] = f32(e4m3_value(int(codes[n, k])) * scale)
    return out


# ------------------------------------------------------------------------- values to codes


def quantize_mxfp4(x: Array, convention: str) -> Packed:
    """One block of 32 at a time."""
    codes, scales = [], []
    for row in _rows(x):
        blocks = [row[k : k + 32] for k in range(0, len(row), 32)]
        bytes_ = [_mx_byte(max(map(abs, block)), convention) for block in blocks]
        nibbles = [
            e2m1_code(_mx_scaled(value, byte, MXFP4[convention].scaling), MXFP4[convention].element)
            for block, byte in zip(blocks, bytes_, strict=True)
            for value in block
        ]
        codes.append([a + 16 * b for a, b in zip(nibbles[::2], nibbles[1::2], strict=True)])
        scales.append(bytes_)
    return Packed(
        np.array(codes, np.uint8).reshape(*x.shape[:-1], -1),
        np.array(scales, np.uint8).reshape(*x.shape[:-1], -1),
    )


def _mx_byte(amax: float, convention: str) -> int:
    """The exponent of a block, by taking its largest value apart."""
    rule, lowest, highest = MXFP4[convention].exponent, 0, 254
    if convention == "ct" and amax >= 1.75 * 2.0**127:
        return 127
    if convention == "deepgemm":
        amax, lowest = max(amax, f32(1e-4)), 1
    if rule in ("rceil", "rceil_log2", "floor6"):
        amax = f32(amax / 6)
    elif rule == "rceil_rcp":
        amax = f32(amax * f32(1 / 6))
    if amax == 0:
        return lowest
    if rule == "rceil_log2":
        byte = math.ceil(f32(math.log2(amax))) + 127
    else:
        mantissa, exponent = math.frexp(amax)  # amax = mantissa * 2^exponent, mantissa >= 0.5
        down, up = exponent + 126, exponent + 126 + (mantissa > 0.5)
        byte = {
            "floor": down - 2,
            "even": down - 2 + (mantissa >= 0.875),
            "ceil": up - 2,
            "rceil": max(up, 1),
            "rceil_rcp": max(up, 1),
            "floor6": down,
        }[rule]
    return min(max(byte, lowest), highest)


def _mx_scaled(value: float, byte: int, how: str) -> float:
    power = 2.0 ** (byte - 127)
    if how == "divide":
        return f32(value / power)
    if how == "divide_normal":
        return f32(value / max(power, 2.0**-126))
    if byte == 0 and how == "multiply_one_at_0":
        return value
    if byte == 0 and how == "multiply_zero_at_0":
        return f32(value * 0.0)
    return f32(value * f32(1 / power))


def quantize_fp8(
    x: Array, convention: str, granularity: Granularity, source: Source, power_of_two: PowerOfTwo
) -> Packed:
    """One block at a time, cut out of the matrix."""
    rows, columns = {
        "tensor": x.shape, "channel": (1, x.shape[1]), "block": (128, 128), "group": (1, 128)
    }[granularity]  # fmt: skip
    codes = np.zeros(x.shape, np.uint8)
    scales = np.zeros((-(-x.shape[0] // rows), -(-x.shape[1] // columns)), np.float32)
    for i, j in np.ndindex(*scales.shape):
        part = np.s_[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
        values = x[part].tolist()
        amax = max(abs(value) for row in values for value in row)
        scale = _fp8_scale(amax, convention, source)
        if power_of_two != "no":
            mantissa, exponent = math.frexp(scale)
            scale = 2.0 ** (exponent - (mantissa == 0.5))
        scales[i, j] = scale
        codes[part] = [
            [e4m3_code(_fp8_element(value, scale, amax, convention, source)) for value in row]
            for row in values
        ]
    return Packed(codes, scales.reshape(()) if granularity == "tensor" else scales)


def _fp8_scale(amax: float, convention: str, source: Source) -> float:
    rule = FP8[convention].scale
    if rule.startswith("rd(amax/448)"):
        scale = bf16(f32(amax / 448)) if source == "bfloat16" else f32(amax / 448)
        return scale or (2.0**-7 if source == "bfloat16" else 2.0**-23)
    if rule == "max(amax,1e-4)/448":
        return f32(max(amax, f32(1e-4)) / 448)
    if rule == "max(amax/448,1/(448*512))":
        return max(f32(amax / 448), f32(1 / (448 * 512)))
    if rule == "max(amax,1e-10)*(1/448)":
        return f32(max(amax, f32(1e-10)) * f32(1 / 448))
    if rule == "1/((1/amax)*448)":
        return quotient(1, f32(quotient(1, amax) * 448)) if amax else 1.0
    if rule == "1/(448/amax)":
        return quotient(1, quotient(448, amax)) if amax > 2.0**-24 else 1.0
    return f32(amax / 448)


def _fp8_element(value: float, scale: float, amax: float, convention: str, source: Source) -> float:
    rule = FP8[convention].element
    if rule == "rd(w/s)":
        return bf16(quotient(value, scale)) if source == "bfloat16" else quotient(value, scale)
    if rule == "w*(1/s)":
        return f32(value * quotient(1, scale))
    if rule == "w*((1/amax)*448)":
        return f32(value * (f32(quotient(1, amax) * 448) if amax else 1.0))
    if rule == "w*(448/amax)":
        return f32(value * (quotient(448, amax) if amax > 2.0**-24 else 1.0))
    return quotient(value, scale)


# ------------------------------------------------------------------------------- the tiles


def swizzle_scales(scales: Array) -> Array:
    """Byte after byte to where it goes; zeros elsewhere."""
    rows, columns = scales.shape
    flat = np.zeros(-(-rows // 128) * 128 * -(-columns // 4) * 4, np.uint8)
    for m, k in np.ndindex(rows, columns):
        flat[offset_128x4(m, k, columns)] = scales[m, k]
    return flat


def unswizzle_scales(flat: Array, rows: int, columns: int) -> Array:
    """Byte after byte from where it is."""
    out = np.zeros((rows, columns), np.uint8)
    for m, k in np.ndindex(rows, columns):
        out[m, k] = flat[offset_128x4(m, k, columns)]
    return out
