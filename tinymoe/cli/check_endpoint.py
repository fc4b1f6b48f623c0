"""`python -m tinymoe check-endpoint`: whether the engine behind a URL is right."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinymoe.cli import options, report
from tinymoe.core import TinymoeError

if TYPE_CHECKING:
    from tinymoe.endpoint.check import Report


def check_endpoint(
    url: Annotated[str, typer.Argument(metavar="URL", help="As http://127.0.0.1:8000/v1.")],
    prompts: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help='A prompt a line; or JSON lines with "prompt": TEXT or "ids": [1, 2, 3].',
        ),
    ],
    model: options.Model = None,
    numerics: Annotated[
        str,
        typer.Option(metavar="fp32|bf16|checkpoint", help="The arithmetic the engine says it has."),
    ] = "bf16",
    name: Annotated[
        str | None,
        typer.Option(help="The server's name of the model.", show_default="the only one it serves"),
    ] = None,
    dialect: Annotated[
        str | None,
        typer.Option(
            metavar="vllm|openai", help="How to ask for log-probabilities.", show_default="try both"
        ),
    ] = None,
    listed: Annotated[
        int, typer.Option(min=1, max=200, help="Likeliest tokens to ask for at each position.")
    ] = 20,
    key: Annotated[
        str | None,
        typer.Option(
            help="API key. Better in the environment, where no process list shows it: "
            "TINYMOE_API_KEY.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an answer.")] = 60.0,
    retries: Annotated[
        int, typer.Option(min=0, max=20, help="Further tries where the server is busy or away.")
    ] = 3,
    as_json: options.Json = False,
) -> None:
    """Compare a running engine with the reference, prompt by prompt, over its OpenAI API.

    The prompts go out as token ids; the server scores every token of them (teacher forcing). Its
    log-probabilities are judged against two runs here: exact, and emulated in the engine's
    arithmetic. Where it tells its routing (vLLM's routed_experts), experts are compared too.
    The formulas are in tinymoe/oracle/logprobs.py.

    Exit code 0: agrees. 1: does not. 2: could not be asked.

    [bold]Examples[/bold]

    python -m tinymoe check-endpoint http://127.0.0.1:8000/v1 --model MODEL --prompts prompts.txt

    python -m tinymoe check-endpoint http://127.0.0.1:30000/v1 --prompts p.jsonl --json
    """
    with report.outcome(as_json):
        if dialect not in (None, "vllm", "openai"):
            raise TinymoeError(f"--dialect must be vllm or openai, got {dialect!r}")
        found = _run(
            url, prompts, model, numerics,
            {
                "model": name, "dialect": dialect, "key": key or os.environ.get("TINYMOE_API_KEY"),
                "timeout": timeout, "retries": retries, "listed": listed,
            },
        )  # fmt: skip
        if as_json:
            from tinymoe.endpoint.check import as_dict

            report.print_json(as_dict(found))
        else:
            print(_text(found, numerics))
    raise typer.Exit(0 if found.agrees else 1)


def _run(
    url: str, prompts: Path, model: Path | None, numerics: str, settings: dict[str, Any]
) -> Report:
    from rich.console import Console
    from rich.progress import Progress

    from tinymoe.endpoint.check import check, encode, read_prompts, runs, unique_texts
    from tinymoe.endpoint.client import Client

    encoded, opened = encode(model, read_prompts(prompts))
    client = Client(url, ids_of=unique_texts(opened), **settings)  # before anything takes long
    del opened
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=3 * len(encoded))
        ours = []
        for kind in ("exact", numerics):
            bar.update(task, description=f"running at {kind}")
            ours.append(runs(model, kind, encoded, lambda: bar.advance(task)))
        bar.update(task, description="asking the server")
        try:
            return check(client, encoded, ours[0], ours[1], lambda: bar.advance(task))
        finally:
            client.close()


def _text(found: Report, numerics: str) -> str:
    """The verdict for a reader."""
    verdict, worst = found.verdict, found.verdict.worst
    rows = [
        ["", "theirs", f"allowed (from {numerics})"],
        ["KL from exact, mean, at least", f"{verdict.mean:.3g}", f"{verdict.mean_allowed:.3g}"],
        ["KL from exact, worst, at least", f"{worst.bound:.3g}", f"{verdict.worst_allowed:.3g}"],
    ]
    lines = [report.table(rows)]
    lines.append(
        f"  likeliest token: {verdict.top1_same} of {verdict.positions} positions the same, "
        f"{verdict.top1_ties} within rounding of a tie, {verdict.top1_wrong} different"
    )
    if found.routing is not None:
        routing = found.routing
        lines.append(
            f"  experts: {routing.same} choices the same, {routing.ties} within rounding of a "
            f"tie, {routing.wrong} different"
            + (f"; first: {routing.first_wrong}" if routing.first_wrong else "")
        )
    if found.left_out:
        lines.append(f"  {found.left_out} positions left out: token texts that several ids share")
    if found.agrees:
        lines.append(f"agrees with the reference ({found.prompts} prompts, {found.dialect})")
    else:
        lines.append(
            f"DIFFERS from the reference; worst at prompt {worst.prompt}, token {worst.position}"
            + (f". It looks like our numbers {verdict.resembles}" if verdict.resembles else "")
        )
    return "\n".join(lines)
