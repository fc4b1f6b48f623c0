"""A diagnosis in words, and as plain values for JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from tinymoe.oracle.diagnose.search import Candidate, Diagnosis
from tinymoe.oracle.diff.told import verdict as verdict_of_diff

SHOWN = 8  # candidates in a table


def verdict(found: Diagnosis) -> str:
    """The bug's name, or that none fits and what is nearest, in a sentence or two."""
    first = found.report.first
    if first is None:
        return f"nothing to diagnose: {verdict_of_diff(found.report)}"
    named = found.named
    if named is not None:
        return _naming(found, named, first.name)
    if not found.candidates:
        return f"{_none(found)} fits {first.name}. {verdict_of_diff(found.report)}"
    nearest = found.candidates[0]
    said = (
        f"{_none(found)} fits {first.name}; the nearest is {quoted(nearest)} "
        f"({nearest.says}), error {nearest.error:.2g} where the right model has {found.right:.2g}"
    )
    if nearest.further and nearest.wrong is not None:
        said += f": it explains {first.name}, but not {nearest.wrong}"
    return said + "."


def _none(found: Diagnosis) -> str:
    """How many were tried for nothing."""
    return f"none of {found.tried} known bugs" if found.tried else "no known pattern"


def _naming(found: Diagnosis, named: Candidate, first: str) -> str:
    rest = [c for c in found.candidates if c is not named and c not in found.alike]
    rest = [c for c in rest if c.kind != "signature" or named.kind == "signature"]
    beside = f"; next best {rest[0].error:.2g}" if rest else ""
    numbers = f"(error {named.error:.2g}{beside})"
    if named.kind == "signature":
        return f"{first}, beside the reference: {named.says} {numbers}."
    said = f"{first} equals the reference with {quoted(named)} {numbers}: {named.says}"
    if named.case:
        said += f"; see {named.case}"
    if found.alike:
        others = " or ".join(quoted(each) for each in found.alike)
        said += f". With these tokens it cannot be told from {others}"
    return said + "."


def quoted(each: Candidate) -> str:
    """A name as one would type it."""
    return " + ".join(f"`{name}`" for name in each.name.split(" + "))


def rows(found: Diagnosis) -> list[list[str]]:
    """A table's cells, head first: the candidates that come nearest."""
    cells = [["explanation", "error", "reproduces", "what is wrong", "public bug"]]
    for each in found.candidates[:SHOWN]:
        whole = "all that was judged" if each.kind != "signature" else "this tensor"
        upto = whole if each.fits else f"not {each.wrong}" if each.wrong else "-"
        cells.append([each.name, f"{each.error:.2g}", upto, each.says, each.case or "-"])
    return cells


def as_values(found: Diagnosis) -> dict[str, Any]:
    """For JSON: no NaN and no infinity, which become null."""
    first, named = found.report.first, found.named
    return {
        "agrees": found.agrees,
        "verdict": verdict(found),
        "first": None if first is None else first.name,
        "named": None if named is None else named.name,
        "alike": [each.name for each in found.alike],
        "right": _number(found.right),
        "judged": list(found.judged),
        "tried": found.tried,
        "candidates": [
            {name: _number(value) for name, value in asdict(each).items()}
            for each in found.candidates
        ],
        "diff": verdict_of_diff(found.report),
    }


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
