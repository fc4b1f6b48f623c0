"""What a compiled step keeps from one call to the next is right for the next call.

A step's header, plan and tables are used again, for asking anew takes longer than a small model's
layers. Bugs of this kind: a stale length or block table of the batch before (vllm#26042 is one of
state that outlives its batch), a table that is too short for a sequence that has grown.
"""

from __future__ import annotations

import ctypes
import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

import tinymoe
from tinymoe.cache import PagedCache
from tinymoe.core import NUMERICS, Array, Batch, Run
from tinymoe.kernels.cpu import batch as header
from tinymoe.kernels.cpu.batch import Header, aligned
from tinymoe.kernels.cpu.plan_attention import POSITIONS, Turns
from tinymoe.model.rope import rope_tables
from tinymoe.model.transformer import forward

pytestmark = pytest.mark.kernels
CASE = Path(__file__).parents[1] / "vectors" / "parity" / "qwen3_moe"


def batch_of(*lengths: tuple[int, int], page_size: int = 4) -> Batch:
    """Runs of so many tokens from so many positions on, in pages of their own."""
    ids, positions, runs = [], [], []
    for number, (start, count) in enumerate(lengths):
        rows = slice(len(ids), len(ids) + count)
        ids += range(100 * number, 100 * number + count)
        positions += range(start, start + count)
        pages = np.arange(-(-(start + count) // page_size)) * len(lengths) + number
        runs.append(Run(rows, start, (pages, pages[::-1].copy())))
    return Batch(np.array(ids), np.array(positions), tuple(runs), np.arange(len(ids))[-3:])


def numbers(address: int, count: int) -> list[int]:
    """So many int64 in memory."""
    return np.ctypeslib.as_array(  # type: ignore[no-any-return]
        (ctypes.c_int64 * count).from_address(address)
    ).tolist()


def described(made: Header) -> dict[str, object]:
    """All that kernels can learn from a header, lists in place of addresses."""
    words = numbers(made.address, header.WORDS)
    tokens, runs, groups = words[header.TOKENS], words[header.RUNS], 2
    positions = numbers(words[header.POSITIONS], tokens)
    of_run = numbers(words[header.RUN_OF], tokens)
    tables = numbers(words[header.TABLES], groups * runs)
    size = words[header.PAGE_SIZE]
    return {
        "words": [words[each] for each in (header.TOKENS, header.LOGITS, header.RUNS)],
        "own": words[header.OWN : header.OWN_BYTES + 1],
        "ids": numbers(words[header.IDS], tokens),
        "positions": positions,
        "rows": numbers(words[header.LOGIT_ROWS], words[header.LOGITS]),
        "run_of": of_run,
        "tables": [
            numbers(tables[group * runs + run], positions[t] // size + 1)
            for group in range(groups)
            for t, run in enumerate(of_run)
        ],
        "longest": made.longest,
    }


def test_a_header_that_is_filled_again_says_nothing_of_the_batch_before():
    own, page = aligned(64), 4
    batches = [batch_of((5, 1)), batch_of((0, 40), (3, 1), (9, 2)), batch_of((7, 1), (1, 1))]
    used = Header(batches[0], 2, page, own, 2)
    for each in [*batches, *batches]:  # larger and smaller than the one before
        assert used.fill(each) == used.address
        assert described(used) == described(Header(each, 2, page, own, 2))
        seen = described(used)
        assert (seen["ids"], seen["positions"]) == (each.ids.tolist(), each.positions.tolist())
        assert seen["longest"] == each.positions.max() + 1
        want = [run.pages[g].tolist() for g in range(2) for run in each.runs for _ in at(run)]
        lengths = [len(table) for table in seen["tables"]]
        assert seen["tables"] == [table[:n] for table, n in zip(want, lengths, strict=True)]


def at(run: Run) -> range:
    """A run's rows."""
    return range(run.rows.start, run.rows.stop)


def test_angles_are_there_for_every_position_that_a_sequence_reaches():
    config = tinymoe.load(CASE).config
    card = config.attention[0].rope
    turns = Turns(card, NUMERICS["fp32"])
    for positions in (3, POSITIONS, POSITIONS + 1, 5, 3 * POSITIONS):
        turns.reach(positions)
        half = card.rotary_dim // 2
        found = [np.array(floats(int(address), positions * half)) for address in turns.words]
        want = rope_tables(np.arange(positions), card, NUMERICS["fp32"])
        for mine, table in zip(found, want, strict=True):
            assert mine.tobytes() == table.tobytes()


def floats(address: int, count: int) -> Array:
    """So many float32 in memory."""
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))


def test_a_cache_that_nobody_holds_is_freed():
    # a plan knows its cache's pages: if it held the cache, too, every chat would keep its own
    model = tinymoe.load(CASE, backend="numba", threads=1)
    model([1, 2, 3])
    cache = PagedCache.for_model(model.config, model.numerics, 64)
    table = (np.arange(4),) * len(model.config.cache_groups)
    batch = Batch(np.array([1]), np.array([0]), (Run(slice(0, 1), 0, table),), np.array([0]))
    given = (model.params, model.config, batch, cache, model.numerics)
    forward(*given, model.ops)
    watched = weakref.ref(cache)
    del cache, given
    gc.collect()
    assert watched() is None


def test_another_model_or_other_numerics_are_not_taken_for_the_last_ones():
    # `exact` is no work for compiled kernels: it must be the definition's own, whatever came before
    model = tinymoe.load(CASE, backend="numba", threads=1)
    table = (np.arange(4),) * len(model.config.cache_groups)
    batch = Batch(np.array([5]), np.array([0]), (Run(slice(0, 1), 0, table),), np.array([0]))
    step = model.ops.step
    for name in ("fp32", "exact", "bf16", "exact", "fp32"):
        numerics = NUMERICS[name]
        cache = PagedCache.for_model(model.config, numerics, 64)
        given = (model.params, model.config, batch, cache, numerics)
        exact = name == "exact"
        assert (step.greedy(*given) is None) == exact
        if exact:
            assert step(*given).tobytes() == forward(*given).tobytes()
