"""Asking for memory ahead of need.

Decoding reads each key and value once, so it is as fast as memory, if memory never waits. A CPU
guesses what will be read next as long as addresses go forward, but not past a page's end. So where
some rows of a list are computed with, those that come some places later are asked for, a line for
each line that is used: a CPU that waits for some 20 lines takes no more requests, and stands still.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from tinymoe.kernels.cpu.lazily import cgutils


def prefetch_far(builder: Any, address: Any) -> None:
    """Ask for a line, but not so near: the nearest cache is full of what is computed with."""
    byte, word = ir.IntType(8), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), word, word, word])
    hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    read, second_cache, data = word(0), word(2), word(1)
    builder.call(hint, [builder.inttoptr(address, byte.as_pointer()), read, second_cache, data])
