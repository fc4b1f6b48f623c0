r"""Draw the model card's pictures: held-out loss while training, and experts by domain.

    python -m weights.recipe.pictures --logs RUN/log.jsonl --out weights/pictures \
        --report weights/evaluation.json

Several logs, in order, when one run went on from another.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # draws into files, needs no display
from matplotlib import pyplot
from matplotlib.axes import Axes

# Okabe and Ito's colours, distinct for colour-blind readers; domains beyond are told by dashes
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"]
LABEL_GAP = 0.045  # least distance between two labels, as a share of the axis


def read_logs(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """All lines of several runs' logs; a run that went on from another counts on from its end."""
    entries: list[dict[str, Any]] = []
    for path in paths:
        before = max((entry["tokens"] for entry in entries), default=0)
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            entries.append(entry | {"tokens": entry["tokens"] + before, "began": before})
    return entries


def spread(values: Sequence[float], gap: float) -> list[float]:
    """The values moved apart until neighbours differ by `gap`, each as little as possible."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    placed = list(values)
    for low, high in pairwise(order):
        placed[high] = max(placed[high], placed[low] + gap)
    return placed


def draw_losses(entries: Sequence[dict[str, Any]], out: Path) -> None:
    """Held-out loss of every domain against training tokens."""
    points = [entry for entry in entries if "valid" in entry]
    tokens = [entry["tokens"] / 1e6 for entry in points]
    domains = sorted(points[-1]["valid"], key=lambda d: -points[-1]["valid"][d])
    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    for number, domain in enumerate(domains):
        axes.plot(
            tokens,
            [entry["valid"][domain] for entry in points],
            color=COLOURS[number % len(COLOURS)],
            linestyle="-" if number < len(COLOURS) else "--",
        )
    axes.set_xscale("log")
    axes.set_xlabel("training tokens (millions)")
    axes.set_ylabel("loss on held-out text (nats per token)")
    for began in sorted({entry["began"] for entry in points} - {0}):
        axes.axvline(began / 1e6, color="grey", linewidth=0.8)
        axes.annotate(
            "a run from the weights so far:\nrates high again",
            (began / 1e6, axes.get_ylim()[1]),
            xytext=(-6, -4),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=8,
        )
    axes.set_title("A run learns most at its end, while the learning rates fall")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    label_ends(axes, tokens[-1], {d: points[-1]["valid"][d] for d in domains})
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


def label_ends(axes: Axes, x: float, ends: dict[str, float]) -> None:
    """Each line's name and last value at its end, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    heights = spread(list(ends.values()), LABEL_GAP * (high - low))
    for number, ((name, value), height) in enumerate(zip(ends.items(), heights, strict=True)):
        axes.annotate(
            f"{name} {value:.2f}",
            (x, value),
            xytext=(1.02, (height - low) / (high - low)),
            textcoords="axes fraction",
            color=COLOURS[number % len(COLOURS)],
            va="center",
            fontsize=9,
        )


def draw_specialisation(report: dict[str, Any], out: Path) -> None:
    """Which experts of the last layer each domain uses, and how this grows with the layer."""
    loads = {domain: layers[-1] for domain, layers in report["expert_loads"].items()}
    experts = len(next(iter(loads.values())))
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(11, 4.8), width_ratios=(3, 1), layout="constrained"
    )
    shares = [[100 * share for share in row] for row in loads.values()]
    picture = left.imshow(shares, cmap="Blues", aspect="auto", vmin=0)
    for row, values in enumerate(shares):
        for column, share in enumerate(values):
            dark = share > 0.6 * max(map(max, shares))
            left.text(
                column,
                row,
                f"{share:.0f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "black",
            )
    left.set_xticks(range(experts))
    left.set_yticks(range(len(loads)), list(loads))
    left.set_xlabel("expert of the last layer")
    left.set_title(f"Domains have favourite experts (% of choices; even: {100 / experts:.1f})")
    figure.colorbar(picture, ax=left, label="% of choices")
    distances = report["specialisation"]
    right.bar(range(len(distances)), distances, color=COLOURS[0])
    right.set_xlabel("layer")
    right.set_ylabel("mean distance of two domains' loads")
    right.set_title("0 alike, 1 disjoint")
    right.set_xticks(range(len(distances)))
    right.set_ylim(0, 1)
    right.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logs", type=Path, nargs="+", required=True, help="in order of the runs")
    parser.add_argument("--report", type=Path, required=True, help="output of evaluate")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    draw_losses(read_logs(options.logs), options.out / "loss.png")
    report = json.loads(options.report.read_text())
    draw_specialisation(report, options.out / "specialisation.png")


if __name__ == "__main__":
    main()
