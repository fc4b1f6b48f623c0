"""Two kinds of plots as plain SVG: bars or a line over a logarithmic or linear axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 760, 220, 64, 36, 14
INK, GOOD, BAD, GRID = "#333", "#3b7dd8", "#d1495b", "#ddd"


def log_points(
    title: str, labels: Sequence[str], values: Sequence[float], bad: Sequence[bool], what: str
) -> str:
    """One point a label, |value| on a logarithmic axis; zeros lie on the axis, bad ones are red."""
    positive = [v for v in values if 0 < v < math.inf]
    low = math.floor(math.log10(min(positive))) if positive else -1
    high = max(math.ceil(math.log10(max(positive))) if positive else 0, low + 1)
    step = max(1, (high - low) // 6)
    parts = [
        _line(_y(10.0**power, low, high), f"1e{power}") for power in range(low, high + 1, step)
    ]
    for n, (label, value, wrong) in enumerate(zip(labels, values, bad, strict=True)):
        x, y = _x(n, len(labels)), _y(value, low, high)
        tip = f"{label}: {value:.3g}"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{4 if wrong else 3}" '
            f'fill="{BAD if wrong else GOOD}"><title>{escape(tip)}</title></circle>'
        )
    return _frame(title, parts, what, _ends(labels))


def bars(
    title: str, labels: Sequence[str], values: Sequence[float], bad: Sequence[bool], what: str
) -> str:
    """One bar a label, from 0 up; infinite ones reach the top."""
    top = max((v for v in values if v < math.inf), default=0.0) or 1.0
    parts = [_line(_up(top * part, top), f"{top * part:.2g}") for part in (0.0, 0.5, 1.0)]
    wide = max(1.0, (WIDTH - LEFT - 10) / max(len(values), 1) - 1)
    for n, (label, value, wrong) in enumerate(zip(labels, values, bad, strict=True)):
        y = _up(min(value, top), top)
        tip = f"{label}: {value:.3g}"
        parts.append(
            f'<rect x="{_x(n, len(labels)) - wide / 2:.1f}" y="{y:.1f}" width="{wide:.1f}" '
            f'height="{HEIGHT - BOTTOM - y:.1f}" fill="{BAD if wrong else GOOD}">'
            f"<title>{escape(tip)}</title></rect>"
        )
    return _frame(title, parts, what, _ends(labels))


def _frame(title: str, parts: list[str], what: str, ends: str) -> str:
    caption = f'<text x="{LEFT}" y="{HEIGHT - 4}" font-size="11" fill="{INK}">{escape(what)}</text>'
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" '
        f'xmlns="http://www.w3.org/2000/svg" font-family="sans-serif">'
        + "".join(parts)
        + ends
        + caption
        + "</svg></figure>"
    )


def _ends(labels: Sequence[str]) -> str:
    """The first and the last label, below the axis."""
    if not labels:
        return ""
    y = HEIGHT - BOTTOM + 14
    return (
        f'<text x="{LEFT}" y="{y}" font-size="10" fill="{INK}">{escape(labels[0])}</text>'
        f'<text x="{WIDTH - 8}" y="{y}" font-size="10" fill="{INK}" text-anchor="end">'
        f"{escape(labels[-1])}</text>"
    )


def _line(y: float, label: str) -> str:
    return (
        f'<line x1="{LEFT}" x2="{WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>'
        f'<text x="{LEFT - 6}" y="{y + 3:.1f}" font-size="10" text-anchor="end" fill="{INK}">'
        f"{escape(label)}</text>"
    )


def _x(n: int, count: int) -> float:
    return LEFT + 6 + (WIDTH - LEFT - 20) * (n + 0.5) / max(count, 1)


def _y(value: float, low: int, high: int) -> float:
    """Zero at the bottom, infinity at the top."""
    if value <= 0:
        return float(HEIGHT - BOTTOM)
    at = high if value == math.inf else math.log10(value)
    share = min(max((at - low) / (high - low), 0.0), 1.0)
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def _up(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - value / top * (HEIGHT - BOTTOM - TOP)
