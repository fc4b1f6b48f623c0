"""`python -m tinymoe trace`: every activation of one forward pass, named, in a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tinymoe.cli import options, prompts, report
from tinymoe.core import TinymoeError

if TYPE_CHECKING:
    from tinymoe.api import Latent, Model

EXAMPLE = 'python -m tinymoe trace "Once upon a time" -o story.safetensors'


def trace(
    prompt: Annotated[str | None, typer.Argument(help="Text to run.", show_default=False)] = None,
    ids: Annotated[
        str | None,
        typer.Option(
            metavar="5,6,7",
            help="Token ids to run in place of text, or @FILE that holds them.",
            show_default=False,
            rich_help_panel=options.PROMPT,
        ),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="Text from a UTF-8 file, without its last line break; - is standard input.",
            show_default=False,
            rich_help_panel=options.PROMPT,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.safetensors",
            help="Where to write. A file that exists is kept, unless --force.",
            show_default=False,
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace the file.", rich_help_panel=options.OUTPUT),
    ] = False,
    taps: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Keep the names that match, as layers.0.router.*; repeat for more. "
            "The experts' single outputs (*.moe.expert_out) are written only when asked for.",
            show_default="all but *.moe.expert_out",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    only_list: Annotated[
        bool,
        typer.Option(
            "--list", help="List names and shapes, write nothing.", rich_help_panel=options.OUTPUT
        ),
    ] = False,
    as_json: options.Json = False,
    model: options.Model = None,
    numerics: options.Numerics = "fp32",
    latent: options.Latent = "expanded",
) -> None:
    """Run a text once and write every activation, to compare another engine with.

    The names are explained in tinymoe/oracle/trace.py. The file opens with
    safetensors.numpy.load_file.

    [bold]Examples[/bold]

    python -m tinymoe trace "Once upon a time" -o story.safetensors

    python -m tinymoe trace --ids 5,6,7 --numerics bf16 --taps "*.router.*" -o router.safetensors

    python -m tinymoe trace "Hello" --list
    """
    with report.outcome(as_json):
        asked = prompts.collect(
            [prompt] if prompt is not None else None,
            [file] if file is not None else None,
            [ids] if ids is not None else None,
        )
        if len(asked) > 1:
            raise TinymoeError("a trace is of one text: give a PROMPT, or --file, or --ids")
        if not only_list:
            _check_output(output, force)
        from tinymoe.api import load

        opened = load(model, numerics=numerics, latent=cast("Latent", latent))
        text, tokens = asked[0] if asked else prompts.default()
        tokens = opened.encode(text or "") if tokens is None else tokens
        found = opened.trace(tokens, taps or ())
        metadata = _metadata(opened, len(tokens))
        if output is not None and not only_list:
            from tinymoe.oracle.trace import write_trace

            write_trace(output, found, metadata)
        _report(found, metadata, None if only_list else output, as_json)


def _check_output(output: Path | None, force: bool) -> None:
    """Refuse, before anything is computed, a file that cannot or may not be written."""
    if output is None:
        raise TinymoeError(f"where shall the trace go? Give -o FILE.safetensors, as in: {EXAMPLE}")
    if output.is_dir():
        raise TinymoeError(f"{output}: expected a file name, this is a folder")
    folder = output.parent
    if not folder.is_dir():
        raise TinymoeError(f"{output}: there is no folder {folder}; make it first")
    if output.exists() and not force:
        raise TinymoeError(f"{output}: exists already; choose another name, or add --force")
    if not os.access(folder, os.W_OK):
        raise TinymoeError(f"{output}: the folder {folder} may not be written to")


def _metadata(model: Model, tokens: int) -> dict[str, str]:
    """What made the trace, for whoever finds it later."""
    import numpy as np

    from tinymoe import __version__

    return {
        "model": model.checkpoint.path.resolve().name,
        "model_sha256": model.checkpoint.hash(),
        "numerics": model.numerics.name,
        "tokens": str(tokens),
        "tinymoe": __version__,
        "numpy": np.__version__,
    }


def _report(
    found: dict[str, Any], metadata: dict[str, str], output: Path | None, as_json: bool
) -> None:
    shapes = {name: list(value.shape) for name, value in found.items()}
    if as_json:
        dtypes = {name: str(value.dtype) for name, value in found.items()}
        path = None if output is None else str(output)
        report.print_json(
            {"output": path, "metadata": metadata, "shapes": shapes, "dtypes": dtypes}
        )
        return
    rows = [[name, str(found[name].dtype), " x ".join(map(str, shapes[name]))] for name in found]
    print(report.table([["tap", "dtype", "shape"], *rows], indent=""))
    size = sum(value.nbytes for value in found.values())
    summary = f"{len(found)} taps, {size:,} bytes, {metadata['tokens']} tokens"
    print(f"\n{summary}" + (f", written to {output}" if output else ", nothing written (--list)"))
