"""`python -m tinymoe mutants`: the named wrong variants, and which of them a model could have."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tinymoe.cli import options, report


def mutants(
    step: Annotated[
        str | None,
        typer.Argument(
            metavar="STEP", help="One step alone: router, experts, rope, ...", show_default=False
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="DIR",
            help="Say of each mutant of the model whether it applies to this one, or why not.",
            show_default=False,
            rich_help_panel=options.MODEL,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the wrong variants of the definition that `diff` finds, each with its public bug.

    [bold]Examples[/bold]

    python -m tinymoe mutants

    python -m tinymoe mutants router --json

    python -m tinymoe mutants --model DIR
    """
    with report.outcome(as_json):
        from tinymoe.core import TinymoeError
        from tinymoe.oracle.mutants import MUTANTS

        steps = list(dict.fromkeys(found.step for found in MUTANTS))
        if step is not None and step not in steps:
            raise TinymoeError(f"no mutants of {step!r}; the steps: {', '.join(steps)}")
        chosen = [found for found in MUTANTS if step in (None, found.step)]
        rows = [_row(found) for found in chosen]
        if model is not None:
            from tinymoe.api import load
            from tinymoe.oracle.mutants import Setup

            opened = load(model)
            setup = Setup(opened.config, opened.params, opened.ops)
            for row, found in zip(rows, chosen, strict=True):
                of_model = found.kind == "model"
                row["why_not"] = (
                    found.why_not(setup) if of_model else f"it is a mutant of the {found.kind}"
                )
        _print(rows, as_json)


def _row(found: Any) -> dict[str, Any]:
    names = ("name", "step", "kind", "says", "case", "first_tap", "equivalent")
    return {name: getattr(found, name) for name in names}


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        report.print_json({"mutants": rows})
        return
    cells = [["mutant", "public bug", "first wrong tap", "what is wrong"]]
    for row in rows:
        says = row["says"] + (" (the same function)" if row["equivalent"] else "")
        if row.get("why_not"):
            says = f"does not apply: {row['why_not']}"
        cells.append([row["name"], row["case"] or "-", row["first_tap"] or "-", says])
    print(report.table(cells, indent=""))
    cases = len({row["case"] for row in rows if row["case"]})
    print(f"\n{len(rows)} mutants, {cases} public bugs")
