"""The pages of a comparison and of a sweep: their reports' numbers as rows of cells, with units."""

from __future__ import annotations

import textwrap
from typing import Any

from tinymoe.cli.bench_page import Rows, known, short, size_of, span


def heading(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Which model, on which machine, by what: (label, text)."""
    settings, about = found["settings"], found["machine"]
    text = [
        ("model", settings["model"]),
        (
            "machine",
            f"{about['cpu'] or about['architecture']}, {about['usable_cores']} of "
            f"{about['cores']} cores usable; load average "
            f"{known(about['load_average_1min'], '.1f')} before, "
            f"{known(about['load_average_1min_after'], '.1f')} after",
        ),
        (
            "ours",
            f"tinymoe {found['tinymoe']}, backend {settings['backend']}, numerics "
            f"{settings['numerics']}, {settings['threads']} threads, {settings['rounds']} rounds: "
            "median [smallest-largest]",
        ),
    ]
    for one in found.get("contestants", ()):
        if one["versions"] and not one["name"].startswith("tinymoe"):
            versions = ", ".join(f"{name} {v}" for name, v in one["versions"].items())
            text.append(("peer", f"{one['name']}: {versions}"))
    if "limits" in found:
        limits = found["limits"]
        read, peak = limits["read_bytes_per_s"], limits["flops_per_s"]
        text.append(
            (
                "limits",
                f"measured in this run on {settings['threads']} threads: read "
                f"{span(read, 1e-9)} GB/s, float32 multiply-adds {span(peak, 1e-9)} GFLOP/s, those "
                f"of 16-bit whole numbers {span(limits['whole_ops_per_s'], 1e-9)} G a second",
            )
        )
    return [*text, ("date", found["date"])]


def tables(found: dict[str, Any]) -> list[tuple[str, Rows]]:
    """(title, rows) of a comparison, the first row of each the head."""
    made = [("speed, tokens/s", _speed(found))]
    if found["ratios"]:
        made.append(("ratio, ours over the peer's, of each round", _ratios(found)))
    made.append(("against the limits", _limits(found)))
    for name, lines in found["time_by_op"].items():
        made.append((f"time by op of {name}, one run, % of it", _by_op(lines)))
    return made


def _speed(found: dict[str, Any]) -> Rows:
    rows = [["engine, format", *found["lines"]]]
    for one in found["contestants"]:
        cells = [
            "-" if line["tokens_per_s"] is None else span(line["tokens_per_s"])
            for line in one["lines"]
        ]
        rows.append([one["name"], *cells])
    return rows


def _ratios(found: dict[str, Any]) -> Rows:
    rows = [["ours / peer", *found["lines"]]]
    by_pair: dict[tuple[str, str], dict[str, str]] = {}
    for one in found["ratios"]:
        cells = by_pair.setdefault((one["ours"], one["peer"]), {})
        cells[one["line"]] = span(one["ratio"])
    for (ours, peer), cells in by_pair.items():
        rows.append([f"{ours} / {peer}", *(cells.get(line, "-") for line in found["lines"])])
    return rows


def _limits(found: dict[str, Any]) -> Rows:
    rows = [
        ["engine, format", "line", "bytes / token", "GB/s", "GFLOP/s", "bound by",
         "limit tokens/s", "of limit", "by round"]
    ]  # fmt: skip
    for one in found["contestants"]:
        for line in one["lines"]:
            if line["tokens_per_s"] is None:
                continue
            rows.append(
                [
                    one["name"],
                    line["line"],
                    size_of(line["bytes_per_token"]),
                    short(line["bytes_per_s"] / 1e9),
                    short(line["flops_per_s"] / 1e9),
                    line["bound"],
                    short(line["limit_tokens_per_s"]),
                    f"{line['of_limit']:.3f}",
                    span(line["of_limit_by_round"]),
                ]
            )
    return rows


def _by_op(lines: dict[str, dict[str, float]]) -> Rows:
    rows = [["op", *lines]]
    shares = {
        line: {op: 100 * s / sum(spent.values()) for op, s in spent.items()}
        for line, spent in lines.items()
    }
    ops = sorted(
        {op for spent in shares.values() for op in spent},
        key=lambda op: -max(spent.get(op, 0.0) for spent in shares.values()),
    )
    for op in ops:
        rows.append([op, *(f"{spent.get(op, 0.0):.1f}" for spent in shares.values())])
    return rows


def notes(found: dict[str, Any], width: int) -> str:
    """What each figure counts."""
    same: dict[str, list[str]] = {}  # what several count alike is said once
    for one in found["contestants"]:
        same.setdefault(one["counts"], []).append(one["name"])
    said = [f"{', '.join(names)}: {counts}." for counts, names in same.items()]
    said.append(
        "bytes / token: the least that a step must read, over its tokens: every matrix once in the "
        "engine's own format, of the experts those that the step meets (counted in ours), keys and "
        "values as our cache holds them. of limit: the rate over the one at which reading these "
        "bytes at the best measured bandwidth, or the operations at the best measured peak, would "
        "take all the time, whichever is slower; by round, at the better of those measured right "
        "before and after. The peak is of float32; where ours multiplies "
        "four-bit weights in fixed point, of 16-bit whole numbers. Weights that stay in the "
        "last-level cache can pass 1, and so can a peer's products of 8-bit integers or of BF16 "
        "pairs, which do more than a float32 multiply-add at a time."
    )
    return "\n".join(_wrapped(text, width) for text in said)


def sweep_tables(found: dict[str, Any]) -> list[tuple[str, Rows]]:
    """(title, rows): a table for each format."""
    made = []
    kind = found["settings"]["sweep"]
    for form in found["settings"]["formats"]:
        rows = [
            [kind, "ms / step", "predicted ms", "times predicted", "in its round", "tokens/s",
             "bytes / step", "bound by", "experts / layer"]
        ]  # fmt: skip
        for point in found["points"]:
            if point["format"] == form:
                rows.append(
                    [
                        f"{point['value']:,}",
                        span(point["step_s"], 1000),
                        short(1000 * point["predicted_step_s"]),
                        short(point["times_predicted"]),
                        span(point["times_by_round"]),
                        short(point["tokens_per_s"]),
                        size_of(point["bytes_per_step"]),
                        point["bound"],
                        known(point["experts_met"], ".1f"),
                    ]
                )
        made.append((f"a decode step in {form}, by {kind}", rows))
    return made


def sweep_notes(found: dict[str, Any], width: int) -> str:
    """The formula, and what stays the same."""
    settings = found["settings"]
    fixed = ", ".join(
        f"{key} {settings[key]}" for key in ("batch", "context", "threads", "steps")
        if key != settings["sweep"]
    )  # fmt: skip
    return "\n".join(
        _wrapped(text, width)
        for text in (
            f"{found['formula']}.",
            "bandwidth and peak: the best measured beside any point, on as many threads; in its "
            "round: of each round by the better of what was measured right before and after it, "
            "median and range. A machine that others use does not always give its best.",
            f"not varied: {fixed}. The cache is filled with random numbers, tokens are random.",
        )
    )


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(
        text, max(40, min(width, 110)), initial_indent="  ", subsequent_indent="    "
    )
