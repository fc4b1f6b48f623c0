"""Plots as plain SVG, on light, dark and paper pages: lines and text have the page's colour.

What is wrong differs from what is right in shape or place as well as in colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 800, 74, 12, 24, 44
HIGH = 190  # of the field between the axes
GOOD, BAD = "#2f80c9", "#d9540b"  # 3:1 or more on white and on black, and apart for all eyes
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
SMALL = 11  # px of letters, at full width


def figure(title: str, what: str, parts: Sequence[str], high: float = HIGH) -> str:
    """A plot with its field's height; `title` says what is seen, `what` how to read it."""
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {high + TOP + BOTTOM:g}" role="img" '
        f'aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg" '
        'font-family="sans-serif" fill="currentColor">'
        + "".join(parts)
        + f"</svg><p>{escape(what)}</p></figure>"
    )


def text(
    x: float, y: float, said: str, anchor: str = "middle", size: float = SMALL, turned: bool = False
) -> str:
    """Words; `turned`: upwards."""
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}"{turn}>'
        f"{escape(said)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, strength: float = 1.0, dash: str = "") -> str:
    """Of the page's colour, so strong."""
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor" '
        f'stroke-opacity="{strength:g}"{dashes}/>'
    )


def block(x: float, y: float, wide: float, high: float, style: str, tip: str = "") -> str:
    """A rectangle; `style` are its attributes."""
    inside = f"<title>{escape(tip)}</title>" if tip else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}" {style}>'
        f"{inside}</rect>"
    )


def dot(x: float, y: float, wrong: bool, tip: str, hollow: bool = False) -> str:
    """A disc for what is right, a larger diamond for what is wrong."""
    paint = f'fill="{BAD if wrong else GOOD}"'
    if hollow:
        paint = f'fill="none" stroke="{GOOD}"'
    inside = f"<title>{escape(tip)}</title>"
    if wrong:
        corners = f"{x:.1f},{y - 6:.1f} {x + 6:.1f},{y:.1f} {x:.1f},{y + 6:.1f} {x - 6:.1f},{y:.1f}"
        return f'<polygon points="{corners}" {paint}>{inside}</polygon>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" {paint}>{inside}</circle>'


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Marks and what they mean, above the field, on the right."""
    parts, x = [], float(WIDTH - RIGHT)
    for mark, said in reversed(entries):
        x -= 6.0 * len(said) + 4
        parts.append(text(x, TOP - 10, said, "start"))
        x -= 12
        parts.append(f'<g transform="translate({x:.1f} {TOP - 14})">{mark}</g>')
        x -= 14
    return "".join(parts)


def axis_names(below: str, left: str, high: float = HIGH) -> str:
    """The names of both axes, and the two lines."""
    foot = TOP + high
    return (
        text((LEFT + WIDTH - RIGHT) / 2, foot + 36, below)
        + text(16, TOP + high / 2, left, turned=True)
        + line(LEFT, foot, WIDTH - RIGHT, foot)
        + line(LEFT, TOP, LEFT, foot)
    )


def place(n: float, count: int) -> float:
    """The middle of column n of `count`, across the field."""
    return LEFT + (WIDTH - LEFT - RIGHT) * (n + 0.5) / max(count, 1)


def numbers_below(count: int, high: float = HIGH, first: int = 0) -> Iterator[str]:
    """Some of the numbers 0 .. count - 1 under their columns, at round steps."""
    step = next(s for s in (2**power for power in range(40)) if count <= 16 * s)
    for n in range(0, count, step):
        x = place(n, count)
        yield line(x, TOP + high, x, TOP + high + 4)
        yield text(x, TOP + high + 16, str(first + n))


def bars(
    values: Sequence[float],
    names: Sequence[str],
    wrong: Sequence[bool],
    share: float = 0.86,
    top: float | None = None,
) -> str:
    """A bar a value, from 0 to `top`, over a linear axis with three marks."""
    top = top or max((v for v in values if v < math.inf), default=0.0) or 1.0
    parts = []
    for part in (0.0, 0.5, 1.0):
        y = TOP + HIGH * (1 - part)
        parts.append(line(LEFT, y, WIDTH - RIGHT, y, 0.18))
        parts.append(text(LEFT - 8, y + 4, f"{top * part:.3g}", "end"))
    wide = max((WIDTH - LEFT - RIGHT) / max(len(values), 1) * share, 1.0)
    for n, (value, name, bad) in enumerate(zip(values, names, wrong, strict=True)):
        high = HIGH * min(value, top) / top
        style = f'fill="{BAD if bad else GOOD}"'
        x = place(n, len(values)) - wide / 2
        parts.append(block(x, TOP + HIGH - high, wide, high, style, f"{name}: {value:.3g}"))
    return "".join(parts)


def power_of_ten(exponent: int) -> str:
    """10⁻⁵."""
    return f"10{str(exponent).translate(SUPERSCRIPT)}"


def power_of_two(exponent: int) -> str:
    """2¹⁰."""
    return f"2{str(exponent).translate(SUPERSCRIPT)}"
