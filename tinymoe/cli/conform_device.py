"""`conform --device`: our own CUDA kernels on a GPU, or on the PTX machine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinymoe.cli import report
from tinymoe.core import TinymoeError

if TYPE_CHECKING:
    from tinymoe.kernels.cuda.check_report import DeviceReport, Row

CASES = 20  # of each kernel
ON_A_GPU = Path("conform-cuda.json")  # a report from silicon is written even if nobody asked
LONGEST = 400  # letters of a failure on the terminal; the report has all of it


@dataclass(frozen=True, slots=True)
class Asked:
    """What shall be run, and where the report goes."""

    device: str
    ops: tuple[str, ...]
    out: Path | None

    @classmethod
    def of(
        cls,
        device: str,
        op: str | None,
        ops: str | None,
        out: Path | None,
        given: Mapping[str, Any],
    ) -> Asked:
        """From the command line. `given`: options that are for functions of the user's own."""
        if found := [name for name, value in given.items() if value]:
            raise TinymoeError(
                f"--device runs our own kernels, {', '.join(found)} is for a function of yours: "
                "leave one of the two out"
            )
        named = tuple(part.strip() for part in (ops or "").split(",") if part.strip())
        if ops is not None and not named:
            raise TinymoeError(f"--ops {ops!r}: expected ops, as --ops route,permute")
        if op is not None:
            named = (op, *named)
        if out is None and device == "cuda":
            out = ON_A_GPU
        if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
            raise TinymoeError(f"--out {out}: expected a file in a folder that is there")
        return cls(device, tuple(dict.fromkeys(named)), out)


def run(asked: Asked, cases: int | None, seed: int, timeout: float | None, as_json: bool) -> bool:
    """Run, show, save; whether all conforms."""
    from rich.console import Console
    from rich.progress import Progress

    from tinymoe.kernels.cuda.check_device import check_device
    from tinymoe.kernels.cuda.check_worker import PATIENCE, Order

    seen = report.is_terminal(sys.stderr)
    with Progress(console=Console(stderr=True), transient=True, disable=not seen) as bar:
        task = bar.add_task("opening the device", total=None)

        def progress(name: str, done: int, of: int) -> None:
            bar.update(task, description=name, completed=done, total=of)

        try:
            found = check_device(
                asked.device,
                ops=asked.ops,
                cases=cases or CASES,
                seed=seed,
                progress=progress,
                save=lambda now: _save(now, asked.out),
                order=Order(device=asked.device, patience=timeout or PATIENCE),
            )
        except TinymoeError as error:
            if "no GPU backend" not in str(error):
                raise
            instead = "python -m tinymoe conform --device ptx"
            raise TinymoeError(f"{error}. Without a GPU: {instead}") from error
    _save(found, asked.out)
    if as_json:
        report.print_json(found.as_json())
    else:
        _show(found, asked.out)
    return found.conforms


def _save(found: DeviceReport, out: Path | None) -> None:
    """Whole or not at all: who pulls the plug still has the last report."""
    if out is None:
        return
    beside = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(json.dumps(found.as_json(), indent=1, allow_nan=False) + "\n", "utf-8")
        beside.replace(out)
    except OSError as error:
        if not found.rows:  # before the first kernel: nothing is lost by stopping
            raise TinymoeError(f"--out {out}: cannot be written: {error.strerror}") from error
        print(f"warning: {out} was not written: {error.strerror}", file=sys.stderr)


def _show(found: DeviceReport, out: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    wide = None if report.is_terminal(sys.stdout) else 200
    console = Console(highlight=False, soft_wrap=True, width=wide)
    console.print(Text(f"{found.device['name']}, {found.device['arch']}", style="bold"))
    shown = Table(box=None, pad_edge=False)
    for title in ("op", "kernels", "conforms", "cases kept"):
        shown.add_column(title)
    # without a GPU there is one machine, and nothing to compare it with
    more = ("bits of PTX", "ms", "PTX ms") if found.silicon else ("ms",)
    for title in more:
        shown.add_column(title, justify="right")
    for row in found.rows:
        cells = [row.op, row.rung, "yes" if row.conforms else "NO", f"{row.kept} of {row.cases}"]
        if found.silicon:
            cells += [f"{row.equal} of {row.compared}", _ms(row.device_ms), _ms(row.ptx_ms)]
        else:
            cells.append(_ms(row.device_ms))
        shown.add_row(*cells, style="" if row.conforms else "bold red")
    console.print(shown)
    for row in found.rows:
        for line in _said(row):
            console.print(Text(line))
    for line in _end(found, out):
        console.print(Text(line))


def _ms(time: float | None) -> str:
    return "" if time is None else f"{time:.3f}"


def _said(row: Row) -> list[str]:
    """What there is to say of a row beyond its figures."""
    name, lines = f"{row.op} ({row.rung})", []
    if row.failure:
        short = row.failure if len(row.failure) <= LONGEST else row.failure[:LONGEST] + "..."
        lines += [f"\n{name}: {short}"]
        lines += [f"    {argument} = {what}" for argument, what in row.failing_case.items()]
    if row.tried < row.cases:
        lines.append(f"{name}: {row.cases - row.tried} of {row.cases} cases were not tried")
    if row.difference:
        lines.append(f"{name}: not the PTX machine's bits: {row.difference}")
    if row.reference_failure:
        lines.append(f"{name}: the PTX machine gave no result: {row.reference_failure[:LONGEST]}")
    return lines


def _end(found: DeviceReport, out: Path | None) -> list[str]:
    lines = [""]
    for why in dict.fromkeys(one["why"] for one in found.left_out):
        what = [f"{one['op']} ({one['rung']})" for one in found.left_out if one["why"] == why]
        lines.append(f"left out, {why}: {', '.join(what)}")
    if found.never_launched:
        lines.append(
            f"{len(found.never_launched)} kernels were not launched by any of these cases (more "
            f"--cases reach more): {', '.join(found.never_launched)}"
        )
    bad = sum(not row.conforms for row in found.rows)
    verdict = (
        f"all {len(found.rows)} conform"
        if not bad
        else f"{bad} of {len(found.rows)} do NOT conform"
    )
    where = "on silicon" if found.silicon else "on the PTX machine, nothing on silicon"
    lines.append(f"{verdict}, {where}: {found.seconds:.0f} s")
    if out is not None:
        lines.append(f"report: {out}")
    return lines
