"""llama.cpp as a peer: its own benchmark programs, a fresh process for every round.

`llama-batched-bench` measures all lines. `llama-bench` decodes one sequence at a time, so lines
with a batch are left out unless the other program lies beside it. Both feed random tokens, warm up
and compute logits, of a prompt the last token's; neither samples.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinymoe.core import ModelConfig, TinymoeError
from tinymoe.measure.gguf_shape import check_shape
from tinymoe.measure.peers import TIMEOUT
from tinymoe.measure.statistics import percentile
from tinymoe.measure.steps import Line

ONE, BATCHED = "llama-bench", "llama-batched-bench"
RUNS = 3  # inside one process, of which the first is dropped: it is often half as fast
PART = 256  # positions: a sequence's share of llama.cpp's cache is a multiple of it


class LlamaCpp:
    """One GGUF file on llama.cpp."""

    warms = False  # a process of its own in every round, which drops its first run

    def __init__(
        self,
        program: str,
        model: Path,
        config: ModelConfig,
        threads: int,
        timeout: float = TIMEOUT,
    ) -> None:
        """`program`: either benchmark, or the folder they are in."""
        self.one, self.batched = find_programs(program)
        self.form = check_shape(model, config)
        self.model, self.threads, self.timeout = model, threads, timeout
        self.name = f"llama.cpp {self.form}"
        asked = BATCHED if self.batched else ONE
        self.versions = {asked: self._version()}
        self.counts = (
            f"{asked}: prompt or decoded tokens over the seconds of llama_decode, logits included "
            "(of a prompt, the last token's), nothing sampled; random tokens; products take "
            "activations rounded to 8 bits where weights are 4-bit. A round is a process that runs "
            f"the line {RUNS} times and drops the first"
        )

    def rates(self, lines: Sequence[Line]) -> list[float | None]:
        """Tokens a second of each line, once."""
        if self.batched:
            return [self._by_batched(line) for line in lines]
        return [self._by_one(line) if line.batch == 1 else None for line in lines]

    def close(self) -> None:
        """Nothing runs between two rounds."""

    def _by_batched(self, line: Line) -> float:
        """One process; the answer is a JSON line among others."""
        steps = max(1, line.steps)  # a prefill decodes one token, not counted
        room = line.batch * (-(-(line.context + steps) // PART) * PART)
        said = self._run(
            [
                str(self.batched), "-m", str(self.model), "-c", str(room),
                "-t", str(self.threads), "-tb", str(self.threads),
                "-npp", str(line.context), "-ntg", str(steps),
                "-npl", ",".join([str(line.batch)] * RUNS),
                "--output-format", "jsonl",
            ]
        )  # fmt: skip
        speed = "speed_pp" if line.kind == "prefill" else "speed_tg"
        return settled([float(found[speed]) for found in batched_answer(said.stdout)])

    def _by_one(self, line: Line) -> float:
        work = ["-p", str(line.context), "-n", "0"]
        if line.kind == "decode":
            work = ["-p", "0", "-n", str(line.steps), "-d", str(line.context)]
        command = [str(self.one), "-m", str(self.model), "-t", str(self.threads), *work]
        found = one_answer(self._run([*command, "-r", str(RUNS), "-o", "json"]).stdout)
        return settled(found["samples_ts"])

    def _version(self) -> str:
        """As it says itself; it says so on stderr."""
        said = self._run([str(self.batched or self.one), "--version"]).stderr
        found = re.search(r"version: (.+)", said)
        return found[1] if found else "unknown"

    def _run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """What it said; its faults as ours."""
        name = Path(command[0]).name
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=self.timeout, check=False
            )
        except subprocess.TimeoutExpired:
            raise TinymoeError(
                f"{name} was not done after {self.timeout:g} s: take a smaller shape, fewer "
                "--tokens, or a longer --timeout"
            ) from None
        except OSError as error:
            raise TinymoeError(f"{command[0]} does not start: {error.strerror}") from None
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "(it said nothing)").splitlines()
            raise TinymoeError(
                f"{' '.join([name, *command[1:]])} ended with exit code {done.returncode}: "
                f"{last[-1]}"
            )
        return done


def find_programs(program: str) -> tuple[Path | None, Path | None]:
    """(llama-bench, llama-batched-bench) that `program` names, or that lie in that folder."""
    found = shutil.which(program)
    path = Path(found or program)
    if path.is_dir():
        places = (path / ONE, path / BATCHED)
    elif found and BATCHED in path.name:
        places = (path.with_name(ONE), path)
    elif found and ONE in path.name:
        places = (path, path.with_name(BATCHED))
    else:
        raise TinymoeError(
            f"--peer llama.cpp={program}: expected the program {ONE} or {BATCHED} (or the folder "
            "they are in), there is none; build them: cmake --build . --target "
            f"{ONE} {BATCHED}"
        )
    one, batched = (place if place.is_file() else None for place in places)
    if one is None and batched is None:
        raise TinymoeError(f"--peer llama.cpp={program}: no {ONE} and no {BATCHED} in this folder")
    return one, batched


def settled(rates: Sequence[float]) -> float:
    """The median of all runs of a process but the first.

    >>> settled([900.0, 1800.0, 1810.0])
    1805.0
    """
    return percentile(rates[1:] or rates, 50)


def batched_answer(said: str) -> list[dict[str, Any]]:
    """The runs in the output of `llama-batched-bench --output-format jsonl`, in order."""
    lines = [json.loads(text) for text in said.splitlines() if text.startswith("{")]
    runs = [line for line in lines if {"speed_pp", "speed_tg"} <= set(line)]
    if not runs:
        raise TinymoeError(
            f"{BATCHED} gave no line of JSON with speed_pp and speed_tg: expected the output of "
            f"--output-format jsonl, got {said[-200:]!r}"
        )
    return runs


def one_answer(said: str) -> dict[str, Any]:
    """The one test in the output of `llama-bench -o json`."""
    try:
        (found,) = json.loads(said)
        if not all(isinstance(rate, float | int) for rate in found["samples_ts"]):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise TinymoeError(
            f"{ONE} gave no list of one test with samples_ts: expected the output of -o json, got "
            f"{said[-200:]!r}"
        ) from None
    test: dict[str, Any] = found
    return test
