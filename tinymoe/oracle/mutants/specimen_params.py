"""Random weights for the specimens: everything that a config may ask for."""

from __future__ import annotations

import numpy as np

from tinymoe.core import NUMERICS, Array, AttentionCard, ModelConfig, Numerics
from tinymoe.model.params import (
    AttentionParams,
    DenseParams,
    LatentParams,
    LayerParams,
    MoeParams,
    Params,
    SharedParams,
)
from tinymoe.oracle.mutants.mutant import Setup, looking_back
from tinymoe.oracle.mutants.specimens import CONFIGS


def specimen(name: str, numerics: Numerics = NUMERICS["fp32"], seed: int = 0) -> Setup:
    """One of `CONFIGS` with weights: a `Setup` to run with `specimens.IDS`."""
    config = CONFIGS[name]
    return Setup(config, random_params(config, numerics, seed, name))


def random_params(config: ModelConfig, numerics: Numerics, seed: int, name: str = "") -> Params:
    """Weights drawn in float32 and widened: the same numbers in every numerics."""
    draw = _Draw(np.random.default_rng(seed), config, numerics)
    layers = []
    for kind, card in zip(config.layers, looking_back(config), strict=True):
        attention = draw.latent(card) if card.latent is not None else draw.attention(card)
        fed = draw.dense() if kind == "dense" else draw.moe(name)
        layers.append(LayerParams(attention=attention, ffn=fed))
    h = config.hidden_size
    return Params(
        embed=draw.matrix(config.vocab_size, h),
        layers=tuple(layers),
        final_norm=draw.norm(h),
        head=draw.matrix(config.vocab_size, h),
        final_norm_bias=draw.layer_bias(h),
    )


class _Draw:
    """One stream of random numbers."""

    def __init__(self, rng: np.random.Generator, config: ModelConfig, numerics: Numerics) -> None:
        self.rng, self.config, self.dtype = rng, config, numerics.dtype

    def matrix(self, *shape: int) -> Array:
        """Entries such that activations stay near 1, and attention and router have opinions."""
        return self.vector(*shape, size=2 / shape[-1] ** 0.5)

    def vector(self, *shape: int, size: float = 0.5) -> Array:
        """Normal numbers."""
        return (self.rng.normal(size=shape) * size).astype(np.float32).astype(self.dtype)

    def norm(self, *shape: int) -> Array:
        """A norm's weights."""
        return self.rng.uniform(0.5, 2, shape).astype(np.float32).astype(self.dtype)

    def layer_bias(self, *shape: int) -> Array | None:
        """A LayerNorm's bias, where the norm is one."""
        return self.vector(*shape) if self.config.norm == "layer" else None

    def qk_norm(self, card: AttentionCard) -> Array | None:
        """(Nq + Nk, D): the same for all heads of a kind, unless they are normed as one."""
        heads, kv_heads, d = self.config.heads, self.config.kv_heads, self.config.head_dim
        if card.qk_norm == "none":
            return None
        if card.qk_norm == "unit":
            return np.ones((heads + kv_heads, d), self.dtype)
        if card.qk_norm == "all_heads":
            return self.norm(heads + kv_heads, d)
        return np.repeat(self.norm(2, d), [heads, kv_heads], axis=0)

    def attention(self, card: AttentionCard) -> AttentionParams:
        """Projections, and what else the card has."""
        config = self.config
        h, d, nq = config.hidden_size, config.head_dim, config.heads
        rows = (nq + 2 * config.kv_heads) * d
        return AttentionParams(
            norm=self.norm(h),
            qkv=self.matrix(rows, h),
            qk_norm=self.qk_norm(card),
            out=self.matrix(h, nq * d),
            qkv_bias=self.vector(rows) if card.qkv_bias else None,
            out_bias=self.vector(h) if card.out_bias else None,
            sinks=self.vector(nq, size=2) if card.sinks else None,
            norm_bias=self.layer_bias(h),
        )

    def latent(self, card: AttentionCard) -> LatentParams:
        """Both latent vectors' matrices."""
        config, latent = self.config, card.latent
        assert latent is not None
        assert latent.query_rank is not None
        h, nq = config.hidden_size, config.heads
        return LatentParams(
            norm=self.norm(h),
            query_down=self.matrix(latent.query_rank, h),
            query_down_bias=None,
            query_norm=self.norm(latent.query_rank),
            query=self.matrix(nq * config.head_dim, latent.query_rank),
            down=self.matrix(latent.rank + latent.rope_dim, h),
            down_bias=None,
            latent_norm=self.norm(latent.rank),
            up=self.matrix(nq, latent.nope_dim + latent.value_dim, latent.rank),
            out=self.matrix(h, nq * latent.value_dim),
            out_bias=None,
        )

    def dense(self) -> DenseParams:
        """A layer without experts."""
        h, width = self.config.hidden_size, self.config.dense_intermediate
        return DenseParams(
            norm=self.norm(h), gate_up=self.matrix(2 * width, h), down=self.matrix(h, width)
        )

    def moe(self, name: str) -> MoeParams:
        """Router and experts; the specimens' names say what is special about their routers."""
        config, card = self.config, self.config.router
        h, width, biases = config.hidden_size, config.moe_intermediate, config.experts.biases
        router = self.matrix(card.experts, h)
        if name == "ties":
            router[[4, 5, 7]] = router[[0, 1, 3]]
            router[6] = router[2] * (1 - 2.0**-21)  # some 1e-7 of a score: a close call, no tie
        return MoeParams(
            norm=self.norm(h),
            router=router,
            selection_bias=self.selection_bias(name) if card.selection_bias else None,
            gate_up=self.matrix(card.experts, 2 * width, h),
            down=self.matrix(card.experts, h, width),
            router_bias=self.vector(card.experts) if biases else None,
            gate_up_bias=self.vector(card.experts, 2 * width) if biases else None,
            down_bias=self.vector(card.experts, h) if biases else None,
            shared=self.shared(),
            norm_bias=self.layer_bias(h),
        )

    def selection_bias(self, name: str) -> Array:
        """All below -1; or in the band of sglang#31213; or of both signs."""
        experts = self.config.router.experts
        if name == "groups":
            return self.vector(experts, size=0.3) - self.dtype.type(2)
        if name == "band":
            band = self.rng.uniform(6.817, 7.063, experts)
            return band.astype(np.float32).astype(self.dtype)
        return self.vector(experts, size=0.2)

    def shared(self) -> SharedParams | None:
        """The expert that every token meets."""
        config = self.config
        card, h = config.experts, config.hidden_size
        if card.shared == "none":
            return None
        return SharedParams(
            gate_up=self.matrix(2 * card.shared_intermediate, h),
            down=self.matrix(h, card.shared_intermediate),
            gate=self.matrix(1, h) if card.shared == "gated" else None,
        )
