"""How the cost of a decode step grows, one quantity at a time, beside what the limits predict.

The prediction knows nothing of the code: bytes to read over the measured bandwidth, or operations
over the measured peak, whichever takes longer (`FORMULA`). Where the measured line leaves it, time
goes elsewhere: into calls, barriers, caches missed, arithmetic that is not a multiply-add.

There are two of them. `predicted_step_s` is of the best limits of the whole run: one line, to draw.
But what a machine gives changes by the minute (a virtual one of ours: from 16 to 33 GB/s), and a
step of a slow minute is no worse for it. So limits are measured before, between and after the
rounds of a point, and `times_by_round` holds each round to the better of the two beside it: how far
the code is from this machine, where `times_predicted` says how far from this machine at its best.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from tinymoe import __version__
from tinymoe.core import TinymoeError
from tinymoe.measure import machine
from tinymoe.measure.build import Built, Source, build
from tinymoe.measure.contest import LimitProbe
from tinymoe.measure.counts import Work as Least
from tinymoe.measure.counts import decode_work
from tinymoe.measure.limits import Limits
from tinymoe.measure.machine import Clock, usable_cores
from tinymoe.measure.statistics import summary
from tinymoe.measure.steps import Line, Work

SCHEMA = "tinymoe-sweep/1"
VALUES = {
    "batch": (1, 2, 4, 8, 16, 32, 64),
    "context": (128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768),
    "experts": (8, 16, 32, 64, 128, 256, 512),
    "top-k": (1, 2, 4, 8, 16),
    "threads": (1, 2, 4, 8, 16, 32, 64),
}
FORMULA = (
    "predicted = max(bytes / bandwidth, operations / peak), with bytes = matrices + experts met * "
    "an expert's + B * context * cached numbers' bytes + float32 norms and routers, operations = "
    "2 * B * values met + attention's; experts met: counted"
)
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One quantity that varies, and all that does not."""

    kind: str
    source: Source
    forms: tuple[str, ...]
    values: tuple[int, ...] = ()  # () is the usual ones
    batch: int = 1
    context: int = 128
    steps: int = 16
    backend: str = "numpy"
    numerics: str = "fp32"
    threads: int = 1
    rounds: int = 5
    warmup: int = 1

    @property
    def points(self) -> tuple[int, ...]:
        """Of the quantity, in the order they are run."""
        if self.values:
            return self.values
        usual = VALUES[self.kind]
        most = {"threads": usable_cores(), "top-k": self.source.config.router.experts}
        return tuple(value for value in usual if value <= most.get(self.kind, value))


def check(sweep: Sweep) -> None:
    """Refuse what cannot be swept, before anything is drawn."""
    if sweep.kind not in VALUES:
        raise TinymoeError(f"--sweep must be one of {', '.join(VALUES)}; got {sweep.kind!r}")
    if sweep.rounds < 1 or sweep.warmup < 1:
        raise TinymoeError("--repeats and --warmup must be at least 1")
    if min(sweep.points) < 1 or len(set(sweep.points)) < len(sweep.points):
        raise TinymoeError(
            f"--points: expected different numbers of at least 1, got {list(sweep.points)}"
        )
    if sweep.kind in ("experts", "top-k") and sweep.source.shape is None:
        raise TinymoeError(
            f"--sweep {sweep.kind} changes the model, and a checkpoint is what it is: give a "
            "--shape of random weights"
        )
    router = sweep.source.config.router
    if sweep.kind == "top-k" and max(sweep.points) > router.experts:
        raise TinymoeError(f"--points: top-k beyond the model's {router.experts} experts")
    if sweep.kind == "experts" and min(sweep.points) < router.top_k:
        raise TinymoeError(f"--points: fewer experts than its top-k, {router.top_k}")
    if sweep.kind == "threads" and max(sweep.points) > usable_cores():
        raise TinymoeError(f"--points: this process may use {usable_cores()} cores")


