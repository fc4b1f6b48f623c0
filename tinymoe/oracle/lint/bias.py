"""Rules on the bias that chooses experts, whose last bits decide (sglang#31213).

A bias that training balanced lies in a narrow band, often far from zero: a cast to BF16 leaves a
handful of values, and tokens go to other experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tinymoe.cards import RouterCard
from tinymoe.core import Array
from tinymoe.families.common import softmax_router
from tinymoe.formats import bf16
from tinymoe.model.router import score, select
from tinymoe.oracle.lint.registry import Found, rule, share
from tinymoe.oracle.lint.samples import spread
from tinymoe.oracle.lint.subject import Subject

ENDINGS = ("e_score_correction_bias", "expert_bias")
TOKENS, LAYERS, SEED = 4096, 6, 31213  # random logits N(0, 1); layers tried, evenly spread
NOTICED = 0.01  # share of tokens from which it is worth a warning


class Cast(NamedTuple):
    """What a cast of one bias to BF16 does."""

    distinct: int  # values before
    left: int  # values after
    changed: float  # share of tokens whose set of experts is another


def cast_to_bf16(bias: Array, card: RouterCard) -> Cast:
    """Route the same random logits with the bias (E,) as it is and as BF16 would hold it."""
    rng = np.random.default_rng(SEED)
    logits = rng.standard_normal((TOKENS, card.experts)).astype(np.float32)  # (T, E)
    scores, rounded = score(logits, card), bf16.round_to_bf16(bias)
    before, _ = select(scores, bias, card)  # (T, K), ids ascending
    after, _ = select(scores, rounded, card)
    changed = (before != after).any(axis=1)
    return Cast(len(np.unique(bias)), len(np.unique(rounded)), float(changed.mean()))


def _biases(subject: Subject) -> list[str]:
    return [
        name for name in subject.names if name.endswith(ENDINGS) and not subject.past_the_end(name)
    ]


def _card(subject: Subject, experts: int) -> RouterCard | None:
    """The model's own; without one, sigmoid and top-8, as most that have such a bias."""
    if subject.model is not None:
        card = subject.model.router
        return card if card.experts == experts else None
    return replace(softmax_router(experts, min(8, experts)), score="sigmoid")


def _values(subject: Subject, name: str) -> Array | None:
    """(E,) in float32, as a kernel has it; None where it is of another type."""
    if subject.checkpoint.entry(name).dtype not in ("BF16", "F16", "F32", "F64"):
        return None
    return subject.checkpoint.read(name, "float64").ravel().astype(np.float32)


@rule(
    "bias-invalid",
    "error",
    *("vllm#39288", "vllm#47367"),
    engine="sorts NaN anywhere: the same expert twice, or memory that is not the model's",
)
def bias_invalid(subject: Subject) -> Iterator[Found]:
    """A bias for choosing experts holds NaN or an infinity."""
    bad = [
        name
        for name in _biases(subject)
        if (values := _values(subject, name)) is not None and not np.isfinite(values).all()
    ]
    if bad:
        says = f"NaN or infinite values in {share(len(bad), len(_biases(subject)))} biases"
        yield Found(says, bad, {"tensors": len(bad)})


@rule(
    "bias-dtype",
    "warning",
    *("sglang#31213", "vllm#38989", "vllm#23640"),
    engine="reads a type that its kernel does not expect, or adds rounded numbers to the scores",
)
def bias_dtype(subject: Subject) -> Iterator[Found]:
    """A bias for choosing experts is not stored in float32."""
    model = subject.model
    if model is not None and model.router.bias_dtype != "float32":
        return
    names = _biases(subject)
    low = [name for name in names if subject.checkpoint.entry(name).dtype not in ("F32", "F64")]
    if not low:
        return
    values = _values(subject, low[0])
    left = "" if values is None else f"; the first holds {len(np.unique(values))} distinct values "
    left += "" if values is None else f"for {values.size} experts"
    dtype = subject.checkpoint.entry(low[0]).dtype
    says = f"stored as {dtype}, where the model adds float32: {share(len(low), len(names))} biases"
    yield Found(says + left, low, {"tensors": len(low), "dtype": dtype})


@rule(
    "bias-cast",
    "warning",
    *("sglang#31213", "sglang#37133"),
    engine="casts the bias to BF16 with the rest of the model, and sends tokens to other experts",
)
def bias_cast(subject: Subject) -> Iterator[Found]:
    """A cast of the bias to BF16 would change the experts of many tokens (tried, fixed seed)."""
    names = [n for n in _biases(subject) if subject.checkpoint.entry(n).dtype in ("F32", "F64")]
    tried: dict[str, Cast] = {}
    for name in spread(names, LAYERS):
        values = _values(subject, name)
        card = None if values is None else _card(subject, values.size)
        if values is not None and card is not None and np.isfinite(values).all():
            tried[name] = cast_to_bf16(values, card)
    worst = {n: cast for n, cast in tried.items() if cast.changed >= NOTICED}
    if worst:
        name = max(worst, key=lambda n: worst[n].changed)
        cast = worst[name]
        says = f"a cast to BF16 leaves {cast.left} of {cast.distinct} distinct values and changes "
        says += (
            f"the experts of {cast.changed:.1%} of {TOKENS:,} tokens (random logits, seed {SEED}); "
        )
        says += f"the worst of {len(tried)} layers tried, of {len(names)}"
        yield Found(says, sorted(worst, key=lambda n: -worst[n].changed), cast._asdict())
