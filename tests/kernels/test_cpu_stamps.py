"""A step's time by kernel is told by a clock inside it, and looking changes nothing.

Instructions run one by one from Python took 1.7 times a step's time, most of it Python's own, and
fixed_rows, 1 % of a step of the medium model, seemed to be a third of it.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinymoe
from tinymoe.kernels.cpu import batch
from tinymoe.kernels.cpu.kernel import ALWAYS, arguments, kernel
from tinymoe.kernels.cpu.program import Program
from tinymoe.kernels.cpu.stamps import Stamped
from tinymoe.kernels.cpu.team import Team
from tinymoe.kernels.cpu.threads import atomic_read

from .company import logits_in_company

pytestmark = pytest.mark.kernels
CASE = Path(__file__).parents[1] / "vectors" / "parity" / "deepseek_v3"


@kernel("looks")
def linger(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """Look at nothing, so many times."""
    for _ in range(arguments(args, 1)[0]):
        atomic_read(args)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_profiled_step_is_the_same_step(threads: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = tinymoe.load(CASE, backend="numba", numerics="bf16", threads=threads)
    step: Any = model.ops.step
    plain = logits_in_company(model, [16, 1, 1, 5], others=2)
    begin = time.perf_counter()
    with step.profiled() as spent:
        looked_at = logits_in_company(model, [16, 1, 1, 5], others=2)
    total = time.perf_counter() - begin
    assert looked_at == plain
    assert {"embed", "linear", "experts", "attend", "route", "rmsnorm"} <= set(spent)
    assert min(spent.values()) >= 0
    assert sum(spent.values()) <= total
    logits_in_company(model, [23], others=0)
    assert sum(spent.values()) <= total  # over: nobody looks any more


def test_time_is_that_of_the_instruction_that_took_it() -> None:
    program = Program()
    for looks in (0, 1000, 0):
        program.add(linger, looks=looks)
    stamped, header = Stamped(program), np.zeros(batch.WORDS, np.int64)
    header[batch.TOKENS] = 1
    Team(2).run(stamped.program.code, header.ctypes.data)
    assert stamped.ticks.all()  # each was written, and one after the other
    assert (np.diff(stamped.ticks) >= 0).all()
    stamped.ticks[:] = 1000, 1010, 1090, 1100  # who takes how long is not for a test to say
    assert stamped.shares() == [("linger", 0.1), ("linger", 0.8), ("linger", 0.1)]


def test_stamps_add_no_barrier_between_kernels_that_go_token_by_token() -> None:
    # or a profile would be of another program than the one that is run
    @kernel("", by_token=ALWAYS)
    def alone(args: Any, batch: Any, thread: Any, threads: Any) -> None:
        pass

    program = Program()
    for each in (alone, alone, linger):
        program.add(each, **dict.fromkeys(each.fields, 0))
    assert program.barrier_free == [ALWAYS, -1, -1]
    stamped = Stamped(program).program
    assert stamped.barrier_free[1:5:2] == [ALWAYS, ALWAYS]  # behind `alone`
    assert stamped.barrier_free[2] == ALWAYS  # between the two
    assert stamped.barrier_free[4:] == [-1, -1, -1]
