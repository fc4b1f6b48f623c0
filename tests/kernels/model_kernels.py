"""Shared by the tests of the model's kernels: devices, contracts, and what was executed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from hypothesis import HealthCheck, given, settings

from tinymoe.kernels import ptx
from tinymoe.kernels.contracts import contract
from tinymoe.kernels.cuda.compile import build
from tinymoe.kernels.cuda.devices import PtxDevice

ARCHES = ("80", "120a")  # NVRTC makes other PTX from Blackwell on: both are run


@cache
def machine(arch: str) -> PtxDevice:
    """One PTX machine a chip for all tests: what it has compiled and seen stays."""
    return PtxDevice(arch)


@cache
def kernels_of(source: str, arch: str) -> tuple[str, ...]:
    """The kernels of a file."""
    return tuple(ptx.parse(build(source, arch).ptx))


def missed(device: PtxDevice, source: str) -> list[str]:
    """Kernels of a file that never ran, and instructions that no thread came to."""
    found = []
    for name in kernels_of(source, device.arch):
        report = device.reports.get(f"{source}:{name}")
        if report is None:
            found.append(f"{source}: {name} never ran")
        else:
            found += [f"{name}: {i.text} ({source}, line {i.source})" for i in report.missed]
    return found


def reaches_everything(
    arch: str,
    sources: Sequence[str],
    examples: Sequence[Callable[[str], None]],
    unreachable: Sequence[str] = (),
    never: Mapping[str, int] | None = None,
    device: PtxDevice | None = None,
) -> None:
    """Assert that examples reach every instruction of these files, and run those that are needed.

    What other tests launched on the device counts. `unreachable`: patterns of
    instructions that may be missed; `never`: of a kernel, how many no launch can come to, and so
    must be missed, exactly. The reasons stand where they do.
    """
    device = device or machine(arch)
    limits = dict(never or {})

    def left() -> list[str]:
        lines = [line for source in sources for line in missed(device, source)]
        lines = [line for line in lines if not any(re.search(p, line) for p in unreachable)]
        found = Counter(line.split(":")[0] for line in lines)
        known = {kernel for kernel, many in limits.items() if found[kernel] == many}
        return [line for line in lines if line.split(":")[0] not in known]

    lines, more = left(), iter(examples)
    while lines and (example := next(more, None)):
        example(arch)
        lines = left()
    assert not lines, f"{len(lines)} not reached on sm_{arch}:\n" + "\n".join(lines[:20])


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
