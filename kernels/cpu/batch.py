"""What a step's kernels know of the batch: one array of whole numbers, addresses among them."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from tinymoe.core import Array, Batch
from tinymoe.kernels.cpu.kernel import inlined
from tinymoe.kernels.cpu.lazily import operation as _op
from tinymoe.kernels.cpu.lazily import types

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


def _word(builder: Any, batch: Any, number: Any) -> Any:
    size, pointer = ir.IntType(64)(8), ir.IntType(64).as_pointer()
    address = builder.add(batch, builder.mul(number, size))
    return builder.load(builder.inttoptr(address, pointer), align=8)


word = _op(types.int64, (types.int64,) * 2, _word, "A word of the header at address `batch`.")


@inlined
def own(batch, thread):
    """Address of a thread's own memory."""
    return word(batch, OWN) + thread * word(batch, OWN_BYTES)


@inlined
def share(count, thread, threads):
    """(first, last + 1) of a thread's part of `count` things: equal to one, in order."""
    return count * thread // threads, count * (thread + 1) // threads


class Header:
    """The header of one step and, in the same array, the lists that it points to.

    One is made for every step, and a small model's step takes a tenth of a millisecond: asking
    NumPy for an address, 2 us, is done once for all lists.
    """

    def __init__(self, batch: Batch, groups: int, page_size: int, own: Array, threads: int) -> None:
        tokens, runs, rows = len(batch.ids), len(batch.runs), len(batch.logit_rows)
        pages = sum(len(table) for run in batch.runs for table in run.pages)
        size = WORDS + 3 * tokens + rows + groups * (runs + tokens) + pages
        self.words = np.zeros(size, np.int64)
        self.address = int(self.words.ctypes.data)  # what kernels are given as `batch`
        self._end, self._own = WORDS, own
        self.words[TOKENS], self.words[LOGITS], self.words[RUNS] = tokens, rows, runs
        self.words[OWN], self.words[OWN_BYTES] = own.ctypes.data, own.nbytes // threads // 64 * 64
        self._list(IDS, tokens)[:] = batch.ids
        self._list(POSITIONS, tokens)[:] = batch.positions
        self._list(LOGIT_ROWS, rows)[:] = batch.logit_rows
        run_of, slots = self._list(RUN_OF, tokens), self._list(SLOTS, groups * tokens)
        tables = self._list(TABLES, groups * runs)
        for number, run in enumerate(batch.runs):
            first, last = run.rows.start, run.rows.stop
            run_of[first:last] = number
            for group, table in enumerate(run.pages):
                tables[group * runs + number] = self.address + 8 * self._end
                self._take(len(table))[:] = table
                if len(table):
                    to = slice(group * tokens + first, group * tokens + last)
                    slots[to] = _slots(batch.positions[first:last], table, page_size)

    def _list(self, word_of: int, count: int) -> Array:
        """Room for so many numbers, to which a word points."""
        self.words[word_of] = self.address + 8 * self._end
        return self._take(count)

    def _take(self, count: int) -> Array:
        self._end += count
        return self.words[self._end - count : self._end]


def _slots(positions: Array, table: Array, page_size: int) -> Array | int:
    """Where these positions of a sequence are in its pages: page * P + place."""
    if len(positions) == 1:  # plain numbers: NumPy would take longer than all else here
        at = int(positions[0])
        return int(table[at // page_size]) * page_size + at % page_size
    slots: Array = np.asarray(table)[positions // page_size] * page_size + positions % page_size
    return slots
