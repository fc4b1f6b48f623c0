"""`python -m tinymoe bench`: speed and feel of a model on this machine, each number defined."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from tinymoe.cli import backends, bench_compare, options, report
from tinymoe.core import TinymoeError

WORK, COMPARE = "Work", "Beside others, and how cost grows"
FULL = {"prompt": 128, "tokens": 64, "repeats": 5}
QUICK = {"prompt": 16, "tokens": 8, "repeats": 2}
WITH_QUICK = "{full}, with --quick {quick}"


def _sized(name: str, help_text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        f"--{name}",
        help=help_text,
        show_default=WITH_QUICK.format(full=FULL[name], quick=QUICK[name]),
        rich_help_panel=WORK,
    )
    return option


def bench(
    model: options.Model = None,
    shape: Annotated[
        str | None,
        typer.Option(
            metavar="small|medium|shipped|...",
            help="A model of random weights in place of a folder's, drawn in memory. "
            "medium is 0.9 G parameters: 3.7 GB in fp32, twice that in exact. Both are of Qwen3's "
            "kind; -deepseek and -gpt-oss behind their names make them of those kinds.",
            show_default=False,
            rich_help_panel=options.MODEL,
        ),
    ] = None,
    numerics: options.NumericsByReport = None,
    prompt: Annotated[int | None, _sized("prompt", "Tokens of each prompt.")] = None,
    tokens: Annotated[int | None, _sized("tokens", "Tokens that each request generates.")] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            "--batch",
            help="Requests decoded together. Repeat for more.",
            show_default="1 and 8",
            rich_help_panel=WORK,
        ),
    ] = None,
    repeats: Annotated[int | None, _sized("repeats", "Timed rounds of everything.")] = None,
    warmup: Annotated[
        int, typer.Option(help="Rounds before the timed ones.", rich_help_panel=WORK)
    ] = 1,
    seed: Annotated[
        int, typer.Option(help="Of the prompts and of random weights.", rich_help_panel=WORK)
    ] = 0,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="A few seconds: see that it works.", rich_help_panel=WORK),
    ] = False,
    start: Annotated[
        bool,
        typer.Option(help="Time whole processes to their first word.", rich_help_panel=WORK),
    ] = True,
    memory: Annotated[
        bool,
        typer.Option(help="Measure peak memory in a fresh process.", rich_help_panel=WORK),
    ] = True,
    formats: Annotated[
        str | None,
        typer.Option(
            metavar="nvfp4,mxfp4,bf16,fp32",
            help="Formats of the matrices, each measured. With this, --peer or --sweep the report "
            "is a comparison of decode and prefill steps.",
            show_default="nvfp4",
            rich_help_panel=COMPARE,
        ),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            "--peer",
            metavar="llama.cpp=PROGRAM:GGUF|transformers[=PYTHON]",
            help="An engine to run in turns with ours. PROGRAM: llama-bench or "
            "llama-batched-bench; GGUF: of the same shape, see python -m "
            "tinymoe.measure.peer_model. Repeat for more.",
            show_default=False,
            rich_help_panel=COMPARE,
        ),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            metavar="auto|numba|numpy",
            envvar="TINYMOE_BACKEND",
            help="What computes our steps. auto: numba, which holds weights as the checkpoint "
            "stores them, where its kernels cover the model and the numerics; else numpy.",
            rich_help_panel=WORK,
        ),
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            help="Of our steps, of the peers, and of the probes of the limits.",
            show_default="the cores there are",
            rich_help_panel=WORK,
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            help="Keys that are in the cache before a decode step is measured.",
            show_default="128",
            rich_help_panel=COMPARE,
        ),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            metavar="batch|context|experts|top-k|threads",
            help="Decode steps as this one quantity grows, beside what the limits predict.",
            show_default=False,
            rich_help_panel=COMPARE,
        ),
    ] = None,
    points: Annotated[
        str | None,
        typer.Option(
            metavar="1,2,4",
            help="Of the sweep.",
            show_default="by quantity, as 1 to 64 of batch",
            rich_help_panel=COMPARE,
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Draw it: a roofline, or the sweep's curve. Needs matplotlib.",
            show_default=False,
            rich_help_panel=COMPARE,
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(help="Seconds that a peer may take to answer.", rich_help_panel=COMPARE),
    ] = 600.0,
    as_json: options.Json = False,
) -> None:
    """Measure speed: prefill, decode, latency, memory, start, and how near the limit that is.

    With --formats, --peer or --sweep: steps alone, in turns with other engines, against the
    machine's read bandwidth and arithmetic peak.

    [bold]Examples[/bold]

    python -m tinymoe bench --quick

    python -m tinymoe bench --shape small --batch 1 --batch 4 --prompt 512

    python -m tinymoe bench --model path/to/folder --json > bench.json

    python -m tinymoe bench --shape small --peer llama.cpp=bin/llama-bench:small-nvfp4.gguf

    python -m tinymoe bench --shape small --sweep batch --picture batch.png
    """
    with report.outcome(as_json):
        comparing = formats is not None or bool(peer) or sweep is not None
        numerics = numerics or ("bf16" if comparing else "fp32")
        backend = _backend(backend, model, shape, numerics)
        if comparing:
            wanted = bench_compare.Wanted(
                model=model, shape=shape, formats=formats, peers=peer or (), backend=backend,
                numerics=numerics, threads=threads, prompt=prompt, context=context, tokens=tokens,
                batches=batch or (), repeats=repeats, warmup=warmup, seed=seed, quick=quick,
                sweep=sweep, points=points, picture=picture, timeout=timeout,
            )  # fmt: skip
            _compare(wanted, as_json)
            return
        if points is not None or picture is not None:
            raise TinymoeError(
                "--points and --picture belong to a comparison or a sweep: give --formats, --peer "
                "or --sweep"
            )
        from tinymoe.measure.bench import bench as measure
        from tinymoe.measure.setup import Settings

        sizes = QUICK if quick else FULL
        if context is not None:
            raise TinymoeError("--context belongs to a comparison or a sweep: see --prompt")
        settings = Settings(
            model=None if model is None else str(model),
            shape=shape,
            seed=seed,
            numerics=numerics,
            backend=backend,
            threads=threads,
            prompt=sizes["prompt"] if prompt is None else prompt,
            tokens=sizes["tokens"] if tokens is None else tokens,
            batches=tuple(batch or (1, 8)),
            repeats=sizes["repeats"] if repeats is None else repeats,
            warmup=warmup,
            start=start,
            memory=memory,
        )
        with _progress() as progress:
            found = measure(settings, progress=progress)
        if as_json:
            report.print_json(found)
        else:
            _show(found)


def _backend(backend: str, model: Path | None, shape: str | None, numerics: str) -> str:
    """What `auto` means: kernels are waited for, since what is measured shall be what is used."""
    if backend != backends.AUTO:
        return backends.known(backend)
    from tinymoe.measure.setup import Settings, compiled_kernels_cover, model_config

    folder = None if model is None else str(model)
    config = model_config(Settings(model=folder, shape=shape))
    return "numba" if compiled_kernels_cover(config, numerics) else "numpy"


def _compare(wanted: bench_compare.Wanted, as_json: bool) -> None:
    """A comparison or a sweep, and its page."""
    with _progress() as progress:
        found = bench_compare.measure(wanted, progress)
    if as_json:
        report.print_json(found)
    else:
        _print(*bench_compare.page(found))
    bench_compare.saved(wanted.picture)


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """A bar on stderr where someone is looking, nothing elsewhere."""
    if not report.is_terminal(sys.stderr):
        yield lambda what, part: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    # refreshed when something happens, never by a thread: it would run beside what is timed
    with Progress(
        *columns, console=Console(stderr=True), transient=True, auto_refresh=False
    ) as bar:
        task = bar.add_task("", total=1.0)

        def advance(what: str, part: float) -> None:
            bar.update(task, description=what, completed=part, refresh=True)

        yield advance


# ------------------------------------------------------------------------------- the page


def _show(found: dict[str, Any]) -> None:
    """Tables on stdout: rich on a terminal, plain elsewhere."""
    from tinymoe.cli import bench_page as page

    meaning = page.definitions(found, shutil.get_terminal_size((100, 24)).columns)
    _print(page.heading(found), page.tables(found), meaning, found["warnings"])


def _print(
    heading: list[tuple[str, str]],
    tables: list[tuple[str, list[list[str]]]],
    meaning: str,
    warnings: list[str],
) -> None:
    style = report.Style(sys.stdout)
    for label, text in heading:
        print(f"{style.bold(label)}{' ' * (9 - len(label))}{text}")
    for title, rows in tables:
        _table(title, rows)
    print("\n" + style.bold("what the numbers mean"))
    print(meaning)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def _table(title: str, rows: list[list[str]]) -> None:
    """The first row is the head."""
    print()
    if not report.is_terminal(sys.stdout):
        print(f"{title}\n{report.table(rows)}")
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD)
    for number, name in enumerate(rows[0]):
        head = name.replace(" ", "\n", 1)  # so that 80 columns are enough
        table.add_column(head, justify="right" if number else "left", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*(Text(cell) for cell in row))  # [3-4] is a range here, not a style
    console = Console(highlight=False)
    console.print(title, style="bold")
    console.print(table)
