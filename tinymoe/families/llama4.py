"""Llama-4 (its text half): chunked layers with rope, full ones without, experts weighted before.

meta-llama/Llama-4-Scout and Maverick. Checked against transformers' `llama4_text`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from tinymoe.cards import AttentionCard, ModelConfig, TemperatureCard, full_attention
from tinymoe.core import Array, TinymoeError
from tinymoe.families.common import (
    Kinds,
    assemble,
    layer_count,
    plain_router,
    read_sizes,
    refuse_unknown_arithmetic,
    shared_card,
)
from tinymoe.families.fields import HARMLESS, Fields
from tinymoe.families.rope_fields import read_rope
from tinymoe.families.standard import Names, fill_stacks, load_model, load_router, load_shared
from tinymoe.families.tensors import Source
from tinymoe.model.params import MoeParams, Params

TEXT_NAMES = Names(
    dense="feed_forward",
    router="feed_forward.router.weight",
    shared="feed_forward.shared_expert",
)
WHOLE_NAMES = replace(TEXT_NAMES, prefix="language_model.")  # beside a vision tower
LLAMA_HARMLESS = HARMLESS | {
    *("attention_dropout", "router_jitter_noise", "for_llm_compressor"),
    "_attn_implementation_autoset",
}


def read_config(config: dict[str, Any]) -> ModelConfig:
    """config.json of the text model, or of the whole with it in `text_config`."""
    family = config["model_type"]
    if family == "llama4":
        config = _text_of(config)
    fields = Fields(DEFAULTS | config)
    refuse_unknown_arithmetic(fields)
    sizes, layers = read_sizes(fields), _layers(fields)
    width = fields.count("intermediate_size")
    router = replace(
        plain_router(fields, "num_local_experts", "num_experts"),
        score="identity",
        weight_from="sigmoid_of_chosen",
        weight_on="input",
    )
    rope = read_rope(fields, sizes.head_dim, pairing="interleaved")
    result = assemble(
        fields,
        sizes,
        family=family,
        layers=layers,
        attention=_attention(fields, full_attention(sizes.head_dim, rope), len(layers)),
        router=router,
        moe_intermediate=width,
        dense_intermediate=fields.count("intermediate_size_mlp"),
        default_eps=1e-5,
        experts=shared_card("added", width),
    )
    fields.finish(LLAMA_HARMLESS)
    return result


def _text_of(config: dict[str, Any]) -> dict[str, Any]:
    """The text model's own object; what both levels may say is taken from it first."""
    text = config.get("text_config")
    if not isinstance(text, dict):
        raise TinymoeError("config.json: expected 'text_config' to be an object")
    names = ("tie_word_embeddings", "quantization_config")
    return {name: config[name] for name in names if name in config} | text


# of the family's own configuration class, where the key is missing, as in the releases
DEFAULTS: dict[str, Any] = {
    "tie_word_embeddings": False,
    "attn_temperature_tuning": True,
    "floor_scale": 8192,
    "attn_scale": 0.1,
}


def _layers(fields: Fields) -> Kinds:
    """`moe_layers`, or every step-th layer counted from the step-th."""
    number = layer_count(fields)
    step, listed = fields.take("interleave_moe_layer_step", None), fields.take("moe_layers", None)
    if listed is None:
        step = fields.count("interleave_moe_layer_step")
        listed = list(range(step - 1, number, step))
    if not isinstance(listed, list) or not all(type(i) is int and 0 <= i < number for i in listed):
        raise fields.error("moe_layers", f"a list of layers from 0 to {number - 1}")
    return tuple("moe" if index in listed else "dense" for index in range(number))


def _attention(fields: Fields, card: AttentionCard, number: int) -> tuple[AttentionCard, ...]:
    """Layers with a 1 in `no_rope_layers` turn (the name says the opposite), the others do not."""
    bias = fields.flag("attention_bias", False)
    card = replace(card, qkv_bias=bias, out_bias=bias)
    turning = fields.take("no_rope_layers", None)
    interval = fields.take("no_rope_layer_interval", 4)
    if not turning:
        if type(interval) is not int or interval < 1:
            raise fields.error("no_rope_layer_interval", "a number of layers")
        turning = [int((index + 1) % interval != 0) for index in range(number)]
    if not isinstance(turning, list) or len(turning) != number or set(turning) - {0, 1}:
        raise fields.error("no_rope_layers", f"a list of {number}, each 0 or 1")
    chunk = fields.count("attention_chunk_size") if "attention_chunk_size" in fields else None
    fields.take("attention_chunk_size", None)
    kinds = ["chunked_attention" if turns else "full_attention" for turns in turning]
    fields.only("layer_types", None, kinds)
    tuned = fields.take("attn_temperature_tuning")  # true, or a number that is not 0
    temperature = TemperatureCard(
        floor_scale=fields.positive("floor_scale"), scale=fields.positive("attn_scale")
    )
    norm: Literal["unit", "none"] = "unit" if fields.flag("use_qk_norm") else "none"
    near = replace(card, chunk=chunk, qk_norm=norm, qk_norm_after_rope=True)
    far = replace(card, rope=None, temperature=temperature if tuned else None)
    return tuple(near if turns else far for turns in turning)


def _moe(source: Source, layer: str, config: ModelConfig, names: Names) -> MoeParams:
    """Stored [E, in, out], gate columns and then up columns; kept (E, out, in).

    transformers#40609: taken the other way round, garbage.
    """
    moe = load_router(source, layer, config, names)
    E, H, width = config.router.experts, config.hidden_size, config.moe_intermediate
    name = f"{layer}.feed_forward.experts"
    moe = fill_stacks(
        *(source, moe, (f"{name}.gate_up_proj", f"{name}.down_proj")),
        shapes=((E, H, 2 * width), (E, width, H)),
        changes=(_transposed, _transposed),
    )
    return replace(moe, shared=load_shared(source, layer, config, names))


def _transposed(stored: Array) -> Array:
    """(E, in, out) -> (E, out, in)."""
    return stored.swapaxes(1, 2)


def build(source: Source, config: ModelConfig) -> Params:
    """Every weight by role."""
    names = WHOLE_NAMES if config.family == "llama4" else TEXT_NAMES
    return load_model(source, config, names, experts=_moe)
