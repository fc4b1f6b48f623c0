"""Threads wait for each other wherever one reads what another wrote, and nowhere else.

The bug to fear of a barrier that is left out is a race: it shows once in a thousand steps, on
another machine. So threads are made to dawdle, each at other instructions, for longer than any of
them takes: what still has the bits of one thread alone has its barriers.
"""

from __future__ import annotations

import threading
import time
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinymoe
from tinymoe.core import Array
from tinymoe.kernels.cpu.batch import ALONE
from tinymoe.kernels.cpu.kernel import ALWAYS, NEVER, Kernel, arguments, kernel
from tinymoe.kernels.cpu.program import Code, Program
from tinymoe.kernels.cpu.step import Step
from tinymoe.kernels.cpu.team import Team
from tinymoe.kernels.cpu.threads import atomic_read, lead

pytestmark = pytest.mark.kernels
ROOT = Path(__file__).parents[1] / "vectors" / "parity"
IDS = [int(i) for i in np.random.default_rng(1).integers(0, 64, 23)]
LOOKS = 1 << 13  # at most: some ten microseconds, and an instruction of these models takes one


@kernel("seed")
def dawdle(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """Look at nothing for a while, on one thread of two: which, `seed` decides."""
    (seed,) = arguments(args, 1)
    noise = (seed + thread * 40503) * 2654435761 >> 7
    if noise & 1:
        for _ in range(noise % LOOKS):
            atomic_read(args)


def dawdling(code: Code, draw: np.random.Generator) -> tuple[Code, Array]:
    """The same instructions, dawdling before each; and what must be kept alive meanwhile."""
    seeds = draw.integers(0, 1 << 30, code.length)
    lines = np.zeros((code.length, 2, 3), np.int64)
    lines[:, 0, 0], lines[:, 0, 2] = dawdle.address, ALWAYS
    lines[:, 0, 1] = seeds.ctypes.data + 8 * np.arange(code.length)
    lines[:, 1] = code.words
    return Code.of(lines.reshape(-1, 3)), seeds


@cache
def model(case: str, numerics: str, threads: int) -> tinymoe.Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tinymoe.load(ROOT / case, backend="numba", numerics=numerics, threads=threads)


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize(
    ("case", "numerics"),
    [
        ("qwen3_moe", "fp32"),
        ("gpt_oss-mxfp4", "bf16"),  # inputs of products in fixed point
        ("deepseek_v3", "fp32"),  # latent attention, groups, a shared expert
        ("olmoe", "fp32"),  # clipped, and normed over all heads
    ],
)
def test_threads_that_dawdle_change_no_bit(case, numerics, threads, monkeypatch):
    alone = model(case, numerics, 1)
    lengths = (1, 2, ALONE, ALONE + 1, len(IDS))
    want = [alone(IDS[:length]).tobytes() for length in lengths]
    draw, program_of = np.random.default_rng(threads), Program.code.fget
    ran = []

    def run(step: Step, program: Program, batch: int) -> None:
        code, kept = dawdling(program_of(program), draw)
        step.team.run(code, batch)
        ran.append(len(kept))

    monkeypatch.setattr(Step, "_run", run)
    together = model(case, numerics, threads)
    for _ in range(3):
        for length, bits in zip(lengths, want, strict=True):
            assert together(IDS[:length]).tobytes() == bits, f"{length} tokens"
    assert ran


def test_a_step_that_comes_as_helpers_fall_asleep_is_not_missed(monkeypatch):
    # the caller sees nobody asleep and begins; who then goes to sleep is waited for for ever.
    # That moment is short: here it lasts longer than helpers look for work
    program, header = Program(), np.ones(16, np.int64)
    program.add(dawdle, seed=1)
    team, late = Team(3), 0

    def lead_late(*numbers: int) -> None:
        nonlocal late
        late += 1
        time.sleep(0.02)
        lead(*numbers)

    def steps() -> None:
        for pause in (0, 0, 0.02, 0, 0.02):  # with helpers awake, and asleep
            time.sleep(pause)
            team.run(program.code, int(header.ctypes.data))

    monkeypatch.setattr("tinymoe.kernels.cpu.team.lead", lead_late)
    caller = threading.Thread(target=steps, daemon=True)
    caller.start()
    caller.join(60)
    assert not caller.is_alive(), "a helper sleeps"
    assert late == 5


def made(by_token: int) -> Kernel:
    """A kernel that is never compiled."""
    return Kernel(lambda: dawdle.function, "made", __name__, (), 4, by_token)


def test_barriers_are_left_out_between_kernels_that_go_token_by_token():
    program = Program()
    for by_token in (ALWAYS, ALWAYS, ALONE, ALWAYS, NEVER, ALWAYS):
        program.add(made(by_token))
    # after the last all wait: a step that is over must be over for every thread
    assert program.barrier_free == [ALWAYS, ALONE, ALONE, NEVER, NEVER, NEVER]
    assert program.by_token
    assert not program.without_last().by_token
    assert not Program().by_token
