"""Pictures of a comparison and of a sweep: a roofline, and a cost that grows beside its prediction.

matplotlib draws them; it is asked for only here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinymoe.core import TinymoeError
from tinymoe.measure.sweep import by_format

ENDINGS = (".png", ".svg", ".pdf")
MARKERS = "osD^vP*X"
PEAKS = {"flops_per_s": "float32 operations", "whole_ops_per_s": "16-bit whole-number operations"}
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f")


def check_picture(path: Path) -> None:
    """Refuse, before anything is measured, a picture that could not be drawn at the end."""
    if path.suffix.lower() not in ENDINGS:
        raise TinymoeError(f"--picture: expected a file ending in {', '.join(ENDINGS)}, got {path}")
    if not path.parent.is_dir():
        raise TinymoeError(f"--picture: no such folder {path.parent}")
    _pyplot()


def draw(report: dict[str, Any], path: Path) -> None:
    """The picture of a comparison or of a sweep."""
    figure = _sweep(report) if "points" in report else _roofline(report)
    figure.savefig(path, dpi=150)
    _pyplot().close(figure)


def _pyplot() -> Any:
    try:
        import matplotlib as mpl

        mpl.use("Agg")  # a file, no window
        from matplotlib import pyplot
    except ImportError:
        raise TinymoeError(
            '--picture needs matplotlib: pip install "tinymoe[peers]", or leave it out'
        ) from None
    return pyplot


def _roofline(report: dict[str, Any]) -> Any:
    """Operations a second over operations a byte: the roof is what this machine can do.

    Williams, Waterman, Patterson 2009 (CACM 52(4)).
    """
    import numpy as np

    figure, axes = _pyplot().subplots(figsize=(9, 6), layout="constrained")
    bandwidth = report["limits"]["read_bytes_per_s"]["max"]
    limits, peaks = report["limits"], ["flops_per_s"]
    if any(one["whole_numbers"] for one in report["contestants"]):
        peaks.append("whole_ops_per_s")
    peak = max(limits[name]["max"] for name in peaks)
    spots = [
        (row["flops_per_token"] / row["bytes_per_token"], row["flops_per_s"], one["name"], place)
        for one in report["contestants"]
        for place, row in enumerate(one["lines"])
        if row["tokens_per_s"] is not None
    ]
    lowest, highest = (
        min(s[0] for s in spots) / 3,
        max(peak / bandwidth, *(s[0] for s in spots)) * 3,
    )
    x = np.geomspace(lowest, highest, 200)
    for name in peaks:
        _roof(axes, x, bandwidth, limits[name]["max"], PEAKS[name])
    axes.annotate(
        f"{bandwidth / 1e9:.0f} GB/s ",
        (lowest * 2, lowest * 2 * bandwidth / 1e9),
        xytext=(-4, 4),
        textcoords="offset points",
        ha="right",
    )
    names = [one["name"] for one in report["contestants"]]
    for intensity, rate, name, place in spots:
        colour = COLOURS[names.index(name) % len(COLOURS)]
        axes.plot(intensity, rate / 1e9, MARKERS[place % len(MARKERS)], color=colour, markersize=8)
    handles = [_handle("s", COLOURS[i % len(COLOURS)], name) for i, name in enumerate(names)]
    handles += [_handle(MARKERS[i % 8], "black", line) for i, line in enumerate(report["lines"])]
    axes.legend(handles=handles, fontsize=8, loc="lower right")
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("operations per byte that must be read")
    axes.set_ylabel("G operations a second")
    settings, cpu = report["settings"], report["machine"]["cpu"]
    axes.set_title(f"{settings['model']}, {settings['threads']} threads, {cpu}")
    axes.grid(which="both", alpha=0.2)
    return figure


def _roof(axes: Any, x: Any, bandwidth: float, peak: float, what: str) -> None:
    """Reading up to here, computing from here on."""
    import numpy as np

    axes.plot(x, np.minimum(peak, x * bandwidth) / 1e9, color="black", linewidth=1.5)
    axes.annotate(
        f"{peak / 1e9:.0f} G {what} a second", (x[-1], peak / 1e9),
        xytext=(-4, 6), textcoords="offset points", ha="right",
    )  # fmt: skip


def _handle(marker: str, colour: str, label: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], marker=marker, color=colour, linestyle="", label=label)


def _sweep(report: dict[str, Any]) -> Any:
    """Milliseconds of a step over the quantity: points measured, dashes predicted."""
    figure, axes = _pyplot().subplots(figsize=(8, 5), layout="constrained")
    settings = report["settings"]
    for number, (form, points) in enumerate(by_format(report).items()):
        x, colour = [p["value"] for p in points], COLOURS[number % len(COLOURS)]
        middle = [1000 * p["step_s"]["median"] for p in points]
        low = [m - 1000 * p["step_s"]["min"] for m, p in zip(middle, points, strict=True)]
        high = [1000 * p["step_s"]["max"] - m for m, p in zip(middle, points, strict=True)]
        axes.errorbar(x, middle, [low, high], fmt="o-", color=colour, capsize=3, label=form)
        predicted = [1000 * p["predicted_step_s"] for p in points]
        axes.plot(x, predicted, "--", color=colour, label=f"{form}, predicted")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = [p["value"] for p in next(iter(by_format(report).values()))]
    axes.set_xticks(ticks, [f"{value:,}" for value in ticks])
    axes.minorticks_off()
    axes.set_xlabel(settings["sweep"])
    axes.set_ylabel("ms per decode step")
    fixed = {key: settings[key] for key in ("batch", "context", "threads")}
    said = ", ".join(f"{k} {v}" for k, v in fixed.items() if k != settings["sweep"])
    axes.set_title(f"{settings['model']}, {settings['backend']}: {said}")
    axes.grid(which="both", alpha=0.2)
    axes.legend()
    return figure
