"""The pictures of a report: error by tensor, by position, by column; tokens on other experts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise

from tinymoe.oracle.diff import svg
from tinymoe.oracle.diff.svg import BAD, GOOD, HIGH, LEFT, RIGHT, TOP, WIDTH, place
from tinymoe.oracle.diff.tensors import TensorDiff
from tinymoe.oracle.diff.walk import Report, told

BINS = 200  # more columns than that are drawn several in a bar
LANE = 22.0  # px of a row above or below the logarithmic field
MARK = f'fill="{GOOD}" stroke="none"'


def plots(report: Report) -> list[str]:
    """Those that have something to show, the first wrong tensor's among them."""
    found, first = [by_tensor(report)], report.first
    if first is not None and not first.name.endswith("router.ids"):
        if len(first.row_errors) > 1:
            found.append(by_position(first))
        if len(first.column_errors) > 1:
            found.append(by_column(first))
    if report.flips:
        found += [flips_by_place(report), margins(report)]
    return found


# --------------------------------------------------------------------------------- by tensor


def by_tensor(report: Report) -> str:
    """Relative error of every tensor over a logarithmic axis, and where its bound lies."""
    tensors = report.tensors
    low, high = decades(tensors)
    parts = [*_layer_bands(tensors), *_decade_lines(low, high)]
    for n, t in enumerate(tensors):
        parts.append(_tensor(t, place(n, len(tensors)), low, high))
    if report.first is not None:
        n = [t.name for t in tensors].index(report.first.name)
        x, right = place(n, len(tensors)), n < len(tensors) * 0.7
        parts.append(svg.line(x, TOP, x, TOP + HIGH, 0.6, "4 3"))
        # where few points are: below the wrong ones that follow, above the right ones before
        at = (x + 9, TOP + HIGH - LANE - 4) if right else (x - 9, TOP + LANE + 12)
        parts.append(svg.text(*at, report.first.name, "start" if right else "end", 12))
    parts.append(svg.axis_names("tensors, in the order of execution", "relative L2 error"))
    parts.append(
        svg.legend(
            [
                (svg.dot(0, 0, False, ""), "within its bound"),
                (svg.dot(0, 0, True, ""), "beyond it"),
                (svg.line(-6, 0, 6, 0, 0.7), "where its bound is"),
            ]
        )
    )
    if report.first is None:
        title = f"Every tensor is within its bound ({len(tensors)} of them)"
    else:
        title = f"{report.first.name} is the first tensor beyond its bound"
    return svg.figure(
        title,
        "L2 norm of engine minus reference, over that of the reference. The bound is the error "
        "that the stated numerics make by themselves at this tensor, times a fixed factor. The "
        "topmost row is for expert ids, compared as sets; the lowest for tensors without error.",
        parts,
    )


def decades(tensors: Sequence[TensorDiff]) -> tuple[int, int]:
    """Powers of ten around all errors and bounds."""
    sizes = [t.relative_l2 for t in tensors if not t.name.endswith("router.ids")]
    sizes += [limit for t in tensors if (limit := _bound(t)) is not None]
    finite = [size for size in sizes if 0 < size < math.inf]
    low = math.floor(math.log10(min(finite))) if finite else -7
    return low, max(math.ceil(math.log10(max(finite))) if finite else 0, low + 2)


def _bound(t: TensorDiff) -> float | None:
    """The relative error at which the tensor would be at its bound: errors of another size."""
    if not 0 < t.excess < math.inf or not 0 < t.relative_l2 < math.inf:
        return None
    return t.relative_l2 / t.excess


def _height(size: float, low: int, high: int) -> float:
    """Of a relative error; none is in the lowest row, an infinite one at the top."""
    if size <= 0:
        return TOP + HIGH - LANE / 2
    field = HIGH - 2 * LANE
    share = 1.0 if size == math.inf else (math.log10(size) - low) / (high - low)
    return TOP + LANE + field * (1 - share)


def _tensor(t: TensorDiff, x: float, low: int, high: int) -> str:
    wrong = t.status != "agrees"
    if t.name.endswith("router.ids"):
        return svg.dot(x, TOP + LANE / 2, wrong, f"{t.name}: {t.note or 'the same experts'}")
    limit, parts = _bound(t), ""
    if limit is not None:
        y = _height(limit, low, high)
        parts = svg.line(x - 5, y, x + 5, y, 0.7)
    tip = f"{t.name}: {t.relative_l2:.3g}, {t.excess:.3g} of its bound"
    return parts + svg.dot(x, _height(t.relative_l2, low, high), wrong, tip, t.relative_l2 == 0)


