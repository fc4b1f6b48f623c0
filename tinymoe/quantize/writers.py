"""How each layout stores a matrix: the names, types and shapes of its tensors, and their bytes.

The bytes are those of `tinymoe.formats`, of the convention that the layout's exporter follows.

Sources: NVIDIA Model-Optimizer, `torch/export/{quant_utils,unified_export_hf}.py`;
compressed-tensors, `compressors/`; deepseek-ai/DeepSeek-V3, README_WEIGHTS.md; openai/gpt-oss,
`weights.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from tinymoe.core import Array, QuantTensor
from tinymoe.formats import bf16, fp8, mxfp4, nvfp4
from tinymoe.formats.conventions import Source
from tinymoe.safetensors_writer import Spec

FormatName = Literal["nvfp4", "mxfp4", "fp8"]
Fused = Literal["all", "experts", "none"]


@dataclass(frozen=True, slots=True)
class Module:
    """A matrix (N, K) that is quantised, or a stack of experts' (E, K, N)."""

    name: str
    tensor: str  # its tensor in the checkpoint
    shape: tuple[int, ...]  # of that tensor
    path: str  # its array in `Params`
    expert: int | None
    group: str  # modules with the same one share a tensor scale
    source: Source  # dtype of the checkpoint's tensor; F16 counts as float32

    @property
    def columns(self) -> int:
        """K, the length of what it is multiplied with."""
        return self.shape[1]


class Made(NamedTuple):
    """One quantised module."""

    tensors: dict[str, Array]  # as they are stored, by name
    values: Array  # what they stand for, in the shape of the module


Parts = Callable[[Module, bool], dict[str, Spec]]  # the flag: whether activations have a scale
# module, its values in float32, largest magnitude of its group, and of its input or None
Encode = Callable[[Module, Array, float, float | None], Made]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One way to store a quantised checkpoint."""

    format: FormatName
    convention: str
    scales: str  # what has a scale of its own: "block", "tensor" or "channel"
    title: str
    parts: Parts
    encode: Encode
    block: int = 1  # K divides by it
    static: bool = False  # activations have a scale from calibration, unless weights alone are made
    fused: Fused = "none"  # which groups share a tensor scale
    stacks: bool = False  # experts stored as (E, K, N) have a form
    experts_only: bool = False  # all else stays as it is


# ------------------------------------------------------------------------------------- NVFP4


def _modelopt_names(module: Module) -> tuple[str, str]:
    """Tensor, and what begins the names of its scales; a stack's are joined with "_"."""
    if len(module.shape) == 3:
        return module.tensor, f"{module.tensor}_"
    return module.tensor, f"{module.name}."


def nvfp4_modelopt_parts(module: Module, static: bool) -> dict[str, Spec]:
    """weight (N, K/2), weight_scale (N, K/16), weight_scale_2 (), input_scale ().

    A stack is packed along its second axis, the input, as gpt-oss's and Llama-4's are stored.
    """
    name, scales = _modelopt_names(module)
    half, blocks = _packed(module.shape)
    specs = {name: Spec("U8", half), f"{scales}weight_scale": Spec("F8_E4M3", blocks)}
    specs[f"{scales}weight_scale_2"] = Spec("F32", ())
    if static:
        specs[f"{scales}input_scale"] = Spec("F32", ())
    return specs


def nvfp4_modelopt(module: Module, w: Array, amax: float, seen: float | None) -> Made:
    """ModelOpt: multipliers, amax / 2688 (modular#6600 took one kind for the other)."""
    rows = w.swapaxes(1, 2) if w.ndim == 3 else w  # (..., N, K)
    q = _nvfp4(np.ascontiguousarray(rows), amax, "modelopt", module.source)
    name, scales = _modelopt_names(module)
    codes, blocks, values = q.codes, q.scales, nvfp4.decode(q)
    if w.ndim == 3:
        codes, blocks, values = (part.swapaxes(1, 2) for part in (codes, blocks, values))
    tensors = {name: codes, f"{scales}weight_scale": blocks}
    tensors[f"{scales}weight_scale_2"] = np.asarray(q.tensor_scale, np.float32)
    if seen is not None:
        scale = nvfp4.tensor_scale(seen, convention="modelopt", source=module.source)
        tensors[f"{scales}input_scale"] = np.asarray(scale, np.float32)
    return Made(tensors, values)


def nvfp4_ct_parts(module: Module, static: bool) -> dict[str, Spec]:
    """weight_packed (N, K/2), weight_scale (N, K/16), weight_global_scale (1,), and the input's."""
    half, blocks = _packed(module.shape)
    specs = {
        f"{module.name}.weight_packed": Spec("U8", half),
        f"{module.name}.weight_scale": Spec("F8_E4M3", blocks),
        f"{module.name}.weight_global_scale": Spec("F32", (1,)),
    }
    if static:
        specs[f"{module.name}.input_global_scale"] = Spec("F32", (1,))
    return specs


def nvfp4_ct(module: Module, w: Array, amax: float, seen: float | None) -> Made:
    """compressed-tensors: divisors, 2688 / amax, computed in the dtype of what they divide."""
    q = _nvfp4(w, amax, "ct", module.source)
    tensors = {
        f"{module.name}.weight_packed": q.codes,
        f"{module.name}.weight_scale": q.scales,
        f"{module.name}.weight_global_scale": np.array([q.tensor_scale], np.float32),
    }
    if seen is not None:
        scale = nvfp4.tensor_scale(seen, convention="ct", source=module.source)
        tensors[f"{module.name}.input_global_scale"] = np.array([scale], np.float32)
    return Made(tensors, nvfp4.decode(q))