def run_sweep(
    sweep: Sweep,
    *,
    clock: Clock = time.perf_counter,
    progress: Progress = lambda what, part: None,
    probe: Callable[[int], LimitProbe] = Limits,
) -> dict[str, Any]:
    """Every point in every format; the report as plain values, ready for JSON."""
    check(sweep)
    rows: list[dict[str, Any]] = []
    built, probes = dict[str, Built](), dict[int, LimitProbe]()
    count = len(sweep.points) * len(sweep.forms)
    for form in sweep.forms:
        for value in sweep.points:
            progress(f"{form}, {sweep.kind} {value}", len(rows) / count)
            source, line, threads = setting(sweep, value)
            if not built or sweep.kind not in ("batch", "context"):  # the weights stay the same
                built.clear()
                built[form] = build(source, form, sweep.backend, threads, sweep.numerics)
            if threads not in probes:
                probes[threads] = probe(threads)
            rows.append(_point(sweep, built[form], line, value, clock, probes[threads]))
        built.clear()
    for row in rows:
        row.update(_predicted(row, [other for other in rows if other["threads"] == row["threads"]]))
    progress("done", 1.0)
    return {
        "schema": SCHEMA,
        "tinymoe": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {**machine.describe(), "load_average_1min_after": machine.load_average()},
        "settings": {
            "sweep": sweep.kind,
            "model": sweep.source.name,
            "formats": list(sweep.forms),
            "backend": sweep.backend,
            "numerics": sweep.numerics,
            "batch": sweep.batch,
            "context": sweep.context,
            "steps": sweep.steps,
            "threads": sweep.threads,
            "rounds": sweep.rounds,
        },
        "formula": FORMULA,
        "points": rows,
    }


def setting(sweep: Sweep, value: int) -> tuple[Source, Line, int]:
    """The model, the work and the threads of one point."""
    batch = value if sweep.kind == "batch" else sweep.batch
    context = value if sweep.kind == "context" else sweep.context
    source = sweep.source
    if source.shape is not None:  # a random model has as many positions as are wanted
        longest = max(sweep.points) if sweep.kind == "context" else context
        source = replace(source, positions=max(longest + sweep.steps, source.config.max_positions))
    if sweep.kind == "experts":
        source = replace(source, experts=value)
    if sweep.kind == "top-k":
        source = replace(source, top_k=value)
    threads = value if sweep.kind == "threads" else sweep.threads
    return source, Line("decode", batch, context, sweep.steps), threads


def _point(
    sweep: Sweep, built: Built, line: Line, value: int, clock: Clock, limits: LimitProbe
) -> dict[str, Any]:
    """One point, measured and predicted."""
    work = Work(built.subject, line, sweep.source.seed)
    met = work.met(built.subject)
    for _ in range(sweep.warmup):
        work.run(built.subject, clock)
    seconds: list[float] = []
    beside = [(limits.bandwidth(clock), limits.peak(clock))]
    for _ in range(sweep.rounds):
        seconds.append(work.run(built.subject, clock) / line.steps)
        beside.append((limits.bandwidth(clock), limits.peak(clock)))
    config = built.subject.config
    item = work.cache.itemsize
    least = decode_work(built.counts, config, built.form, line.batch, line.mean_context, met, item)
    step = summary(seconds)
    bandwidth, peak = zip(*beside, strict=True)
    return {
        "value": value,
        "format": built.form,
        "threads": built.threads,
        "step_s": step,
        "tokens_per_s": line.batch / step["median"],
        "bytes_per_step": least.bytes,
        "flops_per_step": least.flops,
        "read_bytes_per_s": max(bandwidth),
        "flops_per_s": max(peak),
        "read_bytes_per_s_beside": list(bandwidth),
        "times_by_round": summary(_by_round(seconds, beside, least)),
        "experts_met": sum(met) / len(met) if met else None,
    }


def _by_round(
    seconds: Sequence[float], beside: Sequence[tuple[float, float]], least: Least
) -> list[float]:
    """Each round's step over its prediction: the better limits of those before and after it.

    The better ones, because another process that slows a probe down must not make us look good.
    """
    return [
        taken / least.seconds(*map(max, before, after))
        for taken, (before, after) in zip(seconds, pairwise(beside), strict=True)
    ]


def _predicted(row: dict[str, Any], alike: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of a point, by the best limits measured at any point on as many threads: one line."""
    reading = row["bytes_per_step"] / max(other["read_bytes_per_s"] for other in alike)
    computing = row["flops_per_step"] / max(other["flops_per_s"] for other in alike)
    predicted = max(reading, computing)
    return {
        "predicted_step_s": predicted,
        "times_predicted": row["step_s"]["median"] / predicted,
        "bound": "reading" if reading > computing else "computing",
    }


def by_format(report: dict[str, Any]) -> dict[str, Sequence[dict[str, Any]]]:
    """The points of each format, in order."""
    forms = report["settings"]["formats"]
    return {form: [p for p in report["points"] if p["format"] == form] for form in forms}
