"""Where the experts went: a tap that counts every router's choices."""

from __future__ import annotations

import numpy as np

from tinymoe.core import Array, ModelConfig


class ExpertLoad:
    """Counts, for each layer and expert, the tokens that chose it. Give it as `tap`.

    It looks at `layers.{l}.router.ids` (T, K) and adds T*K choices a layer and pass.

    >>> import tinymoe
    >>> model = tinymoe.load()
    >>> load = ExpertLoad(model.config)
    >>> tokens = list(model.generate_many([[5, 6, 7]], [tinymoe.Sampling(max_tokens=1)], tap=load))
    >>> int(load.counts[0].sum()) == 3 * model.config.router.top_k
    True
    """

    def __init__(self, config: ModelConfig) -> None:
        self.experts = config.router.experts
        self.counts: Array = np.zeros((config.num_layers, self.experts), np.int64)  # (L, E)

    def __call__(self, name: str, value: Array) -> None:
        """A tap: see `tinymoe.core.Tap`."""
        if name.endswith(".router.ids"):
            layer = int(name.split(".")[1])
            self.counts[layer] += np.bincount(value.reshape(-1), minlength=self.experts)

    def imbalance(self) -> Array:
        """The busiest expert's load over the mean load of its layer, (L,) float64.

        1 is perfect balance, E / K the worst there is. A layer that routed nothing, as a dense
        one, has 0.
        """
        return self.counts.max(axis=1) / np.maximum(self.counts.mean(axis=1), 1 / self.experts)
