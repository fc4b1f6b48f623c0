"""`ldmatrix`, `stmatrix` and `movmatrix`: 8 x 8 tiles of 16-bit elements, spread over a warp.

A tile has eight rows of 16 bytes. Lane 8*i + j gives the address of row j of tile i; afterwards
register i of lane l holds row l // 4, columns 2 * (l % 4) and the next, the lower one in the low
bits. That is how `mma` wants its A and B (`fragments.py`). With `.trans` the tile is transposed on
the way. The elements may be anything of 16 bits: pairs of FP8, four FP4.
"""

from __future__ import annotations

import numpy as np

from tinymoe.core import Array
from tinymoe.kernels.ptx.dispatch import HANDLERS, Threads, elements
from tinymoe.kernels.ptx.kernel import Instruction
from tinymoe.kernels.ptx.machine import WINDOW

WORD = np.dtype(np.uint32)


def spread(tiles: Array, transposed: bool = False) -> Array:
    """Tiles (W, X, 8, 8) uint16 to registers (W, 32, X) uint32."""
    rows = tiles.swapaxes(2, 3) if transposed else tiles
    lanes = np.ascontiguousarray(rows).view(np.uint32).reshape(len(tiles), -1, 32)  # (W, X, 32)
    return lanes.swapaxes(1, 2)


def collect(registers: Array, transposed: bool = False) -> Array:
    """Registers (W, 32, X) uint32 to tiles (W, X, 8, 8) uint16: the way back of `spread`."""
    lanes = np.ascontiguousarray(registers.swapaxes(1, 2))  # (W, X, 32)
    tiles = lanes.view(np.uint16).reshape(*lanes.shape[:2], 8, 8)
    return tiles.swapaxes(2, 3) if transposed else tiles


def whole_warps(machine: Threads) -> Array:
    """The running threads as (W, 32): these instructions need every lane of a warp."""
    lanes = machine.lanes
    counts = np.bincount(lanes // 32)
    short = np.flatnonzero((counts != 0) & (counts != 32))
    if len(short):
        lane = int(lanes[np.argmax(lanes // 32 == short[0])])
        machine.fail(f"this needs all 32 lanes, and the warp has {counts[short[0]]}", lane)
    return lanes.reshape(-1, 32)


def _count(machine: Threads, i: Instruction) -> tuple[int, bool]:
    """How many tiles, and whether transposed, of the 8 x 8 form with 16-bit elements."""
    mods = set(i.opcode[1:])
    count = {"x1": 1, "x2": 2, "x4": 4}.get("".join(mods & {"x1", "x2", "x4"}), 0)
    rest = mods - {"sync", "aligned", "m8n8", "x1", "x2", "x4", "trans", "shared", "shared::cta"}
    if not count or rest != {"b16"} or "m8n8" not in mods:
        machine.refuse("only .m8n8 with .x1, .x2 or .x4 and .b16 is supported")
    return count, "trans" in mods


def _rows(machine: Threads, i: Instruction, operand: str, count: int) -> tuple[str, Array]:
    """The state space and the addresses of the rows, from the first 8 * count lanes of a warp."""
    every = machine.address(operand).reshape(-1, 32)
    at = every[:, : 8 * count].ravel()
    if any(m.startswith("shared") for m in i.opcode):
        return "shared", at
    outside = at >> np.uint64(32) != WINDOW["shared"] >> 32  # generic, but of shared memory
    if outside.any():
        k = int(np.argmax(outside))
        lane = int(machine.lanes.reshape(-1, 32)[:, : 8 * count].ravel()[k])
        machine.fail(f"the address {int(at[k]):#x} is not one of shared memory", lane)
    return "", at


def _ldmatrix(machine: Threads, i: Instruction) -> None:
    count, transposed = _count(machine, i)
    lanes = whole_warps(machine)[:, : 8 * count]  # the other lanes' addresses are not read
    space, at = _rows(machine, i, i.operands[1], count)
    rows = machine.load(space, at, WORD, 4, lanes.ravel())
    tiles = np.ascontiguousarray(rows).view(np.uint16).reshape(-1, count, 8, 8)
    registers = spread(tiles, transposed)
    for k, name in enumerate(_named(machine, i.operands[0], count)):
        machine.write(name, registers[:, :, k].ravel())


def _stmatrix(machine: Threads, i: Instruction) -> None:
    count, transposed = _count(machine, i)
    names = _named(machine, i.operands[1], count)
    lanes = whole_warps(machine)[:, : 8 * count]
    registers = np.stack([machine.read(name, WORD).reshape(-1, 32) for name in names], axis=2)
    rows = np.ascontiguousarray(collect(registers, transposed)).view(WORD).reshape(-1, 4)
    space, at = _rows(machine, i, i.operands[0], count)
    machine.store(space, at, rows, lanes.ravel())


def _movmatrix(machine: Threads, i: Instruction) -> None:
    if set(i.opcode[1:]) != {"sync", "aligned", "m8n8", "trans", "b16"}:
        machine.refuse("only .m8n8.trans.b16 is supported")
    whole_warps(machine)
    tiles = collect(machine.read(i.operands[1], WORD).reshape(-1, 32, 1))
    machine.write(i.operands[0], spread(tiles, transposed=True).ravel())


def _named(machine: Threads, operand: str, count: int) -> tuple[str, ...]:
    names = elements(operand)
    if len(names) != count:
        machine.refuse(f"expected {count} registers for {count} tiles, got {len(names)}")
    return names


HANDLERS |= {"ldmatrix": _ldmatrix, "stmatrix": _stmatrix, "movmatrix": _movmatrix}
