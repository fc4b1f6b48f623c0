"""The op table's rows of low precision as compiled kernels: to codes, back, and W4A4.

What kernels do not compute is the definition's own work: a tensor scale that is no normal positive
number, scales that are NaN, MXFP4 scales so far apart that a block's term leaves float32's range.
Its errors are the definition's, too: whoever gives a kernel NaN is told by it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinymoe.core import Array
from tinymoe.formats.conventions import FP8, MXFP4, NVFP4, Source
from tinymoe.formats.fp8 import EPSILON, Granularity, PowerOfTwo
from tinymoe.kernels import formats_ops
from tinymoe.kernels.cpu import dequantise as back
from tinymoe.kernels.cpu import quantise_fp8 as fp8
from tinymoe.kernels.cpu import quantise_mxfp4 as mx
from tinymoe.kernels.cpu import quantise_nvfp4 as nv
from tinymoe.kernels.cpu.batch import aligned
from tinymoe.kernels.cpu.codes import log2_misses, rounding_of
from tinymoe.kernels.cpu.ops_products import CpuProducts
from tinymoe.kernels.formats_ops import Packed

SMALLEST, LARGEST = 2.0**-126, 2.0**126  # tensor scales whose reciprocals are normal, too


class CpuFormats(CpuProducts):
    """Quantisers and dequantisers, as `formats_ops` has them."""

    def quantize_nvfp4(
        self, x: Array, tensor_scale: float | None, convention: str, source: Source
    ) -> Packed:
        """`formats_ops.quantize_nvfp4`: x (..., N, K) float32 under a given tensor scale."""
        given = {"tensor_scale": tensor_scale, "convention": convention, "source": source}
        row = NVFP4.get(convention)
        if row is None or not _plain(x, 16) or not _usual(tensor_scale, row.tensor_scale):
            return formats_ops.quantize_nvfp4(x, **given)  # type: ignore[arg-type]
        sharing = 16 if convention == "te_2d" else 1
        wrong_rows = sharing > 1 and (x.ndim < 2 or x.shape[-2] % sharing)
        if wrong_rows or (source == "bfloat16" and not _is_bf16(x)):
            return formats_ops.quantize_nvfp4(x, **given)  # type: ignore[arg-type]
        scale = 1.0 if tensor_scale is None else float(np.float32(tensor_scale))
        if row.tensor_scale == "amax":
            scale = float(
                np.minimum(np.float32(2688) / np.float32(scale), np.finfo(np.float32).max)
            )
        rule, made = rounding_of(row.element), _Made(x, 16)
        self._step(
            1, nv.quantise_nvfp4, **made.arguments, sharing=sharing, tensor_scale=scale,
            convention=nv.STEPS[convention],
            source=row.source_matters and source == "bfloat16", **rule._asdict(),
        )  # fmt: skip
        if made.bad[0]:
            return formats_ops.quantize_nvfp4(x, **given)  # type: ignore[arg-type]
        return made.packed

    def dequantize_nvfp4(
        self, codes: Array, scales: Array, tensor_scale: float | None, convention: str
    ) -> Array:
        """`formats_ops.dequantize_nvfp4`: the values (..., N, K) float32."""
        row = NVFP4.get(convention)
        if row is None or not _fit(codes, scales, 16):
            return formats_ops.dequantize_nvfp4(codes, scales, tensor_scale, convention)
        out = np.empty((*codes.shape[:-1], 2 * codes.shape[-1]), np.float32)
        padded = padded_scales(scales)
        self._step(
            1, back.dequantise_nvfp4, codes=np.ascontiguousarray(codes),
            rows=out.size // out.shape[-1], columns=out.shape[-1], scales=padded,
            scale_stride=padded.shape[-1], out=out,
            tensor_scale=1.0 if tensor_scale is None else float(np.float32(tensor_scale)),
            association=back.ASSOCIATIONS[row.association],
        )  # fmt: skip
        return out

    def quantize_mxfp4(self, x: Array, convention: str) -> Packed:
        """`formats_ops.quantize_mxfp4`: x (..., N, K) float32."""
        row = MXFP4.get(convention)
        if row is None or not _plain(x, 32) or row.exponent not in mx.EXPONENTS:
            return formats_ops.quantize_mxfp4(x, convention)
        made, deepgemm = _Made(x, 32), convention == "deepgemm"
        self._step(
            1, mx.quantise_mxfp4, **made.arguments, exponent=mx.EXPONENTS[row.exponent],
            scaling=mx.SCALINGS[row.scaling], floor=float(np.float32(1e-4)) if deepgemm else 0.0,
            lowest=int(deepgemm), overflow=mx.CT_OVERFLOW if convention == "ct" else mx.NEVER,
            misses=log2_misses(), **rounding_of(row.element)._asdict(),
        )  # fmt: skip
        return formats_ops.quantize_mxfp4(x, convention) if made.bad[0] else made.packed

    def dequantize_mxfp4(self, codes: Array, scales: Array, convention: str) -> Array:
        """`formats_ops.dequantize_mxfp4`: the values (..., N, K) float32."""
        row = MXFP4.get(convention)
        if row is None or not _fit(codes, scales, 32):
            return formats_ops.dequantize_mxfp4(codes, scales, convention)
        out = np.empty((*codes.shape[:-1], 2 * codes.shape[-1]), np.float32)
        padded = padded_scales(scales)
        self._step(
            1, back.dequantise_mxfp4, codes=np.ascontiguousarray(codes),
            rows=out.size // out.shape[-1], columns=out.shape[-1], scales=padded,
            scale_stride=padded.shape[-1], reading=back.READINGS[row.reading], out=out,
        )  # fmt: skip
        return out

    def quantize_fp8(
        self,
        x: Array,
        convention: str,
        granularity: Granularity,
        source: Source,
        power_of_two: PowerOfTwo,
    ) -> Packed:
        """`formats_ops.quantize_fp8`: x (N, K) float32."""
        given: Any = (x, convention, granularity, source, power_of_two)
        row, up = FP8.get(convention), ("no", "bits", "log2").index(power_of_two)
        if row is None or not _plain(x, 1) or x.ndim != 2:
            return formats_ops.quantize_fp8(*given)
        if up and row.element not in ("w/s", "w*(1/s)"):
            return formats_ops.quantize_fp8(*given)
        grid, bad = self._maxima(x, granularity, source)
        steps, floor, lowest = fp8.SCALES[row.scale]
        divides = row.element in ("w/s", "rd(w/s)")
        element = fp8.DIVIDE if divides else fp8.BY_AMAX
        element = fp8.MULTIPLY if row.element == "w*(1/s)" else element
        maxima, scales, factors = (aligned(-(-grid.size // 16) * 16) for _ in range(3))
        maxima[: grid.size] = grid.reshape(-1)
        in_bf16 = source == "bfloat16"
        self._step(
            1, fp8.scales_fp8, maxima=maxima, count=len(maxima), steps=steps,
            floor=float(np.float32(floor)), least=float(np.float32(lowest)),
            source=in_bf16 and row.scale.startswith("rd"),
            eps=float(EPSILON[source]) if row.scale.endswith("eps") else 0.0, up=up,
            misses=log2_misses(), element=element, scales=scales, factors=factors,
        )  # fmt: skip
        if bad or not scales[: grid.size].all():  # not finite, no BF16, or a block of zeros
            return formats_ops.quantize_fp8(*given)
        high, wide = (-(-n // g) for n, g in zip(x.shape, grid.shape, strict=True))
        if granularity in ("block", "group"):
            high, wide = (fp8.SIDE if granularity == "block" else 1), fp8.SIDE
        codes = np.empty((len(x), -(-x.shape[1] // 16) * 16), np.uint8)
        self._step(
            1, fp8.quantise_fp8, x=np.ascontiguousarray(x), rows=len(x), columns=x.shape[1],
            stride=x.shape[1], factors=factors, factor_rows=high, factor_columns=wide,
            factor_stride=grid.shape[1], element=element,
            source=in_bf16 and row.element == "rd(w/s)", codes=codes, code_stride=codes.shape[1],
        )  # fmt: skip
        found = scales[: grid.size].reshape(() if granularity == "tensor" else grid.shape).copy()
        return Packed(codes[:, : x.shape[1]].copy(), found)

    def dequantize_fp8(self, codes: Array, scales: Array, block: tuple[int, int]) -> Array:
        """`formats_ops.dequantize_fp8`: (N, K) float32, `block` rows and columns to a scale."""
        rows, columns = codes.shape
        expected = (-(-rows // block[0]), -(-columns // block[1]))
        if codes.dtype != np.uint8 or scales.size != expected[0] * expected[1]:
            return formats_ops.dequantize_fp8(codes, scales, block)
        padded = np.zeros((rows, columns + 16), np.uint8)  # 16 are read at a time
        padded[:, :columns] = codes
        out = np.empty(codes.shape, np.float32)
        self._step(
            1, back.dequantise_fp8, codes=padded, code_stride=columns + 16, rows=rows,
            columns=columns, scales=np.ascontiguousarray(scales, np.float32), high=block[0],
            wide=block[1], scale_stride=expected[1], out=out,
        )  # fmt: skip
        return out

    def _maxima(self, x: Array, granularity: Granularity, source: Source) -> tuple[Array, bool]:
        """Largest magnitudes, one for each scale; and whether x is what no kernel takes."""
        rows, columns = x.shape
        pieces = -(-columns // fp8.SIDE)
        found, bad = np.zeros((rows, pieces), np.float32), np.zeros(1, np.int64)
        self._step(
            1, fp8.maxima_fp8, x=np.ascontiguousarray(x), rows=rows, columns=columns,
            stride=columns, maxima=found, pieces=pieces, source=source == "bfloat16", bad=bad,
        )  # fmt: skip
        if granularity == "tensor":
            found = found.max(keepdims=True)
        elif granularity == "channel":
            found = found.max(axis=1, keepdims=True)
        elif granularity == "block":
            found = np.maximum.reduceat(found, np.arange(0, rows, fp8.SIDE), axis=0)
        return found, bool(bad[0])


class _Made:
    """What a quantiser of four-bit codes is given to write to."""

    def __init__(self, x: Array, block: int) -> None:
        columns = x.shape[-1]
        self._shape, self._blocks = x.shape, columns // block
        rows, stride = x.size // columns, -(-self._blocks // 16) * 16
        self._codes = np.empty((rows, columns // 2), np.uint8)
        self._scales = np.empty((rows, stride), np.uint8)
        self.bad = np.zeros(1, np.int64)
        self.arguments: dict[str, Any] = {
            "x": np.ascontiguousarray(x), "rows": rows, "columns": columns,
            "codes": self._codes, "scales": self._scales, "scale_stride": stride, "bad": self.bad,
        }  # fmt: skip

    @property
    def packed(self) -> Packed:
        """As the definition gives it."""
        lead = self._shape[:-1]
        scales = np.ascontiguousarray(self._scales[:, : self._blocks])
        return Packed(self._codes.reshape(*lead, -1), scales.reshape(*lead, -1))


def _plain(x: Array, block: int) -> bool:
    """float32 in whole blocks, not empty."""
    return x.dtype == np.float32 and x.ndim > 0 and x.size > 0 and x.shape[-1] % block == 0


def _is_bf16(x: Array) -> bool:
    return not (np.ascontiguousarray(x).view(np.uint32) & 0xFFFF).any()


def _usual(tensor_scale: float | None, meaning: str) -> bool:
    """A tensor scale where the convention has one, normal as its reciprocal is."""
    if tensor_scale is None or meaning == "none":
        return tensor_scale is None and meaning == "none"
    return bool(SMALLEST <= tensor_scale <= LARGEST)


def _fit(codes: Array, scales: Array, block: int) -> bool:
    """Bytes, one scale for each block."""
    shapes = (*codes.shape[:-1], 2 * codes.shape[-1]) == (
        *scales.shape[:-1],
        scales.shape[-1] * block,
    )
    return codes.dtype == np.uint8 and scales.dtype == np.uint8 and codes.size > 0 and shapes


def padded_scales(scales: Array) -> Array:
    """Rows up to whole sixteens, which are read at once."""
    wide = -(-scales.shape[-1] // 16) * 16
    out = np.zeros((*scales.shape[:-1], wide), np.uint8)
    out[..., : scales.shape[-1]] = scales
    return out
