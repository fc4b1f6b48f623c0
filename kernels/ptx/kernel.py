"""What the parser makes of PTX: kernels, their instructions, registers and variables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tinymoe.core import TinymoeError


class PtxError(TinymoeError):
    """PTX that cannot be read or run, or a launch that does not fit the kernel."""


class DefectError(PtxError):
    """A defect of the kernel, found by running it.

    `instruction` is where: its line of PTX and, if the PTX has them, of CUDA C. `block` and
    `thread` (x, y, z) are None where the finding is not about one thread.
    """

    def __init__(
        self,
        message: str,
        instruction: Instruction | None = None,
        block: tuple[int, ...] | None = None,
        thread: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(message)
        self.instruction, self.block, self.thread = instruction, block, thread


@dataclass(frozen=True)
class Instruction:
    """One statement; `line` counts in the PTX file, `source` in the CUDA C file (0: unknown)."""

    opcode: tuple[str, ...]  # base and modifiers: ("add", "s32")
    operands: tuple[str, ...]  # a vector keeps its braces, an address its brackets
    guard: str  # "", "%p1" or "!%p1"
    line: int
    source: int
    text: str
    file: str = ""  # the name of the CUDA C file
    column: int = 0  # in its line, from 1

    @property
    def place(self) -> str:
        """Where it is written, for a message."""
        source = f", source line {self.source}" if self.source else ""
        return f"PTX line {self.line}{source}"


@dataclass(frozen=True)
class Variable:
    """A named array in a state space; `offset` from the start of that space, in bytes."""

    space: str  # "shared", "local", "global", "const" or "param"
    offset: int
    size: int
    data: bytes = b""  # its initial value; empty: zero
    dynamic: bool = False  # `.extern .shared x[]`: its size comes with the launch


@dataclass
class Kernel:
    """An entry of a module; `labels` are indices into `code`."""

    name: str
    params: dict[str, tuple[int, int]]  # name -> offset and size in bytes
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    tables: dict[str, tuple[str, ...]] = field(default_factory=dict)  # targets of `brx.idx`
    registers: dict[str, int] = field(default_factory=dict)  # name -> bits; 1: a predicate
    variables: dict[str, Variable] = field(default_factory=dict)
    max_threads: tuple[int, ...] = ()  # .maxntid
    required_threads: tuple[int, ...] = ()  # .reqntid
    steps: list[Any] = field(default_factory=list, init=False, repr=False)  # once decoded
    grains: dict[str, int] = field(default_factory=dict, init=False, repr=False)  # by space

    def bytes_of(self, space: str) -> int:
        """How many bytes the kernel's own variables take in a space, per block or thread."""
        mine = [v for v in self.variables.values() if v.space == space]
        return max((v.offset + v.size for v in mine), default=0)

    @property
    def shared_bytes(self) -> int:
        """Static shared memory of a block."""
        return self.bytes_of("shared")
