"""How threads walk through a step together: barriers, and the loop that all of them run.

Work between two barriers is a few microseconds, so threads wait at a barrier by looking: a few
thousand times, then by giving the CPU away at each look (a pure spin would lose milliseconds
whenever another process holds the thread that everybody waits for). Between two steps a thread
looks for new work for a little while, then goes to sleep until it is woken.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from tinymoe.kernels.cpu.batch import TOKENS, word
from tinymoe.kernels.cpu.kernel import call_kernel, helper, part
from tinymoe.kernels.cpu.lazily import cgutils, njit, operation, types
from tinymoe.kernels.cpu.link import YIELD
from tinymoe.kernels.cpu.simd import i64_at, put_i64

SPINS = 20_000  # looks before the CPU is given away: some 30 us
LINGER = 4_000  # looks, each giving the CPU away, before a thread without work goes to sleep
WORD = ir.IntType(64)


def _give_way(builder: Any) -> None:
    kind = ir.FunctionType(ir.IntType(32), [])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, YIELD), [])


def _pointer(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, WORD.as_pointer())


give_way = operation(types.void, (), _give_way, "Let another thread have the CPU, if one wants it.")
atomic_add = operation(
    types.int64,
    (types.int64, types.int64),
    lambda b, at, value: b.atomic_rmw("add", _pointer(b, at), value, "seq_cst"),
    "Add to the int64 at an address, and say what was there. Orders all memory around it.",
)
atomic_read = operation(
    types.int64,
    (types.int64,),
    lambda b, at: b.load_atomic(_pointer(b, at), "seq_cst", 8),
    "The int64 at an address, and all that was written before it was.",
)


@part
def wait_for(address, value):
    """Until the number at an address is at least `value`."""
    looks = 0
    while atomic_read(address) < value:
        looks += 1
        if looks > SPINS:
            give_way()


# What the team shares: a cache line each, for what two threads write must not share one. After
# them comes a line for each thread: barriers it has passed, and steps it has run.
LINE = 8  # words
STEPS, ARRIVED, PROGRAM, OWN = 0, LINE, 2 * LINE, 3 * LINE
LENGTH, BATCH = PROGRAM + 1, PROGRAM + 2


@njit(inline="always")
def run_program(shared, thread, threads):
    """Every instruction, with a barrier after each that needs one. See `program.Code`."""
    program, length = i64_at(shared + 8 * PROGRAM), i64_at(shared + 8 * LENGTH)
    batch, own = i64_at(shared + 8 * BATCH), shared + 8 * (OWN + LINE * thread)
    passed, tokens = i64_at(own), word(batch, TOKENS)
    for number in range(length):
        at = program + 24 * number
        call_kernel(i64_at(at), i64_at(at + 8), batch, thread, threads)
        if threads > 1 and tokens > i64_at(at + 16):
            passed += threads
            atomic_add(shared + 8 * ARRIVED, 1)
            wait_for(shared + 8 * ARRIVED, passed)
    put_i64(own, passed)


@helper
def lead(shared, program, length, batch, threads):
    """The caller's part of a step: say which it is, then go through it to its end."""
    put_i64(shared + 8 * PROGRAM, program)
    put_i64(shared + 8 * LENGTH, length)
    put_i64(shared + 8 * BATCH, batch)
    atomic_add(shared + 8 * STEPS, 1)  # who sees that sees all that was written before
    run_program(shared, 0, threads)


@helper
def follow(shared, thread, threads):
    """A helper's part of all steps that come, until none has come for a while."""
    seen = shared + 8 * (OWN + LINE * thread) + 8
    looks = 0
    while looks < LINGER:
        if atomic_read(shared + 8 * STEPS) > i64_at(seen):
            run_program(shared, thread, threads)
            put_i64(seen, i64_at(seen) + 1)
            looks = 0
        else:
            looks += 1
            give_way()
