"""Wrong shared experts, norms and constants of the residual stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tinymoe.cards import NO_MULTIPLIERS
from tinymoe.core import Array
from tinymoe.model.params import DenseParams, LayerParams, MoeParams, SharedParams
from tinymoe.oracle.mutants.mutant import (
    Change,
    ModelMutant,
    Setup,
    first_of,
    layers,
    model_mutant,
    moe_of,
    moe_params,
    on_values,
    unless,
    wrapped,
)
from tinymoe.oracle.mutants.rerouting import needs_scale

SHARED = "layers.*.moe.shared"
FIRST_NORM = "layers.0.attn.norm"


def shared(change: Callable[[SharedParams], SharedParams | None]) -> Change:
    """The shared expert changed, or (None) left out."""
    return moe_params(
        lambda moe: moe if moe.shared is None else replace(moe, shared=change(moe.shared))
    )


def shared_times(factor: float) -> Change:
    """The shared expert's output times a factor, a power of two to be exact."""
    return shared(
        lambda s: replace(s, down=on_values(s.down, lambda d: d * np.asarray(factor, d.dtype)))
    )


def scaled_shared(setup: Setup) -> Setup:
    """The routed scaling factor on the shared expert as well."""
    return shared_times(setup.config.router.scale)(setup)


def swapped(s: SharedParams) -> SharedParams:
    """Gate for up."""
    return replace(s, gate_up=on_values(s.gate_up, halves_exchanged))


def halves_exchanged(matrix: Array) -> Array:
    """The second half of the rows first."""
    return np.roll(matrix, len(matrix) // 2, axis=0)


def exchange(layer: LayerParams) -> LayerParams:
    """The norm before attention for the one before the experts, and the other way round."""
    attention, fed = layer.attention, layer.ffn
    # LayerNorm's two biases go with their weights; a dense layer has none
    one: dict[str, Any] = {"norm": fed.norm}
    other: dict[str, Any] = {"norm": attention.norm}
    if isinstance(fed, MoeParams) and fed.norm_bias is not None:
        one["norm_bias"] = fed.norm_bias
        other["norm_bias"] = getattr(attention, "norm_bias", None)
    return LayerParams(attention=replace(attention, **one), ffn=replace(fed, **other))


def norm_weights(change: Callable[[Array], Array]) -> Change:
    """The weights of every RMSNorm changed."""

    def wrapper(original: Any, x: Array, weight: Array, *rest: Any, **named: Any) -> Array:
        return original(x, change(weight), *rest, **named)

    return wrapped("rmsnorm", wrapper)


def centred(original: Any, x: Array, *rest: Any, **named: Any) -> Array:
    """The mean taken off first, as LayerNorm does."""
    return original(x - x.mean(axis=-1, keepdims=True), *rest, **named)


def swap_dense(layer: LayerParams) -> LayerParams:
    """A dense layer's gate for its up projection."""
    fed = layer.ffn
    if not isinstance(fed, DenseParams):
        return layer
    return replace(layer, ffn=replace(fed, gate_up=on_values(fed.gate_up, halves_exchanged)))


def multiplier(**changes: float) -> Change:
    """One of the constants replaced."""
    return lambda setup: setup._replace(
        config=replace(setup.config, multipliers=replace(setup.config.multipliers, **changes))
    )


has_shared = unless(
    lambda s: (moe := moe_of(s)) is None or moe.shared is None, "the model has no shared expert"
)
has_gate = first_of(
    has_shared,
    unless(
        lambda s: (moe := moe_of(s)) is None or moe.shared is None or moe.shared.gate is None,
        "the shared expert has no gate",
    ),
)
rms = unless(lambda s: s.config.norm != "rms", "the norm is not RMSNorm")
has_dense = unless(lambda s: "dense" not in s.config.layers, "the model has no dense layer")


def has_multiplier(name: str) -> Callable[[Setup], str | None]:
    """It applies where that constant is not 1."""
    return unless(
        lambda s: getattr(s.config.multipliers, name) == getattr(NO_MULTIPLIERS, name),
        f"the multiplier {name} is 1",
    )


SHARED_EXPERT: tuple[ModelMutant, ...] = (
    model_mutant(
        "shared.lost",
        "the shared expert is not added",
        SHARED,
        shared_times(0),
        why_not=has_shared,
    ),
    model_mutant(
        "shared.scaled",
        "the routed scaling factor multiplies the shared expert too",
        SHARED,
        scaled_shared,
        why_not=first_of(has_shared, needs_scale),
    ),
    model_mutant(
        "shared.gate-lost",
        "the shared expert's own gate is left out",
        SHARED,
        shared(lambda s: replace(s, gate=None)),
        why_not=has_gate,
    ),
    model_mutant(
        "shared.gate-negated",
        "1 - sigmoid in place of sigmoid in the shared expert's gate",
        SHARED,
        shared(lambda s: s if s.gate is None else replace(s, gate=on_values(s.gate, np.negative))),
        why_not=has_gate,
    ),
    model_mutant(
        "shared.gate-up-swapped",
        "gate and up of the shared expert are exchanged",
        SHARED,
        shared(swapped),
        why_not=has_shared,
    ),
)

NORMS: tuple[ModelMutant, ...] = (
    model_mutant(
        "norm.exchanged",
        "the norm before attention and the one before the experts are exchanged",
        FIRST_NORM,
        layers(exchange),
    ),
    model_mutant(
        "norm.weight-plus-one",
        "1 is added to the weights of every norm, as Gemma's checkpoints want it",
        FIRST_NORM,
        norm_weights(lambda weight: weight + 1),
        why_not=rms,
    ),
    model_mutant(
        "norm.mean-taken-off",
        "LayerNorm's mean is taken off before RMSNorm",
        FIRST_NORM,
        wrapped("rmsnorm", centred),
        why_not=rms,
    ),
    model_mutant(
        "norm.layer-as-rms",
        "RMSNorm in place of LayerNorm",
        FIRST_NORM,
        lambda setup: setup._replace(config=replace(setup.config, norm="rms")),
        why_not=unless(lambda s: s.config.norm == "rms", "the norm is RMSNorm"),
    ),
    model_mutant(
        "dense.gate-up-swapped",
        "gate and up of a dense layer are exchanged",
        "layers.*.mlp.out",
        layers(swap_dense),
        why_not=has_dense,
    ),
    model_mutant(
        "multipliers.embedding-lost",
        "the embedding multiplier is not applied",
        "embed",
        multiplier(embedding=1.0),
        why_not=has_multiplier("embedding"),
    ),
    model_mutant(
        "multipliers.residual-lost",
        "what attention and experts add is not multiplied",
        "layers.0.mid",
        multiplier(residual=1.0),
        why_not=has_multiplier("residual"),
    ),
    model_mutant(
        "multipliers.logits-undivided",
        "the logits are not divided",
        "logits",
        multiplier(logits_divisor=1.0),
        why_not=has_multiplier("logits_divisor"),
    ),
)
