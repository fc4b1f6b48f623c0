"""What one checkpoint computes, as values: cards that a family file fills and the model reads.

A family differs from another in its cards, never in the code that runs them. No field has a
default: a value that nobody read from the checkpoint cannot slip in (ik_llama.cpp#1174 ran a
model with softmax for sigmoid because an entry was missing and a default stood in).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias

from tinymoe.cache_groups import CacheGroup, Kind, grouped
from tinymoe.rope_cards import LinearScaling as LinearScaling
from tinymoe.rope_cards import Llama3Scaling as Llama3Scaling
from tinymoe.rope_cards import LongRopeScaling as LongRopeScaling
from tinymoe.rope_cards import RopeCard as RopeCard
from tinymoe.rope_cards import RopeScaling as RopeScaling
from tinymoe.rope_cards import YarnScaling as YarnScaling


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
    out_gate: bool  # the mix times sigmoid of a gate of its own size (Qwen3-Next)
    latent: LatentCard | None  # None: queries, keys and values are projected directly

    @property
    def keeps(self) -> tuple[Kind, int]:
        """What a layer must remember: kind and span of its `CacheGroup`."""
        if self.window is not None:
            return "window", self.window
        return ("all", 0) if self.chunk is None else ("chunk", self.chunk)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedDeltaCard:
    """Gated delta net (Qwen3-Next): a state of fixed size in place of keys and values.

    Yang, Kautz and Hatamizadeh 2024 (arXiv:2412.06464). No positions, no softmax.
    """

    key_heads: int  # Nk, of queries as of keys
    value_heads: int  # Nv; Nv // Nk consecutive ones share a key head
    key_dim: int  # Dk
    value_dim: int  # Dv
    kernel: int  # taps of the convolution over queries, keys and values, the token's own included
    unit_eps: float  # added to the sum of squares by which queries and keys are divided

    @property
    def channels(self) -> int:
        """What passes through the convolution: all queries, all keys, all values."""
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

    @property
    def state(self) -> StateShapes:
        """S of every value head, and the last inputs of the convolution."""
        return (self.value_heads, self.value_dim, self.key_dim), (self.kernel - 1, self.channels)


@dataclass(frozen=True, slots=True, kw_only=True)
class LightningCard:
    """Lightning attention (MiniMax-01, arXiv:2501.08313): a state that each head lets fade."""

    decays: tuple[float, ...]  # a head's lambda: its state is multiplied by e^-lambda each token
    head_dim: int  # D, of queries, keys and values
    norm_eps: float  # of the norm over all heads' output: 1e-6, whatever rms_norm_eps says

    @property
    def state(self) -> StateShapes:
        """S of every head, and nothing else."""
        return (len(self.decays), self.head_dim, self.head_dim), (0,)


StateShapes: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]  # of a sequence, in one layer
LayerCard: TypeAlias = AttentionCard | GatedDeltaCard | LightningCard


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
class NormedResidual:
    """What goes past a part of a layer is the normed input (MiniMax-01): alpha u + beta part(u).

    Each pair is (alpha, beta).
    """

    full_attention: tuple[float, float]
    linear_attention: tuple[float, float]
    ffn: tuple[float, float]


@dataclass(frozen=True, kw_only=True)  # no slots: what is derived is kept beside the fields
class ModelConfig:
    """The shape and the arithmetic of one checkpoint, as its family file read them."""

    family: str  # model_type of config.json
    vocab_size: int  # V
    hidden_size: int  # H
    layers: tuple[Literal["moe", "dense"], ...]  # kind of the feed-forward part, one per layer
    attention: tuple[LayerCard, ...]  # one per layer
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
    residual: NormedResidual | None  # None: what goes past a part is what came in
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
        A layer with a state caches nothing for a position, see `state`.
        """
        card = self.attention[layer]
        if not isinstance(card, AttentionCard):
            return (0, 0), None
        latent = card.latent
        if latent is None:
            return (self.kv_heads, self.head_dim), (self.kv_heads, self.head_dim)
        if latent.form == "absorbed":
            return (1, latent.rank + latent.rope_dim), None
        return (self.heads, self.head_dim), (self.heads, latent.value_dim)

    def value_dim(self, layer: int) -> int:
        """Dv: numbers of a cached value, of those that it shares with the keys too."""
        keys, values = self.cached(layer)
        if values is not None:
            return values[1]
        card = self.attention[layer]
        latent = card.latent if isinstance(card, AttentionCard) else None
        return keys[1] if latent is None else latent.rank

    def state(self, layer: int) -> StateShapes | None:
        """Shapes of the arrays that a layer keeps of a sequence; None: it keeps positions."""
        card = self.attention[layer]
        return None if isinstance(card, AttentionCard) else card.state

    @cached_property
    def cache_groups(self) -> tuple[CacheGroup, ...]:
        """Layers by what they keep of a sequence; each group has a block table of its own."""
        return grouped(
            [c.keeps if isinstance(c, AttentionCard) else ("state", 0) for c in self.attention]
        )

    @cached_property
    def groups_by_layer(self) -> tuple[int, ...]:
        """Number of the cache group that each layer belongs to."""
        numbers = {i: g for g, group in enumerate(self.cache_groups) for i in group.layers}
        return tuple(numbers[layer] for layer in range(self.num_layers))

    def group_of(self, layer: int) -> int:
        """Number of the cache group that a layer belongs to."""
        return self.groups_by_layer[layer]


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
        out_gate=False,
        latent=None,
    )


def in_form(config: ModelConfig, form: Literal["expanded", "absorbed"]) -> ModelConfig:
    """The same model, its latent attention in the given form; a model without it as it is.

    Families give "expanded", in which a trace holds each head's keys and values. "absorbed" needs
    a cache of rank + rope_dim numbers a position: 576 for DeepSeek-V3, in place of 40,960.
    """
    cards = [
        replace(card, latent=replace(card.latent, form=form))
        if isinstance(card, AttentionCard) and card.latent is not None
        else card
        for card in config.attention
    ]
    return replace(config, attention=tuple(cards))
