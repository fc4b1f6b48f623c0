"""Model families: what a config.json means, and which tensor is which.

One file per family. A family is two functions: `read_config` and `load_params`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import ModelConfig, Numerics, TinymoeError
from tinymoe.families import qwen3_moe
from tinymoe.model.params import Params

FAMILIES: Mapping[str, ModuleType] = {"qwen3_moe": qwen3_moe}  # by model_type


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
    params: Params = FAMILIES[config.family].load_params(checkpoint, config, numerics)
    return params
