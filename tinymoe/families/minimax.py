"""MiniMax-01: layers of lightning attention, now and then one of softmax attention.

MiniMaxAI/MiniMax-Text-01 (`minimax_text_01`) and MiniMax-Text-01-hf (`minimax`). The router is
Mixtral's. What is carried past each part of a layer is the normed input. Checked against
transformers' `minimax`, which leaves `rotary_dim` out: the released model turns half of each head.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tinymoe.cards import (
    LayerCard,
    LightningCard,
    ModelConfig,
    NormedResidual,
    full_attention,
)
from tinymoe.core import Array, TinymoeError
from tinymoe.families.common import (
    Sizes,
    all_moe,
    assemble,
    plain_router,
    read_sizes,
    refuse_unknown_arithmetic,
)
from tinymoe.families.fields import HARMLESS, Fields
from tinymoe.families.mixtral import NAMES
from tinymoe.families.rope_fields import read_rope
from tinymoe.families.standard import Names, load_attention, load_model
from tinymoe.families.tensors import Source, read, read_weight
from tinymoe.model.params import AttentionParams, LightningParams, Params

# of training; and how many tokens a kernel takes at a time, which changes the order of sums alone
MINIMAX_HARMLESS = HARMLESS | {"attention_dropout", "router_jitter_noise", "block_size"}
NORM_EPS = 1e-6  # of the norm inside lightning attention, whatever rms_norm_eps says


def read_config(config: dict[str, Any]) -> ModelConfig:
    """config.json of either name; the two differ in what their fields are called."""
    fields = Fields(config)
    family = fields.take("model_type")
    refuse_unknown_arithmetic(fields)
    # false carries the input itself; in `minimax` a missing one is true, in the other false
    fields.only("postnorm", *((None, True) if family == "minimax" else (True,)))
    fields.only("shared_intermediate_size", None, 0)
    fields.only("shared_moe_mode", None, "sigmoid")
    fields.only("sliding_window", None)
    sizes, layers = read_sizes(fields), all_moe(fields)
    fraction = 1.0
    if "rotary_dim" in fields:
        fraction = fields.count("rotary_dim", most=sizes.head_dim) / sizes.head_dim
    fields.take("rotary_dim", None)
    full = full_attention(sizes.head_dim, read_rope(fields, sizes.head_dim, fraction=fraction))
    attention: list[LayerCard] = [
        full if is_full else _lightning_card(fields, index, len(layers), sizes)
        for index, is_full in enumerate(_full(fields, len(layers)))
    ]
    router = plain_router(fields, "num_local_experts", "num_experts")
    result = assemble(
        fields,
        sizes,
        family=family,
        layers=layers,
        attention=tuple(attention),
        router=replace(router, renormalise=True),
        moe_intermediate=fields.count("intermediate_size"),
        dense_intermediate=0,
        default_eps=1e-5,
        residual=NormedResidual(
            full_attention=_factors(fields, "full_attn", "full_attention"),
            linear_attention=_factors(fields, "linear_attn", "linear_attention"),
            ffn=_factors(fields, "mlp", "mlp"),
        ),
    )
    fields.finish(MINIMAX_HARMLESS)
    return result


def _full(fields: Fields, number: int) -> list[bool]:
    """Whether each layer is one of softmax attention, from either list of kinds, or both."""
    found = []
    for name, linear, full in (
        ("layer_types", "linear_attention", "full_attention"),
        ("attn_type_list", 0, 1),
    ):
        kinds = fields.take(name, None)
        if kinds is None:
            continue
        known = isinstance(kinds, list) and all(kind in (linear, full) for kind in kinds)
        if not known or len(kinds) != number:
            raise fields.error(name, f"a list of {number}, each {linear!r} or {full!r}")
        found.append([kind == full for kind in kinds])
    if not found:
        raise TinymoeError(f"{fields.where}: expected 'layer_types' (or 'attn_type_list')")
    if found[0] != found[-1]:
        raise fields.error("attn_type_list", "as layer_types has them")
    return found[0]


def _factors(fields: Fields, new: str, old: str) -> tuple[float, float]:
    """(alpha, beta), under the name of transformers' class or of the release; 1 if missing."""
    pair = []
    for letter in ("alpha", "beta"):
        names = (f"{new}_{letter}_factor", f"layernorm_{old}_{letter}")
        given = [fields.positive(name) for name in names if name in fields]
        for name in names:
            fields.take(name, None)
        if given and given[0] != given[-1]:
            raise fields.error(names[1], f"as {names[0]}, {given[0]}")
        pair.append(given[0] if given else 1.0)
    return pair[0], pair[1]


def _lightning_card(fields: Fields, layer: int, layers: int, sizes: Sizes) -> LightningCard:
    """The decays of a layer: 2^(-8 (h + 1) / Nq) of head h, less and less from layer to layer."""
    heads, transformers = sizes.heads, fields.take("model_type") == "minimax"
    if not transformers and heads & (heads - 1):
        raise fields.error("num_attention_heads", "a power of two, as other slopes are not known")
    span = layers - 1 + 1e-5 if transformers else max(layers - 1, 1)
    factor = 1 - layer / span + 1e-5
    decays = tuple(2.0 ** (-8 * (head + 1) / heads) * factor for head in range(heads))
    return LightningCard(decays=decays, head_dim=sizes.head_dim, norm_eps=NORM_EPS)


def _attention(
    source: Source, layer: str, config: ModelConfig, card: LayerCard, names: Names
) -> AttentionParams | LightningParams:
    """Lightning: qkv_proj, stored head by head, is put apart: all queries, all keys, all values."""
    if not isinstance(card, LightningCard):
        return load_attention(source, layer, config, card, names)
    H, heads, name = config.hidden_size, len(card.decays), f"{layer}.self_attn"
    width = heads * card.head_dim
    qkv = source.new(3 * width, H)

    def apart(stored: Array) -> Array:
        return stored.reshape(heads, 3, card.head_dim, H).swapaxes(0, 1).reshape(-1, H)

    source.fill(f"{name}.qkv_proj.weight", qkv, qkv.shape, apart)
    return LightningParams(
        norm=read(source, f"{layer}.input_layernorm.weight", H),
        qkv=source.weight(qkv, [[f"{name}.qkv_proj.weight"]]),
        gate=read_weight(source, f"{name}.output_gate.weight", width, H),
        out_norm=read(source, f"{name}.norm.weight", width),
        out=read_weight(source, f"{name}.out_proj.weight", H, width),
    )


def build(source: Source, config: ModelConfig) -> Params:
    """Every weight by role."""
    return load_model(source, config, NAMES, attention=_attention)
