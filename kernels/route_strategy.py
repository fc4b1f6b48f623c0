"""Inputs for `route`: every field of the card, and the rows on which router kernels went wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tinymoe.core import NUMERICS, Array, Numerics, RouterCard
from tinymoe.model.precision import store

# What the logits are like -> which public bug such rows showed.
LOGITS = (
    "grid",  # a few values, so that many tie, also at the cut (vllm#52679, sglang#31768)
    "equal",  # all tie: the lowest ids win
    "negative",  # all negative (flashinfer#2822, vllm#37591)
    "faint",  # sigmoid scores down to 1e-13 under a bias of 12 to 35 (vllm#47367)
    "far",  # up to 40 from zero on either side
    "normal",
    "product",  # of a real x and a real weight: the logits themselves are rounded
)
BIASES = (
    "small",
    "negative",  # all biased scores negative: dropped groups must stay out (vllm#13474)
    "large",  # 12 to 35
    "narrow",  # 6.817 to 7.063, the band of sglang#31213
    "grid",
)


@st.composite
def card_of(draw: DrawFn) -> RouterCard:
    """A card with every field drawn; as many experts as real models have, sometimes 512."""
    experts = draw(st.sampled_from([2, 4, 8, 8, 16, 60, 128, 512]))
    divisors = [g for g in (1, 2, 4, 8) if 2 * g <= experts and experts % g == 0]
    groups = draw(st.sampled_from(divisors))
    kept = draw(st.integers(1, groups))
    limited = kept < groups
    most = kept * (experts // groups)  # K of all, or of all that the kept groups hold
    top_k = draw(st.one_of(st.just(1), st.just(most), st.integers(1, min(most, 10))))
    return RouterCard(
        experts=experts,
        top_k=top_k,
        score=draw(st.sampled_from(["softmax", "sigmoid", "identity"])),
        selection_bias=draw(st.booleans()),
        groups=groups,
        groups_kept=kept,
        group_score=draw(st.sampled_from(["max", "top2_sum"])) if limited else "none",
        dropped_group=draw(st.sampled_from(["-inf", "zero"])) if limited else "none",
        weight_from=draw(st.sampled_from(["score", "softmax_of_chosen", "sigmoid_of_chosen"])),
        renormalise=draw(st.booleans()),
        renorm_epsilon=draw(st.sampled_from([0.0, 1e-20])),
        renorm_floor=draw(st.sampled_from([0.0, 1e-12])),
        scale=draw(st.sampled_from([1.0, 2.5, 0.5])),
        weight_on=draw(st.sampled_from(["output", "input"])),
        logits_dtype=draw(st.sampled_from(["model", "float32"])),
        bias_dtype="float32",
        tie_rule="lowest_index",
    )


@st.composite
def route(draw: DrawFn) -> dict[str, Any]:
    """Logits drawn as such come through an identity weight (H = E), which gives them exactly."""
    card, n = (
        draw(card_of()),
        draw(st.sampled_from([NUMERICS[p] for p in ("fp32", "exact", "bf16")])),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tokens, kind, bias_kind = (
        draw(st.integers(1, 4)), draw(st.sampled_from(LOGITS)), draw(st.sampled_from(BIASES)),
    )  # fmt: skip
    recipe = draw(st.sampled_from(["any", "any", "any", "faint", "float32 logits"]))
    if recipe == "faint":  # several fields at once, which chance would seldom bring together
        card = replace(card, score="sigmoid", weight_from="score", selection_bias=True)
        kind, bias_kind = "faint", "large"
    elif recipe == "float32 logits":  # kept wider than anything else of the model (sglang#29783)
        card, n, kind = replace(card, logits_dtype="float32"), NUMERICS["bf16"], "product"
    needs_positive = card.score == "identity" and card.weight_from == "score" and card.renormalise
    if kind == "product" and not needs_positive:
        x = rng.normal(size=(tokens, 24)).astype(n.dtype)
        weight = rng.normal(size=(card.experts, 24)).astype(n.dtype)
    else:
        x = logits_of(rng, kind, (tokens, card.experts)).astype(n.dtype)
        # a sum of raw logits that crosses zero has no meaning as a divisor
        x = np.abs(x) + n.dtype.type(0.125) if needs_positive else x
        weight = np.eye(card.experts, dtype=n.dtype)
    x = store(x, n.storage)
    if draw(st.integers(0, 4)) == 0:
        x[draw(st.integers(0, tokens - 1))] = np.nan  # padding rows: vllm#39288
    bias = None
    if card.selection_bias:
        bias = bias_of(rng, bias_kind, card.experts, n)
    case = {"x": x, "weight": weight, "bias": bias, "card": card, "numerics": n}
    if draw(st.booleans()) and not needs_positive:  # on a grid, as are most logits drawn here
        case["logit_bias"] = (rng.integers(-2, 3, card.experts) * 0.5).astype(n.dtype)
    return case


def logits_of(rng: np.random.Generator, kind: str, shape: tuple[int, int]) -> Array:
    """Rows of a kind; all exact in bf16 but for "normal"."""
    if kind == "grid":
        return rng.integers(-4, 5, shape) * float(rng.choice([0.125, 1.0]))
    if kind == "equal":
        return np.full(shape, float(rng.integers(-3, 4)))
    if kind == "negative":
        return -rng.integers(1, 80, shape) * 0.25
    if kind == "faint":
        return -rng.integers(10, 31, shape).astype(np.float64)
    if kind == "far":
        return rng.integers(-40, 41, shape).astype(np.float64)
    return rng.normal(size=shape)


def bias_of(rng: np.random.Generator, kind: str, experts: int, n: Numerics) -> Array:
    """(E,) values of a kind."""
    if kind == "grid":
        return (rng.integers(-2, 3, experts) * 0.25).astype(n.dtype)
    bands = {
        "small": (-0.2, 0.2),
        "negative": (-3, -2),
        "large": (12, 35),
        "narrow": (6.817, 7.063),
    }
    return rng.uniform(*bands[kind], experts).astype(n.dtype)
