"""A model's weights as the step's kernels want them: matrices as tiles, vectors as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinymoe.core import Array
from tinymoe.kernels.cpu.batch import aligned
from tinymoe.kernels.cpu.packed import Packed, order_of
from tinymoe.kernels.cpu.simd import LANES


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """One layer's attention."""

    norm: Array
    qkv: Packed
    qkv_bias: Array | None  # in the order of the tiles, as all biases of products
    qk_norm: Array | None  # (Nq + Nk, D), or (Nq + Nk) * D
    sinks: Array | None
    out: Packed
    out_bias: Array | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """One layer's latent attention: R, Dn, Dv as in `LatentCard`."""

    norm: Array
    query_down: Packed | None
    query_down_bias: Array | None
    query_norm: Array | None
    query: Packed
    down: Packed
    down_bias: Array | None
    latent_norm: Array
    to_key: Packed  # (Nq, Dn, R): the expanded form's keys
    fold: Packed  # (Nq, R, Dn): the same numbers, for the absorbed form's queries
    to_value: Packed  # (Nq, Dv, R)
    out: Packed
    out_bias: Array | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """The shared expert."""

    gate_up: Packed
    down: Packed
    gate: Packed | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moe:
    """One layer's router and experts."""

    norm: Array
    router: Packed
    router_bias: Array | None
    selection_bias: Array | None
    gate_up: Packed
    gate_up_bias: Array | None  # (E, pairs * 32)
    down: Packed
    down_bias: Array | None
    shared: Shared | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A layer's feed-forward part without experts."""

    norm: Array
    gate_up: Packed
    down: Packed


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A whole model. With a tied head the embedding is read from the head's tiles."""

    embed: Packed
    layers: list[tuple[Attention | Latent, Moe | Dense]]
    final_norm: Array
    head: Packed
    head_bias: Array | None

    @property
    def matrices(self) -> list[Packed]:
        """Every packed matrix, the embedding not twice."""
        found: dict[int, Packed] = {}
        pending: list[Any] = [self.embed, self.head, *(p for pair in self.layers for p in pair)]
        while pending:
            part = pending.pop()
            if isinstance(part, Packed):
                found[id(part)] = part
            elif hasattr(part, "__slots__"):
                pending += [getattr(part, name) for name in part.__slots__]
        return list(found.values())


def vector(values: Array | None) -> Array | None:
    """A float32 copy that vectors of 16 may be read from: zeros behind its end."""
    if values is None:
        return None
    flat = np.asarray(values, np.float32).reshape(-1)
    out = aligned(len(flat) + LANES)
    out[: len(flat)] = flat
    return out


def bias_of(values: Array | None, *, gate_up: bool = False) -> Array | None:
    """Biases (N,) or (E, N) of a product's rows, in the order of its tiles."""
    if values is None:
        return None
    stack = np.atleast_2d(np.asarray(values, np.float32))
    order = order_of(stack.shape[1], gate_up)
    out = aligned(len(stack) * len(order)).reshape(len(stack), -1)
    out[:, order >= 0] = stack[:, order[order >= 0]]
    return out
