"""FP8 there and back, as launches of kernels: quantize_fp8.cu.

NumPy arrays on the PTX machine, CuPy arrays on a GPU, which has not run them yet. Signatures and
meaning: the rows of `kernels/rows_formats.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinymoe.core import Array, TinymoeError
from tinymoe.formats import conventions
from tinymoe.formats.conventions import FP8, Source
from tinymoe.formats.fp8 import SIDE, Granularity, PowerOfTwo
from tinymoe.kernels.cuda.arguments import blocks_for, floats
from tinymoe.kernels.cuda.launch import Device, launch
from tinymoe.kernels.formats_ops import Packed

THREADS = 128  # of a block: four warps over the rows of a region
POWER = {"no": 0, "bits": 1, "log2": 2}
DIVIDES = ("w/s", "w*(1/s)")  # by the scale that is stored: so that may become a power of two


@dataclass(frozen=True)
class Fp8Ops:
    """Kernels for FP8 on one device."""

    device: Device

    def quantize_fp8(
        self,
        x: Array,
        convention: str,
        granularity: Granularity,
        source: Source,
        power_of_two: PowerOfTwo,
    ) -> Packed:
        """x (N, K) float32 to codes (N, K) and scales, the bytes of a convention.

        x must be finite, BF16 values where `source` says so, and without regions of zeros where
        the convention has no floor (their codes would be NaN): none of this is checked here.
        """
        row = conventions.row(FP8, convention)
        x = floats(self.device, x, "quantize_fp8: x")
        if x.ndim != 2:
            raise TinymoeError(f"quantize_fp8: x: expected a matrix (N, K), got {x.shape}")
        if power_of_two != "no" and row.element not in DIVIDES:
            raise TinymoeError(
                f"quantize_fp8: power_of_two: {convention!r} does not divide by its stored scale"
            )
        region = {
            "tensor": x.shape,
            "channel": (1, x.shape[1]),
            "block": (SIDE, SIDE),
            "group": (1, SIDE),
        }[granularity]
        grid = _regions(x, region)
        codes = self.device.empty(x.shape, np.uint8)
        scales = self.device.empty(grid, np.float32)
        if codes.size:
            sizes = (*x.shape, *region, source == "bfloat16", POWER[power_of_two])
            launch(
                self.device.kernel("quantize_fp8", f"quantize_fp8_{convention}"),
                grid,
                THREADS,
                [codes, scales, x, *map(np.int32, sizes)],
            )
        return Packed(codes, scales.reshape(()) if granularity == "tensor" else scales)

    def dequantize_fp8(self, codes: Array, scales: Array, block: tuple[int, int]) -> Array:
        """The values (N, K) float32: code times the scale of its block; 0x7f and 0xff are NaN."""
        if codes.size >= 2**31:
            raise TinymoeError(
                f"dequantize_fp8: codes {codes.shape}: the kernel counts to 2^31, take rows apart"
            )
        codes = self.device.asarray(codes)
        scales = floats(self.device, scales, "dequantize_fp8: scales")
        expected = _regions(codes, block)
        if codes.dtype != np.uint8 or scales.shape not in {
            expected,
            () if expected == (1, 1) else expected,
        }:
            raise TinymoeError(
                f"dequantize_fp8: expected codes uint8 and scales {expected}, one for each block "
                f"{block} of {codes.shape}, got {codes.dtype} and {scales.shape}"
            )
        out: Array = self.device.empty(codes.shape, np.float32)
        if out.size:
            sizes = (codes.size, codes.shape[1], *block)
            launch(
                self.device.kernel("quantize_fp8", "decode_fp8"),
                blocks_for(codes.size, THREADS),
                THREADS,
                [out, codes, scales, *map(np.int32, sizes)],
            )
        return out


def _regions(matrix: Array, region: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of regions, at the edges cut off."""
    down, across = (-(-n // max(size, 1)) for n, size in zip(matrix.shape, region, strict=True))
    return down, across