def _layer_bands(tensors: Sequence[TensorDiff]) -> Iterator[str]:
    """Every second layer shaded, and its number below, if there is room."""
    parts = [t.name.split(".")[1] if t.name.startswith("layers.") else "" for t in tensors]
    wide, start, shown = (WIDTH - LEFT - RIGHT) / len(tensors), 0, -math.inf
    for n, (layer, members) in enumerate(groupby(parts)):
        count = len(list(members))
        x = LEFT + start * wide
        if n % 2:
            style = 'fill="currentColor" fill-opacity="0.06"'
            yield svg.block(x, TOP, count * wide, HIGH, style)
        said = f"layer {layer}" if count * wide > 48 else layer
        middle = x + count * wide / 2
        if layer and middle - shown > 6 * len(said) + 6:
            yield svg.text(middle, TOP + HIGH + 16, said)
            shown = middle
        start += count


def _decade_lines(low: int, high: int) -> Iterator[str]:
    step = max(1, math.ceil((high - low) / 7))
    for power in range(low, high + 1, step):
        y = _height(10.0**power, low, high)
        yield svg.line(LEFT, y, WIDTH - RIGHT, y, 0.18)
        yield svg.text(LEFT - 8, y + 4, svg.power_of_ten(power), "end")
    yield svg.text(LEFT - 8, TOP + LANE / 2 + 3, "experts", "end")
    yield svg.text(LEFT - 8, TOP + HIGH - LANE / 2 + 4, "no error", "end")


# ------------------------------------------------------------------- the first wrong tensor


def by_position(first: TensorDiff) -> str:
    """Which tokens carry the error."""
    errors = first.row_errors
    names = [f"token {t}" for t in range(len(errors))]
    return svg.figure(
        f"{first.name}: {seen(errors, 'token')}",
        "Relative L2 error of each token's row. All tokens: a wrong weight or formula. From one "
        "on: positions, windows, the cache. A few: routing, capacity, padding.",
        [
            svg.bars(errors, names, [False] * len(errors)),
            *svg.numbers_below(len(errors)),
            svg.axis_names("position of the token", "relative L2 error"),
        ],
    )


def by_column(first: TensorDiff) -> str:
    """Which columns carry the error; heads are told apart where the tensor has them."""
    errors = first.column_errors
    group = math.ceil(len(errors) / BINS)
    drawn = [max(errors[n : n + group]) for n in range(0, len(errors), group)]
    names = [f"column {n * group}" for n in range(len(drawn))]
    parts = [svg.bars(drawn, names, [False] * len(drawn), 0.9)]
    word, by_word = ("rank" if first.name.endswith("router.weights") else "column"), errors
    below = word
    if len(first.shape) == 3 and first.shape[1] * first.shape[2] == len(errors):
        count, wide = first.shape[1:]
        word = "rank" if first.name.endswith("expert_out") else "head"
        by_word = tuple(max(errors[n * wide : (n + 1) * wide]) for n in range(count))
        parts += _heads(count, word)
        below = f"{word}, and the columns in it"
    elif group == 1:
        parts += svg.numbers_below(len(errors))
    else:
        parts += _ends(len(errors))
        below = f"column; a bar is the largest of {group}"
    parts.append(svg.axis_names(below, "mean |error|"))
    return svg.figure(
        f"{first.name}: {seen(by_word, word)}",
        "Mean over tokens of |engine - reference|, in the tensor's own unit. A stripe is a head, a "
        "half, or a block of a quantised matrix; every second column is an order of pairs.",
        parts,
    )


def _heads(count: int, kind: str) -> Iterator[str]:
    for n in range(count):
        if n:
            x = place(n - 0.5, count)
            yield svg.line(x, TOP, x, TOP + HIGH, 0.4, "2 3")
        if n % math.ceil(count / 16) == 0:
            yield svg.text(
                place(n, count), TOP + HIGH + 16, f"{kind} {n}" if count < 12 else str(n)
            )


