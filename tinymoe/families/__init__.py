"""Model families: what a config.json means, and which tensor is which.

One file per family. A family is two functions: `read_config`, of config.json, and `build`, which
asks a source for every tensor by name and puts it in its place.
"""

from __future__ import annotations

import warnings
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
from tinymoe.families.as_stored import StoredReader
from tinymoe.families.as_stored import as_stored as stored_model
from tinymoe.families.layouts import Shape
from tinymoe.families.memory import budget_of
from tinymoe.families.on_demand import spread
from tinymoe.families.quantised import scheme_of
from tinymoe.families.rooms import Recorder
from tinymoe.families.tensors import Listing, Reader, Source, check_tensors
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


def read_config(config: dict[str, Any], positions: int | None = None) -> ModelConfig:
    """What config.json says, by its family. Raises `TinymoeError` for what we do not run.

    positions: of the longest sequence wanted; it matters for longrope alone (`phimoe.py`), and is
    an error where the model has fewer.
    """
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise TinymoeError(
            f"config.json: model_type is {family!r}; the families this version of tinymoe runs: "
            f"{', '.join(sorted(FAMILIES))}"
        )
    if config.get("auto_map"):
        warnings.warn("config.json names Python code to import (auto_map): not run", stacklevel=2)
    more = {"positions": positions} if FAMILIES[family] is phimoe else {}
    read: ModelConfig = FAMILIES[family].read_config(config, **more)
    if positions is not None and not 0 < positions <= read.max_positions:
        raise TinymoeError(
            f"positions: expected from 1 to the model's {read.max_positions}, got {positions}"
        )
    return read


def load_params(
    checkpoint: Checkpoint,
    config: ModelConfig,
    numerics: Numerics,
    memory: str | int | None = None,
    on_demand: bool = False,
    as_stored: bool = False,
) -> Params:
    """The checkpoint's weights by role, checked against the config, in `numerics.dtype`.

    All in memory if they fit into `memory` bytes ("3GB"; None: what is available), else read when
    they are used, with the same values (`on_demand.py`); `on_demand`: so even if they fit.
    `as_stored`: matrices are read at each use, and as codes and scales where they are stored so:
    for a backend that lays them out in its own form (`as_stored.py`), whatever `memory` says.
    """

    def build(source: Source) -> Params:
        params: Params = FAMILIES[config.family].build(source, config)
        return params

    scheme, needed = check_tensors(checkpoint, config.num_layers, numerics, build)
    budget = budget_of(needed, memory, on_demand)
    if budget is None and not as_stored:
        return build(Reader(checkpoint, scheme, numerics))
    noted = build(Recorder(checkpoint, scheme, numerics))
    if budget is None or as_stored:
        return stored_model(noted, StoredReader(checkpoint, scheme, numerics))
    return spread(noted, Reader(checkpoint, scheme, numerics), budget, needed)


def stored_matrices(checkpoint: Checkpoint, config: ModelConfig, numerics: Numerics) -> Params:
    """A model's matrices, each said in which format it is stored; nothing is read."""
    recorder = Recorder(checkpoint, scheme_of(checkpoint), numerics)
    noted: Params = FAMILIES[config.family].build(recorder, config)
    reader = StoredReader(checkpoint, scheme_of(checkpoint), numerics)
    return stored_model(noted, reader, vectors=False)


def resident_bytes(config: ModelConfig, numerics: Numerics) -> int:
    """Bytes that all weights take in memory, whatever they take in the file."""
    listing = Listing()
    FAMILIES[config.family].build(listing, config)
    return listing.values * numerics.dtype.itemsize


def expected_tensors(config: ModelConfig) -> list[tuple[str, Shape]]:
    """Name and shape of every tensor that a checkpoint of this config holds."""
    listing = Listing()
    FAMILIES[config.family].build(listing, config)
    return listing.seen
