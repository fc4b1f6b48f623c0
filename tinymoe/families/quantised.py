"""Weights stored in few bits: what config.json says of them, which tensors hold one, its values.

    "fp8"    X.weight            E4M3 (N, K)
             X.weight_scale_inv  (ceil(N / rows), ceil(K / columns)), a multiplier in spite of it
    "mxfp4"  X_blocks            E2M1 (E, N, K/32, 16), 32 values in 16 bytes
             X_scales            E8M0 (E, N, K/32)

A loader asks for `X.weight` or `X` as if it were stored whole and gets the values that the bytes
stand for. What is stored decides how a tensor is read; the list of modules that were left as they
are is checked against it. Activations are not quantised: that is arithmetic, and here are weights.

Sources: deepseek-ai/DeepSeek-V3, README_WEIGHTS.md; openai/gpt-oss, `weights.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

import numpy as np

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import Array, TinymoeError
from tinymoe.families.fields import Fields
from tinymoe.formats import fp8, mxfp4

FLOATS = ("BF16", "F16", "F32", "F64")
WHERE = "config.json, quantization_config"

Shape = tuple[int, ...]
Method = Literal["none", "fp8", "mxfp4"]


@dataclass(frozen=True, slots=True)
class Scheme:
    """What `quantization_config` says."""

    method: Method
    block: tuple[int, int] = (1, 1)  # rows and columns that share a scale (fp8)
    kept: tuple[str, ...] = ()  # modules said to be stored as they were; may hold wildcards

    def says_kept(self, name: str) -> bool:
        """Whether the list names the tensor's module, one around it, or its own last part."""
        module = name.removesuffix(".weight")
        return any(
            fnmatchcase(module, form)
            for kept in self.kept
            for form in (kept, f"{kept}.*", f"*.{kept}", f"*.{kept}.*")
        )


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


def read_scheme(config: Mapping[str, Any]) -> Scheme:
    """From a config.json; a text model inside another may say it at either level."""
    inner = config.get("text_config")
    found = config.get("quantization_config")
    if isinstance(inner, dict):
        found = inner.get("quantization_config", found)
    if found is None:
        return Scheme("none")
    if not isinstance(found, dict):
        raise TinymoeError(f"{WHERE}: expected an object, found {found!r}")
    fields = Fields(found, WHERE)
    method = fields.take("quant_method")
    if method not in METHODS:
        raise TinymoeError(
            f"{WHERE}: quant_method is {method!r}; those this version of tinymoe reads: "
            f"{', '.join(METHODS)}"
        )
    scheme = METHODS[method](fields, config)
    fields.finish(frozenset({"dequantize"}))  # a wish about loading, not about what is stored
    return scheme


def _read_fp8(fields: Fields, config: Mapping[str, Any]) -> Scheme:
    """DeepSeek's: E4M3, one scale a block. Without blocks it would be one a tensor: not here."""
    fields.only("fmt", None, "e4m3")
    fields.only("activation_scheme", None, "dynamic")
    fields.only("scale_fmt", None, "ue8m0")  # scales that are powers of two multiply all the same
    block = fields.take("weight_block_size")
    good = isinstance(block, list) and len(block) == 2
    if not good or any(type(side) is not int or side < 1 for side in block):
        raise fields.error("weight_block_size", "two whole numbers, as [128, 128]")
    return Scheme("fp8", (block[0], block[1]), _kept(fields, "modules_to_not_convert"))


def _read_mxfp4(fields: Fields, config: Mapping[str, Any]) -> Scheme:
    """gpt-oss's: stacked experts as blocks and scales."""
    if config.get("model_type") != "gpt_oss":
        raise TinymoeError(
            f"{WHERE}: quant_method 'mxfp4' is read for gpt_oss, whose tensors are *_blocks and "
            f"*_scales; model_type is {config.get('model_type')!r}"
        )
    return Scheme("mxfp4", kept=_kept(fields, "modules_to_not_convert"))


def _kept(fields: Fields, name: str) -> tuple[str, ...]:
    """A list of names."""
    names = fields.take(name, None)
    if names is None:
        return ()
    if not isinstance(names, list) or not all(isinstance(item, str) for item in names):
        raise fields.error(name, "a list of names of modules")
    return tuple(names)


METHODS: Mapping[str, Callable[[Fields, Mapping[str, Any]], Scheme]] = {
    "fp8": _read_fp8,
    "mxfp4": _read_mxfp4,
}


def layout_of(scheme: Scheme, checkpoint: Checkpoint, name: str, shape: Shape) -> Layout:
    """Where the array that a loader calls `name` is stored, and how it is read."""
    there = name in checkpoint
    if scheme.method == "fp8" and there and checkpoint.entry(name).dtype == "F8_E4M3":
        return _fp8_layout(name, shape, scheme.block)
    if scheme.method == "mxfp4" and not there and len(shape) == 3 and not scheme.says_kept(name):
        return _mxfp4_layout(name, shape)
    return Layout((Part(name, shape, FLOATS),), None)


def _fp8_layout(name: str, shape: Shape, block: tuple[int, int]) -> Layout:
    """Codes times the scale of their block. The last block of a side may be a partial one.

    So a side of a block is what the config says, not rows divided by rows of scales: for
    DeepSeek-V3's 576 rows of `kv_a_proj_with_mqa` and 5 of scales that would be 115.
    """
    if len(shape) != 2 or not name.endswith(".weight"):
        raise TinymoeError(
            f"tensor {name!r} of shape {shape}: expected FP8 in matrices called *.weight alone; "
            "stacks and vectors in FP8 are not read"
        )
    scales = f"{name}_scale_inv"
    grid = (math.ceil(shape[0] / block[0]), math.ceil(shape[1] / block[1]))

    def read(checkpoint: Checkpoint, dtype: np.dtype[Any]) -> Array:
        # float32: one rounding, of the product; float64: none
        return fp8.decode_blocks(checkpoint.raw(name), checkpoint.read(scales, dtype), block)

    # a scale of 1 is no stand-in for one that is missing (vllm#35656): each part must be there
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
        values = mxfp4.decode_gpt_oss(checkpoint.raw(blocks), checkpoint.raw(scales))
        return values.swapaxes(1, 2)  # (E, K, N); float32 holds each value exactly

    stored = (Part(blocks, (*grid, mxfp4.BLOCK // 2), ("U8",)), Part(scales, grid, ("U8",)))
    return Layout(stored, read)
