"""The benchmark: rounds of timed runs in turns, and one report of everything, raw samples too."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tinymoe import __version__
from tinymoe.checkpoint import Checkpoint
from tinymoe.engine import Engine
from tinymoe.measure import machine
from tinymoe.measure.definitions import DEFINITIONS
from tinymoe.measure.machine import Clock, ReadProbe
from tinymoe.measure.process import peak_memory, start_times
from tinymoe.measure.runs import (
    Case,
    ExpertCount,
    Outputs,
    Subject,
    Timing,
    engine_run,
    make_engine,
    make_prompts,
    model_run,
)
from tinymoe.measure.setup import Settings, check, describe_model, make_subject
from tinymoe.measure.statistics import latencies, percentile, summary
from tinymoe.measure.traffic import step_bytes, weight_bytes
from tinymoe.model.transformer import no_tap

SCHEMA = "tinymoe-bench/1"
BUSY = 0.5  # load average per usable core above which a warning is due

Progress = Callable[[str, float], None]  # what comes next, and the part done (0 to 1)


class Station(NamedTuple):
    """One case set up: its engine with a cache that is reused, its prompts, what it recorded."""

    case: Case
    engine: Engine
    prompts: list[list[int]]
    outputs: Outputs
    touched: list[float]  # distinct experts of a decode step, mean, by layer
    engine_times: list[Timing]
    model_times: list[Timing]


def bench(
    settings: Settings,
    *,
    clock: Clock = time.perf_counter,
    progress: Progress = lambda what, part: None,
) -> dict[str, Any]:
    """Measure what `settings` ask for; the report as plain values, ready for JSON.

    Order: starts (before this process reads the model), memory of a fresh process (before this
    one fills memory), warm-up, timed rounds.
    """
    config = check(settings)
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "tinymoe": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": asdict(settings),
        "machine": machine.describe(),
        "model": describe_model(settings, config),
    }
    progress("starting processes", 0.0)
    report["start"] = _start(settings, clock)
    progress("memory of a fresh process", 0.2)
    report["memory"] = peak_memory(settings) if settings.memory else {"skipped": "--no-memory"}
    progress("drawing the model" if settings.shape else "reading the model", 0.3)
    subject = make_subject(settings)
    report["model"]["weight_bytes"] = weight_bytes(subject.params, report["model"]["weights"])
    stations, bandwidth = run_rounds(settings, subject, clock, progress)
    report["machine"]["process_threads"] = machine.process_threads()
    report["machine"]["load_average_1min_after"] = machine.load_average()
    best = max(bandwidth)
    report["read_bandwidth"] = {
        "bytes_per_s": {**summary(bandwidth), "best": best},
        "array_bytes": machine.probe_bytes(),
    }
    form = report["model"]["weights"]
    report["cases"] = [case_report(subject, station, best, form) for station in stations]
    report["warnings"] = warnings(report)
    report["definitions"] = {name: asdict_of(d) for name, d in DEFINITIONS.items()}
    progress("done", 1.0)
    return report


def asdict_of(value: Any) -> dict[str, Any]:
    """A named tuple as a dictionary."""
    fields: dict[str, Any] = value._asdict()
    return fields


def _start(settings: Settings, clock: Clock) -> dict[str, Any]:
    if not settings.start:
        return {"skipped": "--no-start"}
    if settings.folder is None:
        return {"skipped": "a random model is nowhere on disk to start from"}
    if not Checkpoint.open(settings.folder).has_tokenizer:
        return {"skipped": "the folder has no tokenizer.json, so there is no text to wait for"}
    return start_times(settings, clock)


def run_rounds(
    settings: Settings, subject: Subject, clock: Clock, progress: Progress
) -> tuple[list[Station], list[float]]:
    """Warm up, then `repeats` rounds: every case by engine and by model, and the read probe."""
    probe = ReadProbe(machine.probe_bytes())
    stations = [_station(settings, subject, case, clock) for case in settings.cases]
    bandwidth: list[float] = []
    rounds = settings.warmup + settings.repeats
    for number in range(rounds):
        timed = number >= settings.warmup
        what = f"round {number + 1 - settings.warmup}" if timed else "warming up"
        progress(what, 0.4 + 0.6 * number / rounds)
        for station in stations if number % 2 == 0 else reversed(stations):
            by_engine, _ = engine_run(station.engine, station.case, station.prompts, clock)
            by_model = model_run(
                station.engine, station.case, station.prompts, station.outputs, clock
            )
            if timed:
                station.engine_times.append(by_engine)
                station.model_times.append(by_model)
        read = probe(clock)
        if timed:
            bandwidth.append(read)
    return stations, bandwidth


def _station(settings: Settings, subject: Subject, case: Case, clock: Clock) -> Station:
    """Run the case once with a tap that counts experts; this run's times are dropped."""
    engine = make_engine(subject, case)
    prompts = make_prompts(case, subject.config.vocab_size, settings.seed)
    count = ExpertCount()
    engine.tap = count
    _, outputs = engine_run(engine, case, prompts, clock)
    engine.tap = no_tap
    touched = count.per_decode_step(subject.config.layers.count("moe"))
    return Station(case, engine, prompts, outputs, touched, [], [])


