"""Wrong expert and tensor parallelism, seen as one process sees it: two ranks, summed.

Taps are what the sum over ranks gives: a shared expert that both ranks add shows in `moe.shared`.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from tinymoe.core import Array, Numerics
from tinymoe.model.precision import store
from tinymoe.oracle.mutants.grouping import EXPERT_OUT, ROUTED, biased, rolled
from tinymoe.oracle.mutants.looking import OUT, any_params
from tinymoe.oracle.mutants.mutant import (
    ModelMutant,
    Setup,
    attention_params,
    first_of,
    model_mutant,
    moe_params,
    on_values,
    unless,
    wrapped,
)
from tinymoe.oracle.mutants.rerouting import needs, no_moe
from tinymoe.oracle.mutants.residual import SHARED, has_shared, shared_times

RANKS = 2


def sentinel(
    original: Any,
    x: Array,
    gate_up: Array,
    down: Array,
    offsets: Array,
    numerics: Numerics,
    **named: Any,
) -> Array:
    """A slot of another rank is masked with index 0, so that each rank's expert 0 runs it too."""
    out = original(x, gate_up, down, offsets, numerics, **named)
    experts = len(gate_up)
    share = experts // RANKS
    owner = np.repeat(np.arange(experts), np.diff(offsets)) // share  # (S,) rank of each row
    for rank in range(RANKS):
        first, away = rank * share, owner != rank
        bounds = np.where(np.arange(experts + 1) > first, int(away.sum()), 0)
        extra = original(x[away], gate_up, down, bounds, numerics, **named)
        out[away] = store(out[away] + extra, numerics.storage)
    return out


def own_share(original: Any, x: Array, gate_up: Array, *rest: Any, **named: Any) -> Array:
    """The sum over ranks is missing: experts of the other rank give 0."""
    out = original(x, gate_up, *rest, **named).copy()
    out[rest[1][len(gate_up) // RANKS] :] = 0
    return out


def replicas(
    original: Any, x: Array, gate_up: Array, down: Array, offsets: Array, *rest: Any, **named: Any
) -> Array:
    """The busiest expert stands on both ranks, and both run its rows."""
    out = original(x, gate_up, down, offsets, *rest, **named).copy()
    busiest = int(np.diff(offsets).argmax())
    start, stop = list(pairwise(offsets.tolist()))[busiest]
    out[start:stop] *= 2
    return out


def others_weights(original: Any, out: Array, weights: Array, *rest: Any) -> Array:
    """Each rank's tokens are combined with the other rank's weights."""
    return original(out, np.roll(weights, len(weights) // RANKS, axis=0), *rest)


def local_ids(stack: Any) -> Any:
    """Expert e of the second rank read as e - E/2: the first half of a stack, twice."""
    if stack is None:
        return None
    first = np.arange(len(stack)) % (len(stack) // RANKS)
    return on_values(stack, lambda values: values[first])


def shards_exchanged(setup: Setup) -> Setup:
    """The two halves of the vocabulary gathered in the wrong order."""
    head = setup.params.head
    return setup._replace(
        params=replace(
            setup.params,
            head=on_values(head, lambda rows: np.roll(rows, len(rows) // RANKS, axis=0)),
        )
    )


even = needs(lambda c: c.experts % RANKS == 0, "the experts do not split into two equal halves")

PARALLEL: tuple[ModelMutant, ...] = (
    model_mutant(
        "parallel.shared-times-ranks",
        "every rank adds the shared expert: it counts as often as there are ranks",
        SHARED,
        shared_times(RANKS),
        case="vllm#49122",
        why_not=has_shared,
    ),
    model_mutant(
        "parallel.shared-over-ranks",
        "the shared expert is divided by the number of ranks",
        SHARED,
        shared_times(1 / RANKS),
        case="TensorRT-LLM#15922",
        why_not=has_shared,
    ),
    model_mutant(
        "parallel.sentinel-expert-0",
        "slots of another rank are masked with index 0, so that every rank's expert 0 runs them",
        EXPERT_OUT,
        wrapped("expert_ffn", sentinel),
        case="transformers#40545",
        why_not=even,
    ),
    model_mutant(
        "parallel.sum-over-ranks-lost",
        "the outputs of the other rank's experts never arrive",
        EXPERT_OUT,
        wrapped("expert_ffn", own_share),
        why_not=even,
    ),
    model_mutant(
        "parallel.replica-counted-twice",
        "an expert that stands on two ranks is run by both",
        EXPERT_OUT,
        wrapped("expert_ffn", replicas),
        case="EPLB#22",
        why_not=no_moe,
    ),
    model_mutant(
        "parallel.local-ids",
        "expert e of the second rank is run with the weights of expert e - E/2",
        EXPERT_OUT,
        moe_params(
            lambda moe: replace(
                moe,
                gate_up=local_ids(moe.gate_up),
                down=local_ids(moe.down),
                gate_up_bias=local_ids(moe.gate_up_bias),
                down_bias=local_ids(moe.down_bias),
            )
        ),
        why_not=even,
    ),
    model_mutant(
        "parallel.placement-inverted",
        "the map from expert to place is used as the map from place to expert (one place further)",
        EXPERT_OUT,
        lambda setup: _moved_twice(setup),
        case="vllm-ascend#4793",
        why_not=needs(lambda c: c.experts > 2, "two experts: the map is its own inverse"),
    ),
    model_mutant(
        "parallel.others-weights",
        "the combine step uses the routing of the other rank's tokens",
        ROUTED,
        wrapped("combine", others_weights),
        case="vllm#52639",
        why_not=needs(lambda c: c.weight_on == "output", "the weights are on the inputs"),
    ),
    model_mutant(
        "parallel.down-bias-times-ranks",
        "every rank adds the bias of the down projection",
        EXPERT_OUT,
        moe_params(
            lambda moe: (
                moe
                if moe.down_bias is None
                else replace(moe, down_bias=moe.down_bias * np.asarray(RANKS, moe.down_bias.dtype))
            )
        ),
        why_not=first_of(no_moe, biased),
    ),
    model_mutant(
        "parallel.out-bias-times-ranks",
        "every rank adds the bias of attention's output projection",
        OUT,
        attention_params(
            lambda p: (
                p
                if p.out_bias is None
                else replace(p, out_bias=p.out_bias * np.asarray(RANKS, p.out_bias.dtype))
            )
        ),
        why_not=any_params(lambda p: getattr(p, "out_bias", None) is not None, "there is none"),
    ),
    model_mutant(
        "parallel.vocabulary-shards",
        "the two halves of the logits are gathered in the wrong order",
        "logits",
        shards_exchanged,
        why_not=unless(lambda s: s.config.vocab_size < RANKS, "one token"),
    ),
)


def _moved_twice(setup: Setup) -> Setup:
    move = rolled("gate_up", "down", "gate_up_bias", "down_bias")
    return move(move(setup))
