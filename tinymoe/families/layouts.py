"""Which tensors hold one array of the model, and its values.

    "fp8"             X.weight               E4M3 (N, K)
                      X.weight_scale_inv     (ceil(N / rows), ceil(K / columns)): it multiplies
    "mxfp4"           X_blocks               E2M1 (E, N, K/32, 16), 32 values in 16 bytes
                      X_scales               E8M0 (E, N, K/32)
    "nvfp4_ct"        X.weight_packed        E2M1 (N, K/2)
                      X.weight_scale         E4M3 (N, K/16)
                      X.weight_global_scale  (1,), a divisor
    "nvfp4_modelopt"  X.weight               E2M1 (N, K/2)
                      X.weight_scale         E4M3 (N, K/16)
                      X.weight_scale_2       (), a multiplier

A loader asks for `X.weight` or `X` as if it were stored whole and gets the values that the bytes
stand for. What is stored decides how a tensor is read; the list of modules that were left as they
are is checked against it. A scale of 1 is no stand-in for one that is missing (vllm#35656): each
tensor must be there.

Sources: deepseek-ai/DeepSeek-V3, README_WEIGHTS.md; openai/gpt-oss, `weights.py`; the exporters of
compressed-tensors and of NVIDIA's ModelOpt.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import Array, QuantTensor, TinymoeError
from tinymoe.families.quantised import Scheme
from tinymoe.formats import fp8, mxfp4, nvfp4

FLOATS = ("BF16", "F16", "F32", "F64")

Shape = tuple[int, ...]


class Part(NamedTuple):
    """One stored tensor."""

    name: str
    shape: Shape
    dtypes: tuple[str, ...]  # any of these


class Layout(NamedTuple):
    """The tensors that hold one array of the model."""

    parts: tuple[Part, ...]
    # the values, of the shape that was asked for; None where the one part holds them as they are
    read: Callable[[Checkpoint, np.dtype[Any]], Array] | None


def layout_of(scheme: Scheme, checkpoint: Checkpoint, name: str, shape: Shape) -> Layout:
    """Where the array that a loader calls `name` is stored, and how it is read."""
    there = name in checkpoint
    if scheme.method == "fp8" and there and checkpoint.entry(name).dtype == "F8_E4M3":
        return _fp8_layout(name, shape, scheme.block)
    if scheme.method == "nvfp4_modelopt" and there and checkpoint.entry(name).dtype == "U8":
        return _modelopt_layout(checkpoint, name, shape)
    if scheme.method == "nvfp4_ct" and not there and name.endswith(".weight"):
        parts = [f"{name}_{part}" for part in ("packed", "scale", "global_scale")]
        if any(part in checkpoint for part in parts):
            return _ct_layout(name, shape)
    if scheme.method == "mxfp4" and not there and len(shape) == 3 and not scheme.says_kept(name):
        return _mxfp4_layout(name, shape)
    return Layout((Part(name, shape, FLOATS),), None)


def _fp8_layout(name: str, shape: Shape, block: tuple[int, int]) -> Layout:
    """Codes times the scale of their block. The last block of a side may be a partial one.

    So a side of a block is what the config says, not rows divided by rows of scales: for
    DeepSeek-V3's 576 rows of `kv_a_proj_with_mqa` and 5 of scales that would be 115.
    """
    _matrix_only(name, shape, "FP8")
    scales = f"{name}_scale_inv"
    grid = (math.ceil(shape[0] / block[0]), math.ceil(shape[1] / block[1]))

    def read(checkpoint: Checkpoint, dtype: np.dtype[Any]) -> Array:
        # float32: one rounding, of the product; float64: none
        return fp8.decode_blocks(checkpoint.raw(name), checkpoint.read(scales, dtype), block)

    return Layout((Part(name, shape, ("F8_E4M3",)), Part(scales, grid, ("F32", "BF16"))), read)


def _mxfp4_layout(name: str, shape: Shape) -> Layout:
    """A stack that the loader knows as (E, K, N), stored as (E, N, K/32, 16): K in blocks."""
    experts, inputs, outputs = shape
    if inputs % mxfp4.BLOCK:
        raise TinymoeError(
            f"tensor {name!r}: config.json makes its input {inputs} long, which does not divide "
            f"into MXFP4 blocks of {mxfp4.BLOCK}"
        )
    grid = (experts, outputs, inputs // mxfp4.BLOCK)
    blocks, scales = f"{name}_blocks", f"{name}_scales"

    def read(checkpoint: Checkpoint, dtype: np.dtype[Any]) -> Array:
        values = np.empty((experts, outputs, inputs), dtype)  # float32 holds each exactly
        codes, powers = checkpoint.raw(blocks), checkpoint.raw(scales)
        for expert in range(experts):  # one at a time: a layer is gigabytes
            values[expert] = mxfp4.decode_gpt_oss(codes[expert], powers[expert])
        return values.swapaxes(1, 2)  # (E, K, N)

    stored = (Part(blocks, (*grid, mxfp4.BLOCK // 2), ("U8",)), Part(scales, grid, ("U8",)))
    return Layout(stored, read)


def _ct_layout(name: str, shape: Shape) -> Layout:
    """compressed-tensors. The tensor scale divides: multiplied by, it is off by its square."""
    names = (f"{name}_packed", f"{name}_scale", f"{name}_global_scale")
    return _nvfp4_layout(names, shape, (1,), "ct")


def _modelopt_layout(checkpoint: Checkpoint, name: str, shape: Shape) -> Layout:
    """ModelOpt. The tensor scale multiplies."""
    if f"{name.removesuffix('weight')}pre_quant_scale" in checkpoint:
        raise TinymoeError(
            f"tensor {name!r}: has a pre_quant_scale, by which its input is multiplied (AWQ, "
            "SVDQuant); this version of tinymoe does not do that"
        )
    return _nvfp4_layout((name, f"{name}_scale", f"{name}_scale_2"), shape, (), "modelopt")


def _nvfp4_layout(
    names: tuple[str, str, str],
    shape: Shape,
    scale_shape: Shape,
    convention: Literal["ct", "modelopt"],
) -> Layout:
    """Each matrix under its own tensor scale: gate's is not up's (vllm#54974)."""
    codes, scales, tensor_scale = names
    _matrix_only(codes, shape, "NVFP4")
    rows, columns = shape
    if columns % nvfp4.BLOCK:
        raise TinymoeError(
            f"tensor {codes!r}: config.json makes its rows {columns} long, which does not divide "
            f"into NVFP4 blocks of {nvfp4.BLOCK}"
        )

    def read(checkpoint: Checkpoint, dtype: np.dtype[Any]) -> Array:
        whole = QuantTensor(
            format="nvfp4",
            convention=convention,
            codes=checkpoint.raw(codes),
            scales=checkpoint.raw(scales),
            block=(1, nvfp4.BLOCK),
            tensor_scale=np.float32(checkpoint.read(tensor_scale, "float32").item()),
            tensor_scale_is="divisor" if convention == "ct" else "multiplier",
        )
        return nvfp4.decode(whole, dtype=dtype)

    return Layout(
        (
            Part(codes, (rows, columns // 2), ("U8",)),
            Part(scales, (rows, columns // nvfp4.BLOCK), ("F8_E4M3",)),
            Part(tensor_scale, scale_shape, ("F32",)),
        ),
        read,
    )


def _matrix_only(name: str, shape: Shape, what: str) -> None:
    if len(shape) != 2 or ".weight" not in name:
        raise TinymoeError(
            f"tensor {name!r} of shape {shape}: expected {what} in matrices called *.weight alone; "
            f"stacks and vectors in {what} are not read"
        )
