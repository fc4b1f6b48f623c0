"""Experts that stay four-bit: NVFP4 codes and scales where a layer has arrays, met by W4A16.

`pack` makes them of a layer's matrices; the layer then runs on `PackedOps` with the grouped GEMM of
`ops_fp4_gemm.py` for both products. What it must equal: the definition on the same values, decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinymoe.core import Array, Numerics, TinymoeError
from tinymoe.formats import nvfp4
from tinymoe.kernels.cuda.arguments import blocks_for, rounds
from tinymoe.kernels.cuda.calls import THREADS, ints
from tinymoe.kernels.cuda.launch import launch
from tinymoe.kernels.cuda.ops_fp4_gemm import Fp4Gemm
from tinymoe.kernels.cuda.ops_model import ModelOps


@dataclass(frozen=True, slots=True, eq=False)
class PackedExperts:
    """A stack of matrices (E, N, K) in NVFP4. An op that does not know it fails."""

    codes: Array  # (E, N, K/2) uint8
    scales: Array  # (E, N, K/16) E4M3 bytes
    tensor_scales: Array  # (E,) float32, of the convention's meaning
    convention: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the values."""
        return (*self.codes.shape[:-1], 2 * self.codes.shape[-1])


def pack(stack: Array, convention: str) -> tuple[PackedExperts, Array]:
    """Matrices (E, N, K) quantised, each with a tensor scale of its own; and the values kept.

    `stack` float32 (bfloat16 values); the decoded ones likewise float32.
    """
    made = [
        nvfp4.encode(one, convention=convention, source="bfloat16", zero_tensor="refuse")
        for one in stack
    ]
    scales = [q.tensor_scale for q in made]
    if any(scale is None for scale in scales):
        raise TinymoeError(f"convention {convention!r} has no tensor scale: choose another one")
    packed = PackedExperts(
        np.stack([q.codes for q in made]),
        np.stack([q.scales for q in made]),
        np.array(scales, np.float32),
        convention,
    )
    return packed, np.stack([nvfp4.decode(q) for q in made]).astype(np.float32)


class PackedOps(ModelOps):
    """`ModelOps` that also take packed experts."""

    def expert_ffn(
        self,
        x: Array,
        gate_up: Any,
        down: Any,
        offsets: Array,
        numerics: Numerics,
        **extras: Any,
    ) -> Array:
        """Rows x (S, H) in expert order: (S, H). expert_ffn.cu.

        Packed experts (plain SwiGLU without biases): grouped_gemm_nvfp4_mma.cu for both products;
        gate, up and their product are rounded to storage between.
        """
        if not isinstance(gate_up, PackedExperts) or not isinstance(down, PackedExperts):
            return super().expert_ffn(x, gate_up, down, offsets, numerics, **extras)
        if extras:
            raise TinymoeError(f"packed experts are plain SwiGLU without biases, got {[*extras]}")
        device, (rows, width) = self.device, (len(x), gate_up.shape[1] // 2)
        both = self._product(x, gate_up, offsets, numerics)  # (S, 2I)
        hidden = device.empty((rows, width), np.float32)
        if rows:
            launch(
                device.kernel("expert_ffn", "swiglu_naive"),
                blocks_for(hidden.size, THREADS),
                THREADS,
                [hidden, both, *ints(rows, width, 0), *[np.float32(0)] * 2, rounds(numerics)],
            )
        return self._product(hidden, down, offsets, numerics)

    def _product(self, x: Any, weight: PackedExperts, offsets: Array, numerics: Numerics) -> Array:
        return Fp4Gemm(self.device).grouped_gemm_nvfp4(
            x=x,
            weight_codes=weight.codes,
            weight_scales=weight.scales,
            tensor_scales=weight.tensor_scales,
            offsets=offsets,
            convention=weight.convention,
            numerics=numerics,
        )
