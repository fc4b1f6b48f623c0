"""Weights in a format: a model's matrices rounded to what the format holds, and what that weighs.

The embedding is BF16 in every format but fp32 (a token reads one row of it); norms, biases and
the router stay float32, as engines keep them. So does the GGUF file of `peer_model.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np

from tinymoe.core import Array, QuantTensor, TinymoeError
from tinymoe.formats import bf16, mxfp4, nvfp4
from tinymoe.model.params import Params

# Bytes of one value of a matrix, block scales included. The first four are ours, the others what
# peers may have.
BYTES = {
    "nvfp4": 1 / 2 + 1 / 16,
    "mxfp4": 1 / 2 + 1 / 32,
    "bf16": 2.0,
    "fp32": 4.0,
    "fp16": 2.0,
    "q4_0": 1 / 2 + 2 / 32,
    "q8_0": 1 + 2 / 32,
}
FORMS = ("nvfp4", "mxfp4", "bf16", "fp32")
BLOCK = {"nvfp4": nvfp4.BLOCK, "mxfp4": mxfp4.BLOCK}
# fields of the params that hold matrices, or stacks of them; all others stay as they are
MATRICES = {
    *("qkv", "out", "gate_up", "down", "gate", "query_down", "query", "up", "qkvz", "ba", "head"),
}


def check_form(form: str) -> None:
    """Refuse a format that there is none of."""
    if form not in FORMS:
        raise TinymoeError(f"--formats must be of {', '.join(FORMS)}; got {form!r}")


def quantised(matrix: Array, form: str) -> QuantTensor:
    """Codes and scales of one matrix (N, K) float32: NVFP4 as ModelOpt makes it, MXFP4 as OCP."""
    if form == "nvfp4":
        return nvfp4.encode(matrix, convention="modelopt", source="float32", zero_tensor="zeros")
    if form == "mxfp4":
        return mxfp4.encode(matrix, convention="ocp_floor")
    raise TinymoeError(f"expected a format with codes and scales, nvfp4 or mxfp4; got {form!r}")


def rounded(values: Array, form: str) -> Array:
    """values (N, K) or (E, N, K) as the format holds them, in their own dtype."""
    if form == "fp32":
        return values
    if form == "bf16":
        return bf16.round_to_bf16(values).astype(values.dtype)
    if values.shape[-1] % BLOCK[form]:
        raise TinymoeError(
            f"{form} has blocks of {BLOCK[form]} along a row, this model has a matrix of shape "
            f"{values.shape}: take another of --formats"
        )
    decode = nvfp4.decode if form == "nvfp4" else mxfp4.decode
    stack = np.asarray(values if values.ndim == 3 else values[None], np.float32)
    out = np.empty(stack.shape, values.dtype)
    for place, matrix in enumerate(stack):  # one at a time: a scale a matrix, and little memory
        out[place] = decode(quantised(matrix, form))
    return out.reshape(values.shape)


def round_params(params: Params, form: str) -> Params:
    """The model with its matrices as the format holds them, one matrix at a time."""
    check_form(form)
    if form == "fp32":
        return params
    changed: Params = _changed(params, lambda values: rounded(values, form))
    head = changed.embed if params.head is params.embed else changed.head
    return replace(changed, embed=bf16.round_to_bf16(params.embed), head=head)


def _changed(part: Any, change: Callable[[Array], Array]) -> Any:
    """A dataclass of weights with `change` applied to every matrix below it."""
    new: dict[str, Any] = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if field.name == "layers":
            new[field.name] = tuple(_changed(layer, change) for layer in value)
        elif field.name in ("attention", "ffn", "shared") and value is not None:
            new[field.name] = _changed(value, change)
        elif field.name in MATRICES and value is not None:
            new[field.name] = change(value)
    return replace(part, **new)
