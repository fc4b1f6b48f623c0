"""Attention over contexts of several spans: a token's bits depend on its sequence alone.

vllm#26042: a prompt in chunks lost 28 points of GSM8K; other engines give other text in company.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tinymoe.core import NUMERICS, Array, Run
from tinymoe.kernels.bounds import compare
from tinymoe.kernels.checks import attend_bound
from tinymoe.kernels.cpu.ops import CpuOps
from tinymoe.kernels.cpu.team import Team
from tinymoe.model.attention import first_seen

pytestmark = pytest.mark.kernels
LENGTH, HEADS, KV_HEADS, DIM, VALUE_DIM, PAGE = 600, 6, 2, 20, 36, 16
SIGHTS: dict[str, dict[str, Any]] = {
    "all": {},
    "window": {"window": 70},
    "a short window": {"window": 3},
    "chunk": {"chunk": 290},
    "sinks": {"sinks": np.linspace(-2, 3, HEADS).astype(np.float32)},
}


@cache
def team(threads: int) -> CpuOps:
    return CpuOps(Team(threads))


@cache
def sequence() -> tuple[Array, Array, Array, Array]:
    """q (n, Nq, D), scrambled pages of keys and of values, the block table."""
    rng = np.random.default_rng(1)
    pages = -(-LENGTH // PAGE)
    keys = rng.normal(size=(pages + 3, PAGE, KV_HEADS, DIM)).astype(np.float32)
    values = rng.normal(size=(pages + 3, PAGE, KV_HEADS, VALUE_DIM)).astype(np.float32)
    q = rng.normal(size=(LENGTH, HEADS, DIM)).astype(np.float32)
    return q, keys, values, rng.permutation(pages + 3)[:pages]


def look_back(runs: list[range], threads: int, **sight: Any) -> Array:
    """Runs of positions of the one sequence, in one batch: (T, Nq, Dv) in their order."""
    q, keys, values, table = sequence()
    positions, made = np.concatenate([np.array(run) for run in runs]), []
    for run in runs:
        row = made[-1].rows.stop if made else 0
        made.append(Run(slice(row, row + len(run)), run.start, (table,)))
    special = {"window": None, "chunk": None, "sinks": None, **sight}
    numerics = NUMERICS["fp32"]
    pages = (keys, values)
    return team(threads).look_back(
        q[positions], pages, positions, tuple(made), 0.3, numerics, special
    )


@pytest.mark.parametrize("sight", SIGHTS.values(), ids=SIGHTS)
def test_a_prompt_is_what_each_token_sees(sight: dict[str, Any]) -> None:
    """Against the definition in float64, over ends of spans, windows and chunks."""
    q, keys, values, table = sequence()
    got = look_back([range(LENGTH)], 2, **sight)
    k, v = (
        pages[table].reshape(-1, *pages.shape[2:]).astype(np.float64) for pages in (keys, values)
    )
    for i in (
        0,
        1,
        15,
        16,
        63,
        64,
        69,
        70,
        254,
        255,
        256,
        257,
        289,
        290,
        511,
        512,
        580,
        LENGTH - 1,
    ):
        first = first_seen(i, sight.get("window"), sight.get("chunk"))
        seen = slice(first, i + 1)
        wide = q[i].astype(np.float64)
        sinks = None if "sinks" not in sight else sight["sinks"].astype(np.float64)
        want, bound = attend_bound(wide, k[seen], v[seen], 0.3, NUMERICS["fp32"], sinks)
        compare(f"out[{i}]", got[i], want, bound)


@pytest.mark.parametrize("sight", SIGHTS.values(), ids=SIGHTS)
def test_any_chunks_company_and_threads_give_the_same_bits(sight: dict[str, Any]) -> None:
    whole = look_back([range(LENGTH)], 1, **sight)
    for threads in (2, 4):
        assert look_back([range(LENGTH)], threads, **sight).tobytes() == whole.tobytes()
    rng = np.random.default_rng(2)
    for threads in (1, 2, 3):
        ends = np.sort(rng.choice(np.arange(1, LENGTH), 5, replace=False))
        bounds = [0, *ends.tolist(), LENGTH]
        for start, stop in pairwise(bounds):
            chunk = look_back([range(start, stop)], threads, **sight)
            assert chunk.tobytes() == whole[start:stop].tobytes(), (threads, start, stop)
    singles = [range(i, i + 1) for i in (599, 0, 255, 256, 513, 300)]
    for runs in ([singles[0]], [singles[5]], singles, [range(250, 270), *singles, range(3, 40)]):
        for threads in (1, 2, 4):
            got = look_back(runs, threads, **sight)
            assert got.tobytes() == whole[np.concatenate(runs)].tobytes(), (runs, threads)
