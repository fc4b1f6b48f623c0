"""A model of random weights, drawn from a seed on demand: a shape to time, never written to disk.

Its text is noise and says nothing on quality. Its speed says what a trained model of the shape
would do as long as its tokens spread over the experts as trained ones do; so the draw is made
for that, and a test bounds every expert's share.
"""

from __future__ import annotations

import numpy as np

from tinymoe.core import Array, AttentionCard, ModelConfig, Numerics, TinymoeError
from tinymoe.model.params import (
    AttentionParams,
    LayerParams,
    MoeParams,
    Params,
    aligned_empty,
)

ROUTER_GAIN = 0.5  # below 1: weights of the chosen stay near 1/K, none takes all
# Untrained attention gives every token nearly the same average of values. At full size it drowns
# what tells tokens apart: after a few layers all choose the same K experts.
ATTENTION_GAIN = 0.25


def random_params(config: ModelConfig, seed: int, numerics: Numerics) -> Params:
    """Weights of `config`, the same for a seed in every numerics: drawn in float32, then widened.

    Matrices: uniform with mean 0 and variance 1 / fan-in, so that activations keep their size
    from layer to layer; the router and attention's output times the gains above. The embedding
    is drawn as a head is: larger and tied to the head, every token would predict itself. Norm
    weights: 1.
    """
    if "dense" in config.layers:
        raise TinymoeError("a random model has a mixture in every layer, this shape a dense one")
    draw = _Draw(seed, numerics)
    V, H = config.vocab_size, config.hidden_size
    head = draw.matrix(V, H)
    return Params(
        embed=head if config.tied_head else draw.matrix(V, H),
        layers=tuple(_layer(config, draw) for _ in config.layers),
        final_norm=draw.ones(H),
        head=head,
    )


class _Draw:
    """One stream of random numbers, and the type they are kept in."""

    def __init__(self, seed: int, numerics: Numerics) -> None:
        if seed < 0:
            raise TinymoeError(f"--seed must be 0 or more, got {seed}")
        self._random = np.random.default_rng(seed)
        self._dtype = numerics.dtype

    def ones(self, *shape: int) -> Array:
        """A norm that changes nothing."""
        return np.ones(shape, self._dtype)

    def matrix(self, outputs: int, inputs: int, gain: float = 1.0) -> Array:
        """(out, in), uniform in +-gain * sqrt(3 / in): standard deviation gain / sqrt(in)."""
        values = self._random.random((outputs, inputs), dtype=np.float32)
        values -= np.float32(0.5)  # in place: a medium model's largest matrix is 134 MB
        values *= np.float32(2 * gain * (3 / inputs) ** 0.5)
        return values.astype(self._dtype, copy=False)

    def stack(self, count: int, outputs: int, inputs: int) -> Array:
        """`count` matrices, (count, out, in), drawn one by one to keep memory low."""
        stacked = aligned_empty((count, outputs, inputs), self._dtype)
        for index in range(count):
            stacked[index] = self.matrix(outputs, inputs)
        return stacked


def _layer(config: ModelConfig, draw: _Draw) -> LayerParams:
    H, D = config.hidden_size, config.head_dim
    width, card = config.moe_intermediate, config.router
    first = config.attention[0]
    normed = isinstance(first, AttentionCard) and first.qk_norm != "none"
    return LayerParams(
        attention=AttentionParams(
            norm=draw.ones(H),
            qkv=draw.matrix((config.heads + 2 * config.kv_heads) * D, H),
            qk_norm=draw.ones(config.heads + config.kv_heads, D) if normed else None,
            out=draw.matrix(H, config.heads * D, gain=ATTENTION_GAIN),
        ),
        ffn=MoeParams(
            norm=draw.ones(H),
            router=draw.matrix(card.experts, H, gain=ROUTER_GAIN),
            selection_bias=np.zeros(card.experts, draw.ones(0).dtype)
            if card.selection_bias
            else None,
            gate_up=draw.stack(card.experts, 2 * width, H),
            down=draw.stack(card.experts, H, width),
        ),
    )
