"""`python -m tinymoe lint`: what will go wrong with a checkpoint in an engine."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinymoe.cli import options, report

if TYPE_CHECKING:
    from tinymoe.oracle.lint import Finding, Report

FOUND = 1  # exit code: there is an error among the findings
WIDTH = 100


def lint(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="CHECKPOINT",
            help="Folder with config.json and model.safetensors, or an index and its shards.",
            show_default="the shipped model",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE", help="Run this rule alone; repeat for more."),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE", help="Leave this rule out; repeat for more."),
    ] = None,
    rules: Annotated[
        bool, typer.Option("--rules", help="List all rules with their public cases.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """List what will go wrong with a checkpoint in an engine. Reads headers and a few tensors.

    Scale conventions, missing and unused tensors, exclusion lists, the router's bias, special
    tokens: each rule names the public issue where it went wrong. Exit code 1 if there is an error
    among the findings, 0 if not.

    [bold]Examples[/bold]

    python -m tinymoe lint path/to/folder

    python -m tinymoe lint path/to/folder --only scale-convention --json

    python -m tinymoe lint --rules
    """
    with report.outcome(as_json):
        from tinymoe.oracle.lint import lint as run

        if rules:
            _list_rules(only or [], skip or [], as_json)
            return
        from tinymoe.api import shipped_model

        found = run(checkpoint or shipped_model(), only=only or (), skip=skip or ())
        if as_json:
            report.print_json(found.as_dict())
        else:
            print(_page(found))
    if found.counts["error"]:
        raise typer.Exit(FOUND)


def _list_rules(only: list[str], skip: list[str], as_json: bool) -> None:
    from tinymoe.oracle.lint import pick

    chosen = pick(only, skip)
    if as_json:
        facts = ("id", "severity", "cases", "looks_for", "engine")
        rows = [{name: getattr(entry, name) for name in facts} for entry in chosen]
        report.print_json({"rules": rows})
        return
    style = report.Style(sys.stdout)
    for entry in chosen:
        print(style.bold(entry.id) + f"  {entry.severity}  {style.dim(', '.join(entry.cases))}")
        print(_filled(entry.looks_for))
        print(_filled("An engine " + entry.engine + "."))


def _page(found: Report) -> str:
    """The findings for a reader."""
    style, seen, counts = report.Style(sys.stdout), found.looked, found.counts
    rows = [
        ["tensors", f"{seen['tensors']:,} in {seen['files']} file{'s' * (seen['files'] != 1)}"],
        ["family", str(seen["family"])],
        ["quantised", f"{seen['quant_method']}, {seen['quantised_matrices']:,} matrices"],
        [
            "scales read",
            f"{seen['scale_bytes_read']:,} of {seen['scale_bytes']:,} bytes, "
            f"{seen['scale_tensors_read']:,} of {seen['scale_tensors']:,} tensors",
        ],
    ]
    blocks = [style.bold(found.path) + "\n" + report.table([[a, _safe(b)] for a, b in rows])]
    blocks += [_finding(finding, style) for finding in found.findings]
    total = ", ".join(f"{n} {name}{'s' * (n != 1)}" for name, n in counts.items())
    clean = "" if found.findings else "; nothing found"
    return "\n\n".join([*blocks, f"{total} by {len(found.rules)} rules{clean}"])


def _finding(finding: Finding, style: report.Style) -> str:
    cases = style.dim(", ".join(finding.cases))
    lines = [f"{style.bold(finding.severity)}  {style.bold(finding.rule)}  {cases}"]
    lines += [_filled(finding.says + "."), _filled("An engine " + finding.engine + ".")]
    if finding.names:
        more = finding.count - len(finding.names)
        names = [*finding.names, *([f"and {more:,} more"] if more else [])]
        lines += [style.dim("    " + _safe(name)) for name in names]
    return "\n".join(lines)


def _filled(text: str) -> str:
    return textwrap.fill(
        _safe(text), WIDTH, initial_indent="  ", subsequent_indent="  ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _safe(text: str) -> str:
    """A name comes from a stranger's file: nothing in it may move the cursor."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
