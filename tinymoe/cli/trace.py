"""`python -m tinymoe trace`: every activation of one forward pass, named, in a file."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tinymoe.cli import backends, options, prompts, report
from tinymoe.core import TinymoeError

if TYPE_CHECKING:
    from tinymoe.api import Latent, Model
    from tinymoe.oracle.trace_file import TraceFile

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
    backend: options.BackendByNumerics = None,
    repack_cache: options.RepackCache = False,
    memory: options.Memory = None,
    positions: options.Positions = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="3:5",
            help="Run and read layers 3 and 4 alone; :2 are the embedding and two layers, "
            "46: is from layer 46 to the logits.",
            show_default="all",
            rich_help_panel=options.PROMPT,
        ),
    ] = None,
    input_file: Annotated[
        Path | None,
        typer.Option(
            "--input",
            metavar="FILE.safetensors",
            help="What enters the first of these layers, in place of a prompt: a tensor 'hidden', "
            "or of a trace 'layers.2.out' for 3:5.",
            show_default=False,
            rich_help_panel=options.PROMPT,
        ),
    ] = None,
    latent: options.Latent = "expanded",
) -> None:
    """Run a text once and write every activation, to compare another engine with.

    The names are explained in tinymoe/oracle/trace.py. The file opens with
    safetensors.numpy.load_file.

    [bold]Examples[/bold]

    python -m tinymoe trace "Once upon a time" -o story.safetensors

    python -m tinymoe trace --ids 5,6,7 --numerics bf16 --taps "*.router.*" -o router.safetensors

    python -m tinymoe trace "Hello" --list

    python -m tinymoe trace --layers 3:5 --input story.safetensors -o two_layers.safetensors

    python -m tinymoe trace --backend ptx --layers :1 --ids 5,6,7 -o kernels.safetensors
    """
    with report.outcome(as_json):
        given = [[one] if one is not None else None for one in (prompt, file, ids)]
        # with --input and nothing given, a pipe that happens to be standard input is no prompt
        asked = prompts.collect(*given) if input_file is None or any(given) else []
        if len(asked) > 1:
            raise TinymoeError("a trace is of one text: give a PROMPT, or --file, or --ids")
        if not only_list:
            _check_output(output, force)
        span = _span(layers, input_file, asked)
        if backend is None:  # the definition answers, but for what engines do
            engines = numerics == "bf16" or repack_cache
            backend = backends.AUTO if engines and span is None else "numpy"
        backend = backends.choose(
            backend,
            model,
            numerics,
            memory=memory,
            positions=positions,
            repack_cache=repack_cache,
        )
        backends.check(backend, memory)
        from tinymoe.api import load
        from tinymoe.oracle.trace_file import TraceFile

        opened = load(
            model,
            backend=backend,
            repack_cache=repack_cache,
            numerics=numerics,
            memory=memory,
            on_demand=span is not None and backend == "numpy",  # kernels take weights in memory
            latent=cast("Latent", latent),
            positions=positions,
        )
        report.say_if_on_demand(opened.reads)
        backends.make_ready(opened, backend)
        hidden, tokens, source = _start(opened, asked, span, input_file)
        metadata = _metadata(opened, len(tokens if hidden is None else hidden))
        metadata |= {"layers": layers} if layers is not None else {}
        metadata |= {"backend": backend} if backend != "numpy" else {}
        metadata |= source
        to = _Listed() if only_list or output is None else TraceFile(output, metadata)
        with to:
            opened.trace(tokens, taps or (), layers=span, hidden=hidden, into=to)
        _report(to, metadata, None if only_list else output, opened, as_json)


def _span(
    layers: str | None, input_file: Path | None, asked: list[prompts.Prompt]
) -> tuple[int, int | None] | None:
    """`3:5`, `:2` or `46:` as numbers; what cannot go together is refused."""
    if input_file is not None and asked:
        raise TinymoeError("--input is what enters a layer, in place of a prompt: drop one of them")
    if layers is None:
        if input_file is not None:
            raise TinymoeError("--input needs --layers, as in --layers 3:5, or 0: for all")
        return None
    found = re.fullmatch(r"(\d{0,9}):(\d{0,9})", layers)
    if found is None:
        raise TinymoeError(f"--layers: expected a range, as 3:5, :2 or 46:, got {layers!r}")
    first = int(found[1] or 0)
    if first and input_file is None:
        raise TinymoeError(
            f"--layers {layers} begins in the middle: give what enters layer {first} with --input "
            "FILE.safetensors, a trace that has it, or begin at 0"
        )
    return first, int(found[2]) if found[2] else None


def _start(
    model: Model,
    asked: list[prompts.Prompt],
    span: tuple[int, int | None] | None,
    input_file: Path | None,
) -> tuple[Any, list[int], dict[str, str]]:
    """Hidden states or token ids to start from, and what the file shall say of the former."""
    if input_file is not None and span is not None:
        import hashlib

        import numpy as np

        from tinymoe.oracle.trace_file import read_hidden

        name, hidden = read_hidden(input_file, span[0])
        digest = hashlib.sha256(np.ascontiguousarray(hidden).data).hexdigest()
        print(f"{input_file}: {name!r} enters layer {span[0]}", file=sys.stderr)
        return hidden, [], {"input": f"{input_file.name}: {name}", "input_sha256": digest}
    text, tokens = asked[0] if asked else prompts.default()
    return None, list(model.encode(text or "") if tokens is None else tokens), {}


class _Listed:
    """Names and shapes, and nothing written: what `TraceFile` is without a file."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, Any] = {}
        self.nbytes = 0

    def __call__(self, name: str, value: Any) -> None:
        self.shapes[name], self.dtypes[name] = value.shape, value.dtype
        self.nbytes += value.nbytes

    def __enter__(self) -> _Listed:
        return self

    def __exit__(self, *_: object) -> None:
        pass


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
        **_model_hash(model),
        "numerics": model.numerics.name,
        "tokens": str(tokens),
        "tinymoe": __version__,
        "numpy": np.__version__,
    }


def _model_hash(model: Model) -> dict[str, str]:
    """Of all weights where all were read; else of the headers, not to read them for this."""
    if model.reads is None:
        return {"model_sha256": model.checkpoint.hash()}
    return {"model_headers_sha256": model.checkpoint.hash_headers()}


def _report(
    found: _Listed | TraceFile,
    metadata: dict[str, str],
    output: Path | None,
    model: Model,
    as_json: bool,
) -> None:
    from tinymoe.measure.reads import describe, memory_lines

    shapes = {name: list(shape) for name, shape in found.shapes.items()}
    dtypes = {name: str(dtype) for name, dtype in found.dtypes.items()}
    reads = model.reads
    if as_json:
        report.print_json({
            "output": None if output is None else str(output),
            "metadata": metadata,
            "shapes": shapes,
            "dtypes": dtypes,
            "weights": describe(reads),
        })  # fmt: skip
        return
    rows = [[name, dtypes[name], " x ".join(map(str, shape))] for name, shape in shapes.items()]
    print(report.table([["tap", "dtype", "shape"], *rows], indent=""))
    if reads is not None:
        print("\n".join(memory_lines(reads)), file=sys.stderr)
    summary = f"{len(shapes)} taps, {found.nbytes:,} bytes, {metadata['tokens']} tokens"
    print(f"\n{summary}" + (f", written to {output}" if output else ", nothing written (--list)"))
