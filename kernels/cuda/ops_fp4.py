"""NVFP4 and MXFP4 there and back, and tiles of scales, as launches of kernels.

NumPy arrays on the PTX machine, CuPy arrays on a GPU. Signatures and meaning: the rows of
`kernels/rows_formats.py`. No GPU has run these kernels yet. The products are in `ops_fp4_gemm.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tinymoe.core import Array, TinymoeError
from tinymoe.formats import conventions
from tinymoe.formats.conventions import MXFP4, NVFP4, Source
from tinymoe.formats.nvfp4_encoders import PEAK
from tinymoe.kernels.cuda.arguments import blocks_for, floats
from tinymoe.kernels.cuda.launch import Device, launch
from tinymoe.kernels.formats_ops import Packed

THREADS = 128  # of a block
READING = {"nan": 0, "inf": 1, "shift": 2, "ldexp": 3}  # of E8M0, as in fp4.cuh


@dataclass(frozen=True)
class Fp4Ops:
    """Kernels for the formats on one device."""

    device: Device

    def quantize_nvfp4(
        self, x: Array, tensor_scale: float | None, convention: str, source: Source
    ) -> Packed:
        """x (..., N, K) float32 to the bytes of a convention: quantize_nvfp4.cu.

        x must be finite, and BF16 values where `source` says so: neither is checked here.
        """
        row = conventions.row(NVFP4, convention)
        x, (rows, width) = self._rows("quantize_nvfp4: x", x, 16)
        if (tensor_scale is None) != (row.tensor_scale == "none"):
            raise TinymoeError(
                f"quantize_nvfp4: tensor_scale: expected {row.tensor_scale} for {convention!r}, "
                f"got {tensor_scale!r}"
            )
        sharing = 16 if convention == "te_2d" else 1
        if rows % sharing or (x.ndim > 1 and x.shape[-2] % sharing):
            raise TinymoeError(
                f"quantize_nvfp4: x: expected rows in multiples of {sharing} for {convention!r}, "
                f"got {x.shape}; pad with zeros"
            )
        codes, scales = self._packed(x, 16)
        scale = np.float32(1 if tensor_scale is None else tensor_scale)
        sizes = _ints(rows, width // 16)
        self._launch(
            "quantize_nvfp4",
            f"quantize_nvfp4_{convention}",
            rows * width // 4,
            [codes, scales, x, *sizes, scale, np.int32(source == "bfloat16")],
        )
        return Packed(codes, scales)

    def quantize_mxfp4(self, x: Array, convention: str) -> Packed:
        """x (..., N, K) float32, finite, to the bytes of a convention: quantize_mxfp4.cu."""
        conventions.row(MXFP4, convention)  # refuses a name that there is not
        x, (rows, width) = self._rows("quantize_mxfp4: x", x, 32)
        codes, scales = self._packed(x, 32)
        self._launch(
            "quantize_mxfp4",
            f"quantize_mxfp4_{convention}",
            rows * width // 4,
            [codes, scales, x, np.int64(rows * width // 32)],
        )
        return Packed(codes, scales)

    def dequantize_nvfp4(
        self, codes: Array, scales: Array, tensor_scale: float | None, convention: str
    ) -> Array:
        """The values (..., N, K) float32: decode_nvfp4.cu. Code 8 is -0 in all conventions here."""
        how = conventions.row(NVFP4, convention).association
        g = np.float32(1 if tensor_scale is None else tensor_scale)
        if how == "reciprocal":
            g = np.float32(1) / g
        after = np.float32(1) / PEAK if how == "amax" else np.float32(1)
        return self._decode("nvfp4", codes, scales, 16, [g, np.int32(how == "quotient"), after])

    def dequantize_mxfp4(self, codes: Array, scales: Array, convention: str) -> Array:
        """The values (..., N, K) float32, bytes 0 and 255 as the convention reads them."""
        row = conventions.row(MXFP4, convention)
        return self._decode("mxfp4", codes, scales, 32, _ints(READING[row.reading]))

    def swizzle_scales(self, scales: Array) -> Array:
        """(M, Ks) bytes to flat tiles of 128 x 4, zeros where there is no scale: swizzle.cu."""
        scales = _bytes(self.device, scales, "swizzle_scales: scales")
        rows, columns = scales.shape
        words = -(-rows // 128) * 128 * -(-columns // 4)
        flat: Array = self.device.empty((4 * words,), np.uint8)
        sizes = _ints(rows, columns, words)
        self._launch("swizzle", "swizzle_scales", words, [flat, scales, *sizes])
        return flat

    def unswizzle_scales(self, flat: Array, rows: int, columns: int) -> Array:
        """Flat tiles of 128 x 4 to (rows, columns) bytes: swizzle.cu."""
        flat = _bytes(self.device, flat, "unswizzle_scales: flat")
        expected = -(-rows // 128) * 128 * -(-columns // 4) * 4
        if flat.shape != (expected,):
            raise TinymoeError(
                f"unswizzle_scales: flat: expected ({expected},) for {rows} rows of {columns} "
                f"scales, got {flat.shape}"
            )
        out: Array = self.device.empty((rows, columns), np.uint8)
        arguments = [out, flat, *_ints(rows, columns)]
        self._launch("swizzle", "unswizzle_scales", rows * columns, arguments)
        return out

    def _decode(
        self, form: str, codes: Array, scales: Array, block: int, arguments: list[Any]
    ) -> Array:
        codes, scales = coded(self.device, codes, scales, block, f"dequantize_{form}")
        out: Array = self.device.empty((*codes.shape[:-1], 2 * codes.shape[-1]), np.float32)
        fours = codes.size // 2
        arguments = [out, codes, scales, np.int64(fours), *arguments]
        self._launch("decode_nvfp4", f"decode_{form}", fours, arguments)
        return out

    def _launch(self, source: str, entry: str, threads: int, arguments: list[Any]) -> None:
        """A thread for each piece of work; nothing to do is no launch."""
        if threads:
            kernel = self.device.kernel(source, entry)
            launch(kernel, blocks_for(threads, THREADS), THREADS, arguments)

    def _rows(self, what: str, x: Array, block: int) -> tuple[Array, tuple[int, int]]:
        """x on the device, and its rows and their length."""
        if x.size // block >= 2**31:
            raise TinymoeError(f"{what}: {x.shape}: the kernels count 2^31 blocks, take it apart")
        x = floats(self.device, x, what)
        if x.ndim == 0 or x.shape[-1] % block:
            raise TinymoeError(f"{what}: expected rows of whole blocks of {block}, got {x.shape}")
        return x, (prod(x.shape[:-1]), x.shape[-1])

    def _packed(self, x: Array, block: int) -> Packed:
        lead, width = x.shape[:-1], x.shape[-1]
        codes = self.device.empty((*lead, width // 2), np.uint8)
        return Packed(codes, self.device.empty((*lead, width // block), np.uint8))


def coded(
    device: Device, codes: Array, scales: Array, block: int, what: str
) -> tuple[Array, Array]:
    """Codes (..., K/2) and scales (..., K/block) on the device, if they fit each other."""
    codes = _bytes(device, codes, f"{what}: codes")
    scales = _bytes(device, scales, f"{what}: scales")
    if codes.shape != (*scales.shape[:-1], scales.shape[-1] * block // 2):
        raise TinymoeError(
            f"{what}: expected {block // 2} bytes of codes for each byte of scales, got codes "
            f"{codes.shape} and scales {scales.shape}; tiled scales go back by unswizzle_scales"
        )
    return codes, scales


def _bytes(device: Device, array: Any, what: str) -> Array:
    if array.dtype != np.uint8:
        raise TinymoeError(f"{what}: expected uint8, got {array.dtype} {array.shape}")
    placed: Array = device.asarray(array)
    return placed


def _ints(*numbers: int) -> list[np.int32]:
    return [np.int32(number) for number in numbers]
