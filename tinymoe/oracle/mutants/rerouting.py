"""Ways to make a router wrong after its five steps, and what must be there for that to show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tinymoe.core import Array, RouterCard, Routing
from tinymoe.formats.bf16 import round_to_bf16
from tinymoe.model.router import (
    by_weight,
    gather,
    pick,
    renorm,
    route_logits,
    scale,
    select,
    softmax,
)
from tinymoe.oracle.mutants.mutant import (
    Change,
    Setup,
    WhyNot,
    first_of,
    moe_of,
    moe_params,
    router_card,
    unless,
    wrapped,
)

LOGITS, SCORES, IDS, WEIGHTS = (
    f"layers.*.router.{name}" for name in ("logits", "scores", "ids", "weights")
)


def finish(routing: Routing, ids: Array, margin: Array, card: RouterCard) -> Routing:
    """The last three steps for other choices ids (T, K)."""
    weights = scale(renorm(gather(routing.logits, routing.scores, np.sort(ids), card), card), card)
    return Routing(routing.logits, routing.scores, *by_weight(np.sort(ids), weights), margin=margin)


def after(change: Callable[[Routing, Array | None, RouterCard], Routing]) -> Change:
    """The routing changed after the fact: change(routing, bias, card)."""

    def wrapper(route: Any, x: Any, weight: Any, bias: Any, card: Any, *a: Any, **k: Any) -> Any:
        return change(route(x, weight, bias, card, *a, **k), bias, card)

    return wrapped("route", wrapper)


def choosing(choice: Callable[[Routing, Array | None, RouterCard], Array]) -> Change:
    """Experts chosen by other numbers (T, E), bias and all; weighed as ever."""

    def change(routing: Routing, bias: Array | None, card: RouterCard) -> Routing:
        ids, margin = select(choice(routing, bias, card), None, card)
        return finish(routing, ids, margin, card)

    return after(change)


def half_unscaled(routing: Routing, bias: Array | None, card: RouterCard) -> Routing:
    """The factor taken out of the weights of the upper half of the experts."""
    weights = routing.weights
    upper = routing.ids >= card.experts // 2
    return routing._replace(weights=np.where(upper, weights / card.scale, weights))


def weighing(weights: Callable[[Routing, Array | None, RouterCard], Array]) -> Change:
    """The right experts, but the given raw weights (T, K), then renormalised and scaled."""

    def change(routing: Routing, bias: Array | None, card: RouterCard) -> Routing:
        ids = np.sort(routing.ids)
        raw = weights(routing._replace(ids=ids), bias, card)
        ids, final = by_weight(ids, scale(renorm(raw, card), card))
        return routing._replace(ids=ids, weights=final)

    return after(change)


def relabelling(change: Callable[[Array, Array], tuple[Array, Array]], experts: bool) -> Change:
    """Ids or weights (T, K) changed at the very end; `experts`: ids are new, count from 0 to E."""

    def apply(routing: Routing, bias: Array | None, card: RouterCard) -> Routing:
        ids, weights = change(routing.ids, routing.weights)
        return routing._replace(ids=ids % card.experts if experts else ids, weights=weights)

    return after(apply)


def logits_changed(change: Callable[[Array], Array]) -> Change:
    """Other logits (T, E); the steps after them are right."""
    return after(lambda routing, bias, card: route_logits(change(routing.logits), bias, card))


def added(routing: Routing, bias: Array | None) -> Array:
    """What chooses: scores plus bias (T, E)."""
    return routing.scores if bias is None else routing.scores + bias


def tie_to_highest(routing: Routing, bias: Array | None, card: RouterCard) -> Routing:
    """Choose from the mirrored row, and mirror the ids back: the last among equals wins."""
    choice = added(routing, bias)
    ids, margin = select(choice[:, ::-1], None, card)
    return finish(routing, card.experts - 1 - ids, margin, card)


def strided_groups(routing: Routing, bias: Array | None, card: RouterCard) -> Routing:
    """Group of expert e taken as e mod G in place of e // (E / G)."""
    order = np.arange(card.experts).reshape(-1, card.groups).T.ravel()  # (E,) group by group
    ids, margin = select(added(routing, bias)[:, order], None, card)
    return finish(routing, order[ids], margin, card)


def cancelled(routing: Routing, bias: Array | None, card: RouterCard) -> Array:
    """The weight recovered as (score + bias) - bias, the sum kept in bf16."""
    if bias is None:
        return pick(routing.scores, routing.ids)
    total = round_to_bf16((routing.scores + bias).astype(np.float32)).astype(routing.scores.dtype)
    return pick(total - bias, routing.ids)


def bias_as(change: Callable[[Array], Array | None]) -> Change:
    """The selection bias (E,) changed."""
    return moe_params(
        lambda moe: (
            moe
            if moe.selection_bias is None
            else replace(moe, selection_bias=change(moe.selection_bias))
        )
    )


def rounded_bias(bias: Array) -> Array:
    """To bf16: [6.817, 7.063] has nine values there."""
    return round_to_bf16(bias.astype(np.float32)).astype(bias.dtype)


# ---------------------------------------------------------------------------- when they apply

no_moe = unless(lambda s: moe_of(s) is None, "the model has no MoE layer")


def needs(has: Callable[[RouterCard], bool], why: str) -> WhyNot:
    """It applies to routers that have it."""
    return first_of(no_moe, unless(lambda s: not has(s.config.router), why))


needs_bias = needs(lambda c: c.selection_bias, "the router has no selection bias")
needs_groups = needs(lambda c: c.groups_kept < c.groups, "the router has no group limit")
needs_scale = needs(lambda c: c.scale != 1, "the routed scaling factor is 1")
needs_two = needs(lambda c: c.top_k > 1, "one expert per token: there is no second weight")
needs_score_weights = needs(
    lambda c: c.weight_from == "score", "the weights are not taken from the scores"
)
needs_others = needs(lambda c: c.top_k < c.experts, "every expert is chosen")


def renorm_matters(setup: Setup) -> str | None:
    """Weights that sum to 1 already are not changed by a division by their sum."""
    card = setup.config.router
    if card.weight_from == "softmax_of_chosen":
        return "a softmax over the chosen experts sums to 1 already"
    return None


def bias_below_zero(setup: Setup) -> str | None:
    """Whether any bias is negative."""
    moe = moe_of(setup)
    if moe is None or moe.selection_bias is None:
        return "the router has no selection bias"
    return None if (moe.selection_bias < 0).any() else "no selection bias is negative"


def bias_not_bf16(setup: Setup) -> str | None:
    """Whether bf16 loses anything."""
    moe = moe_of(setup)
    if moe is None or moe.selection_bias is None:
        return "the router has no selection bias"
    bias = moe.selection_bias
    return "the selection bias is exact in bf16" if (rounded_bias(bias) == bias).all() else None


def invert_renorm(setup: Setup) -> Setup:
    """The flag the other way round."""
    return router_card(renormalise=not setup.config.router.renormalise)(setup)


def rescaled(factor: Callable[[float], float]) -> Change:
    """Another routed scaling factor."""
    return lambda setup: router_card(scale=factor(setup.config.router.scale))(setup)


def softmax_of_all(routing: Routing, bias: Array | None, card: RouterCard) -> Array:
    """Probabilities over all experts where those over the chosen ones are asked for."""
    return pick(softmax(routing.logits), routing.ids)


def over_the_batch(routing: Routing, bias: Array | None, card: RouterCard) -> Routing:
    """Each token's one weight divided by the sum over tokens."""
    return routing._replace(weights=routing.weights / routing.weights.sum(axis=0))
