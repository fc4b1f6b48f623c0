"""Weights that nobody trained: every array that a config asks for, each filled by a `Draw`.

Which arrays a model has follows from its cards alone. Whoever needs a model without a checkpoint
(a specimen for the mutants, a shape to time, a count of parameters) says here what fills them.
The order of the calls is fixed: a seed gives the same weights as long as it stands.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from tinymoe.core import Array, AttentionCard, GatedDeltaCard, LightningCard, ModelConfig
from tinymoe.model.params import (
    AttentionParams,
    DenseParams,
    GatedDeltaParams,
    LatentParams,
    LayerParams,
    LightningParams,
    MixerParams,
    MoeParams,
    Params,
    SharedParams,
)


class Draw(Protocol):
    """What fills arrays: by role, since routers and outputs may need numbers of another size."""

    def matrix(self, *shape: int) -> Array:
        """(..., out, in): a matrix, or a stack of them that one token meets whole."""
        ...

    def mixed_out(self, outputs: int, inputs: int) -> Array:
        """(out, in): attention's last matrix."""
        ...

    def experts(self, *shape: int) -> Array:
        """(E, out, in): a matrix of each expert."""
        ...

    def router(self, experts: int, hidden: int) -> Array:
        """(E, H)."""
        ...

    def selection_bias(self, experts: int) -> Array:
        """(E,): added to the scores for choosing."""
        ...

    def bias(self, *shape: int) -> Array:
        """Any other bias."""
        ...

    def expert_bias(self, *shape: int) -> Array:
        """(E, out): a bias of each expert."""
        ...

    def sinks(self, heads: int) -> Array:
        """(Nq,): logits that take part in the softmax."""
        ...

    def norm(self, *shape: int) -> Array:
        """A norm's weights."""
        ...

    def ones(self, *shape: int) -> Array:
        """Of a norm that has no weights."""
        ...


def fresh_params(config: ModelConfig, draw: Draw) -> Params:
    """A whole model: layers first, then embedding, last norm and head (V, H each matrix)."""
    layers = []
    for kind, card in zip(config.layers, config.attention, strict=True):
        mixer = _mixer(config, card, draw)
        fed = _dense(config, draw) if kind == "dense" else _moe(config, draw)
        layers.append(LayerParams(attention=mixer, ffn=fed))
    V, H = config.vocab_size, config.hidden_size
    embed = draw.matrix(V, H)
    return Params(
        embed=embed,
        layers=tuple(layers),
        final_norm=draw.norm(H),
        head=embed if config.tied_head else draw.matrix(V, H),
        final_norm_bias=_layer_bias(config, draw),
    )


def _mixer(
    config: ModelConfig, card: AttentionCard | GatedDeltaCard | LightningCard, draw: Draw
) -> MixerParams:
    if isinstance(card, GatedDeltaCard):
        return _gated_delta(config, card, draw)
    if isinstance(card, LightningCard):
        return _lightning(config, card, draw)
    return _attention(config, card, draw) if card.latent is None else _latent(config, card, draw)


def _attention(config: ModelConfig, card: AttentionCard, draw: Draw) -> AttentionParams:
    H, D, heads = config.hidden_size, config.head_dim, config.heads
    rows = (heads + 2 * config.kv_heads) * D
    return AttentionParams(
        norm=draw.norm(H),
        qkv=draw.matrix(rows, H),
        qk_norm=_qk_norm(config, card, draw),
        out=draw.mixed_out(H, heads * D),
        qkv_bias=draw.bias(rows) if card.qkv_bias else None,
        out_bias=draw.bias(H) if card.out_bias else None,
        sinks=draw.sinks(heads) if card.sinks else None,
        norm_bias=_layer_bias(config, draw),
        gate=draw.matrix(heads * D, H) if card.out_gate else None,
    )


