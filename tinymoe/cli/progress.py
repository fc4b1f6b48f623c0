"""A bar on stderr for what may take long, and only once it does."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tinymoe.cli import report

SILENT = 1.0  # seconds that work may take before it is worth a word

Report = Callable[[str, int, int], None]  # what is being done, and how much of how much


@contextmanager
def when_long() -> Iterator[Report]:
    """What a worker reports becomes a bar after a second; one line where nobody is looking.

    The bar goes away when the work is done. It is drawn when something is reported, never by a
    thread of its own.
    """
    begin = time.perf_counter()
    with ExitStack() as stack:
        show: Report | None = None

        def told(what: str, done: int, of: int) -> None:
            nonlocal show
            if show is None and time.perf_counter() - begin > SILENT:
                looking = report.is_terminal(sys.stderr)
                show = stack.enter_context(_bar()) if looking else _line()
            if show is not None:
                show(what, done, of)

        yield told


def _line() -> Report:
    """Each kind of work once."""
    said = set[str]()

    def show(what: str, done: int, of: int) -> None:
        if what not in said and done < of:
            said.add(what)
            print(f"{what} ...", file=sys.stderr, flush=True)

    return show


@contextmanager
def _bar() -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns: tuple[Any, ...] = (
        *(TextColumn("{task.description}"), BarColumn()),
        *(TaskProgressColumn(), TimeElapsedColumn()),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task("", total=1)

        def show(what: str, done: int, of: int) -> None:
            bar.update(task, description=what, completed=done, total=of, refresh=True)

        yield show
