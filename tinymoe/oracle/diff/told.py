"""A report in words, and as plain values for JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from tinymoe.oracle.diff.tensors import TensorDiff
from tinymoe.oracle.diff.walk import Report


def verdict(report: Report) -> str:
    """One to three sentences: the first wrong tensor, and that what came in was right."""
    if report.first is None:
        count = len(report.tensors)
        said = f"agrees: {count} tensors within the bounds of {report.numerics}"
        ties = sum(flip.why == "tie" for flip in report.flips)
        if report.flips and not report.replay:
            worst = max(flip.ulps for flip in report.flips)
            said += f"; {ties} close calls fell the other way, the largest gap {worst:.3g} ulp"
        if report.replay and report.flips:
            said += f"; the experts of {len(report.flips)} tokens were taken as given"
        return said + "."
    first = report.first
    parts = [f"{first.name} is the first wrong tensor: {complaint(first)}."]
    if report.mode == "local":
        parts.append("Its layer's input is the engine's own.")
        if len(report.wrong) > 1:
            parts.append(f"Wrong from their own inputs as well: {', '.join(report.wrong[1:])}.")
    elif report.before is not None:
        parts.append(f"What came in was right: {report.before} and all before it agree.")
    between = unseen(report)
    if between:
        parts.append(f"Not in the trace, and before it: {', '.join(between)}.")
    return " ".join(parts)


def complaint(found: TensorDiff) -> str:
    """What is wrong with one tensor."""
    if found.status == "shape" or found.name.endswith("router.ids"):
        return found.note
    place = ", ".join(map(str, found.worst))
    said = (
        f"at [{place}] {found.engine:.6g} in place of {found.reference:.6g} "
        f"(may be off by {found.limit:.2g}); {found.outside:.1%} of its entries are out of bounds"
    )
    return said + (f"; {found.note}" if found.note else "")


def unseen(report: Report) -> list[str]:
    """Taps between the last right tensor and the first wrong one that the trace lacks."""
    if report.first is None or report.mode == "local":
        return []
    order = [*report.order]
    stop = order.index(report.first.name)
    start = order.index(report.before) + 1 if report.before in order else 0
    return [name for name in order[start:stop] if name in report.missing]


def as_values(report: Report) -> dict[str, Any]:
    """For JSON: no NaN and no infinity, which become null."""
    return {
        "agrees": report.agrees,
        "verdict": verdict(report),
        "mode": report.mode,
        "numerics": report.numerics,
        "replay": report.replay,
        "first": None if report.first is None else report.first.name,
        "before": report.before,
        "wrong": list(report.wrong),
        "tensors": [_plain(asdict(found)) for found in report.tensors],
        "flips": [_plain(flip._asdict()) for flip in report.flips],
        "missing": list(report.missing),
        "extra": list(report.extra),
        "notes": list(report.notes),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
