"""Where an instruction finds the code that runs it, by the first part of its opcode.

There are two tables, filled when a module of instructions is imported (`instructions.py` imports
them all). `DECODERS` are for what runs a million times: called once for each line of the PTX text,
they look everything up and give back a function of the machine. `HANDLERS` are simpler, and right
for instructions that do much at once:

    def ldmatrix(machine: Threads, i: Instruction) -> None:
        at = machine.address(i.operands[1])
        ...

    HANDLERS["ldmatrix"] = ldmatrix
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, Protocol

import numpy as np

from tinymoe.kernels.ptx.kernel import Instruction, Kernel, PtxError

Array = np.ndarray[Any, Any]


class UnsupportedError(PtxError):
    """Raised by a decoder; the machine adds the place and the instruction's text."""


class Threads(Protocol):
    """What a handler may ask of the machine: the N threads that run its instruction right now.

    A thread's slot is `32 * warp + lane`, warps counted over all blocks that run together. The
    guard (`@%p1`) is already applied. An instruction with `.sync` waits before its handler is
    called, until all lanes its mask names are there (all 32 where it has no mask operand), so a
    handler of a whole-warp instruction may take `read(...).reshape(-1, 32)`.
    """

    lanes: Array  # (N,) int64: the slots of the running threads, ascending
    state: dict[str, Any]  # a handler's own memory between instructions, e.g. pending copies
    watchers: list[Callable[[str, Array, int, Array], None]]  # told of every access: the space,
    # byte offsets (N,) in its memory, bytes of each, and the threads' slots (N,)

    def read(self, operand: str, dtype: np.dtype[Any]) -> Array:
        """(N,) of `dtype`: a register's low bits, an immediate, a special register, a symbol."""

    def write(self, operand: str, values: Array) -> None:
        """Set a register from (N,) values; wider registers are extended as the dtype says."""

    def address(self, operand: str) -> Array:
        """(N,) uint64: the value of `[%rd1+16]`, `[name+4]` or `[%r2]`."""

    def load(
        self,
        space: str,
        at: Array,
        dtype: np.dtype[Any],
        count: int = 1,
        lanes: Array | None = None,
    ) -> Array:
        """(N, count): `count` neighbouring values at addresses `at` (N,), checked as one access.

        `space` is "global", "shared", "local", "const", "param" or "" (generic). Checks alignment
        to the whole access, bounds and races; counts banks and sectors where asked. `lanes` (N,)
        are the threads that read, where they are not the running ones.
        """

    def store(self, space: str, at: Array, values: Array, lanes: Array | None = None) -> None:
        """Write `values` (N, count) at `at` (N,), checked as one access a thread.

        `lanes` (N,) are the threads that write, where they are not the running ones.
        """

    def fail(self, what: str, lane: int | None = None) -> NoReturn:
        """Raise DefectError: a defect of the kernel, with its place and the thread in that slot."""

    def refuse(self, what: str) -> NoReturn:
        """Raise PtxError: something this machine cannot do, with the instruction's text."""


Action = Callable[[Any], None]  # of the machine
Handler = Callable[[Any, Instruction], None]
Decoder = Callable[[Kernel, Instruction], Action]
HANDLERS: dict[str, Handler] = {}
DECODERS: dict[str, Decoder] = {}


def decoder(*names: str) -> Callable[[Decoder], Decoder]:
    """Enter a function in `DECODERS` under these opcodes."""

    def enter(function: Decoder) -> Decoder:
        for name in names:
            DECODERS[name] = function
        return function

    return enter


def elements(operand: str) -> tuple[str, ...]:
    """The registers of a vector operand: `{%r1, %r2}` gives ("%r1", "%r2"); `%r1` itself."""
    return tuple(part.strip() for part in operand.strip("{}").split(","))
