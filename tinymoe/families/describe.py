"""What a checkpoint's scheme means, kind of module by kind of module, from its headers alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import ModelConfig
from tinymoe.families import expected_tensors
from tinymoe.families.inputs import cache_scales
from tinymoe.families.layouts import layout_of
from tinymoe.families.quantised import scheme_of
from tinymoe.families.scheme import Inputs, Method, Scheme

NVFP4 = "NVFP4: E2M1, an E4M3 scale for 16, a float32 scale a tensor"
MXFP4 = "MXFP4: E2M1, a power of two for 32"
WEIGHTS: Mapping[Method, str] = {
    "none": "as they were",
    "nvfp4_modelopt": NVFP4,
    "nvfp4_ct": NVFP4,
    "mxfp4": MXFP4,
    "mxfp4_ct": MXFP4,
}
CONVENTIONS: Mapping[Method, str] = {
    "none": "no scales",
    "fp8": "multiplier: weight_scale_inv, in spite of its name",
    "fp8_modelopt": "multiplier: weight_scale, input_scale",
    "fp8_ct": "multiplier: weight_scale, input_scale",
    "mxfp4": "multiplier: 2^(byte - 127)",
    "mxfp4_ct": "multiplier: 2^(byte - 127)",
    "nvfp4_modelopt": "multiplier: weight_scale_2, input_scale",
    "nvfp4_ct": "divisor: weight_global_scale, input_global_scale",
}
INPUTS: Mapping[Inputs, str] = {
    "none": "as they are",
    "nvfp4": "NVFP4 under a static scale of the checkpoint, block scales found in each token",
    "mxfp4": "MXFP4, scales found in each token",
    "fp8_tensor": "FP8 under a static scale of the checkpoint",
    "fp8_token": "FP8, a scale found in each token",
    "fp8_group": "FP8, a scale found for 128 values of a token",
}


def describe_scheme(checkpoint: Checkpoint, config: ModelConfig) -> dict[str, Any]:
    """The scheme in words, and of each kind of module how many tensors are stored in it."""
    scheme = scheme_of(checkpoint)
    found: dict[str, Counter[str]] = {}
    for name, shape in expected_tensors(config):
        if len(shape) < 2:
            continue  # norms, biases: never quantised
        layout = layout_of(scheme, checkpoint, name, shape)
        said = "quantised" if layout.read is not None else "plain"
        found.setdefault(kind_of(name), Counter())[said] += 1
    names = [cache_scales(checkpoint, attention) for attention in _attentions(config)]
    return {
        "method": scheme.method,
        "weights": _weights(scheme),
        "scale_convention": CONVENTIONS[scheme.method],
        "inputs": INPUTS[scheme.inputs],
        "cache": scheme.cache,
        "cache_scales": {"stored": sum(map(all, names)), "layers": len(names)},
        "modules": {kind: dict(count) for kind, count in found.items()},
    }


def kind_of(name: str) -> str:
    """A tensor's name without layer and expert: `mlp.experts.*.down_proj`."""
    inside = re.sub(r"^.*?model\.layers\.\d+\.", "", name).removesuffix(".weight")
    return re.sub(r"\.\d+\.", ".*.", inside)


def _attentions(config: ModelConfig) -> list[str]:
    prefix = "language_model." if config.family == "llama4" else ""
    return [f"{prefix}model.layers.{index}.self_attn" for index in range(config.num_layers)]


def _weights(scheme: Scheme) -> str:
    if scheme.method in WEIGHTS:
        return WEIGHTS[scheme.method]
    rows, columns = scheme.block
    of = {"tensor": "a tensor", "channel": "a row", "block": f"a block of {rows} x {columns}"}
    return f"FP8: E4M3, one scale {of[scheme.granularity]}"
