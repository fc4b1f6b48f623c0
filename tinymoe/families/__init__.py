"""Model families: what a config.json means, and which tensor is which.

One file per family. A family is two functions: `read_config`, of config.json, and `build`, which
asks a source for every tensor by name and puts it in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import ModelConfig, Numerics, TinymoeError
from tinymoe.families import (
    deepseek,
    dots1,
    ernie4_5_moe,
    glm4_moe,
    gpt_oss,
    granitemoe,
    hunyuan_v1_moe,
    llama4,
    minimax,
    minimax_m2,
    mixtral,
    olmoe,
    phimoe,
    qwen2_moe,
    qwen3_moe,
    qwen3_next,
)
from tinymoe.families.layouts import Shape
from tinymoe.families.tensors import Listing, Source, load_checked
from tinymoe.model.params import Params

FAMILIES: Mapping[str, ModuleType] = {  # by model_type
    "deepseek_v2": deepseek,
    "deepseek_v3": deepseek,
    "dots1": dots1,
    "ernie4_5_moe": ernie4_5_moe,
    "glm4_moe": glm4_moe,
    "gpt_oss": gpt_oss,
    "granitemoe": granitemoe,
    "granitemoeshared": granitemoe,
    "hunyuan_v1_moe": hunyuan_v1_moe,
    "kimi_k2": deepseek,
    "llama4": llama4,
    "llama4_text": llama4,
    "minimax": minimax,
    "minimax_m2": minimax_m2,
    "minimax_text_01": minimax,
    "mixtral": mixtral,
    "olmoe": olmoe,
    "phimoe": phimoe,
    "qwen2_moe": qwen2_moe,
    "qwen3_moe": qwen3_moe,
    "qwen3_next": qwen3_next,
}


def read_config(config: dict[str, Any]) -> ModelConfig:
    """What config.json says, by its family. Raises `TinymoeError` for what we do not run."""
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise TinymoeError(
            f"config.json: model_type is {family!r}; the families this version of tinymoe runs: "
            f"{', '.join(sorted(FAMILIES))}"
        )
    read: ModelConfig = FAMILIES[family].read_config(config)
    return read


def load_params(checkpoint: Checkpoint, config: ModelConfig, numerics: Numerics) -> Params:
    """The checkpoint's weights by role, checked against the config, in `numerics.dtype`."""

    def build(source: Source) -> Params:
        params: Params = FAMILIES[config.family].build(source, config)
        return params

    return load_checked(checkpoint, config.num_layers, numerics, build)


def expected_tensors(config: ModelConfig) -> list[tuple[str, Shape]]:
    """Name and shape of every tensor that a checkpoint of this config holds."""
    listing = Listing()
    FAMILIES[config.family].build(listing, config)
    return listing.seen
