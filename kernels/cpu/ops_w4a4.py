"""W4A4 as the op table calls it: codes on both sides, and the experts' network in between.

The definition computes what the kernels' numbers cannot say: scales that are NaN, which it
refuses, and MXFP4 scales beyond 2^60 on either side, whose products leave float32's range.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from tinymoe.core import Array, Numerics
from tinymoe.kernels import ffn_nvfp4, formats_ops
from tinymoe.kernels.cpu import linear as product
from tinymoe.kernels.cpu.batch import TOKENS, aligned
from tinymoe.kernels.cpu.buffers import stride_of
from tinymoe.kernels.cpu.coded_rows import coded_rows, row_bytes
from tinymoe.kernels.cpu.inputs import codes_of
from tinymoe.kernels.cpu.ops_formats import CpuFormats, padded_scales
from tinymoe.kernels.cpu.pack import Packed, pack_quantised

LARGEST_E4M3 = 0x7E
E8M0_NEAR = (127 - 60, 127 + 60)


class CpuW4a4(CpuFormats):
    """Products of codes by codes."""

    def gemm_nvfp4_w4a4(
        self,
        x_codes: Array,
        x_scales: Array,
        weight_codes: Array,
        weight_scales: Array,
        alpha: float,
        numerics: Numerics,
    ) -> Array:
        """`formats_ops.gemm_nvfp4_w4a4`: alpha times codes (T, K) times codes (N, K)."""
        given = (x_codes, x_scales, weight_codes, weight_scales)
        if not _usual(numerics, 16, x_scales, weight_scales) or not len(x_codes):
            return formats_ops.gemm_nvfp4_w4a4(*given, alpha, numerics)
        weight = pack_quantised(
            formats_ops.nvfp4_tensor(weight_codes, weight_scales, alpha, "modelopt")
        )
        return self._times_codes(x_codes, x_scales, weight, numerics)

    def gemm_mxfp4_w4a4(
        self,
        x_codes: Array,
        x_scales: Array,
        weight_codes: Array,
        weight_scales: Array,
        numerics: Numerics,
    ) -> Array:
        """`formats_ops.gemm_mxfp4_w4a4`: codes (T, K) times codes (N, K)."""
        given = (x_codes, x_scales, weight_codes, weight_scales)
        if not _usual(numerics, 32, x_scales, weight_scales) or not len(x_codes):
            return formats_ops.gemm_mxfp4_w4a4(*given, numerics)
        weight = pack_quantised(formats_ops.mxfp4_tensor(weight_codes, weight_scales))
        return self._times_codes(x_codes, x_scales, weight, numerics)

    def grouped_gemm_nvfp4_w4a4(
        self,
        x_codes: Array,
        x_scales: Array,
        weight_codes: Array,
        weight_scales: Array,
        alphas: Array,
        offsets: Array,
        numerics: Numerics,
    ) -> Array:
        """`formats_ops.grouped_gemm_nvfp4_w4a4`: rows in expert order, weights (E, N, K)."""
        given = (x_codes, x_scales, weight_codes, weight_scales)
        if not _usual(numerics, 16, x_scales, weight_scales) or not len(x_codes):
            return formats_ops.grouped_gemm_nvfp4_w4a4(*given, alphas, offsets, numerics)
        weight = _packed_nvfp4(weight_codes, weight_scales, alphas)
        rows = self.code_rows(x_codes, x_scales, 16)
        return self.experts_of_codes(rows, weight, offsets, numerics)

    def grouped_gemm_mxfp4_w4a4(
        self,
        x_codes: Array,
        x_scales: Array,
        weight_codes: Array,
        weight_scales: Array,
        offsets: Array,
        numerics: Numerics,
    ) -> Array:
        """`formats_ops.grouped_gemm_mxfp4_w4a4`: rows in expert order, weights (E, N, K)."""
        given = (x_codes, x_scales, weight_codes, weight_scales)
        if not _usual(numerics, 32, x_scales, weight_scales) or not len(x_codes):
            return formats_ops.grouped_gemm_mxfp4_w4a4(*given, offsets, numerics)
        weight = pack_quantised(formats_ops.mxfp4_tensor(weight_codes, weight_scales))
        rows = self.code_rows(x_codes, x_scales, 32)
        return self.experts_of_codes(rows, weight, offsets, numerics)

    def expert_ffn_nvfp4_w4a4(
        self,
        x_codes: Array,
        x_scales: Array,
        gate_up_codes: Array,
        gate_up_scales: Array,
        gate_up_alphas: Array,
        hidden_scales: Array,
        down_codes: Array,
        down_scales: Array,
        down_alphas: Array,
        offsets: Array,
        numerics: Numerics,
    ) -> Array:
        """`ffn_nvfp4.expert_ffn_nvfp4_w4a4`: rows (S, H) in expert order -> (S, H).

        silu(gate) * up leaves the first product finished, and is quantised by each expert's scale.
        """
        if not _usual(numerics, 16, x_scales, gate_up_scales, down_scales) or not len(x_codes):
            return ffn_nvfp4.expert_ffn_nvfp4_w4a4(
                x_codes, x_scales, gate_up_codes, gate_up_scales, gate_up_alphas, hidden_scales,
                down_codes, down_scales, down_alphas, offsets, numerics,
            )  # fmt: skip
        up = _packed_nvfp4(gate_up_codes, gate_up_scales, gate_up_alphas, gate_up=True)
        down = _packed_nvfp4(down_codes, down_scales, down_alphas)
        rows = self.code_rows(x_codes, x_scales, 16)
        hidden = self.experts_of_codes(rows, up, offsets, numerics, kind=product.SWIGLU)
        parts = [
            self.quantize_nvfp4(hidden[start:stop], float(hidden_scales[e]), "kernel", "float32")
            for e, (start, stop) in enumerate(pairwise(offsets.tolist()))
            if start < stop
        ]
        codes, scales = (np.concatenate(each) for each in zip(*parts, strict=True))
        return self.experts_of_codes(self.code_rows(codes, scales, 16), down, offsets, numerics)

    def code_rows(self, codes: Array, scales: Array, block: int) -> Array:
        """Codes (T, K/2) and scale bytes (T, K/block) as rows that the products read: float32."""
        columns = 2 * codes.shape[1]
        step = row_bytes(columns, block)
        out = aligned(len(codes) * step, np.uint8).reshape(len(codes), step)
        wide = padded_scales(scales)
        self._step(
            1, coded_rows, codes=np.ascontiguousarray(codes), rows=len(codes), columns=columns,
            block=block, scales=wide, scale_stride=wide.shape[1], out=out, out_bytes=step,
        )  # fmt: skip
        return out.view(np.float32)

    def _times_codes(
        self, codes: Array, scales: Array, weight: Packed, numerics: Numerics
    ) -> Array:
        """(T, K) times packed tiles (N, K) -> (T, N)."""
        rows = self.code_rows(codes, scales, weight.form.block)
        out = np.zeros((len(rows), weight.pairs * 32), np.float32)
        self._step(
            len(rows), product.linear, x=rows, x_stride=rows.shape[1], count=TOKENS, rows=0,
            **codes_of(weight), bias=None, out=out, out_stride=out.shape[1], residual=None,
            part=None, factor=1.0, kind=product.PLAIN, rounding=numerics.storage == "bfloat16",
        )  # fmt: skip
        return out[:, : weight.rows].copy()

    def experts_of_codes(
        self,
        rows: Array,
        weight: Packed,
        offsets: Array,
        numerics: Numerics,
        kind: int = product.PLAIN,
    ) -> Array:
        """Each expert's rows times its tiles: (S, N), or (S, N/2) of an activated gate-up."""
        width = weight.rows if kind == product.PLAIN else weight.rows // 2
        out = np.zeros((len(rows), stride_of(weight.pairs * 32)), np.float32)
        self._step(
            len(rows), product.experts, x=rows, x_stride=rows.shape[1],
            order=np.arange(len(rows)), offsets=np.ascontiguousarray(offsets, np.int64),
            experts=weight.experts, top_k=0, **codes_of(weight), bias=None, out=out,
            out_stride=out.shape[1], kind=kind, limit=0.0, alpha=0.0,
            rounding=numerics.storage == "bfloat16",
        )  # fmt: skip
        return out[:, :width].copy()


def _packed_nvfp4(codes: Array, scales: Array, alphas: Array, *, gate_up: bool = False) -> Packed:
    """Experts, the whole product's factor of each as its tensor scale."""
    plain = formats_ops.nvfp4_tensor(codes, scales, 1.0, "modelopt")
    several: Any = alphas
    return pack_quantised(replace(plain, tensor_scale=several), gate_up=gate_up)


def _usual(numerics: Numerics, block: int, *scales: Array) -> bool:
    """Sums in float32, and scales whose products it holds."""
    if numerics.accumulate == "float64":
        return False
    if block == 16:
        return all(int(each.max(initial=0)) <= LARGEST_E4M3 for each in scales)
    low, high = E8M0_NEAR
    return all(low <= each.min(initial=127) <= each.max(initial=127) <= high for each in scales)
