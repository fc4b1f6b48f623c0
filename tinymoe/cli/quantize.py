"""`python -m tinymoe quantize`: a checkpoint of few bits, as an exporter would write it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from tinymoe.cli import options, prompts, report
from tinymoe.core import TinymoeError

LAYOUT, CALIBRATION, MODULES = "Layout", "Calibration", "Modules"
_GIGA = 10**9


def quantize(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder in BF16 or float32.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; made if missing.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="nvfp4|mxfp4|fp8",
            help="Number format of the weights.",
            rich_help_panel=LAYOUT,
        ),
    ] = "nvfp4",
    convention: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Whose layout: modelopt or compressed-tensors (nvfp4, fp8), gpt-oss or "
            "compressed-tensors (mxfp4), deepseek (fp8).",
            show_default="modelopt; compressed-tensors, or gpt-oss for its models; deepseek",
            rich_help_panel=LAYOUT,
        ),
    ] = None,
    scales: Annotated[
        str | None,
        typer.Option(
            metavar="tensor|channel|block",
            help="What has a scale of its own, in fp8.",
            show_default="block for deepseek, else tensor",
            rich_help_panel=LAYOUT,
        ),
    ] = None,
    weights_only: Annotated[
        bool,
        typer.Option(
            "--weights-only",
            help="nvfp4 without input scales: activations stay in 16 bits, nothing is calibrated.",
            rich_help_panel=LAYOUT,
        ),
    ] = False,
    separate_scales: Annotated[
        bool,
        typer.Option(
            "--separate-scales",
            help="Each matrix its own tensor scale, also q/k/v and gate/up, which engines fuse: "
            "a faulty kind, to test a loader with.",
            rich_help_panel=LAYOUT,
        ),
    ] = False,
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="UTF-8 text that input scales are measured on; - is standard input.",
            show_default="a short text of tinymoe's own",
            rich_help_panel=CALIBRATION,
        ),
    ] = None,
    calibrate_ids: Annotated[
        str | None,
        typer.Option(
            metavar="5,6,7",
            help="Token ids in place of text, or @FILE that holds them.",
            show_default=False,
            rich_help_panel=CALIBRATION,
        ),
    ] = None,
    calibrate_tokens: Annotated[
        int, typer.Option(help="Use the first N tokens at most.", rich_help_panel=CALIBRATION)
    ] = 4096,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Leave these modules as they are, as '*.layers.0.*'. Repeat for more.",
            show_default=False,
            rich_help_panel=MODULES,
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Quantise these too, of what exporters leave: lm_head, routers, shared gates.",
            show_default=False,
            rich_help_panel=MODULES,
        ),
    ] = None,
    shard_size: Annotated[
        float, typer.Option(help="Gigabytes in one file at most.", rich_help_panel=options.OUTPUT)
    ] = 5.0,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace a model folder.", rich_help_panel=options.OUTPUT),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", help="No progress, no report.", rich_help_panel=options.OUTPUT),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Quantise a model into the layout of an exporter, so that other engines load it.

    The bytes are those of the exporter's own arithmetic. q/k/v share one scale, and each expert's
    gate/up. Router, embedding, head and norms stay as they are, unless --also.

    [bold]Examples[/bold]

    python -m tinymoe quantize path/to/model path/to/new --format nvfp4

    python -m tinymoe quantize path/to/model path/to/new --calibrate my.txt

    python -m tinymoe quantize path/to/model path/to/new --format fp8 --keep "*.self_attn.*" --json
    """
    with report.outcome(as_json):
        from tinymoe.quantize.run import Settings
        from tinymoe.quantize.run import quantize as make

        settings = Settings(
            format=format_,
            convention=convention,
            scales=scales,
            calibration=_calibration(calibrate, calibrate_ids),
            calibration_tokens=calibrate_tokens,
            weights_only=weights_only,
            also=also or (),
            keep=keep or (),
            separate_scales=separate_scales,
            shard_bytes=int(shard_size * _GIGA) if 0 < shard_size < 1e9 else 0,
            force=force,
        )
        with _progress(quiet) as progress:
            found = make(model, out, settings, progress)
        warning = _not_reached(found)
        if warning:
            print(f"warning: {warning}", file=sys.stderr)
        if as_json:
            report.print_json(found)
        elif not quiet:
            _show(found)


def _calibration(file: str | None, ids: str | None) -> str | list[int] | None:
    if file is not None and ids is not None:
        raise TinymoeError("give --calibrate or --calibrate-ids, not both")
    if ids is not None:
        return prompts.parse_ids(ids)
    return None if file is None else prompts.collect(None, [file], None)[0].text


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, float], None]]:
    """A bar on stderr where someone is looking, nothing elsewhere."""
    if quiet or not report.is_terminal(sys.stderr):
        yield lambda what, part: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    text = TextColumn("{task.description}", markup=False)
    with Progress(*columns, text, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda what, part: bar.update(task, description=what, completed=part)


def _not_reached(found: dict[str, Any]) -> str:
    """Experts whose input scale is a loan from another; empty if there are none."""
    said = found["calibration"]
    if not said or not said["experts_not_reached"]:
        return ""
    layers = ", ".join(
        f"layer {layer}: {ids}" for layer, ids in list(said["not_reached"].items())[:4]
    )
    more = " ..." if len(said["not_reached"]) > 4 else ""
    return (
        f"{said['experts_not_reached']} experts were not reached by the {said['tokens']} "
        f"calibration tokens and got the input scale of their layer's loudest ({layers}{more}); "
        "a longer text (--calibrate) reaches more"
    )


def _show(found: dict[str, Any]) -> None:
    rows = [["modules", "tensors", "relative error"]]
    for kind, error in found["relative_error"].items():
        rows.append([kind, str(error["tensors"]), f"{error['l2']:.4f}"])
    print(report.table(rows, indent=""))
    before, after = found["bytes_before"], found["bytes_after"]
    worst, said = found["worst"], found["calibration"]
    if worst["module"]:
        print(f"\nworst: {worst['module']}, {worst['l2']:.4f}")
    if said:
        print(f"input scales: {said['tokens']} tokens of {said['text']} text, {said['numerics']}")
    print(f"kept as they were: {len(found['kept'])} modules")
    print(
        f"{before:,} bytes to {after:,} ({after / before:.0%}) in {found['seconds']:.1f} s, "
        f"written to {found['output']}"
    )
