"""Which lane of a warp holds which element of a tensor-core tile: one table, as data.

An `mma` multiplies a 16 x K tile by a K x 8 tile, and no thread has either: each of the 32 lanes
brings a few 32-bit registers. `fragment_map` says for every operand the row and the column of
(lane, register, element); the machine gathers its tiles through it (`tensor.py`), and a picture
of the layout is drawn from the same arrays.

With g = lane // 4 and t = lane % 4, and E = 32 / bits elements to a register, low bits first:

    A, register r   row g + 8 * (r % 2), columns E*t .. E*t + E-1, plus 4*E * (r // 2)
    B, register r   rows E*t .. E*t + E-1, plus 4*E * r, column g
    C and D, the j-th element of a lane   row g + 8 * (j // 2), column 2*t + j % 2
    scales of A     row m in lane 4 * (m % 8) + 2*thread + m // 8, bytes `byte` and on
    scales of B     column n in lane 4 * n + thread, bytes `byte` and on

where {byte, thread} is the selector operand. Source: PTX ISA 9.0, warp-level matrix instructions.
Triton's kernels rely on the same places and come out exact (tests/kernels/test_ptx_tensor_triton.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tinymoe.kernels.ptx.arithmetic import Array
from tinymoe.kernels.ptx.parser import PtxError

BITS = {
    **dict.fromkeys(("f32", "s32", "tf32"), 32),
    **dict.fromkeys(("f16", "bf16"), 16),
    **dict.fromkeys(("s8", "u8", "e4m3", "e5m2", "ue4m3", "ue8m0"), 8),
    **dict.fromkeys(("s4", "u4", "e2m1"), 4),
}


@dataclass(frozen=True)
class Row:
    """One line of the table of instructions: which types, depths and scales go together."""

    kind: str
    elements: tuple[str, ...]  # of A and of B
    depths: tuple[int, ...]  # K
    sums: tuple[str, ...]  # the type of C and D
    scales: tuple[tuple[str, int], ...] = ()  # their type, and how many to a row of A


TABLE = (
    Row("", ("f16",), (8, 16), ("f16", "f32")),
    Row("", ("bf16",), (8, 16), ("f32",)),
    Row("", ("tf32",), (4, 8), ("f32",)),
    Row("", ("s8", "u8"), (16, 32), ("s32",)),
    Row("", ("s4", "u4"), (32, 64), ("s32",)),
    Row("", ("e4m3", "e5m2"), (16, 32), ("f16", "f32")),
    Row("f8f6f4", ("e4m3", "e5m2"), (32,), ("f16", "f32")),
    Row("mxf8f6f4", ("e4m3", "e5m2"), (32,), ("f32",), (("ue8m0", 1),)),
    Row("mxf4", ("e2m1",), (64,), ("f32",), (("ue8m0", 2),)),
    Row("mxf4nvf4", ("e2m1",), (64,), ("f32",), (("ue4m3", 4), ("ue8m0", 2), ("ue8m0", 4))),
)


@dataclass(frozen=True)
class Mma:
    """One `mma`, read from its opcode: D (16, 8) = A (16, depth) @ B (depth, 8) + C."""

    depth: int
    a: str
    b: str
    sum: str
    scale: str = ""  # the type of the block scales, "" without
    blocks: int = 0  # scales to a row of A and to a column of B
    saturate: bool = False  # integer sums stop at the ends of s32


@dataclass(frozen=True)
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

    Errors: PtxError for a combination that is not in TABLE, with what is.
    """
    parts = opcode.split(".")
    shape = next((p for p in parts if p.startswith("m16n8k") and p[6:].isdigit()), "m16n8k0")
    types = [p for p in parts if p in BITS]
    kind = next((p[6:] for p in parts if p.startswith("kind::")), "")
    blocks = next((int(p[11]) for p in parts if p.startswith("scale_vec::")), 0)
    rest = set(parts) - set(types) - {"mma", "sync", "aligned", "row", "col", "satfinite", shape}
    rest = {p for p in rest if not p.startswith(("kind::", "scale_vec::")) and p != "block_scale"}
    for line in TABLE:
        scaled = bool(line.scales)
        if rest or kind != line.kind or len(types) != 4 + scaled or not {"row", "col"} < set(parts):
            continue
        total, a, b, start = types[:4]
        scale = types[4] if scaled else ""
        count = blocks or (line.scales[0][1] if scaled and kind != "mxf4nvf4" else 0)
        mma = Mma(int(shape[6:]), a, b, total, scale, count, "satfinite" in parts)
        if (
            {a, b} <= set(line.elements)
            and total == start
            and total in line.sums
            and mma.depth in line.depths
            and ((scale, count) in line.scales if scaled else not blocks)
            and ("block_scale" in parts) == scaled
            and (total == "s32" or not mma.saturate)
        ):
            return mma
    known = ", ".join(sorted({f"{'/'.join(r.elements)} k{r.depths}" for r in TABLE}))
    raise PtxError(f"this mma is not supported; m16n8 with {known} is")


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
