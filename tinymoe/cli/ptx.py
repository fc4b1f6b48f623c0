"""`python -m tinymoe ptx`: run a compiled kernel on the CPU and see what it does wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinymoe.cli import options, report
from tinymoe.core import TinymoeError

if TYPE_CHECKING:
    from tinymoe.kernels.ptx import Kernel

KERNEL, CHECKS = "Kernel", "Checks and counts"


def ptx(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="CUDA C (.cu; wants NVRTC), or its PTX (.ptx).")
    ],
    kernel: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The entry to run; needless if there is one.",
            rich_help_panel=KERNEL,
        ),
    ] = None,
    grid: Annotated[
        str, typer.Option(metavar="X,Y,Z", help="Blocks.", rich_help_panel=KERNEL)
    ] = "1",
    block: Annotated[
        str, typer.Option(metavar="X,Y,Z", help="Threads of a block.", rich_help_panel=KERNEL)
    ] = "32",
    shared: Annotated[
        int,
        typer.Option(min=0, metavar="BYTES", help="extern __shared__.", rich_help_panel=KERNEL),
    ] = 0,
    arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="f32[64,8]=arange, f32[64]=random, s32[8]=0, s32=64 or FILE.npy; one a parameter.",
            rich_help_panel=KERNEL,
        ),
    ] = None,
    save: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N=FILE.npy",
            help="Keep argument N, counted from 0, as it is afterwards.",
            rich_help_panel=KERNEL,
        ),
    ] = None,
    arch: Annotated[
        str,
        typer.Option(
            metavar="80|90a|100a|120a",
            help="The chip to compile CUDA C for.",
            rich_help_panel=KERNEL,
        ),
    ] = "80",
    define: Annotated[
        list[str] | None,
        typer.Option(
            "--define", "-D", metavar="NAME=VALUE", help="For the compiler.", rich_help_panel=KERNEL
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Races within a warp too: only __syncwarp orders its lanes.",
            rich_help_panel=CHECKS,
        ),
    ] = False,
    coverage: Annotated[
        bool,
        typer.Option(
            "--coverage", help="List the lines that no thread reached.", rich_help_panel=CHECKS
        ),
    ] = False,
    max_steps: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Give up after so many; a spin that nobody ends.",
            rich_help_panel=CHECKS,
        ),
    ] = 1_000_000,
    as_json: options.Json = False,
) -> None:
    """Run a CUDA kernel on the CPU, with checks that a GPU does not make.

    Found: accesses outside a buffer, misaligned ones, races, barriers that not all threads reach,
    shuffles with lanes that take no part, waiting without end. Exit code 1 if there is such a
    finding. Counted: bank conflicts and uncoalesced accesses.

    [bold]Example[/bold]

    python -m tinymoe ptx k.cu --kernel add --arg f32[64]=0 --arg f32[64]=arange
    """
    with report.outcome(as_json):
        from tinymoe.cli import ptx_arguments, ptx_page
        from tinymoe.kernels.ptx import DefectError, launch

        source, entries = _entries(file, arch, tuple(define or ()))
        chosen = _chosen(entries, kernel, file)
        shapes = (ptx_arguments.shape(grid, "--grid"), ptx_arguments.shape(block, "--block"))
        args = [ptx_arguments.value(spec) for spec in arg or []]
        _enough(chosen, args)
        finding, done = None, None
        kwargs: dict[str, Any] = {"shared_bytes": shared, "strict": strict, "counters": True}
        try:
            done = launch(chosen, *shapes, args, max_steps, **kwargs)
        except DefectError as found:
            finding = found
        ptx_arguments.keep(save or [], args)
        page = ptx_page.Page(file, source, coverage)
        if as_json:
            report.print_json(page.as_json(finding, done, args))
        else:
            print(page.text(finding, done, args))
    if finding:
        raise typer.Exit(1)


def _entries(file: Path, arch: str, defines: tuple[str, ...]) -> tuple[str, dict[str, Kernel]]:
    """The file's own text, and its kernels; CUDA C is compiled first."""
    from tinymoe.kernels.ptx import parse

    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError:
        raise TinymoeError(f"{file} is not text: expected CUDA C or PTX") from None
    if file.suffix != ".cu":
        return text, parse(text)
    from tinymoe.kernels.cuda.compile import build

    return text, parse(build(text if "\n" in text else text + "\n", arch, defines).ptx)


def _chosen(entries: dict[str, Kernel], name: str | None, file: Path) -> Kernel:
    """The kernel to run, or an error that lists those there are."""
    if name is None and len(entries) == 1:
        return next(iter(entries.values()))
    if name in entries:
        return entries[name]
    listed = "; ".join(f"{k} ({_signature(v)})" for k, v in entries.items())
    what = "choose one with --kernel" if name is None else f"it has no kernel {name!r}"
    raise TinymoeError(f"{file}: {what}: it has {listed}")


def _signature(kernel: Kernel) -> str:
    """What a kernel takes, as far as PTX says it."""
    sizes = [size for _, size in kernel.params.values()]
    return ", ".join("a pointer or 8 bytes" if n == 8 else f"{n} bytes" for n in sizes)


def _enough(kernel: Kernel, args: list[Any]) -> None:
    if len(args) != len(kernel.params):
        raise TinymoeError(
            f"{kernel.name} takes {len(kernel.params)} arguments ({_signature(kernel)}), one --arg "
            f"each; got {len(args)}"
        )
