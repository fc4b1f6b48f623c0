"""What `check_device` found: a row for each rung of each op, and the whole as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from tinymoe.kernels.cuda.check_case import Outcome

FORMAT = "tinymoe conform --device, 1"  # the number grows when a field changes its meaning


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one rung of an op did. Times: median of cases and repeats, None if none."""

    op: str
    rung: str
    files: tuple[str, ...]  # the sources of its kernels
    cases: int  # to try
    tried: int  # fewer if the run was stopped, or the rung given up
    kept: int  # of those, how many kept the contract
    compared: int  # of those, how many gave a result here and on the PTX machine
    equal: int  # of those, how many were the same bits
    failure: str  # why the smallest failing case failed; empty if none did
    failing_case: dict[str, str]  # its arguments: dtype and shape, or the value
    failing_number: int | None  # which of the cases: seed, cases and versions give it again
    evidence: str  # of it, or else of a case with other bits: a base64 .npz (`check_case.opened`)
    difference: str  # where bits differ, of the first case where they do
    reference_failure: str  # why the PTX machine had no result, the first time it had none
    processes: int  # that the rung has taken; one, unless it killed some
    device_ms: float | None  # all kernels of a call; host work and copies are not in it
    ptx_ms: float | None  # the same on the PTX machine of this computer
    launched: tuple[str, ...]  # kernels, as source:entry

    @property
    def conforms(self) -> bool:
        """Whether all of its cases were tried and kept the contract, and it had some."""
        return 0 < self.cases == self.kept


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReport:
    """The whole run. `silicon`: whether a GPU computed anything of it."""

    silicon: bool
    device: dict[str, str]
    versions: dict[str, str]
    began: str  # UTC
    seconds: float
    seed: int
    cases: int  # of each rung, at most
    finished: bool  # false in what is written on the way
    rows: tuple[Row, ...]
    left_out: tuple[dict[str, str], ...]  # op, rung, and why this device cannot run it
    never_launched: tuple[str, ...] | None  # kernels of all the sources; None: not all ops were run

    @property
    def conforms(self) -> bool:
        """Whether it ran to its end, every rung kept its contract, and there were some."""
        return self.finished and bool(self.rows) and all(row.conforms for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        whole = {"format": FORMAT, "conforms": self.conforms, **asdict(self)}
        whole["rows"] = [{**asdict(row), "conforms": row.conforms} for row in self.rows]
        return whole


def row_of(
    op: str,
    rung: str,
    files: str,
    *,
    cases: int,
    outcomes: Sequence[Outcome],
    processes: int,
    launched: Sequence[str],
) -> Row:
    """A row of what is known of a rung."""
    failed = min((o for o in outcomes if o.failure), key=lambda o: o.size, default=None)
    other_bits = next((o for o in outcomes if o.difference), None)
    shown = failed or other_bits
    times = [ms for o in outcomes for ms in o.device_ms]
    ptx_times = [o.ptx_ms for o in outcomes if o.ptx_ms is not None]
    return Row(
        op=op,
        rung=rung,
        files=tuple(files.split()),
        cases=cases,
        tried=len(outcomes),
        kept=sum(not o.failure for o in outcomes),
        compared=sum(o.compared for o in outcomes),
        equal=sum(o.compared and not o.difference for o in outcomes),
        failure=failed.failure if failed else "",
        failing_case=failed.shapes if failed else {},
        failing_number=failed.number if failed else None,
        evidence=shown.evidence if shown else "",
        difference=other_bits.difference if other_bits else "",
        reference_failure=next((o.reference_failure for o in outcomes if o.reference_failure), ""),
        processes=processes,
        device_ms=median(times) if times else None,
        ptx_ms=median(ptx_times) if ptx_times else None,
        launched=tuple(launched),
    )