def _qk_norm(config: ModelConfig, card: AttentionCard, draw: Draw) -> Array | None:
    """(Nq + Nk, D): the same for all heads of a kind, unless they are normed as one."""
    heads, kv_heads, D = config.heads, config.kv_heads, config.head_dim
    if card.qk_norm == "none":
        return None
    if card.qk_norm == "unit":
        return draw.ones(heads + kv_heads, D)
    if card.qk_norm == "all_heads":
        return draw.norm(heads + kv_heads, D)
    return np.repeat(draw.norm(2, D), [heads, kv_heads], axis=0)


def _latent(config: ModelConfig, card: AttentionCard, draw: Draw) -> LatentParams:
    latent, H, heads = card.latent, config.hidden_size, config.heads
    assert latent is not None
    R, low = latent.rank, latent.query_rank
    return LatentParams(
        norm=draw.norm(H),
        query_down=draw.matrix(low, H) if low else None,
        query_down_bias=draw.bias(low) if low and card.qkv_bias else None,
        query_norm=draw.norm(low) if low else None,
        query=draw.matrix(heads * config.head_dim, low or H),
        down=draw.matrix(R + latent.rope_dim, H),
        down_bias=draw.bias(R + latent.rope_dim) if card.qkv_bias else None,
        latent_norm=draw.norm(R),
        up=draw.matrix(heads, latent.nope_dim + latent.value_dim, R),
        out=draw.mixed_out(H, heads * latent.value_dim),
        out_bias=draw.bias(H) if card.out_bias else None,
    )


def _gated_delta(config: ModelConfig, card: GatedDeltaCard, draw: Draw) -> GatedDeltaParams:
    H, out = config.hidden_size, card.value_heads * card.value_dim
    return GatedDeltaParams(
        norm=draw.norm(H),
        qkvz=draw.matrix(card.channels + out, H),
        ba=draw.matrix(2 * card.value_heads, H),
        conv=draw.matrix(card.channels, card.kernel),
        a_log=draw.bias(card.value_heads),
        dt_bias=draw.bias(card.value_heads),
        out_norm=draw.norm(card.value_dim),
        out=draw.mixed_out(H, out),
    )


def _lightning(config: ModelConfig, card: LightningCard, draw: Draw) -> LightningParams:
    H, out = config.hidden_size, len(card.decays) * card.head_dim
    return LightningParams(
        norm=draw.norm(H),
        qkv=draw.matrix(3 * out, H),
        gate=draw.matrix(out, H),
        out_norm=draw.norm(out),
        out=draw.mixed_out(H, out),
    )


def _dense(config: ModelConfig, draw: Draw) -> DenseParams:
    H, width = config.hidden_size, config.dense_intermediate
    return DenseParams(
        norm=draw.norm(H), gate_up=draw.matrix(2 * width, H), down=draw.matrix(H, width)
    )


def _moe(config: ModelConfig, draw: Draw) -> MoeParams:
    E, H, width = config.router.experts, config.hidden_size, config.moe_intermediate
    biases = config.experts.biases
    return MoeParams(
        router=draw.router(E, H),
        norm=draw.norm(H),
        selection_bias=draw.selection_bias(E) if config.router.selection_bias else None,
        gate_up=draw.experts(E, 2 * width, H),
        down=draw.experts(E, H, width),
        router_bias=draw.bias(E) if biases else None,
        gate_up_bias=draw.expert_bias(E, 2 * width) if biases else None,
        down_bias=draw.expert_bias(E, H) if biases else None,
        shared=_shared(config, draw),
        norm_bias=_layer_bias(config, draw),
    )


def _shared(config: ModelConfig, draw: Draw) -> SharedParams | None:
    card, H = config.experts, config.hidden_size
    if card.shared == "none":
        return None
    return SharedParams(
        gate_up=draw.matrix(2 * card.shared_intermediate, H),
        down=draw.matrix(H, card.shared_intermediate),
        gate=draw.matrix(1, H) if card.shared == "gated" else None,
    )


def _layer_bias(config: ModelConfig, draw: Draw) -> Array | None:
    """A LayerNorm's bias, where the norm is one."""
    return draw.bias(config.hidden_size) if config.norm == "layer" else None
