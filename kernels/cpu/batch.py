"""What a step's kernels know of the batch: one array of whole numbers, addresses among them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from tinymoe.core import Array, Batch
from tinymoe.kernels.cpu.simd import i64_at

# words of the header
TOKENS = 0  # T
IDS = 1  # address of (T,) int64
POSITIONS = 2  # address of (T,) int64
LOGITS = 3  # R, rows whose logits are wanted
LOGIT_ROWS = 4  # address of (R,) int64
OWN = 5  # address of each thread's own memory, one piece after another
OWN_BYTES = 6  # of a piece, a multiple of 64
RUN_OF = 7  # address of (T,) int64: the run that a token is of
RUNS = 8  # number of runs
TABLES = 9  # address of (groups, runs) int64: address of a run's block table, (pages,) int64
SLOTS = 10  # address of (groups, T) int64: page * P + place, where a token's key and value go
WORDS = 11

ALIGNMENT = 64


def aligned(words: int, dtype: Any = np.float32) -> Array:
    """Zeros that begin at a cache line."""
    size = words * np.dtype(dtype).itemsize
    buffer = np.zeros(size + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + size].view(dtype)


@njit(inline="always")
def word(batch, number):
    """A word of the header at address `batch`."""
    return i64_at(batch + 8 * number)


@njit(inline="always")
def own(batch, thread):
    """Address of a thread's own memory."""
    return word(batch, OWN) + thread * word(batch, OWN_BYTES)


@njit(inline="always")
def share(count, thread, threads):
    """(first, last + 1) of a thread's part of `count` things: equal to one, in order."""
    return count * thread // threads, count * (thread + 1) // threads


class Header:
    """The header of one step, and the arrays that it points to."""

    def __init__(self, batch: Batch, groups: int, page_size: int, own: Array, threads: int) -> None:
        tokens, runs = len(batch.ids), len(batch.runs)
        self.words = np.zeros(WORDS, np.int64)
        run_of = np.empty(tokens, np.int64)
        tables = np.zeros((groups, runs), np.int64)
        slots = np.zeros((groups, tokens), np.int64)
        self.kept: list[Any] = [run_of, tables, slots, own]
        for number, run in enumerate(batch.runs):
            run_of[run.rows] = number
            positions = batch.positions[run.rows]
            for group, pages in enumerate(run.pages):
                table = np.ascontiguousarray(pages, np.int64)
                self.kept.append(table)
                tables[group, number] = table.ctypes.data
                if len(table):
                    places = table[positions // page_size] * page_size
                    slots[group, run.rows] = places + positions % page_size
        ids, positions, rows = (
            np.ascontiguousarray(each, np.int64)
            for each in (batch.ids, batch.positions, batch.logit_rows)
        )
        self.kept += [ids, positions, rows]
        words = self.words
        words[TOKENS], words[LOGITS], words[RUNS] = tokens, len(rows), runs
        words[OWN], words[OWN_BYTES] = own.ctypes.data, own.nbytes // threads // 64 * 64
        for place, array in (
            (IDS, ids),
            (POSITIONS, positions),
            (LOGIT_ROWS, rows),
            (RUN_OF, run_of),
            (TABLES, tables),
            (SLOTS, slots),
        ):
            words[place] = array.ctypes.data

    @property
    def address(self) -> int:
        """What kernels are given as `batch`."""
        return int(self.words.ctypes.data)
