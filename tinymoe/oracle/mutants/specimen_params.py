"""Random weights for the specimens: everything that a config may ask for."""

from __future__ import annotations

import numpy as np

from tinymoe.core import NUMERICS, Array, ModelConfig, Numerics
from tinymoe.model.fresh import fresh_params
from tinymoe.model.params import Params
from tinymoe.oracle.mutants.mutant import Setup
from tinymoe.oracle.mutants.specimens import CONFIGS


def specimen(name: str, numerics: Numerics = NUMERICS["fp32"], seed: int = 0) -> Setup:
    """One of `CONFIGS` with weights: a `Setup` to run with `specimens.IDS`."""
    config = CONFIGS[name]
    return Setup(config, random_params(config, numerics, seed, name))


def random_params(config: ModelConfig, numerics: Numerics, seed: int, name: str = "") -> Params:
    """Weights drawn in float32 and widened: the same numbers in every numerics."""
    return fresh_params(config, _Draw(np.random.default_rng(seed), numerics, name))


class _Draw:
    """One stream of random numbers; the specimens' names say what is special about routers."""

    def __init__(self, rng: np.random.Generator, numerics: Numerics, name: str) -> None:
        self.rng, self.dtype, self.name = rng, numerics.dtype, name

    def matrix(self, *shape: int) -> Array:
        """Entries such that activations stay near 1, and attention and router have opinions."""
        return self._normal(2 / shape[-1] ** 0.5, shape)

    experts = mixed_out = matrix

    def bias(self, *shape: int) -> Array:
        """Large enough to be missed."""
        return self._normal(0.5, shape)

    expert_bias = bias

    def sinks(self, heads: int) -> Array:
        """Some above all scores, some below."""
        return self._normal(2, (heads,))

    def norm(self, *shape: int) -> Array:
        """A norm's weights."""
        return self.rng.uniform(0.5, 2, shape).astype(np.float32).astype(self.dtype)

    def ones(self, *shape: int) -> Array:
        """Of a norm that has no weights."""
        return np.ones(shape, self.dtype)

    def router(self, experts: int, hidden: int) -> Array:
        """Ties between pairs of experts, in the specimen of that name."""
        router = self.matrix(experts, hidden)
        if self.name == "ties":
            router[[4, 5, 7]] = router[[0, 1, 3]]
            router[6] = router[2] * (1 - 2.0**-21)  # some 1e-7 of a score: a close call, no tie
        return router

    def selection_bias(self, experts: int) -> Array:
        """All below -1; or in the band of sglang#31213; or of both signs."""
        if self.name == "groups":
            return self._normal(0.3, (experts,)) - self.dtype.type(2)
        if self.name == "band":
            band = self.rng.uniform(6.817, 7.063, experts)
            return band.astype(np.float32).astype(self.dtype)
        return self._normal(0.2, (experts,))

    def _normal(self, size: float, shape: tuple[int, ...]) -> Array:
        return (self.rng.normal(size=shape) * size).astype(np.float32).astype(self.dtype)
