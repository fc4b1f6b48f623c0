"""Where a step's time goes, by the clock inside it: a program with a stamp after each instruction.

To run one instruction after the other from Python would time Python, which is slower than most of
them, and more so when a product has just filled the caches with weights. Here thread 0 writes down
a counter of the CPU's between two instructions, after the barrier, which is all that is added. So
an instruction's time includes the waiting for the slowest thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from tinymoe.core import Array
from tinymoe.kernels.cpu.kernel import ALWAYS, arguments, kernel
from tinymoe.kernels.cpu.lazily import cgutils, operation, types
from tinymoe.kernels.cpu.program import Program
from tinymoe.kernels.cpu.simd import put_i64

WORD = ir.IntType(64)


def _ticks(builder: Any) -> Any:
    counted = ir.FunctionType(WORD, [])
    if builder.module.triple.startswith(("aarch64", "arm64")):
        # LLVM would read a counter there that only the system may read
        return builder.asm(counted, "mrs $0, cntvct_el0", "=r", [], side_effect=True)
    name = "llvm.readcyclecounter"
    return builder.call(cgutils.get_or_insert_function(builder.module, counted, name), [])


ticks = operation(types.int64, (), _ticks, "A counter that goes on at one rate.")


@kernel("to", by_token=ALWAYS)
def stamp(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """The time at address `to`."""
    if thread == 0:
        put_i64(arguments(args, 1)[0], ticks())


class Stamped:
    """A program, and when each of its instructions was over."""

    def __init__(self, program: Program) -> None:
        self.names = list(program.names)
        self.ticks: Array = np.zeros(len(self.names) + 1, np.int64)  # the first: when it began
        self.program = Program()
        self.program.add(stamp, to=self.ticks[:1])
        for number, (kernel_, named) in enumerate(program.instructions, 1):
            self.program.add(kernel_, **named)
            self.program.add(stamp, to=self.ticks[number : number + 1])

    def shares(self) -> list[tuple[str, float]]:
        """Of each instruction, in the last run: its name, and its part of the time of all."""
        taken = np.diff(self.ticks)
        return list(zip(self.names, (taken / max(1, taken.sum())).tolist(), strict=True))
