"""Where tensor cores want the block scales: 128x4 and 8x4 tiles. Files are always row-major.

A scale matrix (M, Ks) has one byte for each row and block, Ks = K/16 (NVFP4) or K/32 (MXFP4).
A linear and a tiled buffer have the same number of bytes when nothing is padded, so the wrong one
crashes nothing (vllm#50084, modular#6600): tile once, at load, and name the layout.

Bytes only; E4M3 and E8M0 alike. The same tiles hold the scales of either operand.
"""

from __future__ import annotations

import math

import numpy as np

from tinymoe.core import Array, TinymoeError
from tinymoe.formats.checks import as_bytes


def swizzle_128x4(scales: Array) -> Array:
    """(M, Ks) row-major to flat tiles of 512 bytes, M padded to 128 and Ks to 4 with zeros.

    Byte (m, k) goes to ((m / 128) * ceil(Ks / 4) + k / 4) * 512 + (m % 32) * 16
    + ((m % 128) / 32) * 4 + k % 4: tiles along K first; in a tile, row r is word r / 32 of the
    16-byte line r % 32, and the four neighbours along K of a row are one 32-bit word. The layout of
    cuBLASLt, CUTLASS, cuDNN and tcgen05.
    """
    padded = _padded(scales, 128)
    tiles = padded.reshape(len(padded) // 128, 4, 32, -1, 4)  # (M/128, word, line, Ks/4, 4)
    return tiles.transpose(0, 3, 2, 1, 4).ravel()


def unswizzle_128x4(flat: Array, rows: int, columns: int) -> Array:
    """The way back: flat tiles to (rows, columns), padding cut off."""
    b = _checked_flat(flat, rows, columns, 128)
    tiles = b.reshape(math.ceil(rows / 128), -1, 32, 4, 4)  # (M/128, Ks/4, line, word, 4)
    square = tiles.transpose(0, 3, 2, 1, 4).reshape(math.ceil(rows / 128) * 128, -1)
    return square[:rows, :columns]


def swizzle_8x4(scales: Array) -> Array:
    """(M, Ks) row-major to flat tiles of 32 bytes, M padded to 8 and Ks to 4 with zeros.

    Byte (m, k) goes to ((m / 8) * ceil(Ks / 4) + k / 4) * 32 + (m % 8) * 4 + k % 4. For few rows:
    TensorRT-LLM's kernels, and vLLM's backend of that name up to 32 rows.
    """
    padded = _padded(scales, 8)
    return padded.reshape(len(padded) // 8, 8, -1, 4).transpose(0, 2, 1, 3).ravel()


def unswizzle_8x4(flat: Array, rows: int, columns: int) -> Array:
    """The way back: flat tiles to (rows, columns), padding cut off."""
    b = _checked_flat(flat, rows, columns, 8)
    tiles = b.reshape(math.ceil(rows / 8), -1, 8, 4).transpose(0, 2, 1, 3)  # (M/8, 8, Ks/4, 4)
    return tiles.reshape(math.ceil(rows / 8) * 8, -1)[:rows, :columns]


def offset_128x4(m: int, k: int, columns: int) -> int:
    """The twin of the 128x4 layout: where one byte goes."""
    tile = (m // 128) * math.ceil(columns / 4) + k // 4
    return tile * 512 + (m % 32) * 16 + ((m % 128) // 32) * 4 + k % 4


def offset_8x4(m: int, k: int, columns: int) -> int:
    """The twin of the 8x4 layout: where one byte goes."""
    return ((m // 8) * math.ceil(columns / 4) + k // 4) * 32 + (m % 8) * 4 + k % 4


def _padded(scales: Array, rows: int) -> Array:
    """(M, Ks) with zeros up to multiples of (rows, 4)."""
    s = as_bytes("scales", scales)
    if s.ndim != 2 or not s.size:
        raise TinymoeError(
            f"scales: expected (M, Ks), one byte a block, got shape {s.shape}; swizzle the "
            "matrices of an expert stack one by one"
        )
    return np.pad(s, ((0, -s.shape[0] % rows), (0, -s.shape[1] % 4)))


def _checked_flat(flat: Array, rows: int, columns: int, tile_rows: int) -> Array:
    """`flat`, if it has the bytes of a tiled (rows, columns) matrix."""
    b = as_bytes("flat", flat)
    expected = math.ceil(rows / tile_rows) * tile_rows * math.ceil(columns / 4) * 4
    if rows < 1 or columns < 1 or b.size != expected:
        raise TinymoeError(
            f"flat: expected {expected} bytes, a ({rows}, {columns}) scale matrix padded to "
            f"multiples of ({tile_rows}, 4), got {b.size} in shape {b.shape}; is it row-major?"
        )
    return b.reshape(-1)
