"""A report as one HTML file that needs nothing else: the verdict, plots, the table."""

from __future__ import annotations

import math
from html import escape

from tinymoe.oracle.diff.svg import bars, log_points
from tinymoe.oracle.diff.told import complaint, verdict
from tinymoe.oracle.diff.walk import Report

STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 }
svg { width: 100%; height: auto } figure { margin: 1.5em 0 } figcaption { font-weight: bold }
table { border-collapse: collapse; font-size: 13px } td, th { padding: 2px 10px 2px 0 }
th { text-align: left } .bad { color: #d1495b; font-weight: bold } code { font-size: 13px }
"""


def page(report: Report, reference: str, mine: str) -> str:
    """HTML of a report on `mine` against `reference`, names as they shall be shown."""
    colour = "" if report.agrees else ' class="bad"'
    parts = [
        f"<h1>{escape(mine)} against {escape(reference)}</h1>",
        f"<p{colour}>{escape(verdict(report))}</p>",
        f"<p>Numerics: {escape(report.numerics)}; judged {report.mode}"
        + (", with the engine's experts taken as given" if report.replay else "")
        + ".</p>",
        *plots(report),
        table(report),
        *(f"<p>Note: {escape(note)}</p>" for note in report.notes),
    ]
    if report.missing:
        parts.append(f"<p>Not in the trace: {escape(', '.join(report.missing))}.</p>")
    if report.extra:
        parts.append(f"<p>Names that are no taps: {escape(', '.join(report.extra))}.</p>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>diff: {escape(mine)}</title><style>{STYLE}</style></head><body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def plots(report: Report) -> list[str]:
    """Errors by tensor, by position and by column of the first wrong one; margins."""
    tensors = report.tensors
    found = [
        log_points(
            "Relative error of each tensor, in the order of execution",
            [t.name for t in tensors],
            [t.relative_l2 for t in tensors],
            [t.status != "agrees" for t in tensors],
            "L2 of the error over L2 of the reference; red: beyond its bound",
        )
    ]
    first = report.first
    if first is not None and first.row_errors:
        rows = [str(t) for t in range(len(first.row_errors))]
        found.append(
            bars(
                f"{first.name}: error by position",
                rows,
                first.row_errors,
                [False] * len(rows),
                "relative L2 error of each token",
            )
        )
    if first is not None and first.column_errors:
        columns = [str(c) for c in range(len(first.column_errors))]
        found.append(
            bars(
                f"{first.name}: error by column",
                columns,
                first.column_errors,
                [False] * len(columns),
                "mean error over tokens: a stripe is a head, a half or a block",
            )
        )
    if report.flips:
        found.append(margins(report))
    return found


def margins(report: Report) -> str:
    """How far the mismatches of expert ids were from a tie: powers of two of an ulp."""
    edges = [-math.inf, *range(0, 21, 2), math.inf]
    labels = ["< 1", *(f"{2**low}..{2 ** (low + 2)}" for low in range(0, 20, 2)), "> 2^20"]
    counts, bad = [0] * len(labels), [False] * len(labels)
    for flip in report.flips:
        size = math.log2(flip.ulps) if 0 < flip.ulps < math.inf else math.copysign(99, flip.ulps)
        place = next((n for n in range(len(labels)) if edges[n] <= size < edges[n + 1]), -1)
        place = 0 if flip.ulps == 0 else place
        counts[place] += 1
        bad[place] |= flip.why != "tie"
    return bars(
        "Tokens on other experts, by the gap of their scores",
        labels,
        [float(c) for c in counts],
        bad,
        "gap at the cut in ulps of the logits' type; red: some are no close call",
    )


def table(report: Report) -> str:
    """Every tensor that was judged."""
    rows = []
    for t in report.tensors:
        wrong = t.status != "agrees"
        said = complaint(t) if wrong else t.note
        cells = [
            f"<code>{escape(t.name)}</code>",
            f"{t.max_abs:.3g}",
            f"{t.relative_l2:.3g}",
            f"{t.cosine:.6f}",
            f"{t.excess:.3g}",
            escape(said),
        ]
        style = ' class="bad"' if wrong else ""
        rows.append(f"<tr{style}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = ("tensor", "max abs", "relative L2", "cosine", "error / bound", "")
    return (
        "<table><tr>"
        + "".join(f"<th>{h}</th>" for h in head)
        + "</tr>"
        + "".join(rows)
        + "</table>"
    )