def case_report(
    subject: Subject, station: Station, best_bandwidth: float, form: str
) -> dict[str, Any]:
    """All numbers of one batch size, of a model whose matrices are held in a format."""
    case = station.case
    B, steps = case.batch, case.tokens - 1
    by_model = _rates(case, station.model_times)
    by_engine = _rates(case, station.engine_times)
    gaps = [gap for timing in station.engine_times for gap in timing.steps]
    step = percentile([sum(timing.steps) / steps for timing in station.model_times], 50)
    read = step_bytes(subject, case, station.touched, form)
    implied = read["total"] / step
    return {
        "batch": B,
        "prompt_tokens": case.prompt,
        "generated_tokens": case.tokens,
        "decode_context": list(case.contexts),
        "model": by_model,
        "engine": {
            **by_engine,
            "ttft_s": summary([timing.first for timing in station.engine_times]),
            "itl_s": latencies(gaps),
            "tokens_per_s_per_user": by_engine["decode_tokens_per_s"]["median"] / B,
        },
        "experts_per_step_and_layer": sum(station.touched) / len(station.touched)
        if station.touched
        else None,
        "bytes_per_step": read,
        "bytes_per_token": read["total"] / B,
        "implied_bytes_per_s": implied,
        "of_limit": implied / best_bandwidth,
        "limit_tokens_per_s": B * best_bandwidth / read["total"],
        "distinct_tokens": len({token for output in station.outputs for token in output}),
    }


def _rates(case: Case, times: list[Timing]) -> dict[str, Any]:
    """Tokens a second of each repeat, and the raw seconds."""
    prompt, decoded = case.batch * case.prompt, case.batch * (case.tokens - 1)
    return {
        "prefill_tokens_per_s": summary([prompt / timing.first for timing in times]),
        "decode_tokens_per_s": summary([decoded / sum(timing.steps) for timing in times]),
        "raw_s": [[timing.first, *timing.steps] for timing in times],
    }


def warnings(report: dict[str, Any]) -> list[str]:
    """Reasons to doubt the numbers."""
    found = []
    about = report["machine"]
    load, cores = about["load_average_1min"], about["usable_cores"]
    if load is not None and load > BUSY * cores:
        found.append(
            f"other programs kept this machine busy when it began (load average {load:.1f} on "
            f"{cores} cores): these numbers say little about it"
        )
    cache = about["last_level_cache_bytes"]
    if cache is None:
        found.append("the size of the last-level cache is unknown: 32 MiB were assumed")
    elif report["model"]["weight_bytes"] <= cache:
        found.append("all weights fit in the last-level cache: `of_limit` is no limit here")
    return found
