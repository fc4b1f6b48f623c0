"""FP8 (E4M3) weights: one scale a tensor, a row, or a block; it multiplies, whatever its name.

    DeepSeek                       X.weight_scale_inv   (ceil(N / rows), ceil(K / columns))
    ModelOpt, compressed-tensors   X.weight_scale       tensor: () or (1,); channel: (N,) or (N, 1);
                                                        block: as above, ModelOpt's (n, 1, k, 1)

Stacks (Granite's `input_linear`) have the expert in front of each; Llama-4's fused experts, inputs
first, are read with one scale a tensor, `X_weight_scale`, as ModelOpt writes them. q/k/v may have
three scales where an engine requantises to one: here each keeps its own.

Sources: deepseek-ai/DeepSeek-V3, README_WEIGHTS.md; ModelOpt's `export/quant_utils`;
compressed-tensors' `quantization/lifecycle`; vllm#42463 for Granite's shapes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import Array, QuantTensor, TinymoeError
from tinymoe.families.layout_parts import (
    SCALES,
    Coded,
    Input,
    Layout,
    Part,
    Shape,
    refuse_nan,
    scalar,
    scale_values,
    stacked,
)
from tinymoe.families.scheme import Scheme
from tinymoe.formats import e4m3, fp8
from tinymoe.formats.inputs import InputFormat


def fp8_layout(scheme: Scheme, checkpoint: Checkpoint, name: str, shape: Shape) -> Layout:
    """Codes times the scale of their block. The last block of a side may be a partial one.

    So a side of a block is what the config says, not rows divided by rows of scales: for
    DeepSeek-V3's 576 rows of `kv_a_proj_with_mqa` and 5 of scales that would be 115.
    """
    deepseek = scheme.method == "fp8"
    matrix, fused = len(shape) == 2 and ".weight" in name, not name.endswith(".weight")
    if not matrix and (len(shape) != 3 or deepseek or (fused and scheme.granularity != "tensor")):
        raise TinymoeError(
            f"tensor {name!r} of shape {shape}: expected FP8 in matrices called *.weight (or in "
            "stacks of experts, of ModelOpt or compressed-tensors); others are not read"
        )
    experts = None if len(shape) == 2 else shape[0]
    prefix = f"{name}_weight_" if fused and experts else f"{name}_"
    scales = f"{prefix}scale_inv" if deepseek else f"{prefix}scale"
    block = {
        "tensor": (shape[-2], shape[-1]),
        "channel": (1, shape[-1]),
        "block": scheme.block,
    }[scheme.granularity]
    grid = (math.ceil(shape[-2] / block[0]), math.ceil(shape[-1] / block[1]))
    part = _scale_part(checkpoint, scales, scheme, grid, experts)

    def stored(checkpoint: Checkpoint, expert: int | None) -> QuantTensor:
        codes, each = checkpoint.raw(name), scale_values(checkpoint, scales, np.float32)
        lead = () if experts is None else (experts,)
        each = each.reshape(*lead, *grid) if each.size == math.prod((*lead, *grid)) else each
        if expert is not None:
            codes = codes[expert]
            each = each[expert] if each.ndim == 3 else each.reshape(())
        refuse_nan(checkpoint, name, codes, "E4M3 codes")
        return QuantTensor(
            format="fp8",
            convention="div32",
            codes=codes,
            scales=each,
            block=block,
            tensor_scale=None,
            tensor_scale_is="none",
        )

    def read_one(checkpoint: Checkpoint, dtype: np.dtype[Any], expert: int | None) -> Array:
        found = stored(checkpoint, expert)
        # float32: one rounding, of the product; float64: none
        return fp8.decode_blocks(found.codes, found.scales.astype(dtype), block)

    def read(checkpoint: Checkpoint, dtype: np.dtype[Any]) -> Array:
        return read_one(checkpoint, dtype, None)

    needed = _input(scheme, checkpoint, name, prefix, experts)
    parts = [Part(name, shape, ("F8_E4M3",)), part]
    if needed is not None:
        parts += [scale for scale in needed.parts if scale.name in checkpoint]
    coded = Coded("fp8", block[1], stored)
    if experts is None:
        return Layout(tuple(parts), read, None, needed, coded)
    return Layout(tuple(parts), stacked(read_one, shape), read_one, needed, coded)


def _scale_part(
    checkpoint: Checkpoint, name: str, scheme: Scheme, grid: tuple[int, int], experts: int | None
) -> Part:
    """The scales, in whichever of the exporters' shapes is there."""
    if scheme.granularity == "tensor":
        return scalar(checkpoint, name, SCALES, experts)
    lead: Shape = () if experts is None else (experts,)
    shapes: list[Shape] = [(*lead, *grid)]
    if scheme.granularity == "channel":
        shapes.append((*lead, grid[0]))
    elif scheme.method == "fp8_modelopt":
        shapes.append((*lead, grid[0], 1, grid[1], 1))
    found = checkpoint.entry(name).shape if name in checkpoint else shapes[0]
    return Part(name, found if found in shapes else shapes[0], SCALES)


def _input(
    scheme: Scheme, checkpoint: Checkpoint, name: str, prefix: str, experts: int | None
) -> Input | None:
    """How the input becomes E4M3: under a static scale, or one found in each row or group.

    vLLM's arithmetic: times 1/s under a static scale (`static_scaled_fp8_quant`), and of a token
    as its compiled path has it (`QuantFP8.forward_native`; its CUDA kernel for tokens multiplied
    once and divides by s today); divided by s of a group. The two part where a quotient is half
    way between codes. DeepSeek's `act_quant` for its own checkpoints.
    """
    if scheme.inputs == "none":
        return None
    if scheme.inputs == "fp8_tensor":
        static = f"{prefix.removesuffix('weight_')}input_scale"
        part = scalar(checkpoint, static, SCALES, experts)

        def read(checkpoint: Checkpoint) -> tuple[InputFormat, ...]:
            values = scale_values(checkpoint, static, np.float32).reshape(-1)
            return tuple(
                InputFormat(
                    kind="fp8_tensor", convention="vllm_token", scale=s, scale_is="multiplier"
                )
                for s in values
            )

        return Input((part,), read)
    return Input((), lambda checkpoint: (_dynamic(scheme, name),))


def _dynamic(scheme: Scheme, name: str) -> InputFormat:
    if scheme.inputs == "fp8_token":
        return InputFormat(kind="fp8_token", convention="vllm_token")
    if scheme.block[1] != fp8.SIDE:
        raise TinymoeError(
            f"tensor {name!r}: its inputs are quantised in groups of {scheme.block[1]}, those that "
            f"are emulated have {fp8.SIDE}; use the numerics 'bf16', which leave inputs as they are"
        )
    return InputFormat(
        kind="fp8_group",
        convention="deepseek_act" if scheme.method == "fp8" else "vllm_group",
        power_of_two="log2" if scheme.power_of_two else "no",
    )


def cache_format(scale: np.floating[Any]) -> InputFormat:
    """FP8 keys or values under one scale: E4M3(x / s), as vLLM's `reshape_and_cache` divides.

    Its conversion (`fp8/nvidia/quant_utils.cuh`) divides in float32 and saturates.
    """
    if not float(scale) * e4m3.MAX < math.inf:
        raise TinymoeError(f"expected a scale of keys or values, got {scale}")
    return InputFormat(kind="fp8_tensor", convention="div32", scale=scale, scale_is="multiplier")
