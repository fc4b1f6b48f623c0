"""The report of a comparison: every rate beside what the limits allow, and ratios by round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tinymoe.core import ModelConfig
from tinymoe.measure import counts
from tinymoe.measure.statistics import summary
from tinymoe.measure.steps import Line

Rounds = Sequence[Sequence[float | None]]  # of each round, tokens/s by line


def work_of(
    sizes: counts.Counts, config: ModelConfig, line: Line, met: Sequence[float], cached: int
) -> Callable[[str], counts.Work]:
    """What a step of the line must read and compute, for weights in a format.

    cached: bytes of a number in our cache, which is what the others' are compared with.
    """

    def of(form: str) -> counts.Work:
        if line.kind == "prefill":
            return counts.prefill_work(sizes, config, form, line.context)
        return counts.decode_work(sizes, config, form, line.batch, line.mean_context, met, cached)

    return of


def contestant(
    one: Any,
    lines: Sequence[Line],
    rounds: Rounds,
    work: Sequence[Callable[[str], counts.Work]],
    best: tuple[float, float],
    beside: Sequence[tuple[float, float]],
) -> dict[str, Any]:
    """Its rates by line, each beside what the limits allow for its format.

    best, beside: bandwidth and peak, of the whole run, and of each round.
    """
    rows: list[dict[str, Any]] = []
    for place, line in enumerate(lines):
        taken = [found[place] for found in rounds]
        known = [rate for rate in taken if rate is not None]
        if not known:
            rows.append({"line": line.name, "tokens_per_s": None})
            continue
        rates, least = summary(known), work[place](one.form)
        tokens = line.context if line.kind == "prefill" else line.batch
        per_second = rates["median"] / tokens  # steps
        rows.append(
            {
                "line": line.name,
                "tokens_per_s": rates,
                "bytes_per_token": least.bytes / tokens,
                "flops_per_token": least.flops / tokens,
                "bytes_per_s": least.bytes * per_second,
                "flops_per_s": least.flops * per_second,
                "limit_tokens_per_s": tokens / least.seconds(*best),
                "of_limit": per_second * least.seconds(*best),
                "of_limit_by_round": summary(
                    [
                        rate / tokens * least.seconds(*roof)
                        for rate, roof in zip(taken, beside, strict=True)
                        if rate is not None
                    ]
                ),
                "bound": "reading"
                if least.bytes / best[0] > least.flops / best[1]
                else "computing",
            }
        )
    found = {"name": one.name, "format": one.form, "counts": one.counts, "lines": rows}
    found["whole_numbers"] = getattr(one, "whole", False)  # whose peak is its limit
    return {**found, "versions": one.versions, "experts": getattr(one, "best", None)}


def ratios(
    lines: Sequence[Line],
    ours: Sequence[str],
    peers: Sequence[str],
    samples: Mapping[str, Rounds],
) -> list[dict[str, Any]]:
    """Ours over theirs, round by round, for every pair and line that both have."""
    found = []
    for mine in ours:
        for theirs in peers:
            for place, line in enumerate(lines):
                pairs = zip(samples[mine], samples[theirs], strict=True)
                each = [
                    m[place] / t[place]  # type: ignore[operator]
                    for m, t in pairs
                    if m[place] is not None and t[place] is not None
                ]
                if each:
                    row = {"ours": mine, "peer": theirs, "line": line.name}
                    found.append({**row, "ratio": summary(each)})
    return found
