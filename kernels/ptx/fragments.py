"""Which lane of a warp holds which element of a tensor-core tile: one table, as data.

An `mma` multiplies a 16 x K tile by a K x 8 tile, and no thread has either: each of the 32 lanes
brings a few 32-bit registers. `fragment_map` says for every operand the row and the column of
(lane, register, element); the machine gathers its tiles through it (`tensor.py`), and a picture
of the layout can be drawn from the same arrays.

With g = lane // 4 and t = lane % 4, and E = 32 / bits elements to a register, low bits first:

    A, register r   row g + 8 * (r % 2), columns E*t .. E*t + E-1, plus 4*E * (r // 2)
    B, register r   rows E*t .. E*t + E-1, plus 4*E * r, column g
    C and D, the j-th element of a lane   row g + 8 * (j // 2), column 2*t + j % 2
    scales of A     row m in lane 4 * (m % 8) + 2*thread + m // 8, bytes `byte` and on
    scales of B     column n in lane 4 * n + thread, bytes `byte` and on

where {byte, thread} is the selector operand. Source: PTX ISA 9.0, warp-level matrix instructions.
Triton's kernels rely on the same places and come out exact (tests/vectors/ptx/triton_README.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from tinymoe.core import Array
from tinymoe.kernels.ptx.kernel import PtxError

BITS = {
    **dict.fromkeys(("f32", "s32", "tf32"), 32),
    **dict.fromkeys(("f16", "bf16"), 16),
    **dict.fromkeys(("s8", "u8", "e4m3", "e5m2", "ue4m3", "ue8m0"), 8),
    **dict.fromkeys(("s4", "u4", "e2m1"), 4),
}


@dataclass(frozen=True)
class Mma:
    """One `mma`: D (16, 8) = A (16, depth) @ B (depth, 8) + C."""

    depth: int
    a: str
    b: str
    sum: str  # the type of C and D
    scale: str = ""  # the type of the block scales, "" without
    blocks: int = 0  # scales to a row of A and to a column of B
    saturate: bool = False  # integer sums stop at the ends of s32


@dataclass(frozen=True)
class Family:
    """One line of the table of instructions: which types, depths and scales go together."""

    kind: str
    elements: tuple[str, ...]  # of A and of B
    depths: tuple[int, ...]  # K
    sums: tuple[str, ...]
    scales: tuple[tuple[str, int], ...] = (("", 0),)

    def members(self) -> Iterator[tuple[Mma, str]]:
        """Every instruction of the line, with its opcode or opcodes as PTX ISA writes them."""
        many = (self.elements, self.elements, self.depths, self.sums, self.scales)
        for a, b, depth, total, (scale, blocks) in product(*many):
            for stop in ("", ".satfinite") if total == "s32" else ("",):
                mma = Mma(depth, a, b, total, scale, blocks, bool(stop))
                kind = f".kind::{self.kind}" if self.kind else ""
                types = f"{total}.{a}.{b}.{total}" + (f".{scale}" if scale else "")
                shape = f"m16n8k{depth}.row.col{stop}"
                vectors = [f".block_scale.scale_vec::{blocks}X"] if blocks else [""]
                if blocks and self.kind != "mxf4nvf4":  # one size: it may go unsaid
                    vectors.append(".block_scale")
                for vector in vectors:
                    yield mma, f"mma.sync.aligned{kind}{vector}.{shape}.{types}"


# ptxas 12.9 assembles every member for sm_120a; which older chip has which, only it knows
TABLE = (
    Family("", ("f16",), (8, 16), ("f16", "f32")),
    Family("", ("bf16",), (8, 16), ("f32",)),
    Family("", ("tf32",), (4, 8), ("f32",)),
    Family("", ("s8", "u8"), (16, 32), ("s32",)),
    Family("", ("s4", "u4"), (32, 64), ("s32",)),
    Family("", ("e4m3", "e5m2"), (16, 32), ("f16", "f32")),
    Family("f8f6f4", ("e4m3", "e5m2"), (32,), ("f16", "f32")),
    Family("mxf8f6f4", ("e4m3", "e5m2"), (32,), ("f32",), (("ue8m0", 1),)),
    Family("mxf4", ("e2m1",), (64,), ("f32",), (("ue8m0", 2),)),
    Family("mxf4nvf4", ("e2m1",), (64,), ("f32",), (("ue4m3", 4), ("ue8m0", 2))),
)


def spelling(opcode: str) -> tuple[list[str], list[str]]:
    """The types of an opcode in their order, and its other modifiers in any order.

    Compilers do not agree where `.kind::...` stands, and PTX takes it everywhere.
    """
    parts = opcode.split(".")
    return [p for p in parts if p in BITS], sorted(p for p in parts if p not in BITS)


@dataclass(frozen=True, eq=False)  # compared and hashed by identity: arrays have neither
class Fragment:
    """Where the elements of one operand lie.

    shape: (rows, columns) of the tile. row, col (32, registers, elements): int64, of the element
    in that lane's register, low bits first; -1 where the instruction reads nothing.
    """

    shape: tuple[int, int]
    row: Array
    col: Array


@lru_cache(maxsize=256)
def read_mma(opcode: str) -> Mma:
    """An opcode such as `mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32`, in parts.

    Modifiers may stand in any order, as compilers write them; the types keep theirs (D, A, B, C,
    scale). Errors: PtxError for a combination that is not in TABLE, with what is.
    """
    for family in TABLE:
        for mma, text in family.members():
            if spelling(text) == spelling(opcode):
                return mma
    known = ", ".join(f"{'/'.join(f.elements)} {f.kind} k{f.depths}" for f in TABLE)
    raise PtxError(f"{opcode} is not supported; m16n8 is, for {known}")


def _lanes(registers: int, elements: int) -> tuple[Array, Array, Array, Array]:
    """g, t, register and element, each to be broadcast to (32, registers, elements)."""
    lane = np.arange(32)[:, None, None]
    return lane // 4, lane % 4, np.arange(registers)[:, None], np.arange(elements)


def _place(shape: tuple[int, int], size: tuple[int, int], row: Array, col: Array) -> Fragment:
    full = (32, *size)
    return Fragment(shape, np.broadcast_to(row, full), np.broadcast_to(col, full))


def _left(depth: int, bits: int) -> Fragment:
    many, registers = 32 // bits, 16 * depth * bits // 1024
    g, t, r, e = _lanes(registers, many)
    row, col = g + 8 * (r % 2), many * t + e + 4 * many * (r // 2)
    return _place((16, depth), (registers, many), row, col)


def _right(depth: int, bits: int) -> Fragment:
    many, registers = 32 // bits, 8 * depth * bits // 1024
    g, t, r, e = _lanes(registers, many)
    return _place((depth, 8), (registers, many), many * t + e + 4 * many * r, g)


def _sums(bits: int) -> Fragment:
    many = 32 // bits
    g, t, r, e = _lanes(4 // many, many)
    j = r * many + e
    return _place((16, 8), (4 // many, many), g + 8 * (j // 2), 2 * t + j % 2)


def _scales(mma: Mma, of_a: bool, selector: tuple[int, int]) -> Fragment:
    byte, thread = selector
    if byte not in range(0, 4, mma.blocks) or thread not in range(2 if of_a else 4):
        raise PtxError(
            f"selector {{{byte}, {thread}}}: with {mma.blocks} scales to a row the first number is "
            f"one of {list(range(0, 4, mma.blocks))}, the second below {2 if of_a else 4}"
        )
    g, t, _, e = _lanes(1, 4)
    asked = (t // 2 == thread) if of_a else (t == thread)
    asked = asked & (e >= byte) & (e < byte + mma.blocks)
    line = np.where(asked, g + 8 * (t % 2) if of_a else g, -1)
    block = np.where(asked, e - byte, -1)
    if of_a:
        return _place((16, mma.blocks), (1, 4), line, block)
    return _place((mma.blocks, 8), (1, 4), block, line)


@lru_cache(maxsize=256)
def fragment_map(
    opcode: str, select_a: tuple[int, int] = (0, 0), select_b: tuple[int, int] = (0, 0)
) -> dict[str, Fragment]:
    """The layout of every operand of an `mma`: "a", "b", "c" (also D), "scale_a", "scale_b".

    opcode: as PTX spells it. select_a, select_b: {byte, thread} of the scales, {0, 0} where the
    instruction has none. Errors: PtxError for an opcode or a selector that PTX does not have.
    """
    mma = read_mma(opcode)
    layout = {
        "a": _left(mma.depth, BITS[mma.a]),
        "b": _right(mma.depth, BITS[mma.b]),
        "c": _sums(BITS[mma.sum]),
    }
    if mma.scale:
        layout["scale_a"] = _scales(mma, True, select_a)
        layout["scale_b"] = _scales(mma, False, select_b)
    return layout
