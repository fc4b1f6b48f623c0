"""NVFP4 and MXFP4 in the layouts of ModelOpt and of compressed-tensors, matrices and stacks.

A matrix's codes are (N, K/2), its block scales (N, K/16) or (N, K/32); of a stack (E, ...) each.
ModelOpt stores the fused experts of gpt-oss and Llama-4 as the model does, inputs first: codes
(E, K/2, N), scales (E, K/16, N), names joined by "_" (its `unified_export_hf`; transformers'
`gate_up_proj` of both families is (E, K, N)).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import Array, QuantTensor, TinymoeError
from tinymoe.families.layout_parts import (
    LARGEST,
    LOUDEST_INPUT,
    Coded,
    Input,
    Layout,
    Meaning,
    Part,
    Shape,
    pick,
    refuse_nan,
    scalar,
    stacked,
    tensor_scales,
)
from tinymoe.formats import mxfp4, nvfp4
from tinymoe.formats.inputs import InputFormat


class Fp4(NamedTuple):
    """Names of one array's tensors, and what they hold."""

    format: Literal["nvfp4", "mxfp4"]
    convention: Literal["ct", "modelopt"]
    codes: str
    scales: str
    tensor_scale: str | None  # of NVFP4
    input_scale: str | None  # where inputs are quantised under a static scale
    inputs_first: bool = False  # (E, K, N) where others are (E, N, K)

    @property
    def meaning(self) -> Meaning:
        """What the tensor scale does. Multiplied by a divisor, it is off by its square."""
        return "divisor" if self.convention == "ct" else "multiplier"

    @property
    def block(self) -> int:
        """Values that share a scale."""
        return nvfp4.BLOCK if self.format == "nvfp4" else mxfp4.BLOCK


def fp4_layout(checkpoint: Checkpoint, form: Fp4, shape: Shape, inputs: bool) -> Layout:
    """An array of the shape asked for: (N, K), (E, N, K), or (E, K, N). `inputs`: quantised."""
    experts = shape[0] if len(shape) == 3 else None
    N, K = (shape[-1], shape[-2]) if form.inputs_first else shape[-2:]
    if K % form.block:
        raise TinymoeError(
            f"tensor {form.codes!r}: config.json makes its rows {K} long, which does not divide "
            f"into {form.format.upper()} blocks of {form.block}"
        )

    def sized(columns: int) -> Shape:
        return (*shape[:-2], *((columns, N) if form.inputs_first else (N, columns)))

    scale_dtype = ("F8_E4M3",) if form.format == "nvfp4" else ("U8", "F8_E8M0")
    parts = [
        Part(form.codes, sized(K // 2), ("U8",)),
        Part(form.scales, sized(K // form.block), scale_dtype),
    ]
    if form.tensor_scale:
        parts.append(scalar(checkpoint, form.tensor_scale, ("F32",), experts))

    def stored(checkpoint: Checkpoint, expert: int | None) -> QuantTensor:
        return _stored(checkpoint, form, expert)

    def read_one(checkpoint: Checkpoint, dtype: np.dtype[Any], expert: int) -> Array:
        return _decoded(checkpoint, form, dtype, expert if experts else None)

    def read(checkpoint: Checkpoint, dtype: np.dtype[Any]) -> Array:
        return _decoded(checkpoint, form, dtype, None)

    needed = _input(checkpoint, form, experts) if inputs else None
    present = (
        ()
        if form.input_scale is None or form.input_scale not in checkpoint
        else (scalar(checkpoint, form.input_scale, ("F32",), experts),)
    )
    whole, coded = (*parts, *present), Coded(form.format, form.block, stored, form.inputs_first)
    if experts is None:
        return Layout(whole, read, None, needed, coded)
    return Layout(whole, stacked(read_one, shape, form.inputs_first), read_one, needed, coded)


def _stored(checkpoint: Checkpoint, form: Fp4, expert: int | None) -> QuantTensor:
    """A matrix, or one of a stack, (N, K): each matrix under its own tensor scale.

    Gate's is not up's (vllm#54974: 69 % of pairs differed, and gate's was used for both).
    """
    codes, scales = checkpoint.raw(form.codes), checkpoint.raw(form.scales)
    if expert is not None:
        codes, scales = codes[expert], scales[expert]
    if form.inputs_first:
        codes, scales = codes.T, scales.T  # (N, K/2), (N, K/16)
    codes, scales = np.ascontiguousarray(codes), np.ascontiguousarray(scales)
    nvidia = form.format == "nvfp4"
    refuse_nan(checkpoint, form.scales, scales, "E4M3 scales" if nvidia else "E8M0 scales")
    tensor_scale = None
    if form.tensor_scale is not None:
        flat = tensor_scales(checkpoint, form.tensor_scale, form.meaning, LARGEST)
        tensor_scale = pick(flat, expert or 0)
    return QuantTensor(
        format=form.format,
        convention=form.convention,
        codes=codes,
        scales=scales,
        block=(1, form.block),
        tensor_scale=tensor_scale,
        tensor_scale_is=form.meaning if nvidia else "none",
    )


def _decoded(checkpoint: Checkpoint, form: Fp4, dtype: np.dtype[Any], expert: int | None) -> Array:
    """Its values, (N, K) or (K, N) as it is asked for."""
    stored = _stored(checkpoint, form, expert)
    # MXFP4's values are float32's exactly: two bits times a power of two
    values = (
        nvfp4.decode(stored, dtype=dtype)
        if form.format == "nvfp4"
        else mxfp4.decode(stored).astype(dtype)
    )
    return values.T if form.inputs_first else values


def _input(checkpoint: Checkpoint, form: Fp4, experts: int | None) -> Input:
    """NVFP4 under the checkpoint's scale, by the kernels' arithmetic; MXFP4 as it comes.

    MXFP4 as vLLM quantises for experts (`mxfp4_experts_quant`), and Quark, by which it emulates:
    the exponent goes up from 1.75. FlashInfer's kernel, which vLLM has for plain linear layers on
    Blackwell, rounds every exponent up (convention "flashinfer"): those are not told apart here.
    """
    if form.input_scale is None:
        return Input((), lambda checkpoint: (InputFormat(kind="mxfp4", convention="vllm"),))
    name = form.input_scale

    def read(checkpoint: Checkpoint) -> tuple[InputFormat, ...]:
        values = tensor_scales(checkpoint, name, form.meaning, LOUDEST_INPUT)
        return tuple(
            InputFormat(kind="nvfp4", convention="kernel", scale=scale, scale_is=form.meaning)
            for scale in values
        )

    return Input((scalar(checkpoint, name, ("F32",), experts),), read)
