"""A model of random weights, drawn from a seed on demand: a shape to time, never written to disk.

Its text is noise and says nothing on quality. Its speed says what a trained model of the shape
would do as long as its tokens spread over the experts as trained ones do; so the draw is made
for that, and a test bounds every expert's share.
"""

from __future__ import annotations

import numpy as np

from tinymoe.core import Array, ModelConfig, Numerics, TinymoeError
from tinymoe.model.fresh import fresh_params
from tinymoe.model.params import Params, aligned_empty

ROUTER_GAIN = 0.5  # below 1: weights of the chosen stay near 1/K, none takes all
# Untrained attention gives every token nearly the same average of values. At full size it drowns
# what tells tokens apart: after a few layers all choose the same K experts.
ATTENTION_GAIN = 0.125


def random_params(config: ModelConfig, seed: int, numerics: Numerics) -> Params:
    """Weights of `config`, the same for a seed in every numerics: drawn in float32, then widened.

    Matrices: uniform with mean 0 and variance 1 / fan-in, so that activations keep their size
    from layer to layer; the router and attention's output times the gains above. The embedding
    is drawn as a head is: larger and tied to the head, every token would predict itself. Norm
    weights: 1. Biases and sinks: 0, which take as long to read and add as others.
    """
    return fresh_params(config, _Draw(seed, numerics))


class _Draw:
    """One stream of random numbers, and the type they are kept in."""

    def __init__(self, seed: int, numerics: Numerics) -> None:
        if seed < 0:
            raise TinymoeError(f"--seed must be 0 or more, got {seed}")
        self._random = np.random.default_rng(seed)
        self._dtype = numerics.dtype

    def matrix(self, *shape: int) -> Array:
        """Uniform in +-sqrt(3 / in): standard deviation 1 / sqrt(in)."""
        return self._uniform(shape, 1.0)

    def mixed_out(self, outputs: int, inputs: int) -> Array:
        """Smaller, see `ATTENTION_GAIN`."""
        return self._uniform((outputs, inputs), ATTENTION_GAIN)

    def router(self, experts: int, hidden: int) -> Array:
        """Smaller, see `ROUTER_GAIN`."""
        return self._uniform((experts, hidden), ROUTER_GAIN)

    def experts(self, *shape: int) -> Array:
        """Drawn one by one to keep memory low."""
        stacked = aligned_empty(shape, self._dtype)
        for index in range(len(stacked)):
            stacked[index] = self.matrix(*shape[1:])
        return stacked

    def norm(self, *shape: int) -> Array:
        """Changes nothing."""
        return np.ones(shape, self._dtype)

    ones = norm

    def bias(self, *shape: int) -> Array:
        """Changes nothing."""
        return np.zeros(shape, self._dtype)

    expert_bias = selection_bias = sinks = bias

    def _uniform(self, shape: tuple[int, ...], gain: float) -> Array:
        """In place where it can be: a medium model's largest matrix is 134 MB."""
        values = self._random.random(shape, dtype=np.float32)
        values -= np.float32(0.5)
        values *= np.float32(2 * gain * (3 / shape[-1]) ** 0.5)
        return values.astype(self._dtype, copy=False)
