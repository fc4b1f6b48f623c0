"""How long until the first word? `python -m tinymoe.measure.start [REPEATS]`.

Whole processes, from before they are started to the first text that comes from them, with the
shipped model: by NumPy; by compiled kernels that are on disk; and, once, without any on disk, where
`auto` answers with NumPy while they are compiled, and `--backend numba` waits for those of the
model. Python's own compiled modules are there, as after an installation, in every line.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tinymoe.core import TinymoeError
from tinymoe.measure.process import generate_command, start_once
from tinymoe.measure.setup import Settings

REPEATS = 7
PATIENCE = 600.0  # seconds for the kernels that are compiled in the background


def main(arguments: list[str]) -> None:
    """Print a line for each way to start."""
    parser = argparse.ArgumentParser("python -m tinymoe.measure.start", description=__doc__)
    parser.add_argument("repeats", type=int, nargs="?", default=REPEATS, help="of the warm starts")
    repeats = parser.parse_args(arguments).repeats
    if repeats < 1:
        parser.error(f"repeats must be at least 1, got {repeats}")
    print(f"seconds to the first word: median [smallest-largest] of {repeats}")
    with _modules_compiled() as environment:
        for backend, named in (("numpy", "numpy"), ("numba", "numba, kernels on disk")):
            _once(backend, environment)  # compiles what is not compiled yet
            _show(named, [_once(backend, environment) for _ in range(repeats)])
        for backend in ("auto", "numba"):
            with _nothing_kept(environment) as empty:
                _show(f"{backend}, no kernels on disk", [_once(backend, empty)])


def _once(backend: str, environment: Mapping[str, str]) -> float:
    command = generate_command(Settings(backend=backend))
    return start_once(command, environment, time.perf_counter).first_word


@contextmanager
def _modules_compiled() -> Iterator[dict[str, str]]:
    """An environment where Python keeps the modules that it has compiled."""
    with tempfile.TemporaryDirectory() as modules:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": modules}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        yield environment


@contextmanager
def _nothing_kept(environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """An environment with an empty folder for kernels; it waits for whoever fills it."""
    with tempfile.TemporaryDirectory() as folder:
        yield {**environment, "NUMBA_CACHE_DIR": folder, "XDG_CACHE_HOME": folder}
        end = time.monotonic() + PATIENCE
        while not any(Path(folder).glob("kernels-*/all")):
            if time.monotonic() > end:
                raise TinymoeError(f"no end of compiling kernels within {PATIENCE:.0f} s")
            time.sleep(0.1)


def _show(named: str, seconds: list[float]) -> None:
    middle, low, high = median(seconds), min(seconds), max(seconds)
    spread = f" [{low:.2f}-{high:.2f}]" if len(seconds) > 1 else ""
    print(f"  {named:26} {middle:.2f}{spread}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
