"""What one checkpoint computes, as values: cards that a family file fills and the model reads.

A family differs from another in its cards, never in the code that runs them. No field has a
default: a value that nobody read from the checkpoint cannot slip in (ik_llama.cpp#1174 ran a
model with softmax for sigmoid because an entry was missing and a default stood in).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterCard:
    """How one family picks experts: five steps, score -> select -> gather -> renorm -> scale.

    A family file fills every field. `model/router.py` reads nothing else.
    """

    experts: int  # E
    top_k: int  # K
    score: Literal["softmax", "sigmoid", "identity"]  # logits -> scores, over all E
    selection_bias: bool  # a learned bias added to the score for choosing, never for weighing
    groups: int  # G equal, consecutive groups of experts; 1 means none
    groups_kept: int  # groups that may be chosen from; equal to `groups` when there is no limit
    group_score: Literal["max", "top2_sum", "none"]  # how a group's members rate the group
    dropped_group: Literal["-inf", "zero", "none"]  # what masks the experts of a dropped group
    weight_from: Literal["score", "softmax_of_chosen", "sigmoid_of_chosen", "sparsemixer"]
    renormalise: bool  # divide the K weights by their sum
    renorm_epsilon: float  # added to that sum (1e-20 in DeepSeek-V3; 0 elsewhere)
    renorm_floor: float  # that sum is at least this (1e-12 in Ernie; 0 elsewhere)
    scale: float  # routed scaling factor, applied to the weights, once
    weight_on: Literal["output", "input"]  # of the expert (input: Llama-4)
    logits_dtype: Literal["model", "float32"]  # type in which the logits are kept
    bias_dtype: Literal["model", "float32"]  # vllm#38989: a bias in the wrong type, GSM8K 0.02
    tie_rule: Literal["lowest_index"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScaling:
    """Every angle divided by `factor`."""

    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling:
    """Long wavelengths divided by `factor`, short ones as they are, those between blended."""

    factor: float
    low_freq_factor: float  # wavelengths above original_positions / this are divided
    high_freq_factor: float  # wavelengths below original_positions / this are not
    original_positions: int  # of the training before the extension


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnScaling:
    """As Llama3Scaling with a linear ramp over dimensions; Peng et al. 2023 (arXiv:2309.00071)."""

    factor: float
    original_positions: int
    beta_fast: float  # dimensions that turn more often than this over original_positions stay
    beta_slow: float  # those that turn less often than this are divided by factor
    truncate: bool  # the ramp begins and ends at whole dimensions; gpt-oss: false
    attention_factor: float  # cos and sin are multiplied by it, so scores by its square


@dataclass(frozen=True, slots=True, kw_only=True)
class LongRopeScaling:
    """Each angle divided by a factor of its own (Phi)."""

    factors: tuple[float, ...]  # d/2
    attention_factor: float  # as in YarnScaling


RopeScaling: TypeAlias = LinearScaling | Llama3Scaling | YarnScaling | LongRopeScaling


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeCard:
    """Rotary position embedding: which dimensions turn, how fast, and how they are paired."""

    theta: float  # base of the geometric series of wavelengths
    rotary_dim: int  # leading dimensions of a head that turn; frequencies are over this number
    pairing: Literal["half", "interleaved"]  # j with j + d/2, or 2j with 2j + 1
    scaling: RopeScaling | None  # how the wavelengths were stretched after training


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentCard:
    """Multi-head latent attention (DeepSeek): keys and values grow out of one short vector.

    A head's query and key are [nope | rope] dimensions, the rope part of the key shared by all
    heads. "expanded" caches each head's keys and values; "absorbed" caches the latent vector and
    the shared part alone and folds the growing into the query and the output: the same function
    in another order of sums.
    """

    query_rank: int | None  # length of the query's own latent vector; None: one matrix
    rank: int  # R, length of the latent vector of keys and values
    nope_dim: int
    rope_dim: int
    value_dim: int
    norm_eps: float  # of the norms of both latent vectors: 1e-6, whatever rms_norm_eps says
    form: Literal["expanded", "absorbed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TemperatureCard:
    """Queries that grow with the position: times ln(1 + floor((i + 1) / floor_scale)) s + 1."""

    floor_scale: float
    scale: float  # s


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCard:
    """How one layer looks back."""

    window: int | None  # the last so many keys are seen, the token's own included; None: all
    chunk: int | None  # keys of the token's own chunk of so many positions alone (Llama-4)
    rope: RopeCard | None  # None: positions do not enter this layer
    scale: float  # multiplies q . k
    # RMSNorm of q and k: over D of each head, over all heads' Nq * D together, over D with weight 1
    qk_norm: Literal["none", "per_head", "all_heads", "unit"]
    qk_norm_after_rope: bool
    temperature: TemperatureCard | None  # None: queries are as long at every position
    clip: float | None  # q, k and v are held within +-clip, before rope (OLMoE)
    sinks: bool  # a learned logit per head that takes part in the softmax and has no value
    qkv_bias: bool
    out_bias: bool
    latent: LatentCard | None  # None: queries, keys and values are projected directly


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertCard:
    """What an expert computes, and which expert every token meets."""

    activation: Literal["swiglu", "swiglu_clamped"]
    clamp_limit: float | None  # clamped: gate at most this, up within +- this
    clamp_alpha: float | None  # clamped: (up + 1) * gate * sigmoid(alpha * gate)
    biases: bool  # of router, gate_up and down (gpt-oss)
    shared: Literal["none", "added", "gated"]  # gated: times sigmoid(gate . x)
    shared_intermediate: int  # width of the shared expert; 0 where there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Multipliers:
    """Constants on the residual stream (Granite); 1 elsewhere."""

    embedding: float
    residual: float  # of what attention and experts add
    logits_divisor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The shape and the arithmetic of one checkpoint, as its family file read them."""

    family: str  # model_type of config.json
    vocab_size: int  # V
    hidden_size: int  # H
    layers: tuple[Literal["moe", "dense"], ...]  # kind of the feed-forward part, one per layer
    attention: tuple[AttentionCard, ...]  # one per layer
    heads: int  # Nq
    kv_heads: int  # Nk; each serves Nq // Nk consecutive query heads
    head_dim: int  # D, of queries and keys; need not be H / Nq
    norm: Literal["rms", "layer"]  # layer: mean taken off first, a bias added last (Phi)
    rms_norm_eps: float
    norm_rounds_before_weight: bool  # bf16 only: Llama, Qwen round x/rms before multiplying by w
    dense_intermediate: int  # width of a dense layer; unused when there is none
    moe_intermediate: int  # I
    experts: ExpertCard
    router: RouterCard
    multipliers: Multipliers
    tied_head: bool  # the head is the embedding matrix
    max_positions: int  # positions the model was made for
    more_positions: int | None = None  # as many if it is loaded for them (`families/phimoe.py`)

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.layers)

    @property
    def positions_said(self) -> str:
        """How many there are, for a message to someone who wants more."""
        if self.more_positions is None:
            return f"{self.max_positions} positions"
        return (
            f"{self.max_positions} positions ({self.more_positions} when it is loaded for longer "
            "sequences: --positions N, or load(positions=N))"
        )

    def cached(self, layer: int) -> tuple[tuple[int, int], tuple[int, int] | None]:
        """(heads, dimensions) of the keys and values that a layer caches for a position.

        None for the values of the absorbed form: they are the first `rank` numbers of the keys.
        """
        latent = self.attention[layer].latent
        if latent is None:
            return (self.kv_heads, self.head_dim), (self.kv_heads, self.head_dim)
        if latent.form == "absorbed":
            return (1, latent.rank + latent.rope_dim), None
        return (self.heads, self.head_dim), (self.heads, latent.value_dim)


