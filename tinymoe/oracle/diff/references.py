"""The runs that an engine is judged by: exact, and thrice in the stated numerics.

All of them take the same experts: the exact run's own choice, or, for tokens that are told so, the
engine's. So a close call that fell the other way is one finding, not a hundred.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from tinymoe.cards import PLAIN_SWIGLU, ExpertCard
from tinymoe.core import NUMERICS, Array, ModelConfig, Numerics, RouterCard, Routing
from tinymoe.formats.inputs import InputFormat
from tinymoe.model.experts import swiglu
from tinymoe.model.ops import DEFINITION, Ops
from tinymoe.model.params import Params
from tinymoe.model.precision import store
from tinymoe.model.router import by_weight, gather, renorm, route, scale
from tinymoe.model.weights import QuantisedInput, Weight
from tinymoe.oracle.diff.routing import Choice
from tinymoe.oracle.trace import trace

EXACT = NUMERICS["exact"]


class Forced(NamedTuple):
    """Ids of one MoE layer that are taken as given, and for which tokens."""

    ids: Array  # (T, K)
    tokens: Array  # (T,) bool


class References(NamedTuple):
    """Traces of every tap, and what each MoE layer chose by."""

    exact: dict[str, Array]
    emulated: tuple[dict[str, Array], ...]
    choices: dict[int, Choice]  # by layer, of the exact run


def references(
    params: Params,
    config: ModelConfig,
    ids: Sequence[int],
    numerics: Numerics,
    forced: Mapping[int, Forced],
) -> References:
    """Run ids (T,) four times; params of any type, widened or narrowed without loss."""
    choices: dict[int, Choice] = {}
    wide = in_dtype(unquantised(params), EXACT.dtype)
    ops = replaying(DEFINITION, config, forced, choices)
    exact = trace(wide, config, ids, EXACT, ops=ops, patterns=["*"])
    chosen = {
        layer: Forced(exact[f"layers.{layer}.router.ids"], np.ones(len(ids), bool))
        for layer in moe_layers(config)
    }
    stated = in_dtype(params, numerics.dtype)
    runs = []
    for base in (DEFINITION, FORWARDS, BACKWARDS):
        ops = replaying(base, config, chosen, {})
        runs.append(trace(stated, config, ids, numerics, ops=ops, patterns=["*"]))
    return References(exact, tuple(runs), choices)


def moe_layers(config: ModelConfig) -> list[int]:
    """Numbers of the layers with a router."""
    return [index for index, kind in enumerate(config.layers) if kind == "moe"]


def unquantised(value: Any) -> Any:
    """A tree of weights whose inputs, and cached keys and values, stay as they are.

    The exact run knows the weights that codes and scales stand for and no quantised activation: in
    the numerics "checkpoint" what those cost is part of the format's own error.
    """
    if isinstance(value, QuantisedInput):
        return value.values
    if isinstance(value, InputFormat):
        return None
    if isinstance(value, tuple):
        return tuple(unquantised(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: unquantised(getattr(value, f.name)) for f in fields(value)}
        return replace(value, **changed)
    return value


def in_dtype(value: Any, dtype: np.dtype[Any]) -> Any:
    """Every array of a tree of dataclasses and tuples in that type."""
    if isinstance(value, np.ndarray):
        return value.astype(dtype, copy=False)
    if isinstance(value, tuple):
        return tuple(in_dtype(item, dtype) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: in_dtype(getattr(value, f.name), dtype) for f in fields(value)}
        return replace(value, **changed)
    return value


def replaying(
    ops: Ops, config: ModelConfig, forced: Mapping[int, Forced], choices: dict[int, Choice]
) -> Ops:
    """The ops with a router that takes given experts. For one pass: it counts the layers.

    Weights are the router's own, of the given experts. `choices` is filled on the way.
    """
    layers = iter(moe_layers(config))

    def routing(
        x: Array, weight: Array, bias: Array | None, card: RouterCard, numerics: Numerics, **k: Any
    ) -> Routing:
        own, layer = route(x, weight, bias, card, numerics, **k), next(layers)
        values = own.scores if bias is None else own.scores + bias
        choices[layer] = Choice(values)
        given = forced.get(layer)
        if given is None:
            return own
        ids = np.sort(np.where(given.tokens[:, None], given.ids, own.ids))
        weights = scale(renorm(gather(own.logits, own.scores, ids, card), card), card)
        ids, weights = by_weight(ids, weights)
        return own._replace(ids=ids, weights=weights)

    return replace(ops, route=routing)


# -------------------------------------------------------------------------- other order of sums


Order = Callable[[int], Sequence[int]]  # the number of terms to their order


def summed(x: Array, weight: Weight, bias: Array | None, order: Order) -> Array:
    """x (T, in) times weight (out, in) transposed, one term after the other: (T, out).

    A plain loop: of all ways to sum that are in use the one with the largest error.
    """
    if isinstance(weight, QuantisedInput):
        x, weight = weight.quantise(x), weight.values
    columns, total = np.ascontiguousarray(weight.T), np.zeros((len(x), len(weight)), x.dtype)
    for i in order(len(columns)):
        total += x[:, i, None] * columns[i]
    return total if bias is None else total + bias


def loops(order: Order) -> Ops:
    """The definition with every matrix product summed in a loop, in the given order."""

    def linear(x: Array, w: Weight, numerics: Numerics, *, bias: Array | None = None) -> Array:
        return store(summed(x, w, bias, order), numerics.storage)

    def grouped(
        x: Array, weights: Weight, offsets: Array, numerics: Numerics, biases: Array | None
    ) -> Array:
        out = np.empty((len(x), weights.shape[1]), x.dtype)
        for expert, (start, stop) in enumerate(pairwise(offsets.tolist())):
            if start < stop:
                bias = None if biases is None else biases[expert]
                out[start:stop] = summed(x[start:stop], weights[expert], bias, order)
        return store(out, numerics.storage)

    def expert_ffn(
        x: Array,
        gate_up: Weight,
        down: Weight,
        offsets: Array,
        numerics: Numerics,
        *,
        card: ExpertCard = PLAIN_SWIGLU,
        gate_up_bias: Array | None = None,
        down_bias: Array | None = None,
    ) -> Array:
        first = grouped(x, gate_up, offsets, numerics, gate_up_bias)  # (S, 2I)
        return grouped(swiglu(first, numerics, card), down, offsets, numerics, down_bias)

    return replace(DEFINITION, linear=linear, expert_ffn=expert_ffn)


FORWARDS, BACKWARDS = loops(range), loops(lambda n: range(n)[::-1])
