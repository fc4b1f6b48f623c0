"""`python -m tinymoe ptx-speed`: how fast kernels run on the CPU, and beside Numba's simulator."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from tinymoe.cli import options, report

Rows = list[list[str]]
MEANING = """\
threads a step: a step is one instruction, for all threads that stand before it: so many, on average
us a step: microseconds that one took
M/s: millions of thread-instructions a second, all checks on: the median of the rounds
ratio: seconds of Numba's simulator over those of the PTX machine for the same launch"""


def ptx_speed(
    rounds: Annotated[
        int, typer.Option(min=1, metavar="N", help="Timed rounds, after one that is not.")
    ] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny launches, one round: see that it works.")
    ] = False,
    simulator: Annotated[
        bool,
        typer.Option(
            "--simulator/--no-simulator",
            help="Run what both can run in Numba's simulator, too (wants numba-cuda).",
        ),
    ] = True,
    as_json: options.Json = False,
) -> None:
    """Measure the PTX machine: thread-instructions a second, kernel by kernel.

    And the ratio to Numba's own CUDA simulator, on the kernels that both can run: those without a
    warp's shuffles. Results must be equal there.

    [bold]Example[/bold]

    python -m tinymoe ptx-speed --rounds 3
    """
    with report.outcome(as_json):
        from tinymoe.measure.ptx_speed import measure

        size, rounds = ("tiny", 1) if quick else ("small", rounds)
        with _progress() as progress:
            found = measure(size, rounds, simulator, progress)
        if as_json:
            report.print_json(found)
        else:
            _print(found)


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """A bar on stderr where someone is looking; it is never drawn while something is timed."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    if not report.is_terminal(sys.stderr):
        yield lambda what, part: None
        return
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(
        *columns, console=Console(stderr=True), transient=True, auto_refresh=False
    ) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda what, part: bar.update(task, description=what, completed=part, refresh=True)


def _print(found: dict[str, Any]) -> None:
    about = found["machine"]
    print(
        f"{about['cpu'] or about['architecture']}, {about['usable_cores']} of {about['cores']} "
        f"cores usable, one used; load average {about['load_average_1min'] or 0:.1f} before, "
        f"{found['load_average_1min_after'] or 0:.1f} after; Python {about['python']}, NumPy "
        f"{about['numpy']}; {found['rounds']} rounds, {found['date']}"
    )
    _table("the PTX machine, by kernel", _kernels(found["kernels"]))
    if found["twins"] is not None:
        _table("Numba-CUDA kernels, beside Numba's simulator", _twins(found["twins"]))
    print("\n" + MEANING)


def _kernels(lines: list[dict[str, Any]]) -> Rows:
    rows = [["kernel", "launch", "thread-instructions", "threads a step", "us a step", "M/s"]]
    for line in lines:
        step, rate = line["seconds_per_step"], line["thread_instructions_per_s"]
        rows.append([
            line["kernel"], line["size"], f"{line['thread_instructions']:,}",
            f"{line['threads_per_step']:,.0f}", f"{step['median'] * 1e6:.1f}",
            f"{rate['median'] / 1e6:.2f} [{rate['min'] / 1e6:.2f}-{rate['max'] / 1e6:.2f}]",
        ])  # fmt: skip
    return rows


def _twins(lines: list[dict[str, Any]]) -> Rows:
    rows = [["kernel", "launch", "threads", "PTX machine", "simulator", "ratio"]]
    for line in lines:
        ours, theirs, ratio = line["ptx_machine_s"], line["simulator_s"], line["ratio"]
        rows.append([
            line["kernel"], line["size"], f"{line['threads']:,}",
            f"{ours['median'] * 1e3:.1f} ms", f"{theirs['median'] * 1e3:,.0f} ms",
            f"{ratio['median']:,.0f} [{ratio['min']:,.0f}-{ratio['max']:,.0f}]",
        ])  # fmt: skip
    return rows


def _table(title: str, rows: Rows) -> None:
    """The first row is the head; drawn by rich on a terminal, plain elsewhere."""
    print()
    if not report.is_terminal(sys.stdout):
        print(f"{title}\n{report.table(rows)}")
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    for number, name in enumerate(rows[0]):
        table.add_column(name, justify="left" if number < 2 else "right")
    for row in rows[1:]:
        table.add_row(*(Text(cell) for cell in row))  # [3-4] is a range here, not a style
    Console(highlight=False).print(table)
