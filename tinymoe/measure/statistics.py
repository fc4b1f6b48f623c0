"""Few numbers that stand for many, each defined so that a reader can recompute it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tinymoe.core import TinymoeError


def percentile(samples: Sequence[float], percent: float) -> float:
    """The value below which `percent` per cent of the samples lie, between neighbours linearly.

    Of n sorted samples x[0..n-1]: position h = (n - 1) * percent / 100, value
    x[floor h] + (h - floor h) * (x[floor h + 1] - x[floor h]). Definition 7 of Hyndman and Fan
    1996, NumPy's default. With fewer than 100 samples p99 lies between the two largest.

    >>> percentile([4.0, 1.0, 2.0, 3.0], 50)
    2.5
    """
    if not samples or not 0 <= percent <= 100:
        raise TinymoeError(
            f"a percentile needs samples and a number from 0 to 100, got {len(samples)} samples "
            f"and {percent}"
        )
    ordered = sorted(samples)
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def summary(samples: Sequence[float]) -> dict[str, Any]:
    """Median, smallest, largest, and the samples themselves in the order they were taken."""
    return {
        "median": percentile(samples, 50),
        "min": min(samples),
        "max": max(samples),
        "samples": list(samples),
    }


def latencies(samples: Sequence[float]) -> dict[str, Any]:
    """p50, p95, p99, smallest, largest, and how many there were."""
    return {
        **{f"p{percent}": percentile(samples, percent) for percent in (50, 95, 99)},
        "min": min(samples),
        "max": max(samples),
        "count": len(samples),
    }
