"""Wrong samplers, on the vector of masked probabilities: no draw, so no luck."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from tinymoe.core import Array, Sampling
from tinymoe.oracle.mutants.mutant import Mutant, Row, SamplerMutant
from tinymoe.sampler import (
    exponentials,
    forbid_and_bias,
    is_greedy,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    masked_probabilities,
    penalised,
    softmax,
)

WhyNotRow: TypeAlias = Callable[[Row], str | None]


def asked(change: Callable[[Sampling], Sampling]) -> Callable[[Row], Array]:
    """The right sampler, asked for something else."""
    return lambda row: masked_probabilities(*row._replace(sampling=change(row.sampling)))


def before_masks(row: Row, *, temperature: bool = True, penalties: bool = True) -> Array:
    """Logits (V,) as the masks get them, some steps left out."""
    s = row.sampling
    x = np.asarray(row.logits, np.float64)
    x = forbid_and_bias(x, s, len(row.output_ids), row.end_ids)
    if penalties:
        x = penalised(x, s, row.prompt_ids, row.output_ids)
    return x / s.temperature if temperature else x


def masks(x: Array, s: Sampling) -> Array:
    """The masks in the order asked for."""
    if s.order == "vllm":
        return keep_top_p(keep_top_k(keep_min_p(x, s), s), s)
    return keep_min_p(keep_top_p(keep_top_k(x, s), s), s)


def temperature_last(row: Row) -> Array:
    """Masks on the logits at temperature 1."""
    return softmax(
        masks(before_masks(row, temperature=False), row.sampling) / row.sampling.temperature
    )


def top_p_of_all(row: Row) -> Array:
    """top_p measured on all tokens, not on those that the masks before it left."""
    s, x = row.sampling, before_masks(row)
    by_p = keep_top_p(x, s)
    others = keep_top_k(keep_min_p(x, s), s)
    return softmax(np.where(np.isneginf(by_p), -np.inf, others))


def without_crossing(row: Row) -> Array:
    """The token that crosses top_p is dropped, the best one aside."""
    x = masks(before_masks(row), row.sampling)
    kept = np.flatnonzero(~np.isneginf(x))
    if len(kept) > 1:
        x = x.copy()
        x[kept[x[kept].argmin()]] = -np.inf
    return softmax(x)


def min_p_absolute(row: Row) -> Array:
    """min_p compared with the probability itself, not with a part of the largest."""
    s, x = row.sampling, before_masks(row)
    low = (softmax(x) < s.min_p) & (x < x.max())
    return softmax(masks(np.where(low, -np.inf, x), replace(s, min_p=0.0)))


def unnormalised(row: Row) -> Array:
    """The masked vector still holds the probabilities over all tokens: its sum is below 1."""
    x = before_masks(row)
    e = exponentials(x) / exponentials(x).sum()
    return np.where(np.isneginf(masks(x, row.sampling)), 0.0, e)


def repeated(row: Row, penalty: Callable[[Array, float, Array], Array]) -> Array:
    """Another repetition penalty: (logits of the seen, r, how often each was seen)."""
    s = row.sampling
    x = np.asarray(row.logits, np.float64)
    x = forbid_and_bias(x, s, len(row.output_ids), row.end_ids)
    seen = [*row.prompt_ids, *row.output_ids]
    ids, counts = np.unique(np.array(seen, np.int64), return_counts=True)
    x = x.copy()
    x[ids] = penalty(x[ids], s.repetition_penalty, counts)
    x = penalised(x, replace(s, repetition_penalty=1.0), row.prompt_ids, row.output_ids)
    return softmax(masks(x / s.temperature, s))


def once(row: Row) -> Array:
    """The frequency penalty taken once, however often the token came."""
    unique = tuple(dict.fromkeys(row.output_ids))
    return masked_probabilities(*row._replace(output_ids=unique))


def needs(**off: Any) -> WhyNotRow:
    """It applies where these settings are not at the values that switch them off."""

    def why(row: Row) -> str | None:
        if is_greedy(row.sampling):
            return "greedy: no distribution"
        for name, value in off.items():
            if getattr(row.sampling, name) == value:
                return f"{name} is {value}: off"
        return None

    return why


def masked(row: Row) -> str | None:
    """Whether any token may be dropped: without a mask, temperature may come at any time."""
    s = row.sampling
    return "nothing is masked" if s.top_k == 0 and s.top_p == 1 and s.min_p == 0 else None


def with_outputs(reason: WhyNotRow) -> WhyNotRow:
    """It also takes tokens that came before."""

    def why(row: Row) -> str | None:
        return reason(row) or (None if len(row.output_ids) else "no token was generated before")

    return why


def _mutant(
    name: str, says: str, apply: Callable[[Row], Array], why_not: WhyNotRow, case: str = ""
) -> SamplerMutant:
    return Mutant(
        name=name,
        kind="sampler",
        says=says,
        case=case,
        first_tap="probabilities",
        why_not=why_not,
        apply=apply,
    )


SAMPLER: tuple[SamplerMutant, ...] = (
    _mutant(
        "sampler.min-p-other-order",
        "min_p comes after top_p where it must come before, or the other way round",
        asked(
            lambda s: replace(s, order="transformers" if s.order == "vllm" else "vllm"),
        ),
        needs(min_p=0.0, top_p=1.0),
    ),
    _mutant(
        "sampler.min-p-absolute",
        "min_p is compared with the probability, not with its ratio to the largest",
        min_p_absolute,
        needs(min_p=0.0),
    ),
    _mutant(
        "sampler.top-p-of-all",
        "top_p is measured on all tokens, not on those that top_k left",
        top_p_of_all,
        needs(top_k=0, top_p=1.0),
        case="flashinfer#2320",
    ),
    _mutant(
        "sampler.top-p-without-crossing",
        "the token that crosses top_p is dropped",
        without_crossing,
        needs(top_p=1.0),
    ),
    _mutant(
        "sampler.not-renormalised",
        "the masked probabilities do not sum to 1",
        unnormalised,
        needs(top_p=1.0),
    ),
    _mutant(
        "sampler.top-k-lost",
        "top_k is not applied",
        asked(lambda s: replace(s, top_k=0)),
        needs(top_k=0),
    ),
    _mutant(
        "sampler.temperature-last",
        "temperature divides after the masks",
        temperature_last,
        lambda row: needs(temperature=1.0)(row) or masked(row),
    ),
    _mutant(
        "sampler.temperature-multiplies",
        "logits are multiplied by the temperature",
        asked(lambda s: replace(s, temperature=1 / s.temperature)),
        needs(temperature=1.0),
    ),
    _mutant(
        "sampler.repetition-divides-negatives",
        "a negative logit is divided by the repetition penalty, which raises it",
        lambda row: repeated(row, lambda x, r, counts: x / r),
        with_outputs(needs(repetition_penalty=1.0)),
    ),
    _mutant(
        "sampler.repetition-each-time",
        "the repetition penalty is applied once for each occurrence",
        lambda row: repeated(
            row, lambda x, r, counts: np.where(x > 0, x / r**counts, x * r**counts)
        ),
        with_outputs(needs(repetition_penalty=1.0)),
    ),
    _mutant(
        "sampler.repetition-without-prompt",
        "the repetition penalty leaves the prompt's tokens out",
        lambda row: masked_probabilities(*row._replace(prompt_ids=())),
        needs(repetition_penalty=1.0),
    ),
    _mutant(
        "sampler.frequency-sign",
        "the frequency penalty is added",
        asked(lambda s: replace(s, frequency_penalty=-s.frequency_penalty)),
        with_outputs(needs(frequency_penalty=0.0)),
    ),
    _mutant(
        "sampler.frequency-once",
        "the frequency penalty is taken once, however often a token came",
        once,
        with_outputs(needs(frequency_penalty=0.0)),
    ),
    _mutant(
        "sampler.presence-lost",
        "the presence penalty is not applied",
        asked(lambda s: replace(s, presence_penalty=0.0)),
        with_outputs(needs(presence_penalty=0.0)),
    ),
    _mutant(
        "sampler.penalties-of-prompt",
        "presence and frequency count the prompt's tokens too",
        lambda row: masked_probabilities(
            *row._replace(output_ids=(*row.prompt_ids, *row.output_ids))
        ),
        needs(presence_penalty=0.0),
    ),
)
