"""Ours and the peers in turns, on one machine in one run: rates, ratios, and the share of limits.

A round runs every contestant once, every second round in the other direction, so that drift meets
all alike. A ratio is of one round: what a noisy neighbour takes, it takes from both. The machine's
limits are measured between any two contestants: a share of them is of the best of the whole run,
or, by round, of the better ones right before and after. Medians and ranges are over rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from tinymoe import __version__
from tinymoe.core import TinymoeError
from tinymoe.measure import machine
from tinymoe.measure.build import Built, Source, build
from tinymoe.measure.contest_report import contestant, ratios, work_of
from tinymoe.measure.limits import Limits
from tinymoe.measure.llama_cpp import LlamaCpp
from tinymoe.measure.machine import Clock
from tinymoe.measure.peers import TIMEOUT, Asked, Peer
from tinymoe.measure.statistics import summary
from tinymoe.measure.steps import Line, Work
from tinymoe.measure.transformers_peer import Transformers

SCHEMA = "tinymoe-contest/1"
OURS = (
    "prompt or decoded tokens over the seconds inside `forward`, logits included (of a prompt, the "
    "last token's), nothing sampled; random tokens, the cache filled with random numbers"
)
Progress = Callable[[str, float], None]  # what comes next, and the part done (0 to 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One comparison."""

    source: Source
    forms: tuple[str, ...]
    lines: tuple[Line, ...]
    peers: tuple[Asked, ...] = ()
    backend: str = "numpy"
    numerics: str = "fp32"
    threads: int = 1
    rounds: int = 5
    warmup: int = 1
    timeout: float = TIMEOUT


class Ours:
    """tinymoe with its matrices in one format: a contestant as the peers are."""

    warms = True

    def __init__(self, built: Built, lines: Sequence[Line], clock: Clock, seed: int = 0) -> None:
        self.built, self._clock = built, clock
        self.works = [Work(built.subject, line, seed) for line in lines]
        self.name = f"tinymoe {built.backend} {built.form}"
        self.form, self.counts = built.form, OURS
        self.whole = built.whole  # its products are of whole numbers
        self.versions = {"tinymoe": __version__}

    def rates(self, lines: Sequence[Line]) -> list[float | None]:
        """Tokens a second of each of its lines, once."""
        subject = self.built.subject
        return [work.line.tokens / work.run(subject, self._clock) for work in self.works]

    def met(self) -> list[list[float]]:
        """Distinct experts of a step, by line and layer."""
        return [work.met(self.built.subject) for work in self.works]

    def by_op(self) -> dict[str, dict[str, float]] | None:
        """Seconds by op of one run of each line, where the backend says."""
        timer = self.built.by_op
        if timer is None:
            return None
        clock = self._clock
        return {w.line.name: timer(lambda s, w=w: w.run(s, clock)) for w in self.works}  # type: ignore[misc]

    def close(self) -> None:
        """Nothing runs."""


class LimitProbe(Protocol):
    """What `Limits` is."""

    def bandwidth(self, clock: Clock) -> float:
        """Bytes a second."""
        ...

    def peak(self, clock: Clock) -> float:
        """Operations a second."""
        ...

    def peak_whole(self, clock: Clock) -> float:
        """Of whole numbers."""
        ...

    def peak_alone(self, clock: Clock) -> float:
        """Of one thread."""
        ...


def compare(
    plan: Plan,
    *,
    clock: Clock = time.perf_counter,
    progress: Progress = lambda what, part: None,
    probe: LimitProbe | None = None,
) -> dict[str, Any]:
    """All of it; the report as plain values, ready for JSON."""
    if plan.rounds < 1 or plan.warmup < 1:
        raise TinymoeError("--repeats and --warmup must be at least 1")
    config, about = plan.source.config, machine.describe()
    progress("asking the peers", 0.0)
    peers: list[Peer] = []
    try:
        for asked in plan.peers:  # first: what is missing should say so at once
            peers.append(open_peer(asked, plan))
        ours = []
        for number, form in enumerate(plan.forms):
            progress(f"the model in {form}", 0.1 + 0.1 * number / len(plan.forms))
            built = build(plan.source, form, plan.backend, plan.threads, plan.numerics)
            ours.append(Ours(built, plan.lines, clock, plan.source.seed))
        met = ours[0].met()
        limits = Limits(plan.threads) if probe is None else probe
        samples, limit, beside = _rounds(plan, [*ours, *peers], limits, clock, progress)
        by_op = {one.name: found for one in ours if (found := one.by_op()) is not None}
    finally:
        for peer in peers:
            peer.close()
    best = {name: max(found) for name, found in limit.items()}
    sizes = ours[0].built.counts
    work = [
        work_of(sizes, config, line, met[place], ours[0].works[place].cache.itemsize)
        for place, line in enumerate(plan.lines)
    ]
    progress("done", 1.0)
    return {
        "schema": SCHEMA,
        "tinymoe": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": _settings(plan),
        "machine": {**about, "load_average_1min_after": machine.load_average()},
        "limits": {name: summary(found) for name, found in limit.items()},
        "lines": [line.name for line in plan.lines],
        "contestants": [
            contestant(
                one,
                plan.lines,
                samples[one.name],
                work,
                _roof(one, best),
                [_roof(one, found) for found in beside[one.name]],
            )
            for one in (*ours, *peers)
        ],
        "ratios": ratios(plan.lines, [one.name for one in ours], [p.name for p in peers], samples),
        "time_by_op": by_op,
        "experts_met": [sum(found) / len(found) if found else None for found in met],
    }


