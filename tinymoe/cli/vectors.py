"""`python -m tinymoe vectors`: write, list or check the golden vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinymoe.cli import options, report
from tinymoe.core import TinymoeError

if TYPE_CHECKING:
    from tinymoe.oracle.vectors import Vector


def vectors(
    out: Annotated[
        Path | None,
        typer.Argument(metavar="OUT", help="The folder to write or check.", show_default=False),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; hold the folder's files to what is made."),
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="Write nothing; list all.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write golden vectors: inputs and right answers as plain files, for a test in any language.

    Each is a safetensors file and a JSON card: what is given, what is expected and how closely,
    why, and the mutants it kills. `index.json` has their SHA-256. What is expected follows in
    float64 or whole numbers from the definition of each step and format, from no engine.

    --check reads a folder, makes every vector anew, compares, and runs every mutant to prove what
    the cards claim. Exit code 1 if anything differs.

    [bold]Examples[/bold]

    python -m tinymoe vectors --list

    python -m tinymoe vectors golden

    python -m tinymoe vectors golden --check
    """
    wrong: list[str] = []
    with report.outcome(as_json):
        from tinymoe.oracle import vectors as golden

        if out is None and not list_:
            raise TinymoeError("which folder? python -m tinymoe vectors OUT, or --list")
        if list_ and (check or out is not None):
            raise TinymoeError("--list writes and checks nothing: give it alone")
        if out is not None and check and not out.is_dir():
            raise TinymoeError(f"{out}: expected a folder of vectors")
        made = list(golden.all_vectors())
        if out is not None and check:
            wrong = list(golden.problems(out, {vector.name: vector for vector in made}))
        elif out is not None:
            golden.write_vectors(out, made)
        _show(made, out, wrong, check, as_json)
    raise typer.Exit(1 if wrong else 0)


def _show(
    made: list[Vector], out: Path | None, wrong: list[str], check: bool, as_json: bool
) -> None:
    from tinymoe.oracle.vectors import COUNTED, SCHEMA, survivors

    alive = survivors(made)
    killed = len(COUNTED) - len(alive)
    if as_json:
        report.print_json(
            {
                "schema": SCHEMA,
                "vectors": [_row(vector) for vector in made],
                "mutants": len(COUNTED),
                "killed": killed,
                "survivors": list(alive),
                **({"problems": wrong} if check else {}),
            }
        )
        return
    if out is None:
        rows = [["vector", "op", "kills", "what it holds"]]
        rows += [[v.name, v.op, str(len(v.kills)), v.holds] for v in made]
        print(report.table(rows, indent=""))
    for problem in wrong:
        print(problem)
    print(f"{len(made)} vectors; {killed} of {len(COUNTED)} mutants killed")
    if alive:
        print(f"survivors: {', '.join(alive)}")
    if out is not None:
        verdict = f"differs in {len(wrong)} places" if wrong else "is as made, its claims hold"
        print(f"{out} {verdict}" if check else f"written to {out}")


def _row(vector: Vector) -> dict[str, Any]:
    return {
        **{"name": vector.name, "op": vector.op, "holds": vector.holds},
        **{"ties": vector.ties, "derivation": vector.derivation, "kills": list(vector.kills)},
    }
