"""`python -m tinymoe diagnose`: which known bug gives just these numbers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinymoe.cli import options, report
from tinymoe.cli.diff import read_mine, stated_numerics

if TYPE_CHECKING:
    from tinymoe.core import Array
    from tinymoe.oracle.diagnose import Diagnosis

WRONG = 1  # exit code: something is wrong, whether or not it has a name


def diagnose(
    reference: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A model folder; or a right trace.")
    ],
    mine: options.Mine,
    numerics: options.StatedNumerics = None,
    mapping: options.Mapping = None,
    rank: options.Rank = 0,
    step: options.Step = None,
    ids: options.TokensOfDump = None,
    as_json: options.Json = False,
) -> None:
    """Name the bug: which known wrong variant of the model gives the engine's numbers.

    Variants run from the engine's own input to what is wrong first, one by one and in pairs.
    Exit code 0: nothing is wrong, 1: something is, named or not.

    [bold]Examples[/bold]

    python -m tinymoe diagnose DIR mine.safetensors --numerics bf16

    python -m tinymoe diagnose DIR dumps/ --mapping names.toml --ids @ids.txt --numerics bf16

    python -m tinymoe diagnose right.safetensors mine.safetensors --json
    """
    with report.outcome(as_json):
        found = _diagnose(reference, mine, read_mine(mine, mapping, rank, step, ids), numerics)
        if as_json:
            from tinymoe.oracle.diagnose.told import as_values

            report.print_json(as_values(found))
        else:
            _print(found)
    if not found.agrees:
        raise typer.Exit(WRONG)


def _diagnose(
    reference: Path, mine: Path, taps: dict[str, Array], numerics: str | None
) -> Diagnosis:
    from tinymoe.api import load, pick_numerics
    from tinymoe.core import TinymoeError
    from tinymoe.oracle import diagnose as search
    from tinymoe.oracle.diagnose.stored import format_mutants
    from tinymoe.oracle.dumps import read_dump

    name = numerics or stated_numerics(mine)
    if name is None:
        raise TinymoeError(
            f"{mine}: does not say in what numerics it was computed; add --numerics bf16 (bfloat16 "
            "between ops, float32 sums), fp32 or exact"
        )
    stated = pick_numerics(name)
    if not reference.is_dir():
        both = (pick_numerics(stated_numerics(reference) or name), stated)
        return search.diagnose_traces(read_dump(reference), taps, both)
    opened = load(reference, numerics=stated)
    with _Bar() as bar:
        return search.diagnose(
            *(opened.params, opened.config, taps, stated),
            more=format_mutants(opened.checkpoint),
            progress=bar.show,
        )


class _Bar:
    """A progress bar on stderr, if someone looks at it."""

    def __enter__(self) -> _Bar:
        from rich.console import Console
        from rich.progress import Progress

        seen = report.is_terminal(sys.stderr)
        self.bar = Progress(console=Console(stderr=True), transient=True, disable=not seen)
        self.bar.start()
        self.task = self.bar.add_task("trying known bugs", total=None)
        return self

    def show(self, done: int, total: int) -> None:
        """So many of so many are tried."""
        self.bar.update(self.task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


def _print(found: Diagnosis) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tinymoe.oracle.diagnose.told import rows, verdict

    console = Console(
        highlight=False, soft_wrap=True, width=None if report.is_terminal(sys.stdout) else 200
    )
    console.print(Text(verdict(found), style="bold"))
    if found.candidates:
        head, *body = rows(found)
        shown = Table(box=None, pad_edge=False)
        for title in head:
            shown.add_column(title, overflow="fold")
        for row in body:
            shown.add_row(*map(Text, row))
        console.print()
        console.print(shown)
