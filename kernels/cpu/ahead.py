"""Asking for memory ahead of need: a list of rows, and a few cache lines of it at a time.

Decoding reads each key and value once, so it is as fast as memory. A CPU has some 20 requests
under way at once; asked for more it stands still. So requests are mixed into the arithmetic: while
one span of keys is computed, the next is asked for, whole rows of all heads in the order in which
they lie, since memory likes to be read forward and each page's address has to be looked up.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils

from tinymoe.kernels.cpu.kernel import part
from tinymoe.kernels.cpu.simd import _op, i64_at, put_i64

# Where the words of a list are: the next line, lines left of its row, the next row, where rows
# end, lines of a row, lines asked for at a time; then the rows' addresses.
AT, LEFT, ROW, STOP, LINES, AT_A_TIME, LIST = 0, 8, 16, 24, 32, 40, 48


def _prefetch(builder: Any, address: Any) -> None:
    byte, word = ir.IntType(8), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), word, word, word])
    hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    read, second_cache, data = word(0), word(2), word(1)
    builder.call(hint, [builder.inttoptr(address, byte.as_pointer()), read, second_cache, data])


# the nearest cache is full of what is computed with
prefetch_far = _op(types.void, (types.int64,), _prefetch, "Ask for a line, but not so near.")


@njit(inline="always")
def nothing_ahead(ahead):
    """Ask for nothing."""
    put_i64(ahead + LEFT, 0)
    put_i64(ahead + ROW, 0)
    put_i64(ahead + STOP, 0)
    put_i64(ahead + AT_A_TIME, 0)


@njit(inline="always")
def begin_ahead(ahead, rows, lines, calls):
    """The first `rows` rows of the list, `lines` cache lines each, in so many calls of `ask`."""
    put_i64(ahead + LEFT, 0)
    put_i64(ahead + ROW, 0)
    put_i64(ahead + STOP, rows)
    put_i64(ahead + LINES, lines)
    put_i64(ahead + AT_A_TIME, rows * lines // calls + 1)


@part
def ask(ahead):
    """Ask for a few more lines."""
    row, stop = i64_at(ahead + ROW), i64_at(ahead + STOP)
    at, left = i64_at(ahead + AT), i64_at(ahead + LEFT)
    for _ in range(i64_at(ahead + AT_A_TIME)):
        if left == 0:
            if row == stop:
                break
            at, left = i64_at(ahead + LIST + 8 * row), i64_at(ahead + LINES)
            row += 1
        prefetch_far(at)
        at += 64
        left -= 1
    put_i64(ahead + ROW, row)
    put_i64(ahead + AT, at)
    put_i64(ahead + LEFT, left)
