"""`python -m tinymoe conform`: somebody else's kernel under our tests, or ours on a device."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from tinymoe.cli import conform_device, options, report
from tinymoe.core import TinymoeError

if TYPE_CHECKING:
    from tinymoe.oracle.conform.run import Result

LONGEST = 300  # letters of an explanation on the terminal
CASES = 200  # for each check of a function
DEVICE = "Our own kernels"


class COMMAND(TyperCommand):
    """`--device` alone means `--device cuda`, which an option of typer cannot say."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """With the value that was left out put in."""
        full = []
        for arg, after in zip_longest(args, args[1:], fillvalue="-"):
            full += [arg, "cuda"] if arg == "--device" and after.startswith("-") else [arg]
        return super().parse_args(ctx, full)


def conform(
    op: Annotated[
        str | None,
        typer.Argument(metavar="OP", help="Which op it is; without it, all are listed."),
    ] = None,
    function: Annotated[
        str | None,
        typer.Argument(metavar="MODULE:FUNCTION", help="As mykernels.router:route."),
    ] = None,
    arrays: Annotated[
        str, typer.Option(metavar="numpy|torch|cupy", help="What the function takes.")
    ] = "numpy",
    cases: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Inputs to try for each check.",
            show_default="200; of our own kernels 20",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed tries other inputs.")] = 0,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Only such cases, as convention=ct; may repeat."),
    ] = None,
    vectors: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Golden vectors as `tinymoe vectors DIR` writes them.",
            show_default="made anew",
        ),
    ] = None,
    strict_bits: Annotated[
        bool,
        typer.Option("--strict-bits", help="Fail where a token's last bits depend on its company."),
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="[cuda|ptx|ptx:ARCH]",
            help="Run our own CUDA kernels on this device instead: a GPU; or the PTX machine, as "
            "sm_80 or another chip (ptx:120a).",
            show_default="cuda, if --device has no value",
            rich_help_panel=DEVICE,
        ),
    ] = None,
    ops: Annotated[
        str | None,
        typer.Option(
            metavar="OP,OP",
            help="Of these alone. Beyond the op table: latent_attention, gumbel_draw, decode_layer "
            "(launched, and as a CUDA graph).",
            show_default="all that have kernels",
            rich_help_panel=DEVICE,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="The report as JSON, replaced whenever a kernel is done.",
            show_default="conform-cuda.json for a GPU, else none",
            rich_help_panel=DEVICE,
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="Seconds that one input may take before its process is stopped.",
            show_default="300",
            rich_help_panel=DEVICE,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Run a function of yours under the tests that every kernel here must pass.

    It is called by keyword with the arguments that OP's row lists (run `conform` alone to see
    them), and may answer in NumPy, torch, CuPy or anything that speaks DLPack. `route` may give
    (ids, weights), or all that the definition gives.

    The checks: the definition's answer on drawn inputs, hard ones among them, to zero or a derived
    bound; the golden vectors of the op; the same answer in other company; every input read. What
    fails is shown as small as it can be made, with the known bug that gives the same wrong
    numbers, if there is one.

    With [bold]--device[/bold]: all our own CUDA kernels on a GPU (or without one on the PTX
    machine), against the definition, timed, and the GPU's bits against the PTX machine's. A kernel
    that takes its process down costs no other one its result. All ops with --cases 3 on the PTX
    machine: about a minute on two cores.

    Exit code 0: conforms. 1: does not. 2: could not be run.

    [bold]Examples[/bold]

    python -m tinymoe conform

    python -m tinymoe conform route mykernels.router:route

    python -m tinymoe conform expert_ffn mykernels:ffn --arrays torch --cases 1000 --json

    python -m tinymoe conform quantize_nvfp4 mykernels:quantise --where convention=kernel

    python -m tinymoe conform --device cuda --out report.json

    python -m tinymoe conform --device ptx --ops route,permute --cases 3
    """
    if device is not None:
        with report.outcome(as_json):
            given: dict[str, Any] = {"MODULE:FUNCTION": function, "--where": where}
            given |= {"--vectors": vectors, "--strict-bits": strict_bits}
            given["--arrays"] = arrays != "numpy"
            asked = conform_device.Asked.of(device, op, ops, out, given)
            conforms = conform_device.run(asked, cases, seed, timeout, as_json)
        raise typer.Exit(0 if conforms else 1)
    failed = False
    with report.outcome(as_json):
        if ops is not None or out is not None or timeout is not None:
            raise TinymoeError("--ops, --out and --timeout belong to --device cuda or --device ptx")
        from tinymoe.kernels.contracts import CONTRACTS, contract

        if op is None:
            _list(CONTRACTS, as_json)
            return
        row = contract(op)
        if function is None:
            raise TinymoeError(f"which function? python -m tinymoe conform {op} MODULE:FUNCTION")
        from tinymoe.oracle.conform.foreign import KINDS, Foreign, resolve
        from tinymoe.oracle.conform.run import conform as run

        kind = next((known for known in KINDS if known == arrays), None)
        if kind is None:
            raise TinymoeError(f"--arrays must be one of {', '.join(KINDS)}, got {arrays!r}")
        from tinymoe.oracle.vectors import made, read_vectors

        golden = made(models=False) if vectors is None else read_vectors(vectors)
        foreign = Foreign(resolve(function), row, kind)
        chosen = dict(_pair(text) for text in where or ())
        results = run(row, foreign, cases=cases or CASES, seed=seed, vectors=golden, where=chosen)
        bad = {"FAIL", "bits"} if strict_bits else {"FAIL"}
        failed = any(result.verdict in bad for result in results)
        _show(op, function, results, failed, as_json)
    raise typer.Exit(1 if failed else 0)


