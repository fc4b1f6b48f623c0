"""W4A4: how activations become FP4 on their way into a GEMM.

NVFP4: block scales are dynamic, the tensor scale is static, from calibration. ModelOpt stores the
multiplier `input_scale` = amax / 2688, compressed-tensors the divisor `input_global_scale` =
2688 / amax, in the activations' dtype (624.0, 620.0). The kernel gets S = 1 / input_scale, or
input_global_scale, and runs on each token row by itself. Tokens louder than the calibration clip
twice: the block scale at 448, the codes at 6; nothing rescues them. The config's `dynamic: "local"`
(compressed-tensors) means exactly this, and ModelOpt's `dynamic: false` too.

MXFP4: everything is dynamic; `mxfp4.encode` is all there is.

The weights' convention and the activations' differ in one product: weights are quantised offline
by "modelopt" or "ct", activations online by a kernel.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from tinymoe.core import Array, QuantTensor, TinymoeError
from tinymoe.formats import nvfp4
from tinymoe.formats.checks import finite_blocks
from tinymoe.formats.conventions import NVFP4, Source
from tinymoe.formats.nvfp4_encoders import ONE, PEAK, ambiguous

Scalar = np.floating[Any]
Meaning = Literal["multiplier", "divisor"]


def quantize_nvfp4(
    x: Array, input_scale: Scalar | float, *, meaning: Meaning, convention: str, source: Source
) -> QuantTensor:
    """x (T, K) float32 to NVFP4 under the checkpoint's static scale.

    meaning: "multiplier" (ModelOpt input_scale) or "divisor" (input_global_scale). There is no
    guessing: the wrong one is off by its square. convention: one of the kernels'.
    The result carries input_scale as it was given, for `gemm.alpha`.
    """
    S = _kernel_scale(input_scale, meaning)
    if convention not in NVFP4 or NVFP4[convention].association != "reciprocal":
        kernels = [name for name, row in NVFP4.items() if row.association == "reciprocal"]
        raise TinymoeError(
            f"convention: expected one that runs on activations ({', '.join(kernels)}), got "
            f"{convention!r}"
        )
    q = nvfp4.encode_with(x, S, convention=convention, source=source)
    return replace(q, tensor_scale=np.float32(input_scale), tensor_scale_is=meaning)


def clipped(x: Array, input_scale: Scalar | float, *, meaning: Meaning) -> Array:
    """Blocks (..., K/16) of x too loud for the calibration: amax * S above 2688 (imp#1544).

    Their largest values are cut to 2688 / S = 6 * 448 * input_scale, with no word from the kernel.
    """
    blocks = finite_blocks("x", x, nvfp4.BLOCK)
    return np.abs(blocks).max(axis=-1).astype(np.float64) * float(
        _kernel_scale(input_scale, meaning)
    ) > float(PEAK)


def ambiguous_places(x: Array, input_scale: Scalar | float, *, meaning: Meaning) -> Array:
    """Elements (..., K) whose code, or whose block's scale, hardware may round the other way.

    True where moving any of the kernel's three reciprocals by one ulp changes it, as rcp.approx
    may: 1 to 2 % of BF16 codes at worst. A mismatch elsewhere is a bug.
    """
    blocks = finite_blocks("x", x, nvfp4.BLOCK)
    amax = np.abs(blocks).max(axis=-1, keepdims=True)
    with np.errstate(all="ignore"):
        scales, codes = ambiguous(blocks, amax, _kernel_scale(input_scale, meaning))
    return (scales | codes).reshape(x.shape)


def _kernel_scale(input_scale: Scalar | float, meaning: Meaning) -> Scalar:
    """S, the divisor that a kernel takes, in float32."""
    scale = np.float32(input_scale)
    if not (np.isfinite(scale) and scale > 0) or scale < np.finfo(np.float32).tiny:
        raise TinymoeError(
            f"input_scale: expected a positive normal float32, got {input_scale!r}; a checkpoint "
            "without one is weight-only (W4A16): its activations stay as they are"
        )
    return np.float32(ONE / scale) if meaning == "multiplier" else scale