def _nvfp4(w: Array, amax: float, convention: str, source: Source) -> QuantTensor:
    """Under the scale of the whole group; a group of zeros as what every decoder reads as zeros."""
    if amax == 0:
        return nvfp4.encode(w, convention=convention, source=source, zero_tensor="zeros")
    scale = nvfp4.tensor_scale(amax, convention=convention, source=source)
    return nvfp4.encode_with(w, scale, convention=convention, source=source)


def _packed(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of codes and of block scales: K is the second axis, of matrices and of stacks."""
    before, K, after = shape[0], shape[1], shape[2:]
    return (before, K // 2, *after), (before, K // nvfp4.BLOCK, *after)


# ------------------------------------------------------------------------------------- MXFP4


def mxfp4_ct_parts(module: Module, static: bool) -> dict[str, Spec]:
    """weight_packed (N, K/2), weight_scale (N, K/32) of E8M0 bytes."""
    rows, columns = module.shape
    return {
        f"{module.name}.weight_packed": Spec("U8", (rows, columns // 2)),
        f"{module.name}.weight_scale": Spec("U8", (rows, columns // mxfp4.BLOCK)),
    }


def mxfp4_ct(module: Module, w: Array, amax: float, seen: float | None) -> Made:
    """compressed-tensors: the exponent goes up from a fraction of 1.75."""
    q = mxfp4.encode(w, convention="ct")
    packed, scale = f"{module.name}.weight_packed", f"{module.name}.weight_scale"
    return Made({packed: q.codes, scale: q.scales}, mxfp4.decode(q))


def mxfp4_gpt_oss_parts(module: Module, static: bool) -> dict[str, Spec]:
    """X_blocks (E, N, K/32, 16), X_scales (E, N, K/32): rows along the input, not as in BF16."""
    experts, inputs, outputs = module.shape
    grid = (experts, outputs, inputs // mxfp4.BLOCK)
    return {
        f"{module.tensor}_blocks": Spec("U8", (*grid, mxfp4.BLOCK // 2)),
        f"{module.tensor}_scales": Spec("U8", grid),
    }


def mxfp4_gpt_oss(module: Module, w: Array, amax: float, seen: float | None) -> Made:
    """gpt-oss: (E, K, N) turned; gate and up rows go on taking turns."""
    specs = mxfp4_gpt_oss_parts(module, False)
    blocks, scales = (np.empty(spec.shape, np.uint8) for spec in specs.values())
    values = np.empty_like(w)
    for expert, matrix in enumerate(w):  # one at a time: a layer is gigabytes
        q = mxfp4.encode(np.ascontiguousarray(matrix.T), convention="gpt_oss")
        blocks[expert] = q.codes.reshape(blocks.shape[1:])
        scales[expert] = q.scales
        values[expert] = mxfp4.decode(q).T
    return Made(dict(zip(specs, (blocks, scales), strict=True)), values)


# ------------------------------------------------------------------------------------- FP8


def fp8_maker(
    convention: str,
    granularity: fp8.Granularity,
    suffix: str,
    shape_of: Callable[[int, int], tuple[int, ...]],
    kind: Literal["F32", "source"],
) -> tuple[Parts, Encode]:
    """The two functions of an FP8 layout: `weight` in E4M3 and its scales, which multiply.

    suffix: of the scales' name; shape_of: their shape on disk for a matrix (N, K); kind: their
    type, "source" for the weights' own.
    """

    def type_of(module: Module) -> str:
        return "BF16" if kind == "source" and module.source == "bfloat16" else "F32"

    def parts(module: Module, static: bool) -> dict[str, Spec]:
        rows, columns = module.shape
        scales = Spec(type_of(module), shape_of(rows, columns))
        specs = {module.tensor: Spec("F8_E4M3", (rows, columns))}
        specs[f"{module.name}.{suffix}"] = scales
        if static:
            specs[f"{module.name}.input_scale"] = Spec(scales.dtype, scales.shape)
        return specs

    def encode(module: Module, w: Array, amax: float, seen: float | None) -> Made:
        q = _fp8(w, amax, convention, granularity, module.source)
        stored = [(suffix, q.scales.reshape(shape_of(*w.shape)))]
        if seen is not None:
            scale = np.float32(seen) / fp8.TOP
            stored.append(("input_scale", np.full(shape_of(*w.shape), scale, np.float32)))
        tensors = {module.tensor: q.codes}
        for name, values in stored:
            bits = bf16.encode(values) if type_of(module) == "BF16" else values
            tensors[f"{module.name}.{name}"] = bits
        return Made(tensors, fp8.decode(q))

    return parts, encode


def _fp8(
    w: Array, amax: float, convention: str, granularity: fp8.Granularity, source: Source
) -> QuantTensor:
    if convention == "modelopt_tensor" and amax > 0:  # the group's scale, of experts' gate and up
        scale = float(np.float32(amax) / fp8.TOP)
        return fp8.encode_static(w, scale, convention=convention, source=source)
    return fp8.encode(
        w, convention=convention, granularity=granularity, source=source, power_of_two="no"
    )


def grid(rows: int, columns: int) -> tuple[int, ...]:
    """How many blocks of 128 x 128 cover a matrix; the last of a side may be a partial one."""
    return (-(-rows // fp8.SIDE), -(-columns // fp8.SIDE))
