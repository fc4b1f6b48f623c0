"""What a step's kernels know of the batch: one array of whole numbers, addresses among them."""

from __future__ import annotations

from array import array
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


@inlined
def share_tokens(batch, thread, threads):
    """(first, last + 1) of a thread's tokens: equal to one, in order; of few, the first has all."""
    tokens = word(batch, TOKENS)
    if tokens <= ALONE:
        return 0, tokens if thread == 0 else 0
    return share(tokens, thread, threads)


class Header:
    """The header of a step and, in the same array, the lists that it points to.

    It is filled for every step, and a small model's step takes a tenth of a millisecond: asking
    NumPy for a dozen small arrays would be a third of that. So it is put together as a plain list.
    """

    def __init__(self, batch: Batch, groups: int, page_size: int, own: Array, threads: int) -> None:
        """`groups` of layers with pages of their own; own: the threads' memory, in equal pieces."""
        self._groups, self._page_size, self._own = groups, page_size, own
        self._own_words = int(own.ctypes.data), own.nbytes // threads // 64 * 64
        self._words = array("q")
        self.address = 0  # what kernels are given as `batch`
        self.longest = 0  # the batch's last position, plus 1
        self.fill(batch)

    def fill(self, batch: Batch) -> int:
        """Describe this batch from now on; the address, which may be another than before."""
        ids, positions, rows = (
            each.tolist() for each in (batch.ids, batch.positions, batch.logit_rows)
        )
        run_of: list[int] = []
        for number, run in enumerate(batch.runs):
            run_of += [number] * (run.rows.stop - run.rows.start)
        tables, pages = self._tables(batch)
        lists = (ids, positions, rows, run_of, tables, pages)
        self._make_room(WORDS + sum(map(len, lists)))
        starts = [self.address + 8 * WORDS]
        for each in lists:
            starts.append(starts[-1] + 8 * len(each))
        tables[:] = [starts[5] + 8 * first for first in tables]
        words = [len(ids), starts[0], starts[1], len(rows), starts[2], *self._own_words,
                 starts[3], len(batch.runs), starts[4], self._page_size]  # fmt: skip
        for each in lists:
            words += each
        self._words[: len(words)] = array("q", words)
        self.longest = max(positions, default=-1) + 1
        return self.address

    def _tables(self, batch: Batch) -> tuple[list[int], list[int]]:
        """(groups * runs,) first place of each block table among all pages; these pages."""
        tables: list[int] = []
        pages: list[int] = []
        for group in range(self._groups):
            for run in batch.runs:
                tables.append(len(pages))
                pages += run.pages[group].tolist()
        return tables, pages

    def _make_room(self, words: int) -> None:
        if words > len(self._words):
            self._words = array("q", bytes(2 * 8 * words))
            self.address = self._words.buffer_info()[0]
