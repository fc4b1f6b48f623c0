"""dots.llm1: DeepSeek-V3's router on plain attention with normed heads.

rednote-hilab/dots.llm1. Checked against transformers' `dots1`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tinymoe.cards import AttentionCard, ModelConfig, full_attention
from tinymoe.families.common import (
    assemble,
    biased_sigmoid_router,
    dense_first,
    read_sizes,
    read_windows,
    refuse_unknown_arithmetic,
    shared_card,
)
from tinymoe.families.fields import HARMLESS, Fields
from tinymoe.families.rope_fields import read_rope
from tinymoe.families.standard import Names, load_model
from tinymoe.families.tensors import Source
from tinymoe.model.params import Params

NAMES = Names()


def read_config(config: dict[str, Any]) -> ModelConfig:
    """config.json; `n_shared_experts` null means none."""
    fields = Fields(config)
    refuse_unknown_arithmetic(fields)
    fields.only("attention_bias", None, False)
    sizes, layers = read_sizes(fields), dense_first(fields)
    card = full_attention(sizes.head_dim, read_rope(fields, sizes.head_dim))
    card = replace(card, qk_norm="per_head")
    width = fields.count("moe_intermediate_size")
    shared = fields.count("n_shared_experts") if "n_shared_experts" in fields else 0
    fields.take("n_shared_experts", None)
    result = assemble(
        fields,
        sizes,
        family="dots1",
        layers=layers,
        attention=_windows(fields, card, len(layers)),
        router=biased_sigmoid_router(fields),
        moe_intermediate=width,
        dense_intermediate=fields.count("intermediate_size"),
        default_eps=1e-6,
        experts=shared_card("added", width * shared),
    )
    fields.finish(HARMLESS | {"attention_dropout"})
    return result


def _windows(fields: Fields, card: AttentionCard, number: int) -> tuple[AttentionCard, ...]:
    """By `layer_types`; without it, layers from `max_window_layers` on, if there is a window."""
    window = fields.count("sliding_window") if "sliding_window" in fields else None
    fields.take("sliding_window", None)
    first = fields.take("max_window_layers", number)
    windows = read_windows(fields, number, window)
    if windows is None:
        if type(first) is not int or first < 0:
            raise fields.error("max_window_layers", "a number of layers")
        windows = tuple(window if index >= first else None for index in range(number))
    return tuple(replace(card, window=w) for w in windows)


def build(source: Source, config: ModelConfig) -> Params:
    """Every weight by role."""
    return load_model(source, config, NAMES)
