"""Expert ids: as sets, and every mismatch with its margin.

Twelve tokens on other experts, all within two roundings of a tie, are no bug; twelve of which the
nearest call was 0.3 are one. The gap of a mismatch is what the scores would have to move by for the
engine's choice to be right.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from tinymoe.core import Array, Numerics, RouterCard
from tinymoe.formats.bf16 import round_to_bf16
from tinymoe.model.router import drop_groups

ULP = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7}  # of 1
Why = Literal[
    "tie",  # within what the numerics can move the scores by: no fault
    "not a tie",
    "against its own scores",  # the engine's scores, as it dumped them, choose others
    "tie rule",  # equal scores, and not the lowest index
    "not a choice",  # an id twice, or outside 0 .. E - 1
]


class Flip(NamedTuple):
    """One token that met other experts."""

    layer: int
    token: int
    why: Why
    gap: float  # in the scores that choose, bias included; nan for what is not a choice
    ulps: float  # the same in last bits of the type of the logits, at the score's size
    tie: float  # the largest gap that still counts as a tie here
    reference: tuple[int, ...]  # ascending
    engine: tuple[int, ...]


class Choice(NamedTuple):
    """What a router chose by: one MoE layer of one run."""

    values: Array  # (T, E) scores and bias


def gaps(choice: Array, ids: Array, card: RouterCard) -> Array:
    """What choice (T, E) must move by for ids (T, K) to be its best: (T,), 0 where they are.

    With a group limit: the larger of the gap between groups and that between experts of the groups
    that the ids come from (filled up with the best others). Per score: a sum of two moves twice.
    """
    tokens = np.arange(len(choice))[:, None]
    values, between = choice, np.zeros(len(choice))
    if card.groups_kept < card.groups and card.dropped_group == "zero":
        values = drop_groups(choice, card)  # 0 may be the right choice: groups are no limit
    elif card.groups_kept < card.groups:
        size = card.experts // card.groups
        members = np.sort(choice.reshape(len(choice), card.groups, size), axis=-1)
        two = card.group_score == "top2_sum"
        rating = members[..., -2:].sum(-1) if two else members[..., -1]  # (T, G)
        used = np.zeros(rating.shape, bool)
        used[tokens, ids // size] = True
        filled = np.argsort(-np.where(used, np.inf, rating), axis=-1, kind="stable")
        kept = np.zeros(rating.shape, bool)
        np.put_along_axis(kept, filled[:, : card.groups_kept], True, axis=-1)
        between = np.where(kept, -np.inf, rating).max(-1) - np.where(kept, rating, np.inf).min(-1)
        between = between / (2 if two else 1)
        values = np.where(np.repeat(kept, size, axis=-1), choice, -np.inf)
    chosen = np.zeros(values.shape, bool)
    chosen[tokens, ids] = True
    # finite, so that experts of a third group, masked, are further off than any score
    far = 4 * np.abs(choice).max(initial=1.0)
    left_out = np.where(chosen, -np.inf, values).max(-1)
    last_in = np.where(chosen, np.maximum(values, -far), np.inf).min(-1)
    return np.maximum(np.maximum(left_out - last_in, between), 0.0)


def flips_of(
    layer: int,
    card: RouterCard,
    exact_ids: Array,
    choice: Choice,
    ids: Array,
    tie: Array,
    own: Array | None,
    ulp: float,
) -> list[Flip]:
    """All tokens whose set of ids (T, K) is not the exact one; tie (T,): the gap that is no fault.

    `own` (T, E): what the engine itself chose by, if its trace says so.
    """
    valid = choices(ids, card)
    differ = ~valid | (np.sort(ids) != np.sort(exact_ids)).any(-1)
    safe = np.where(valid[:, None], ids, np.arange(ids.shape[-1]))
    found, own_gap = gaps(choice.values, safe, card), None
    if own is not None:
        own_gap = gaps(own, safe, card)
    out = []
    for t in np.flatnonzero(differ).tolist():
        gap = float(found[t]) if valid[t] else np.nan
        at_cut = float(np.sort(choice.values[t])[-card.top_k])
        out.append(
            Flip(
                layer=layer,
                token=int(t),
                why=_why(bool(valid[t]), gap, float(tie[t]), own, own_gap, t),
                gap=gap,
                ulps=gap / _spacing(at_cut, ulp),
                tie=float(tie[t]),
                reference=tuple(int(i) for i in np.sort(exact_ids[t])),
                engine=tuple(int(i) for i in np.sort(ids[t])),
            )
        )
    return out


def _why(
    valid: bool, gap: float, tie: float, own: Array | None, own_gap: Array | None, t: int
) -> Why:
    if not valid:
        return "not a choice"
    if own is not None and own_gap is not None:
        # bias and score are added with one rounding, whatever the order of sums before it
        if own_gap[t] > 2 * 2.0**-24 * np.abs(own[t]).max():
            return "against its own scores"
        if gap == 0 and own_gap[t] == 0:
            return "tie rule"
    return "tie" if gap <= tie else "not a tie"


def _spacing(value: float, ulp: float) -> float:
    """The last bit of a number of that size."""
    return float(2.0 ** np.floor(np.log2(max(abs(value), 2.0**-126)))) * ulp


def choices(ids: Array, card: RouterCard) -> Array:
    """Which rows of ids (T, K) are K distinct experts: (T,) (vllm#39288: the same expert twice)."""
    inside = ((ids >= 0) & (ids < card.experts)).all(-1)
    ordered = np.sort(ids)
    return inside & (np.diff(ordered) != 0).all(-1)


def own_choice(scores: Array | None, bias: Array | None) -> Array | None:
    """What the engine chose by, from its own scores (T, E); None where they cannot say.

    Scores that were dumped in bf16 have ties that the engine did not have.
    """
    if scores is None or isinstance(scores, np.ma.MaskedArray):
        return None
    values = scores.astype(np.float32)
    if (round_to_bf16(values) == values).all() or not np.isfinite(values).all():
        return None
    chosen_by: Array = scores if bias is None else scores + bias.astype(scores.dtype)
    return chosen_by


def logits_ulp(card: RouterCard, numerics: Numerics) -> float:
    """The last bit, at 1, of the type that the router's logits are kept in."""
    kept = numerics.router_logits
    if kept == "card":
        kept = numerics.storage if card.logits_dtype == "model" else "float32"
    return ULP[kept]


def slots_like(ids: Array, wanted: Array) -> Array:
    """For each row the places of `wanted` (T, K) in ids (T, K); as they are where sets differ."""
    same = (np.sort(ids) == np.sort(wanted)).all(-1)
    order = np.argsort(ids, kind="stable")  # (T, K)
    rank = np.argsort(np.argsort(wanted, kind="stable"), kind="stable")
    places = np.take_along_axis(order, rank, axis=-1)
    return np.where(same[:, None], places, np.arange(ids.shape[-1]))
