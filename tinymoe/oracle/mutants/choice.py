"""Wrong choices of experts: bias, groups, signs, ties."""

from __future__ import annotations

import numpy as np

from tinymoe.oracle.mutants.mutant import (
    ModelMutant,
    first_of,
    model_mutant,
    router_card,
)
from tinymoe.oracle.mutants.rerouting import (
    IDS,
    added,
    after,
    bias_as,
    bias_below_zero,
    bias_not_bf16,
    choosing,
    needs,
    needs_bias,
    needs_groups,
    needs_others,
    no_moe,
    relabelling,
    rounded_bias,
    strided_groups,
    tie_to_highest,
)

CHOICE: tuple[ModelMutant, ...] = (
    model_mutant(
        "router.ids-off-by-one",
        "expert e + 1 is run where e was chosen",
        IDS,
        relabelling(lambda ids, weights: (ids + 1, weights), experts=True),
        why_not=no_moe,
    ),
    model_mutant(
        "router.bias-lost",
        "the selection bias takes no part in the choice",
        IDS,
        bias_as(lambda bias: None),
        why_not=needs_bias,
    ),
    model_mutant(
        "router.bias-subtracted",
        "the selection bias has the wrong sign",
        IDS,
        bias_as(lambda bias: -bias),
        why_not=needs_bias,
    ),
    model_mutant(
        "router.bias-off-by-one",
        "the selection bias of expert e is added to expert e + 1",
        IDS,
        bias_as(lambda bias: np.roll(bias, 1)),
        why_not=needs_bias,
    ),
    model_mutant(
        "router.bias-negative-clipped",
        "a negative selection bias counts as 0",
        IDS,
        bias_as(lambda bias: np.maximum(bias, 0)),
        case="flashinfer#2168",
        why_not=first_of(needs_bias, bias_below_zero),
    ),
    model_mutant(
        "router.bias-bf16",
        "the selection bias is rounded to bf16: a narrow band far from 0 becomes a few values",
        IDS,
        bias_as(rounded_bias),
        case="sglang#31213",
        why_not=first_of(needs_bias, bias_not_bf16),
    ),
    model_mutant(
        "router.negative-scores-lost",
        "the search for the best starts from 0, so that no negative logit can win",
        IDS,
        choosing(lambda r, bias, card: np.maximum(r.logits if bias is None else added(r, bias), 0)),
        case="flashinfer#2822",
        why_not=needs_others,
    ),
    model_mutant(
        "router.group-mask-zero",
        "experts of a dropped group get 0, which beats a negative score",
        IDS,
        router_card(dropped_group="zero"),
        case="vllm#13474",
        why_not=first_of(
            needs_groups,
            needs(lambda c: c.dropped_group != "zero", "the model itself masks with 0"),
        ),
    ),
    model_mutant(
        "router.group-score-max",
        "a group is rated by its best expert in place of its two best",
        IDS,
        router_card(group_score="max"),
        case="sglang#3705",
        why_not=first_of(
            needs_groups,
            needs(lambda c: c.group_score != "max", "the model itself rates by the best"),
        ),
    ),
    model_mutant(
        "router.groups-ignored",
        "experts are chosen from all groups",
        IDS,
        lambda setup: router_card(groups_kept=setup.config.router.groups)(setup),
        why_not=needs_groups,
    ),
    model_mutant(
        "router.groups-strided",
        "the group of expert e is e mod G in place of e // (E / G)",
        IDS,
        after(strided_groups),
        why_not=needs_groups,
    ),
    model_mutant(
        "router.tie-highest",
        "among equal scores the highest index wins",
        IDS,
        after(tie_to_highest),
        case="vllm#52679",
        why_not=first_of(
            needs_others,
            needs(lambda c: c.groups_kept == c.groups, "the groups would be mirrored too"),
        ),
    ),
    model_mutant(
        "router.tie-by-added-index",
        "3e-7 times the index is added to break ties, and moves close calls",
        IDS,
        choosing(lambda r, bias, card: added(r, bias) + 3e-7 * np.arange(card.experts)),
        case="sglang#31768",
        why_not=needs_others,
    ),
)
