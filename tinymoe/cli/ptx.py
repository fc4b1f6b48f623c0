"""`python -m tinymoe ptx`: run a compiled kernel on the CPU and see what it does wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinymoe.cli import options, report
from tinymoe.core import TinymoeError

if TYPE_CHECKING:
    from tinymoe.kernels.ptx import Report

DTYPES = {"f32": "f4", "f64": "f8", "s32": "i4", "u32": "u4", "s64": "i8", "u64": "u8"}
HEAD = 8  # values shown of each array


def ptx(
    file: Annotated[Path, typer.Argument(metavar="FILE.ptx", help="What NVRTC or nvcc wrote.")],
    kernel: Annotated[str, typer.Option(metavar="NAME", help="The entry to run.")],
    grid: Annotated[int, typer.Option(min=1, help="Blocks.")] = 1,
    block: Annotated[int, typer.Option(min=1, max=1024, help="Threads of a block.")] = 32,
    arg: Annotated[
        list[str] | None,
        typer.Option(metavar="SPEC", help="f32[64]=arange, s32[8]=0 or s32=64; one per parameter."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Run a CUDA kernel's PTX on the CPU, with checks that a GPU does not make.

    Found: accesses outside a buffer, misaligned ones, races between warps, barriers that not all
    threads reach. Exit code 1 if there is such a finding.

    [bold]Example[/bold]

    python -m tinymoe ptx k.ptx --kernel add --arg f32[64]=0 --arg f32[64]=arange
    """
    with report.outcome(as_json):
        from tinymoe.kernels.ptx import DefectError, launch, parse

        kernels = parse(file.read_text("utf-8"))
        if kernel not in kernels:
            raise TinymoeError(f"{file} has no kernel {kernel!r}; it has {', '.join(kernels)}")
        args, finding, done = [_argument(a) for a in arg or []], None, None
        try:
            done = launch(kernels[kernel], grid, block, args)
        except DefectError as found:
            finding = str(found)
        _show(done, finding, args, as_json)
    if finding:
        raise typer.Exit(1)


def _show(done: Report | None, finding: str | None, args: list[Any], as_json: bool) -> None:
    heads = [a.ravel()[:HEAD].tolist() for a in args]
    counts = ("executed", "instructions", "thread_instructions")
    ran = {name: getattr(done, name) for name in counts} if done else None
    if as_json:
        print(json.dumps({"finding": finding, "ran": ran, "arguments": heads}))
        return
    if done is None:
        print(f"found: {finding}")
        return
    print(f"clean: {done.executed} of {done.instructions} instructions reached, ", end="")
    print(f"{done.thread_instructions} run by all threads together")
    for number, head in enumerate(heads):
        print(f"argument {number}: {head}")


def _argument(spec: str) -> Any:
    import re

    import numpy as np

    found = re.fullmatch(r"(\w+?)(?:\[(\d+)\])?=(arange|-?[\d.]+(?:e-?\d+)?)", spec)
    if not found or found[1] not in DTYPES or (found[3] == "arange" and not found[2]):
        raise TinymoeError(
            f"--arg {spec!r}: expected TYPE[N]=arange, TYPE[N]=VALUE or TYPE=VALUE, "
            f"TYPE one of {', '.join(DTYPES)}"
        )
    dtype = np.dtype(DTYPES[found[1]])
    try:
        value = 0 if found[3] == "arange" else (float if dtype.kind == "f" else int)(found[3])
        if found[2] is None:
            return np.array(value, dtype)[()]
        size = int(found[2])
        return np.arange(size, dtype=dtype) if found[3] == "arange" else np.full(size, value, dtype)
    except (ValueError, OverflowError) as error:
        raise TinymoeError(f"--arg {spec!r}: {error}") from error
