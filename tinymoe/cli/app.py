"""The root command: the welcome page, `--version`, and the list of commands, read when named."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tinymoe.cli.report import be_safe_with_text, outcome

# A command is a row here and a function of its name in `tinymoe/cli/<name>.py`. The module is
# imported when the command is called (or all are listed), so that no command waits for another's.
COMMANDS = (
    "generate",
    "info",
    "trace",
    "diff",
    "diagnose",
    "mutants",
    "vectors",
    "conform",
    "ptx",
    "ptx-speed",
    "check-endpoint",
    "lint",
    "quantize",
    "bench",
)

CONTEXT = {"help_option_names": ["--help", "-h"]}

WELCOME = """\
tinymoe {version}: a Mixture-of-Experts engine
to read, to run anywhere, and to check others against.

Three commands to try; the model comes with it and runs on this machine's CPU:

  python -m tinymoe generate "Once upon a time" --stats
      a story, how fast it came, and which experts wrote it
  python -m tinymoe info
      what the model is: layers, experts, router, numbers of parameters and bytes
  python -m tinymoe trace "Once upon a time" -o story.safetensors
      every activation of one forward pass, named, to compare another engine with

Read on: README.md, then the pages in tutorials/. The model itself is in tinymoe/model/.
All commands: python -m tinymoe --help
"""


class Commands(TyperGroup):
    """A group whose commands are imported one by one, when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names, in the order of the help page."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module = cmd_name.replace("-", "_")
        function = getattr(import_module(f"tinymoe.cli.{module}"), module)
        single = _typer()
        kind = getattr(import_module(f"tinymoe.cli.{module}"), "COMMAND", None)
        single.command(cmd_name, cls=kind, context_settings=CONTEXT)(function)
        return typer.main.get_command(single)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Name and command of `args`; an unknown one is told which there are."""
        if args[0] not in COMMANDS:
            ctx.fail(f"No such command {args[0]!r}. The commands: {', '.join(COMMANDS)}.")
        return super().resolve_command(ctx, args)


def _typer(**settings: Any) -> typer.Typer:
    return typer.Typer(
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,  # a traceback is for whoever mends tinymoe, and then plain
        **settings,
    )


app = _typer(cls=Commands, invoke_without_command=True, context_settings=CONTEXT)


def _print_version(wanted: bool) -> None:
    if wanted:
        import platform

        import numpy as np

        import tinymoe

        python = platform.python_version()
        print(f"tinymoe {tinymoe.__version__} (NumPy {np.__version__}, Python {python})")
        raise typer.Exit


@app.callback(
    epilog="Every command has its own page: [bold]python -m tinymoe generate --help[/bold]"
)
def root(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Show the version, and NumPy's and Python's.",
        ),
    ] = False,
) -> None:
    """A Mixture-of-Experts engine to read, to run anywhere, and to check others against.

    Exit codes: 0 good, 1 a check failed, 2 the call or an input was wrong.
    [dim]TINYMOE_DEBUG=1 shows where an error came from.[/dim]

    [bold]Examples[/bold]

    python -m tinymoe generate "Once upon a time" --stats

    python -m tinymoe info
    """
    if ctx.invoked_subcommand is None:
        with outcome():
            import tinymoe

            print(WELCOME.format(version=tinymoe.__version__), end="")


def main() -> None:
    """What `python -m tinymoe` runs."""
    be_safe_with_text()
    warnings.showwarning = _show_warning
    app(prog_name="python -m tinymoe")


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)
