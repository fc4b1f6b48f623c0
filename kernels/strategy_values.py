"""Values to fill arrays with: what the strategies of all ops draw from."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tinymoe.core import NUMERICS, Array, Numerics
from tinymoe.model.precision import store

any_numerics = st.sampled_from([NUMERICS[name] for name in ("fp32", "exact", "bf16")])
seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(["grid", "normal", "wide", "zeros"])


def fill(rng: np.random.Generator, kind: str, shape: tuple[int, ...], n: Numerics) -> Array:
    """Values of a kind, as storage keeps them.

    "grid": whole numbers times one power of two, whose sums are exact; "wide": eight decades.
    """
    if kind == "grid":
        values = rng.integers(-8, 9, shape) * 2.0 ** int(rng.integers(-6, 4))
    elif kind == "zeros":
        values = np.zeros(shape)
    else:
        values = rng.normal(size=shape)
        if kind == "wide":
            values *= 10.0 ** rng.uniform(-4, 4, shape)
    return store(values.astype(n.dtype), n.storage)
