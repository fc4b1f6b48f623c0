"""What most configs say alike: sizes, the router's plain case, and the `ModelConfig` around it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tinymoe.cards import (
    NO_MULTIPLIERS,
    PLAIN_SWIGLU,
    ExpertCard,
    LayerCard,
    ModelConfig,
    Multipliers,
    NormedResidual,
    RouterCard,
)
from tinymoe.core import TinymoeError
from tinymoe.families.fields import Fields
from tinymoe.families.quantised import read_scheme

MOST_LAYERS, MOST_EXPERTS = 1024, 4096  # several times any model's; caps what a config can ask
Kinds = tuple[Literal["moe", "dense"], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Hidden size and heads."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int


def read_sizes(fields: Fields) -> Sizes:
    """Sizes of plain attention. `num_key_value_heads`: null means one for each query head."""
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    kv_heads = fields.count("num_key_value_heads") if "num_key_value_heads" in fields else heads
    fields.take("num_key_value_heads")  # missing is an error
    if heads % kv_heads:
        raise fields.error("num_key_value_heads", f"a divisor of the {heads} attention heads")
    head_dim = _head_dim(fields, hidden, heads)
    return Sizes(hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim)


def _head_dim(fields: Fields, hidden: int, heads: int) -> int:
    """Its own key; hidden / heads where that is null or missing. Even, as rope turns pairs."""
    if "head_dim" in fields:
        head_dim = fields.count("head_dim")
    else:
        fields.take("head_dim", None)
        head_dim = hidden // heads
        if hidden % heads:
            raise fields.error("head_dim", f"given, as {hidden} / {heads} is not whole")
    if head_dim % 2:
        raise fields.error("head_dim", f"even: rope turns pairs of dimensions (it is {head_dim})")
    return head_dim


def refuse_unknown_arithmetic(fields: Fields) -> None:
    """Fields that any family may carry and whose other values ask for what is not here."""
    fields.only("hidden_act", "silu")
    read_scheme(fields.config)
    fields.take("quantization_config", None)


def layer_count(fields: Fields) -> int:
    """L."""
    return fields.count("num_hidden_layers", most=MOST_LAYERS)


def all_moe(fields: Fields) -> Kinds:
    """Every layer has experts."""
    return tuple("moe" for _ in range(layer_count(fields)))


def dense_first(fields: Fields) -> Kinds:
    """Layers before `first_k_dense_replace` are dense, all others have experts."""
    number = layer_count(fields)
    dense = fields.take("first_k_dense_replace")
    if type(dense) is not int or not 0 <= dense <= number:
        raise fields.error("first_k_dense_replace", f"a number of layers from 0 to {number}")
    fields.only("moe_layer_freq", None, 1)
    return tuple("dense" if index < dense else "moe" for index in range(number))


def softmax_router(experts: int, top_k: int) -> RouterCard:
    """Softmax over all experts, then the K largest, weighed by their scores as they are."""
    return RouterCard(
        experts=experts,
        top_k=top_k,
        score="softmax",
        selection_bias=False,
        groups=1,
        groups_kept=1,
        group_score="none",
        dropped_group="none",
        weight_from="score",
        renormalise=False,
        renorm_epsilon=0.0,
        renorm_floor=0.0,
        scale=1.0,
        weight_on="output",
        logits_dtype="model",
        bias_dtype="model",
        tie_rule="lowest_index",
    )


def plain_router(fields: Fields, *names: str, k: str = "num_experts_per_tok") -> RouterCard:
    """Softmax over all experts, then the K largest; families change the rest with `replace`.

    `names`: the fields that may hold the number of experts; where several do, they must agree.
    """
    given = [name for name in names if name in fields]
    if not given:
        raise TinymoeError(f"{fields.where}: expected {' (or '.join(map(repr, names))})")
    counts = [fields.count(name, most=MOST_EXPERTS) for name in given]
    if min(counts) != max(counts):
        raise fields.error(given[-1], f"{given[0]}, {counts[0]}")
    top_k = fields.count(k)
    if top_k > counts[0]:
        raise fields.error(k, f"at most the number of experts, {counts[0]}")
    return softmax_router(counts[0], top_k)


def read_groups(fields: Fields, experts: int, top_k: int) -> tuple[int, int]:
    """(groups, groups kept) from `n_group` and `topk_group`; null or missing means no groups."""
    groups = fields.count("n_group") if "n_group" in fields else 1
    kept = fields.count("topk_group") if "topk_group" in fields else groups
    for name in ("n_group", "topk_group"):
        fields.take(name, None)
    if experts % groups:
        raise fields.error("n_group", f"a divisor of the {experts} experts")
    if kept > groups:
        raise fields.error("topk_group", f"at most n_group, {groups}")
    if top_k > kept * (experts // groups):
        raise fields.error("topk_group", f"enough groups for {top_k} experts of a token")
    return groups, kept


def biased_sigmoid_router(fields: Fields) -> RouterCard:
    """DeepSeek-V3's, which many took over: sigmoid, a choosing bias, groups, a scaling factor.

    A group is rated by its two best members, bias included, and a dropped one gets -inf: a mask
    of 0 wins once biased scores are negative (vllm#13474).
    """
    fields.only("topk_method", None, "noaux_tc")
    if "scoring_func" in fields and fields.take("scoring_func") != "noaux_tc":  # dots1 writes so
        fields.only("scoring_func", "sigmoid")
    fields.take("scoring_func", None)
    card = plain_router(fields, "n_routed_experts", "num_local_experts", "num_experts")
    groups, kept = read_groups(fields, card.experts, card.top_k)
    return replace(
        card,
        score="sigmoid",
        selection_bias=True,
        groups=groups,
        groups_kept=kept,
        group_score="top2_sum" if kept < groups else "none",
        dropped_group="-inf" if kept < groups else "none",
        renormalise=fields.flag("norm_topk_prob"),
        renorm_epsilon=1e-20,
        scale=fields.positive("routed_scaling_factor"),
        logits_dtype="float32",
        bias_dtype="float32",
    )


def shared_card(kind: Literal["added", "gated"], width: int) -> ExpertCard:
    """Plain SwiGLU experts, and a shared one of this width; 0 means none."""
    return ExpertCard(
        activation="swiglu",
        clamp_limit=None,
        clamp_alpha=None,
        biases=False,
        shared=kind if width else "none",
        shared_intermediate=width,
    )


def assemble(
    fields: Fields,
    sizes: Sizes,
    *,
    family: str,
    layers: Kinds,
    attention: LayerCard | tuple[LayerCard, ...],
    router: RouterCard,
    moe_intermediate: int,
    dense_intermediate: int,
    default_eps: float,
    norm: Literal["rms", "layer"] = "rms",
    rounds_before_weight: bool = True,
    experts: ExpertCard = PLAIN_SWIGLU,
    multipliers: Multipliers = NO_MULTIPLIERS,
    residual: NormedResidual | None = None,
) -> ModelConfig:
    """The whole config. `default_eps`: of the family's own class, where the key is missing."""
    cards = attention if isinstance(attention, tuple) else (attention,) * len(layers)
    return ModelConfig(
        family=family,
        vocab_size=fields.count("vocab_size"),
        hidden_size=sizes.hidden,
        layers=layers,
        attention=cards,
        heads=sizes.heads,
        kv_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        norm=norm,
        rms_norm_eps=fields.positive("rms_norm_eps", default_eps),
        norm_rounds_before_weight=rounds_before_weight,
        dense_intermediate=dense_intermediate,
        moe_intermediate=moe_intermediate,
        experts=experts,
        router=router,
        multipliers=multipliers,
        residual=residual,
        tied_head=fields.flag("tie_word_embeddings"),
        max_positions=fields.count("max_position_embeddings"),
    )


def read_windows(fields: Fields, number: int, window: int | None) -> tuple[int | None, ...] | None:
    """The window of each layer from `layer_types`; None where the config does not list them."""
    kinds = fields.take("layer_types", None)
    if kinds is None:
        return None
    known = ("full_attention", "sliding_attention")
    if not isinstance(kinds, list) or len(kinds) != number or any(k not in known for k in kinds):
        raise fields.error("layer_types", f"a list of {number}, each one of {known}")
    if "sliding_attention" in kinds and window is None:
        raise fields.error("sliding_window", "a number of keys, as layer_types has such layers")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)
