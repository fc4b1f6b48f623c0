"""gpt-oss: attention sinks, every other layer sliding, biases everywhere, clamped SwiGLU.

openai/gpt-oss-20b and 120b, with experts in MXFP4, as released, in NVFP4, or in BF16. Checked
against transformers' `gpt_oss`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tinymoe.cards import PLAIN_SWIGLU, ModelConfig, full_attention
from tinymoe.families.changes import Turned, halves
from tinymoe.families.common import (
    all_moe,
    assemble,
    plain_router,
    read_sizes,
    read_windows,
    refuse_unknown_arithmetic,
)
from tinymoe.families.fields import HARMLESS, Fields
from tinymoe.families.rope_fields import read_rope
from tinymoe.families.standard import Names, fill_stacks, load_model, load_router
from tinymoe.families.tensors import Source, read
from tinymoe.model.params import MoeParams, Params

NAMES = Names(router="mlp.router.weight")
# experts_per_token says again what num_experts_per_tok says, where both are there the latter is
# used; initial_context_length repeats the rope's original positions
GPT_OSS_HARMLESS = HARMLESS | {
    *("attention_dropout", "experts_per_token", "initial_context_length"),
}


def read_config(config: dict[str, Any]) -> ModelConfig:
    """config.json; layers slide and see all by turns, beginning with a window, or as listed."""
    fields = Fields(config)
    refuse_unknown_arithmetic(fields)
    sizes, layers = read_sizes(fields), all_moe(fields)
    bias = fields.flag("attention_bias", True)
    card = replace(
        full_attention(sizes.head_dim, read_rope(fields, sizes.head_dim)),
        sinks=True,
        qkv_bias=bias,
        out_bias=bias,
    )
    window = fields.count("sliding_window")
    windows = read_windows(fields, len(layers), window)
    if windows is None:
        windows = tuple(None if index % 2 else window for index in range(len(layers)))
    router = plain_router(fields, "num_local_experts", "num_experts")
    result = assemble(
        fields,
        sizes,
        family="gpt_oss",
        layers=layers,
        attention=tuple(replace(card, window=w) for w in windows),
        router=replace(router, score="identity", weight_from="softmax_of_chosen"),
        moe_intermediate=fields.count("intermediate_size"),
        dense_intermediate=0,
        default_eps=1e-5,
        rounds_before_weight=False,
        experts=replace(
            PLAIN_SWIGLU,
            activation="swiglu_clamped",
            clamp_limit=fields.positive("swiglu_limit"),
            clamp_alpha=fields.positive("swiglu_alpha", 1.702),
            biases=True,
        ),
    )
    fields.finish(GPT_OSS_HARMLESS)
    return result


def _moe(source: Source, layer: str, config: ModelConfig, names: Names) -> MoeParams:
    """Stored [E, in, out], gate and up outputs by turns; kept (E, out, in), gate first."""
    moe = load_router(source, layer, config, names)
    E, H, width = config.router.experts, config.hidden_size, config.moe_intermediate
    name = f"{layer}.mlp.experts"
    moe = fill_stacks(
        *(source, moe, (f"{name}.gate_up_proj", f"{name}.down_proj")),
        shapes=((E, H, 2 * width), (E, width, H)),
        changes=(Turned(gate_by_turns=True), Turned()),
    )
    gate_up_bias = source.new(E, 2 * width)
    source.fill(f"{name}.gate_up_proj_bias", gate_up_bias, (E, 2 * width), halves)
    return replace(
        moe,
        router_bias=read(source, f"{layer}.mlp.router.bias", E),
        gate_up_bias=gate_up_bias,
        down_bias=read(source, f"{name}.down_proj_bias", E, H),
    )


def build(source: Source, config: ModelConfig) -> Params:
    """Every weight by role."""
    return load_model(source, config, NAMES, experts=_moe)
