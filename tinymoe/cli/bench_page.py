"""The page that `bench` prints: its report's numbers as rows of cells, with units."""

from __future__ import annotations

import textwrap
from typing import Any

Rows = list[list[str]]


def heading(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Which model, on which machine, doing what: (label, text)."""
    model, about, settings = found["model"], found["machine"], found["settings"]
    name = (
        f"random, shape {model['shape']}, seed {model['seed_of_weights']}"
        if model["folder"] is None
        else model["folder"]
    )
    size = (
        f"{_count(model['parameters'])} parameters, {_count(model['active_parameters'])} active; "
        f"{size_of(model['weight_bytes'])} held for {model['numerics']} ({model['backend']})"
    )
    blas, (first, last) = about["blas"], found["cases"][0]["decode_context"]
    threads = " ".join(f"{k}={v}" for k, v in about["thread_settings"].items()) or "none set"
    quota = "" if about["cpu_quota"] is None else f", limited to {about['cpu_quota']:g} cores' time"
    return [
        ("model", name),
        ("", size),
        ("machine", f"{about['cpu'] or about['architecture']}, {about['system']}"),
        (
            "",
            f"{about['usable_cores']} of {about['cores']} cores usable{quota}; last-level cache "
            f"{size_of(about['last_level_cache_bytes'])}; load average "
            f"{known(about['load_average_1min'], '.1f')} before, "
            f"{known(about['load_average_1min_after'], '.1f')} after",
        ),
        (
            "threads",
            f"{known(about['process_threads'], 'd')} in this process; variables: {threads}",
        ),
        (
            "versions",
            f"tinymoe {found['tinymoe']}, Python {about['python']}, NumPy {about['numpy']}, "
            f"{blas['name']} {blas['version']}",
        ),
        ("date", found["date"]),
        (
            "work",
            f"prompts of {settings['prompt']} tokens, {settings['tokens']} generated "
            f"(decode context {first} to {last}); "
            f"{settings['warmup']} warm-up, then {settings['repeats']} rounds: "
            "median [smallest-largest]",
        ),
    ]


def tables(found: dict[str, Any]) -> list[tuple[str, Rows]]:
    """(title, rows), the first row of each the head."""
    return [
        ("speed, tokens/s", _speed(found)),
        ("feel (engine)", _feel(found)),
        ("decode against the memory limit (model)", _limit(found)),
        ("memory and start", _process(found)),
    ]


def _speed(found: dict[str, Any]) -> Rows:
    rows = [["batch", "time of", "prefill", "decode"]]
    for case in found["cases"]:
        for form in ("model", "engine"):
            rates = (span(case[form][f"{kind}_tokens_per_s"]) for kind in ("prefill", "decode"))
            rows.append([str(case["batch"]), form, *rates])
    return rows


def _feel(found: dict[str, Any]) -> Rows:
    rows = [["batch", "TTFT ms", "ITL p50 ms", "p95 ms", "p99 ms", "gaps", "tokens/s per user"]]
    for case in found["cases"]:
        engine = case["engine"]
        itl = engine["itl_s"]
        rows.append(
            [
                str(case["batch"]),
                span(engine["ttft_s"], 1000),
                *(short(1000 * itl[p]) for p in ("p50", "p95", "p99")),
                str(itl["count"]),
                short(engine["tokens_per_s_per_user"]),
            ]
        )
    return rows


def _limit(found: dict[str, Any]) -> Rows:
    rows = [
        [
            "batch",
            "experts / layer",
            "bytes / step",
            "bytes / token",
            "implied GB/s",
            "read GB/s",
            "of limit",
            "limit tokens/s",
        ]
    ]
    best = found["read_bandwidth"]["bytes_per_s"]["best"]
    for case in found["cases"]:
        rows.append(
            [
                str(case["batch"]),
                known(case["experts_per_step_and_layer"], ".1f"),
                size_of(case["bytes_per_step"]["total"]),
                size_of(case["bytes_per_token"]),
                short(case["implied_bytes_per_s"] / 1e9),
                short(best / 1e9),
                f"{case['of_limit']:.3f}",
                short(case["limit_tokens_per_s"]),
            ]
        )
    return rows


def _process(found: dict[str, Any]) -> Rows:
    memory, start = found["memory"], found["start"]
    rows = [["what", "measured"]]
    names = {
        "after_imports_bytes": "memory after imports",
        "after_loading_bytes": "memory after the model is there",
        "peak_bytes": "peak memory",
    }
    if "skipped" in memory:
        rows.append(["peak memory", f"not measured: {memory['skipped']}"])
    else:
        rows += [[name, size_of(memory[key])] for key, name in names.items()]
    if "skipped" in start:
        return [*rows, ["start", f"not measured: {start['skipped']}"]]
    for kind in ("cold", "warm", "uncompiled"):
        for key, until in (("first_word_s", "first word"), ("total_s", "end")):
            rows.append([f"start, {kind}, to its {until}", f"{span(start[kind][key])} s"])
    return rows


def definitions(found: dict[str, Any], width: int) -> str:
    """Every definition with its unit, wrapped to a terminal's width."""
    lines = []
    for name, known in found["definitions"].items():
        unit = f" ({known['unit']})" if known["unit"] else ""
        text = f"{name}{unit}: {known['meaning']}"
        lines.append(
            textwrap.fill(
                text, max(40, min(width, 110)), initial_indent="  ", subsequent_indent="    "
            )
        )
    array = size_of(found["read_bandwidth"]["array_bytes"])
    return "\n".join([*lines, f"  The read probe's array: {array}. MB: 10^6 bytes."])


# ------------------------------------------------------------------------------- cells


def span(values: dict[str, Any], times: float = 1) -> str:
    """A summary: median [smallest-largest]."""
    median, low, high = (short(times * values[key]) for key in ("median", "min", "max"))
    return f"{median} [{low}-{high}]"


def short(value: float) -> str:
    """Three significant digits, or all before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def known(value: float | None, form: str) -> str:
    """A number in that form, or the word for none."""
    return "unknown" if value is None else format(value, form)


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} G" if parameters >= 1e9 / 2 else f"{parameters / 1e6:.1f} M"


def size_of(size: float | None) -> str:
    """Bytes, in a unit of a thousand."""
    if size is None:
        return "unknown"
    if size < 1e5:  # a token's share of what a prompt reads
        return f"{size / 1e3:.1f} kB"
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
