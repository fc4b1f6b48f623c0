"""The experts' half of a layer as instructions: `moe_block` of the definition, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinymoe.core import Array, RouterCard
from tinymoe.kernels.cpu import linear as product
from tinymoe.kernels.cpu import routing
from tinymoe.kernels.cpu.batch import ALONE
from tinymoe.kernels.cpu.inputs import between, given
from tinymoe.kernels.cpu.residual import combine
from tinymoe.kernels.cpu.weights import Moe, Shared

if TYPE_CHECKING:
    from tinymoe.kernels.cpu.plan import Plan

SCORES = {"softmax": routing.SOFTMAX, "sigmoid": routing.SIGMOID, "identity": routing.IDENTITY}
SOURCES = {
    "score": routing.FROM_SCORE,
    "softmax_of_chosen": routing.SOFTMAX_OF_CHOSEN,
    "sigmoid_of_chosen": routing.SIGMOID_OF_CHOSEN,
}


def plan_moe(plan: Plan, x: Array, params: Moe, layer: int) -> Array:
    """Norm, router, experts, shared expert, residual: x (T, H) -> (T, H)."""
    name, width = f"layers.{layer}", plan.width
    normed = plan.norm(x, params.norm, f"{name}.moe.norm")
    plan.tap(f"{name}.moe.norm", normed, width)
    weights, ids, order, offsets = _route(plan, normed, params, name)
    rows = _experts(plan, normed, params, ids, order, offsets, name)
    shared, gate = _shared(plan, normed, params.shared, name)
    out = plan.sum_of(name, "out")
    routed, part = plan.part_of(f"{name}.moe.routed"), plan.part_of(f"{name}.moe.out")
    top_k = plan.config.router.top_k
    plan.program.add(
        combine,
        rows=rows,
        stride=rows.shape[1],
        weights=weights,
        top_k=top_k,
        shared=shared,
        shared_stride=0 if shared is None else shared.shape[1],
        gate=gate,
        gate_stride=0 if gate is None else gate.shape[1],
        width=width,
        factor=plan.config.multipliers.residual,
        rounding=plan.rounding,
        residual=x,
        routed=routed,
        part=part,
        out=out,
        x_stride=out.shape[1],
    )
    plan.tap(f"{name}.moe.expert_out", rows, width, (top_k, width))
    if routed is not None and part is not None:
        plan.tap(f"{name}.moe.routed", routed, width)
        if shared is not None:
            plan.tap(f"{name}.moe.shared", shared, width)
        plan.tap(f"{name}.moe.out", part, width)
    plan.tap(f"{name}.out", out, width)
    return out


def route_arguments(card: RouterCard) -> dict[str, Any]:
    """What a card says, as the arguments of `routing.route`."""
    two = card.group_score != "max"
    return {
        "experts": card.experts,
        "top_k": card.top_k,
        "score": SCORES[card.score],
        "weight_from": SOURCES[card.weight_from],
        "groups": card.groups,
        "groups_kept": card.groups_kept,
        "group_score": routing.TWO_OF_GROUP if two else routing.MAX_OF_GROUP,
        "masked": -np.inf if card.dropped_group == "-inf" else 0.0,
        "renormalise": card.renormalise,
        "epsilon": float(card.renorm_epsilon),
        "floor": float(card.renorm_floor),
        "scale": float(card.scale),
    }


def _route(plan: Plan, normed: Array, params: Moe, name: str) -> tuple[Array, ...]:
    """Logits and the five steps: weights and ids (T, K), and the slots in expert order."""
    card, buffers, tokens = plan.config.router, plan.buffers, plan.buffers.tokens
    experts, top_k = card.experts, card.top_k
    logits = buffers.rows(f"{name}/logits", experts)
    scores = buffers.rows(f"{name}/scores", experts)
    kept = plan.numerics.router_logits
    if kept == "card":
        kept = plan.numerics.storage if card.logits_dtype == "model" else "float32"
    rounding = int(kept == "bfloat16")
    narrow = params.router.pairs == 1  # too narrow to be shared but by tokens
    plan.product(
        normed, params.router, logits, bias=params.router_bias, rounding=rounding, by_token=narrow
    )
    ids = buffers.numbers(f"{name}/ids", tokens * top_k)
    weights = buffers.numbers(f"{name}/weights", tokens * top_k, np.float32)
    margins = buffers.numbers(f"{name}/margins", tokens, np.float32)
    order = buffers.numbers("order", tokens * top_k)
    offsets = buffers.numbers("offsets", experts + 1)
    plan.program.add(
        routing.route,
        logits=logits,
        stride=logits.shape[1],
        bias=params.selection_bias,
        **route_arguments(card),
        scores=scores,
        ids=ids,
        weights=weights,
        margins=margins,
        order=order,
        offsets=offsets,
    )
    plan.tap(f"{name}.router.logits", logits, experts)
    plan.tap(f"{name}.router.scores", scores, experts)
    for field, values in (("ids", ids), ("weights", weights)):
        plan.tap(f"{name}.router.{field}", values.reshape(tokens, top_k), top_k)
    plan.tap(f"{name}.router.margin", margins.reshape(tokens, 1), 1, ())
    return weights, ids, order, offsets


def _experts(
    plan: Plan, x: Array, params: Moe, ids: Array, order: Array, offsets: Array, name: str
) -> Array:
    """Each token's K experts: (T*K, H), by slot.

    Inputs that are quantised are so once for all experts of a token, or, where each expert has a
    scale of its own, once for each; what is between the two products once for each slot.
    """
    card, top_k = plan.config.experts, plan.config.router.top_k
    hidden, flag, ready = between(plan, params.gate_up, params.down, top_k)
    rows = plan.buffers.rows(f"{name}/expert_out", plan.width, top_k)
    clamped = card.activation != "swiglu"
    common = {
        "order": order,
        "offsets": offsets,
        "experts": plan.config.router.experts,
        "limit": float(card.clamp_limit or 0),
        "alpha": float(card.clamp_alpha or 0),
        "rounding": plan.rounding,
    }
    inputs = params.gate_up.inputs
    apart = inputs is not None and len(inputs.divisors) > 1
    entering = given(plan, x, params.gate_up, shared=top_k if apart else 1, ids=ids)
    plan.program.add(  # here, so that what goes token by token stays together
        routing.permute,
        ids=ids,
        experts=plan.config.router.experts,
        top_k=top_k,
        above=ALONE,
        order=order,
        offsets=offsets,
    )
    plan.program.add(
        product.experts,
        **entering,
        top_k=0 if apart else top_k,
        bias=params.gate_up_bias,
        out=hidden,
        out_stride=hidden.shape[1],
        kind=(product.CLAMPED if clamped else product.SWIGLU) | flag,
        **common,
    )
    plan.program.add(
        product.experts,
        **given(plan, hidden, params.down, per_token=top_k, ids=ids, ready=ready),
        top_k=0,
        bias=params.down_bias,
        out=rows,
        out_stride=rows.shape[1],
        kind=product.PLAIN,
        **common,
    )
    return rows


def _shared(
    plan: Plan, normed: Array, params: Shared | None, name: str
) -> tuple[Array | None, Array | None]:
    """The shared expert's output (T, H), and its gate's logit, (T, 1), where it has one."""
    if params is None:
        return None, None
    hidden, flag, ready = between(plan, params.gate_up, params.down)
    out = plan.buffers.rows(f"{name}/shared", plan.width)
    plan.product(normed, params.gate_up, hidden, kind=product.SWIGLU | flag)
    plan.product(hidden, params.down, out, ready=ready)
    if params.gate is None:
        return out, None
    gate = plan.buffers.rows(f"{name}/shared_gate", 1)
    plan.product(normed, params.gate, gate)
    return out, gate
