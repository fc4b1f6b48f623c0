"""A report as one HTML file that needs nothing else: the verdict, plots, the table."""

from __future__ import annotations

from html import escape

from tinymoe.oracle.diff.plots import plots
from tinymoe.oracle.diff.told import complaint, verdict
from tinymoe.oracle.diff.walk import Report

STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em;
  color: CanvasText; background: Canvas }
h1 { font-size: 1.4em; overflow-wrap: anywhere } .verdict { font-size: 1.1em; font-weight: bold }
figure { margin: 2em 0; break-inside: avoid } figcaption { font-weight: bold }
figure p { margin: 0; font-size: 13px } svg { width: 100%; height: auto }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: 13px }
td, th { padding: 2px 12px 2px 0; white-space: nowrap }
td.said { white-space: normal; padding: 0 12px 6px 1.5em; max-width: 44em }
th { text-align: left } .number { text-align: right; font-variant-numeric: tabular-nums }
.bad { color: #d9540b } code { font-size: 13px }
@media print { body { max-width: none; margin: 0; font-size: 11px } tr { break-inside: avoid } }
"""


def page(report: Report, reference: str, mine: str) -> str:
    """HTML of a report on `mine` against `reference`, names as they shall be shown."""
    colour = "" if report.agrees else " bad"
    parts = [
        f"<h1>{escape(mine)} against {escape(reference)}</h1>",
        f'<p class="verdict{colour}">{escape(verdict(report))}</p>',
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
        '<meta name="viewport" content="width=device-width">'
        f"<title>diff: {escape(mine)}</title><style>{STYLE}</style></head><body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def table(report: Report) -> str:
    """Every tensor that was judged."""
    rows = []
    for t in report.tensors:
        wrong = t.status != "agrees"
        said = complaint(t) if wrong else t.note
        numbers = (f"{t.max_abs:.3g}", f"{t.relative_l2:.3g}", f"{t.cosine:.6f}", f"{t.excess:.3g}")
        cells = f"<td><code>{escape(t.name)}</code></td>"
        cells += "".join(f'<td class="number">{number}</td>' for number in numbers)
        style = ' class="bad"' if wrong else ""
        rows.append(f"<tr{style}>{cells}</tr>")
        if said:
            rows.append(f'<tr{style}><td class="said" colspan="5">{escape(said)}</td></tr>')
    head = "<th>tensor</th>"
    for name in ("max abs", "relative L2", "cosine", "error / bound"):
        head += f'<th class="number">{name}</th>'
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
