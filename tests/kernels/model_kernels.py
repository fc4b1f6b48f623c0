"""Shared by the tests of the model's kernels: devices, contracts, and what was executed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from hypothesis import HealthCheck, given, settings

from tinymoe.kernels import ptx
from tinymoe.kernels.contracts import contract
from tinymoe.kernels.cuda.compile import build
from tinymoe.kernels.cuda.devices import PtxDevice
from tinymoe.kernels.cuda.launch import Dim3, Kernel

ARCHES = ("80", "120a")  # NVRTC makes other PTX from Blackwell on: both are run


class Watching(PtxDevice):
    """A PTX machine that remembers, for every kernel, which instructions were reached."""

    def __init__(self, arch: str) -> None:
        super().__init__(arch)
        self.reports: dict[str, ptx.Report] = {}

    def run(self, kernel: Kernel, grid: Dim3, block: Dim3, args: list[Any], shared: int) -> None:
        super().run(kernel, grid, block, args, shared)
        assert self.report is not None
        seen = self.reports.get(kernel.name)
        self.reports[kernel.name] = self.report if seen is None else seen + self.report

    def missed(self, *sources: str) -> list[str]:
        """Kernels of these files that never ran, and instructions that no thread came to."""
        found = []
        for source in sources:
            for name in ptx.parse(build(source, self.arch).ptx):
                if name in self.reports:
                    left = self.reports[name].missed
                    found += [f"{name}: {i.text} (line {i.source})" for i in left]
                else:
                    found.append(f"{name} never ran")
        return found


@cache
def machine(arch: str) -> Watching:
    """One PTX machine a chip for all tests: what it has compiled stays."""
    return Watching(arch)


def in_float32(case: dict[str, Any]) -> bool:
    """Whether the kernels compute in what a case asks for: float32, kept as it is or as BF16."""
    return bool(case["numerics"].accumulate == "float32")


def keeps_contract(
    op: str,
    implementation: Callable[..., Any],
    examples: int,
    wanted: Callable[[dict[str, Any]], bool] = in_float32,
) -> None:
    """Judge an implementation on drawn cases of its row in the op table."""
    row = contract(op)

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @given(case=row.inputs().filter(wanted))
    def judged(case: dict[str, Any]) -> None:
        row.judge(implementation, case)

    judged()