def _ends(count: int) -> Iterator[str]:
    """Eighths of many columns."""
    for part in range(9):
        x = LEFT + (WIDTH - LEFT - RIGHT) * part / 8
        yield svg.text(x, TOP + HIGH + 16, str(count * part // 8), "end" if part == 8 else "middle")


def seen(errors: Sequence[float], word: str) -> str:
    """Where the error is, in words: the entries with a tenth of the largest error or more.

    >>> seen([0, 0, 2, 3, 2], "token"), seen([0, 1, 0, 1, 0, 1], "column")
    ('tokens 2 to 4 are off', 'every 2nd column from 1 on is off')
    """
    top = max(errors)
    off = [n for n, error in enumerate(errors) if error > 0 and error >= top / 10]
    if not off:
        return f"no {word} is off"
    steps = {b - a for a, b in pairwise(off)}
    if len(off) == 1:
        return f"{word} {off[0]} alone is off"
    if len(off) == len(errors):
        return f"every {word} is off"
    if steps == {1}:
        return f"{word}s {off[0]} to {off[-1]} are off"
    if len(steps) == 1 and len(off) > 2 and off[-1] + min(steps) >= len(errors):
        step = min(steps)
        nth = {2: "2nd", 3: "3rd"}.get(step, f"{step}th")
        return f"every {nth} {word} from {off[0]} on is off"
    return f"{len(off)} of {len(errors)} {word}s are off"


# -------------------------------------------------------------------------------------- ids


def flips_by_place(report: Report) -> str:
    """A map, layers by tokens, of who met other experts."""
    layers = [int(t.name.split(".")[1]) for t in report.tensors if t.name.endswith("router.ids")]
    tokens = max((len(t.row_errors) for t in report.tensors), default=0)
    tokens = max(tokens, 1 + max(flip.token for flip in report.flips))
    row = max(4.0, min(20.0, 240 / len(layers)))
    high, wide = row * len(layers), (WIDTH - LEFT - RIGHT) / tokens
    parts = []
    for n, layer in enumerate(layers):
        if n % math.ceil(16 / row) == 0:
            parts.append(svg.text(LEFT - 8, TOP + row * (n + 0.5) + 4, f"layer {layer}", "end"))
        parts.append(svg.line(LEFT, TOP + row * (n + 1), WIDTH - RIGHT, TOP + row * (n + 1), 0.12))
    for flip in report.flips:
        tie = flip.why == "tie"
        tip = f"layer {flip.layer}, token {flip.token}: {flip.why}, gap {flip.gap:.3g}"
        inset = 0.3 if tie else 0.08  # a close call is a smaller mark
        parts.append(
            svg.block(
                place(flip.token - 0.5 + inset, tokens),
                TOP + row * (layers.index(flip.layer) + inset),
                max(wide * (1 - 2 * inset), 1.0),
                row * (1 - 2 * inset),
                f'fill="{GOOD if tie else BAD}"',
                tip,
            )
        )
    parts += [*svg.numbers_below(tokens, high), svg.axis_names("position of the token", "", high)]
    parts.append(svg.legend(_kinds()))
    faults = sum(flip.why != "tie" for flip in report.flips)
    title = f"{len(report.flips)} choices of experts differ" + (
        f", {faults} of them by more than a close call" if faults else ", all of them close calls"
    )
    what = (
        "A mark is a token that met other experts in a layer; ids are compared as sets. Those that "
        "come after the first wrong tensor follow from it."
    )
    return svg.figure(title, what, parts, high)


def _kinds() -> list[tuple[str, str]]:
    return [
        (svg.block(-3, -3, 6, 6, f'fill="{GOOD}"'), "close call"),
        (svg.block(-5, -5, 10, 10, f'fill="{BAD}"'), "more than that"),
    ]


def margins(report: Report) -> str:
    """How far the mismatches of expert ids were from a tie, by powers of two of an ulp."""
    names = ["< 1", *(svg.power_of_two(low) for low in range(0, 22, 2)), "none"]
    counts = {False: [0] * len(names), True: [0] * len(names)}  # by whether it is a tie
    for flip in report.flips:
        counts[flip.why == "tie"][_bin(flip.ulps)] += 1
    both = [float(a + b) for a, b in zip(*counts.values(), strict=True)]
    top = 2 * math.ceil(max(both) / 2)  # even, so that its half is a number of tokens
    parts = [svg.bars(both, names, [True] * len(names), top=top)]
    wide = (WIDTH - LEFT - RIGHT) / len(names) * 0.86
    for n, ties in enumerate(counts[True]):
        high = HIGH * ties / top
        if ties:
            tip, x = f"{ties} close calls", place(n, len(names)) - wide / 2
            parts.append(svg.block(x, TOP + HIGH - high, wide, high, f'fill="{GOOD}"', tip))
    parts += [svg.text(place(n, len(names)), TOP + HIGH + 16, said) for n, said in enumerate(names)]
    parts.append(svg.axis_names("gap at the cut, ulps of the logits' type: this and up", "tokens"))
    parts.append(svg.legend(_kinds()))
    by_layer = told(list(report.flips))
    return svg.figure(
        by_layer[0].upper() + by_layer[1:],
        "The gap is what the scores would have to move by for the engine's choice to be right. "
        'Rounding makes small gaps; a wrong formula makes large ones. "none": an id twice or out '
        "of range has no gap.",
        parts,
    )


def _bin(ulps: float) -> int:
    """Which bar a gap belongs to: below 1, then [1, 4), [4, 16), ..., from 2^20 up, none."""
    if math.isnan(ulps):
        return 12
    if ulps < 1:
        return 0
    return 11 if ulps == math.inf else min(int(math.log2(ulps)) // 2 + 1, 11)
