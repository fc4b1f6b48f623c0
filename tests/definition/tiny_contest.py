"""A comparison so small that its model is made anew for each test, and its clock and limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tinymoe.measure.build import Source, blas_threads
from tinymoe.measure.contest import Plan
from tinymoe.measure.shapes import shape
from tinymoe.measure.steps import lines_of

TINY = shape(
    hidden=64, layers=2, heads=2, kv_heads=1, experts=6, top_k=2,
    moe_intermediate=64, vocab=64, tied=False, positions=128, head_dim=32,
)  # fmt: skip
LINES = tuple(lines_of(8, 8, 2, (1, 4)))


class Ticks:
    """A clock that is one second later each time somebody looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


class Probe:
    """Limits that are known."""

    def __init__(self, bandwidth: float = 1e6, peak: float = 1e7) -> None:
        self.read, self.computed = bandwidth, peak

    def bandwidth(self, clock: Any) -> float:
        return self.read

    def peak(self, clock: Any) -> float:
        return self.computed

    def peak_whole(self, clock: Any) -> float:
        return self.computed * 2

    def peak_alone(self, clock: Any) -> float:
        return self.computed / 2


def plan_of(**changes: Any) -> Plan:
    """A plan of the shape "tiny", which a test has to say is TINY."""
    plan = Plan(
        source=Source(shape="tiny"), forms=("fp32",), lines=LINES, rounds=2,
        threads=blas_threads(),
    )  # fmt: skip
    return replace(plan, **changes)
