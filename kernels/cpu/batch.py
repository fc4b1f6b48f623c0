"""What a step's kernels know of the batch: one array of whole numbers, addresses among them."""

from __future__ import annotations

from itertools import accumulate
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
PAGE_SIZE = 10  # P, positions of a page
WORDS = 11

ALIGNMENT = 64
ALONE = 4  # tokens up to which one thread does what goes token by token: waiting costs more


def aligned(words: int, dtype: Any = np.float32, boundary: int = ALIGNMENT) -> Array:
    """Zeros that begin at a cache line, or at a multiple of `boundary` bytes.

    Their memory is a multiple of `boundary`, too: what a last piece of it has besides is nobody's.
    """
    size = words * np.dtype(dtype).itemsize
    buffer = np.zeros(-(-size // boundary) * boundary + boundary, np.uint8)
    start = -buffer.ctypes.data % boundary
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


@inlined
def share_tokens(batch, thread, threads):
    """(first, last + 1) of a thread's tokens: equal to one, in order; of few, the first has all."""
    tokens = word(batch, TOKENS)
    if tokens <= ALONE:
        return 0, tokens if thread == 0 else 0
    return share(tokens, thread, threads)


class Header:
    """The header of a step and, in the same array, the lists that it points to.

    It is filled for every step, and a small model's step takes a tenth of a millisecond. So each
    list has a place of its own, with room to grow: where it lies is written once, and a step writes
    what is in it, in one NumPy statement each.
    """

    def __init__(self, batch: Batch, groups: int, page_size: int, own: Array, threads: int) -> None:
        """`groups` of layers with pages of their own; own: the threads' memory, in equal pieces."""
        self._groups, self._page_size, self._own = groups, page_size, own
        self._own_words = int(own.ctypes.data), own.nbytes // threads // 64 * 64
        self._room = [-1, -1, -1]  # none yet, not even for nothing
        self._make_room(0, 0, 0)
        self.longest = 0  # the batch's last position, plus 1
        self.fill(batch)

    def fill(self, batch: Batch) -> int:
        """Describe this batch from now on; the address, which may be another than before."""
        tokens, rows, runs = len(batch.ids), len(batch.logit_rows), len(batch.runs)
        self._make_room(
            max(tokens, rows), runs, sum([len(each) for run in batch.runs for each in run.pages])
        )
        words, (ids, positions, logit_rows, run_of, tables, pages) = self._words, self._places
        words[TOKENS], words[LOGITS], words[RUNS] = tokens, rows, runs
        words[ids : ids + tokens] = batch.ids
        words[positions : positions + tokens] = batch.positions
        words[logit_rows : logit_rows + rows] = batch.logit_rows
        for number, run in enumerate(batch.runs):
            words[run_of + run.rows.start : run_of + run.rows.stop] = number
        for group in range(self._groups):
            for run in batch.runs:
                words[tables] = self.address + 8 * pages
                end = pages + len(run.pages[group])
                words[pages:end] = run.pages[group]
                tables, pages = tables + 1, end
        self.longest = max(batch.positions.tolist(), default=-1) + 1
        return self.address

    def _make_room(self, tokens: int, runs: int, pages: int) -> None:
        """For so many of each, all pages together; where there is none, for twice as many."""
        room = self._room
        if tokens <= room[0] and runs <= room[1] and pages <= room[2]:
            return
        self._room = [2 * max(pair) for pair in zip(room, (tokens, runs, pages), strict=True)]
        tokens, runs, pages = self._room
        sizes = [WORDS, tokens, tokens, tokens, tokens, self._groups * runs, pages]
        starts = list(accumulate(sizes))
        self._words, self._places = aligned(starts[-1], np.int64), starts[:-1]
        self.address = int(self._words.ctypes.data)  # what kernels are given as `batch`
        listed = IDS, POSITIONS, LOGIT_ROWS, RUN_OF, TABLES
        for number, start in zip(listed, starts, strict=False):
            self._words[number] = self.address + 8 * start
        self._words[PAGE_SIZE] = self._page_size
        self._words[[OWN, OWN_BYTES]] = self._own_words