PLAIN_SWIGLU = ExpertCard(
    activation="swiglu",
    clamp_limit=None,
    clamp_alpha=None,
    biases=False,
    shared="none",
    shared_intermediate=0,
)
NO_MULTIPLIERS = Multipliers(embedding=1.0, residual=1.0, logits_divisor=1.0)


def full_attention(head_dim: int, rope: RopeCard) -> AttentionCard:
    """The plain case, which families change with `replace`: all keys, 1 / sqrt(D), no extras."""
    return AttentionCard(
        window=None,
        chunk=None,
        rope=rope,
        scale=head_dim**-0.5,
        qk_norm="none",
        qk_norm_after_rope=False,
        temperature=None,
        clip=None,
        sinks=False,
        qkv_bias=False,
        out_bias=False,
        latent=None,
    )


def in_form(config: ModelConfig, form: Literal["expanded", "absorbed"]) -> ModelConfig:
    """The same model, its latent attention in the given form; a model without it as it is.

    Families give "expanded", in which a trace holds each head's keys and values. "absorbed" needs
    a cache of rank + rope_dim numbers a position: 576 for DeepSeek-V3, in place of 40,960.
    """
    cards = [
        card if card.latent is None else replace(card, latent=replace(card.latent, form=form))
        for card in config.attention
    ]
    return replace(config, attention=tuple(cards))
