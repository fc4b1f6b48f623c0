"""Which tensors hold one array of the model, and its values.

    "fp8"             X.weight               E4M3 (N, K)
                      X.weight_scale_inv     (ceil(N / rows), ceil(K / columns)): it multiplies
    "fp8_modelopt"    X.weight, X.weight_scale, X.input_scale           `layout_fp8.py`
    "fp8_ct"          the same, in other shapes and types
    "mxfp4"           X_blocks               E2M1 (E, N, K/32, 16), 32 values in 16 bytes
                      X_scales               E8M0 (E, N, K/32)
    "mxfp4_ct"        X.weight_packed        E2M1 (N, K/2)
                      X.weight_scale         E8M0 (N, K/32)
    "nvfp4_ct"        X.weight_packed        E2M1 (N, K/2)
                      X.weight_scale         E4M3 (N, K/16)
                      X.weight_global_scale  (1,), a divisor
                      X.input_global_scale   (1,), a divisor
    "nvfp4_modelopt"  X.weight               E2M1 (N, K/2)
                      X.weight_scale         E4M3 (N, K/16)
                      X.weight_scale_2       (), a multiplier
                      X.input_scale          (), a multiplier
                      X                      fused experts, inputs first: E2M1 (E, K/2, N)
                      X_weight_scale         E4M3 (E, K/16, N); X_weight_scale_2, X_input_scale

A loader asks for `X.weight` or `X` as if it were stored whole and gets the values that the bytes
stand for. What is stored decides how a tensor is read; the list of modules that were left as they
are is checked against it. A scale of 1 is no stand-in for one that is missing (vllm#35656): each
tensor must be there.

Sources: deepseek-ai/DeepSeek-V3, README_WEIGHTS.md; openai/gpt-oss, `weights.py`; the exporters of
compressed-tensors and of NVIDIA's ModelOpt.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import Array, QuantTensor, TinymoeError
from tinymoe.families.layout_fp4 import Fp4, fp4_layout
from tinymoe.families.layout_fp8 import fp8_layout
from tinymoe.families.layout_parts import FLOATS, Coded, Input, Layout, Part, refuse_nan, stacked
from tinymoe.families.layout_parts import Shape as Shape
from tinymoe.families.scheme import Scheme
from tinymoe.formats import mxfp4
from tinymoe.formats.inputs import InputFormat, shared_format


def layout_of(scheme: Scheme, checkpoint: Checkpoint, name: str, shape: Shape) -> Layout:
    """Where the array that a loader calls `name` is stored, and how it is read."""
    dtype = checkpoint.entry(name).dtype if name in checkpoint else None
    if scheme.method.startswith("fp8") and dtype == "F8_E4M3":
        _refuse_pre_quant_scale(checkpoint, name)
        return fp8_layout(scheme, checkpoint, name, shape)
    if scheme.method == "nvfp4_modelopt" and dtype == "U8":
        return _modelopt_layout(scheme, checkpoint, name, shape)
    if dtype is None and name.endswith(".weight") and scheme.method in ("nvfp4_ct", "mxfp4_ct"):
        parts = ("packed", "scale", "global_scale")
        if any(f"{name}_{part}" in checkpoint for part in parts):
            return _ct_layout(scheme, checkpoint, name, shape)
    stack = dtype is None and len(shape) == 3
    if stack and scheme.method == "mxfp4" and not scheme.says_kept(name):
        return _gpt_oss_layout(name, shape)
    if stack and (fused := _FUSED.fullmatch(name)):
        first = f"{fused[1]}.0.{_OWN[fused[2]][0]}.weight"
        if first in checkpoint or f"{first}_packed" in checkpoint:
            return _unfused_layout(scheme, checkpoint, fused[1], fused[2], shape)
    return Layout((Part(name, shape, FLOATS),), None)


def _ct_layout(scheme: Scheme, checkpoint: Checkpoint, name: str, shape: Shape) -> Layout:
    """compressed-tensors. The tensor scale divides: multiplied by, it is off by its square."""
    _expect_matrices(name, shape, "FP4")
    nvidia, module = scheme.method == "nvfp4_ct", name.removesuffix("weight")
    form = Fp4(
        "nvfp4" if nvidia else "mxfp4",
        "ct",
        codes=f"{name}_packed",
        scales=f"{name}_scale",
        tensor_scale=f"{name}_global_scale" if nvidia else None,
        input_scale=f"{module}input_global_scale" if nvidia else None,
    )
    return fp4_layout(checkpoint, form, shape, scheme.inputs != "none")


def _modelopt_layout(scheme: Scheme, checkpoint: Checkpoint, name: str, shape: Shape) -> Layout:
    """ModelOpt. The tensor scale multiplies."""
    _refuse_pre_quant_scale(checkpoint, name)
    fused = len(shape) == 3 and not name.endswith(".weight")
    if not fused:
        _expect_matrices(name, shape, "NVFP4")
    prefix, module = (f"{name}_weight", f"{name}_") if fused else (name, name[: -len("weight")])
    form = Fp4(
        "nvfp4",
        "modelopt",
        codes=name,
        scales=f"{prefix}_scale",
        tensor_scale=f"{prefix}_scale_2",
        input_scale=f"{module}input_scale",
        inputs_first=fused,
    )
    return fp4_layout(checkpoint, form, shape, scheme.inputs != "none")


def _gpt_oss_layout(name: str, shape: Shape) -> Layout:
    """A stack that the loader knows as (E, K, N), stored as (E, N, K/32, 16): K in blocks."""
    experts, inputs, outputs = shape
    if inputs % mxfp4.BLOCK:
        raise TinymoeError(
            f"tensor {name!r}: config.json makes its input {inputs} long, which does not divide "
            f"into MXFP4 blocks of {mxfp4.BLOCK}"
        )
    grid = (experts, outputs, inputs // mxfp4.BLOCK)
    blocks, scales = f"{name}_blocks", f"{name}_scales"

    def stored(checkpoint: Checkpoint, expert: int | None) -> QuantTensor:
        codes, powers = checkpoint.raw(blocks)[expert], checkpoint.raw(scales)[expert]
        refuse_nan(checkpoint, scales, powers, "E8M0 scales")
        return QuantTensor(
            format="mxfp4",
            convention="gpt_oss",
            codes=codes.reshape(outputs, inputs // 2),
            scales=powers,
            block=(1, mxfp4.BLOCK),
            tensor_scale=None,
            tensor_scale_is="none",
        )

    def read_one(checkpoint: Checkpoint, dtype: np.dtype[Any], expert: int) -> Array:
        # float32 holds each exactly
        return mxfp4.decode(stored(checkpoint, expert)).astype(dtype, copy=False).T  # (K, N)

    parts = (Part(blocks, (*grid, mxfp4.BLOCK // 2), ("U8",)), Part(scales, grid, ("U8",)))
    coded = Coded("mxfp4", mxfp4.BLOCK, stored, turned=True)
    return Layout(parts, stacked(read_one, shape, turned=True), read_one, coded=coded)


# Llama-4's fused experts, which llm-compressor takes apart into linear layers before it quantises
_FUSED = re.compile(r"(.+\.feed_forward\.experts)\.(gate_up_proj|down_proj)")
_OWN = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}


def _unfused_layout(
    scheme: Scheme, checkpoint: Checkpoint, experts: str, role: str, shape: Shape
) -> Layout:
    """A stack (E, K, N) from `experts.{e}.gate_proj.weight` and so on, (N, K) each."""
    count, inputs, outputs = shape
    modules = _OWN[role]
    width = outputs // len(modules)
    each = [
        [
            layout_of(scheme, checkpoint, f"{experts}.{e}.{module}.weight", (width, inputs))
            for module in modules
        ]
        for e in range(count)
    ]

    def read_one(checkpoint: Checkpoint, dtype: np.dtype[Any], expert: int) -> Array:
        matrices = [
            checkpoint.read(part.parts[0].name, dtype)
            if part.read is None
            else part.read(checkpoint, dtype)
            for part in each[expert]
        ]
        return np.concatenate(matrices).T  # (K, N)

    def read_inputs(checkpoint: Checkpoint) -> tuple[InputFormat, ...]:
        return tuple(
            shared_format([form for m in own if m.input for form in m.input.read(checkpoint)])
            for own in each
        )

    flat = [layout for own in each for layout in own]
    needed = [layout.input for layout in flat if layout.input is not None]
    if needed and len(needed) != len(flat):
        raise TinymoeError(
            f"{experts}: some experts' {role} are quantised with their inputs and some are not"
        )
    parts = tuple(part for layout in flat for part in layout.parts)
    scales = tuple(part for one in needed for part in one.parts)
    found = Input(scales, read_inputs) if needed else None
    return Layout(parts, stacked(read_one, shape, turned=True), read_one, found)


def _refuse_pre_quant_scale(checkpoint: Checkpoint, name: str) -> None:
    if f"{name.removesuffix('weight')}pre_quant_scale" in checkpoint:
        raise TinymoeError(
            f"tensor {name!r}: has a pre_quant_scale, by which its input is multiplied (AWQ, "
            "SVDQuant); this version of tinymoe does not do that"
        )


def _expect_matrices(name: str, shape: Shape, what: str) -> None:
    if len(shape) not in (2, 3) or not name.endswith(".weight"):
        raise TinymoeError(
            f"tensor {name!r} of shape {shape}: expected {what} in matrices called *.weight, or "
            f"in stacks of them; vectors in {what} are not read"
        )