def _pair(text: str) -> tuple[str, str]:
    """NAME=VALUE as name and value."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise TinymoeError(f"--where: expected NAME=VALUE, as convention=ct; got {text!r}")
    return name, value


def _list(contracts: Any, as_json: bool) -> None:
    from tinymoe.kernels.cuda.table import KERNELS

    if as_json:
        rows = {
            name: {
                "signature": row.signature,
                "exactness": row.exactness,
                "promise": row.promise,
                "implementations": list(row.implementations),
                "kernels": {rung: made.files for rung, made in KERNELS.get(name, {}).items()},
            }
            for name, row in contracts.items()
        }
        report.print_json({"ops": rows})
        return
    for name, row in contracts.items():
        print(f"{name}\n    {row.signature}\n    {row.exactness}: {row.promise}")
        kernels = f" ({', '.join(KERNELS[name])})" if name in KERNELS else ""
        print(f"    here: {', '.join(row.implementations)}{kernels}")


def _show(op: str, function: str, results: list[Result], failed: bool, as_json: bool) -> None:
    from tinymoe.oracle.mutants import mutant

    if as_json:
        checks = [
            {
                "check": result.name,
                "verdict": result.verdict,
                "cases": result.cases,
                "says": result.says,
                "example": None if result.example is None else describe(result.example),
                "looks_like": list(result.resembles),
            }
            for result in results
        ]
        report.print_json(
            {"op": op, "function": function, "conforms": not failed, "checks": checks}
        )
        return
    rows = [["check", "cases", "verdict"]]
    rows += [[result.name, str(result.cases), result.verdict] for result in results]
    print(report.table(rows, indent=""))
    for result in results:
        if not result.says:
            continue
        says = result.says if len(result.says) <= LONGEST else result.says[:LONGEST] + "..."
        print(f"\n{result.name}: {says}")
        for name, text in (describe(result.example) if result.example else {}).items():
            print(f"    {name} = {text}")
        for name in result.resembles[:3]:
            found = mutant(name)
            print(f"  looks like {name}: {found.says}" + (f" ({found.case})" if found.case else ""))
    print(f"\n{function} " + ("does NOT conform to " if failed else "conforms to ") + op)


def describe(case: Any) -> dict[str, str]:
    """The arguments of a case in a line each, arrays whole where they are short."""
    import numpy as np

    def text(value: Any) -> str:
        if isinstance(value, np.ndarray):
            if value.size <= 16:
                numbers = np.array2string(value, separator=", ", max_line_width=10**6)
                return f"{value.dtype} {value.shape} " + numbers.replace("\n", "")
            return f"{value.dtype} {value.shape} from {value.min():.6g} to {value.max():.6g}"
        if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
            return "[" + ", ".join(text(item) for item in value) + "]"
        return getattr(value, "name", None) or repr(value)

    return {name: text(value) for name, value in case.items()}