def open_peer(asked: Asked, plan: Plan) -> Peer:
    """The peer that a --peer names, checked, ready to run."""
    config, threads = plan.source.config, plan.threads
    if asked.kind == "transformers":
        return Transformers(plan.source, config, threads, asked.program, plan.timeout)
    assert asked.program is not None  # `parse` has seen to it
    assert asked.model is not None
    return LlamaCpp(asked.program, asked.model, config, threads, plan.timeout)


def _rounds(
    plan: Plan, everyone: Sequence[Any], limits: LimitProbe, clock: Clock, progress: Progress
) -> tuple[
    dict[str, list[list[float | None]]], dict[str, list[float]], dict[str, list[dict[str, float]]]
]:
    """By contestant its rates, a list for every timed round; all limits; and those beside it."""
    names = [one.name for one in everyone]
    if len(set(names)) < len(names):
        raise TinymoeError(f"two contestants of one name, {sorted(names)}: leave one out")
    samples: dict[str, list[list[float | None]]] = {name: [] for name in names}
    probes = {
        "read_bytes_per_s": limits.bandwidth,
        "flops_per_s": limits.peak,
        "whole_ops_per_s": limits.peak_whole,
        "flops_per_s_of_one_thread": limits.peak_alone,
    }
    limit: dict[str, list[float]] = {name: [] for name in probes}
    beside: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    before = {name: probe(clock) for name, probe in probes.items()}
    rounds = plan.warmup + plan.rounds
    for number in range(rounds):
        timed = number >= plan.warmup
        ordered = everyone if number % 2 == 0 else list(reversed(everyone))
        for place, one in enumerate(ordered):
            if not timed and not one.warms:
                continue
            what = f"round {number + 1 - plan.warmup}" if timed else "warming up"
            part = (number + place / len(ordered)) / rounds
            progress(f"{what}: {one.name}", 0.2 + 0.8 * part)
            found = one.rates(plan.lines)
            after = {name: probe(clock) for name, probe in probes.items()}
            if timed:
                samples[one.name].append(found)
                # the better: who slows a probe down must not make a contestant look good
                beside[one.name].append({name: max(before[name], after[name]) for name in after})
                for name, measured in after.items():
                    limit[name].append(measured)
            before = after
    return samples, limit, beside


def _roof(one: Any, limit: dict[str, float]) -> tuple[float, float]:
    """Bandwidth, and the peak of the arithmetic that the contestant multiplies in."""
    whole = getattr(one, "whole", False)
    return limit["read_bytes_per_s"], limit["whole_ops_per_s" if whole else "flops_per_s"]


def _settings(plan: Plan) -> dict[str, Any]:
    source = plan.source
    return {
        "model": source.name,
        "seed": source.seed,
        "formats": list(plan.forms),
        "backend": plan.backend,
        "numerics": plan.numerics,
        "threads": plan.threads,
        "rounds": plan.rounds,
        "warmup": plan.warmup,
        "lines": [asdict_line(line) for line in plan.lines],
        "peers": [asdict_peer(asked) for asked in plan.peers],
    }


def asdict_line(line: Line) -> dict[str, Any]:
    """A line's fields, ready for JSON."""
    fields: dict[str, Any] = line._asdict()
    return fields


def asdict_peer(asked: Asked) -> dict[str, Any]:
    """The same of a --peer."""
    return {**asked._asdict(), "model": None if asked.model is None else str(asked.model)}
