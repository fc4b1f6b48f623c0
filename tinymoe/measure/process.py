"""Measurements of whole processes: peak memory, and the time to start and say a first word."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from tinymoe.core import TinymoeError
from tinymoe.measure.machine import Clock
from tinymoe.measure.setup import Settings
from tinymoe.measure.statistics import summary

START_PROMPT = "Once upon a time"
START_TOKENS = 16


def peak_memory(settings: Settings) -> dict[str, int | None]:
    """What `tinymoe.measure.child` reports of one run in a fresh process."""
    child = [sys.executable, "-m", "tinymoe.measure.child"]
    done = subprocess.run(
        child, input=json.dumps(asdict(settings)), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise TinymoeError(f"the process that measures memory failed: {_last_line(done.stderr)}")
    report: dict[str, int | None] = json.loads(done.stdout)
    return report


class Start(NamedTuple):
    """Seconds of one process, from before it was started."""

    first_word: float
    total: float


def generate_command(settings: Settings) -> list[str]:
    """The process that is timed: what a user types, of a fixed length."""
    folder = ["--model", settings.model] if settings.model is not None else []
    return [
        sys.executable, "-m", "tinymoe", "generate", START_PROMPT, *folder,
        "--numerics", settings.numerics, "--backend", settings.backend,
        "--max-tokens", str(START_TOKENS), "--temperature", "0", "--ignore-eos",
    ]  # fmt: skip


def start_times(settings: Settings, clock: Clock) -> dict[str, Any]:
    """Start it as found once, then in turns warm and without compiled modules."""
    command = generate_command(settings)
    first = start_once(command, os.environ, clock)
    warm, uncompiled = [], []
    for _ in range(settings.repeats):
        warm.append(start_once(command, os.environ, clock))
        with tempfile.TemporaryDirectory() as empty:
            fresh = {**os.environ, "PYTHONPYCACHEPREFIX": empty}
            uncompiled.append(start_once(command, fresh, clock))
    runs = {"cold": [first], "warm": warm, "uncompiled": uncompiled}
    shown = ["python", *command[1:]]
    return {"command": shown, **{kind: _summaries(of_kind) for kind, of_kind in runs.items()}}


def _summaries(starts: Sequence[Start]) -> dict[str, Any]:
    return {
        "first_word_s": summary([start.first_word for start in starts]),
        "total_s": summary([start.total for start in starts]),
    }


def start_once(command: Sequence[str], environment: Mapping[str, str], clock: Clock) -> Start:
    """Start a process; when something other than white space came from it, and when it ended."""
    first: float | None = None
    with tempfile.TemporaryFile() as errors:  # a file never fills up and blocks, as a pipe may
        begin = clock()
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=dict(environment),
        ) as process:
            assert process.stdout is not None  # as asked for
            while data := os.read(process.stdout.fileno(), 65_536):
                if first is None and data.strip():
                    first = clock() - begin
        total = clock() - begin
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    if process.returncode or first is None:
        name = Path(command[0]).name
        raise TinymoeError(
            f"{' '.join([name, *command[1:]])} ended with exit code {process.returncode} and "
            f"{'no' if first is None else 'some'} text: {_last_line(said)}; "
            "--no-start measures the rest"
        )
    return Start(first, total)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "(it said nothing)"
