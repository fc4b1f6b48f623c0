"""How a command ends: exit codes, one-line errors, closed pipes, Ctrl-C. How it styles text."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from tinymoe.core import TinymoeError

if TYPE_CHECKING:
    from tinymoe.model.on_demand import Reads

WRONG = 2  # exit code: the call or an input was wrong
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


@contextmanager
def outcome(as_json: bool = False) -> Iterator[None]:
    """Turn what a command raises into what its user should see, and an exit code.

    TinymoeError, OSError, MemoryError: one line on stderr, with `as_json` an object on stdout
    too, exit code 2. Any other exception is a defect of ours and keeps its traceback.
    """
    try:
        yield
        sys.stdout.flush()  # here, so that a pipe that has closed is noticed inside
    except BrokenPipeError:
        _forget_stdout()
        raise typer.Exit(0) from None  # `| head` has seen enough, which is no failure
    except KeyboardInterrupt:
        print(file=sys.stderr)  # the shell's prompt goes on a line of its own
        raise typer.Exit(INTERRUPTED) from None
    except (TinymoeError, OSError, MemoryError) as error:
        fail(describe(error), as_json)


def fail(message: str, as_json: bool) -> None:
    """Report an error that is being handled, and leave."""
    if os.environ.get("TINYMOE_DEBUG"):
        import traceback

        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    if as_json:
        with suppress(BrokenPipeError):
            print_json({"error": message})
    raise typer.Exit(WRONG)


def describe(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, TinymoeError):
        return " ".join(str(error).split("\n"))
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return f"{error.filename}: {reason}" if error.filename else reason
    return f"not enough memory: {error}" if str(error) else "not enough memory"


def say_if_on_demand(reads: Reads | None) -> None:
    """Who waits for a disk shall know it."""
    if reads is not None:
        print(
            f"weights are read when they are used: all would take {reads.whole / 1e9:.2f} GB, "
            f"{reads.budget / 1e9:.2f} GB are for them",
            file=sys.stderr,
        )


def print_json(value: Any) -> None:
    """One object on stdout, strict JSON: no NaN, no infinity."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False), flush=True)


def be_safe_with_text() -> None:
    """A letter that a terminal's encoding lacks shows as ?, and stops nothing.

    Nor does a stream that is not there, of a program that was started without (`>&-`).
    """
    nothing = Path(os.devnull)
    sys.stdout = sys.stdout or nothing.open("w")
    sys.stderr = sys.stderr or nothing.open("w")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _forget_stdout() -> None:
    """Point stdout at nothing, or Python complains once more when it flushes at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_terminal(stream: TextIO | None) -> bool:
    """Whether someone is looking (or typing)."""
    return stream is not None and not stream.closed and stream.isatty()


class Style:
    """Dim and bold, where a terminal shows them and its user wants them (no-color.org)."""

    def __init__(self, stream: TextIO) -> None:
        self.on = (
            is_terminal(stream)
            and not os.environ.get("NO_COLOR")
            and os.environ.get("TERM") != "dumb"
        )

    def dim(self, text: str) -> str:
        """Less important."""
        return f"\x1b[2m{text}\x1b[0m" if self.on else text

    def bold(self, text: str) -> str:
        """A title."""
        return f"\x1b[1m{text}\x1b[0m" if self.on else text


def table(rows: list[list[str]], indent: str = "  ") -> str:
    """Rows of cells as aligned columns; the last column is as long as it wants to be."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        indent + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
