"""`python -m tinymoe diff`: the first wrong tensor of an engine's trace, and what it says."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinymoe.cli import options, prompts, report
from tinymoe.core import TinymoeError

if TYPE_CHECKING:
    from tinymoe.core import Array
    from tinymoe.oracle.diff import Report

DIFFERS = 1  # exit code: the check failed


def diff(
    reference: Annotated[
        Path, typer.Argument(metavar="REF", help="A model folder, or a trace file.")
    ],
    mine: options.Mine,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            metavar="DIR",
            help="With a trace as REF: the model of both, for bounds of its own.",
            show_default=False,
            rich_help_panel=options.MODEL,
        ),
    ] = None,
    numerics: options.StatedNumerics = None,
    mapping: options.Mapping = None,
    replay: Annotated[
        bool,
        typer.Option("--replay", help="Take the engine's experts as given: judge the rest."),
    ] = False,
    local: Annotated[
        bool,
        typer.Option("--local", help="Judge each layer from the engine's own input to it."),
    ] = False,
    rank: options.Rank = 0,
    step: options.Step = None,
    ids: options.TokensOfDump = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the report with plots, as one page.",
            show_default=False,
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Find the first wrong tensor of an engine's trace. Exit code 0: it agrees, 1: it differs.

    A model as REF judges three ways: exact, as the numerics would have it, and the engine's own.

    [bold]Examples[/bold]

    python -m tinymoe diff DIR mine.safetensors --numerics bf16

    python -m tinymoe diff DIR mine.safetensors --local --html report.html

    python -m tinymoe diff DIR dumps/ --mapping names.toml --step 1 --ids @ids.txt --numerics bf16

    python -m tinymoe diff theirs.safetensors mine.safetensors --json
    """
    with report.outcome(as_json):
        from tinymoe.oracle.diff.told import as_values

        folder = model if model is not None else reference if reference.is_dir() else None
        taps = read_mine(mine, mapping, rank, step, ids)
        found = _judge(reference, mine, taps, folder, numerics, replay, local)
        if html is not None:
            from tinymoe.oracle.diff.page import page

            _write(html, page(found, str(reference), mine.name))
        if as_json:
            report.print_json(as_values(found))
        else:
            _print(found, html)
    if not found.agrees:
        raise typer.Exit(DIFFERS)


def read_mine(
    mine: Path, mapping: str | None, rank: int, step: int | None, ids: str | None
) -> dict[str, Array]:
    """The dump under the names of a trace; `tokens` as given, if the dump has none."""
    from tinymoe.oracle.dumps import read_dump

    taps = dict(read_dump(mine, mapping, rank=rank, step=step))
    if ids is None:
        return taps
    import numpy as np

    tokens = np.array(prompts.parse_ids(ids), np.int64)
    if "tokens" in taps and not np.array_equal(taps["tokens"], tokens):
        raise TinymoeError(f"{mine}: is of the tokens {taps['tokens']}, --ids says {tokens}")
    return {**taps, "tokens": tokens}


def _judge(
    reference: Path,
    mine: Path,
    taps: dict[str, Array],
    folder: Path | None,
    numerics: str | None,
    replay: bool,
    local: bool,
) -> Report:
    from tinymoe.api import load, pick_numerics
    from tinymoe.oracle import diff as engine
    from tinymoe.oracle.dumps import read_dump

    name = numerics or stated_numerics(mine)
    if name is None:
        raise TinymoeError(
            f"{mine}: does not say in what numerics it was computed; add --numerics bf16 (bfloat16 "
            "between ops, float32 sums), fp32 or exact"
        )
    stated = pick_numerics(name)
    if folder is not None:
        opened = load(folder, numerics=stated)
        judge = engine.diff_local if local else engine.diff
        return judge(opened.params, opened.config, taps, stated, replay=replay)
    if local:
        raise TinymoeError("--local runs layers of the model: give its folder with --model DIR")
    theirs = read_dump(reference)
    return engine.diff_traces(
        theirs, taps, (pick_numerics(stated_numerics(reference) or name), stated), replay=replay
    )


def stated_numerics(path: Path) -> str | None:
    """The numerics in the metadata of a trace of tinymoe."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    from tinymoe.safetensors_file import SafetensorsFile

    return SafetensorsFile(path).metadata.get("numerics")


def _print(found: Report, html: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tinymoe.oracle.diff.told import verdict

    console = Console(
        highlight=False, soft_wrap=True, width=None if report.is_terminal(sys.stdout) else 200
    )
    shown = Table(box=None, pad_edge=False)
    for title in ("tensor", "max abs", "rel. L2", "cosine", "outside", "error/bound", ""):
        shown.add_column(title, no_wrap=True)
    for row in _rows(found):
        wrong = row[-1].startswith("WRONG")
        shown.add_row(*(Text(cell, style="bold red" if wrong else "") for cell in row))
    console.print(shown)
    for note in found.notes:
        console.print(Text(f"note: {note}", style="dim"))
    if found.extra:
        console.print(Text(f"names that are no taps: {', '.join(found.extra[:8])}", style="dim"))
    console.print(Text(f"\n{verdict(found)}", style="bold"))
    if html is not None:
        console.print(Text(f"plots: {html}"))


def _rows(found: Report) -> list[list[str]]:
    rows = []
    for t in found.tensors:
        wrong = "" if t.status == "agrees" else "WRONG "
        cells: list[Any] = [t.max_abs, t.relative_l2]
        rows.append(
            [
                t.name,
                *(f"{value:.3g}" for value in cells),
                f"{t.cosine:.6f}",
                f"{t.outside:.1%}",
                f"{t.excess:.3g}",
                wrong + t.note,
            ]
        )
    return rows


def _write(path: Path, text: str) -> None:
    """Whole, or not at all."""
    if not path.parent.is_dir():
        raise TinymoeError(f"{path}: there is no folder {path.parent}; make it first")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)  # mkstemp makes files that only their owner can read
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
