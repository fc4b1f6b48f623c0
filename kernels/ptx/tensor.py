"""`mma`: a warp multiplies a 16 x K tile by a K x 8 tile, on the registers of its 32 lanes.

Products are exact. Their sum is taken in float64, C is added, and the total is rounded once to
the type of D. Real tensor cores add in an order, and with roundings, that NVIDIA leaves
unspecified: results agree to the bit where every partial sum is exact, and within a bound
elsewhere. Integer sums are exact; they wrap at 32 bits or, with `.satfinite`, stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from tinymoe.core import Array
from tinymoe.formats import bf16, e2m1, e4m3, e8m0
from tinymoe.kernels.ptx.dispatch import HANDLERS, Threads, elements
from tinymoe.kernels.ptx.fragments import Fragment, fragment_map, read_mma
from tinymoe.kernels.ptx.kernel import Instruction, PtxError
from tinymoe.kernels.ptx.ldmatrix import whole_warps

_BYTE = np.arange(256, dtype=np.uint8)
_NIBBLE = _BYTE[:16]
VALUES: dict[str, Array] = {  # of the short types, by code
    "e2m1": e2m1.decode(_NIBBLE, code_8="-0"),
    "u4": _NIBBLE,
    "s4": (_NIBBLE.astype(np.int8) ^ 8) - 8,
    "u8": _BYTE,
    "s8": _BYTE.view(np.int8),
    "e4m3": e4m3.decode(_BYTE),
    "e5m2": (_BYTE.astype(np.uint16) << 8).view(np.float16),  # the upper half of an f16
    "ue4m3": e4m3.decode(_BYTE & 0x7F),  # has no sign: bit 7 is not looked at
    "ue8m0": e8m0.decode(_BYTE, reading="nan"),
}
_TABLES = {name: values.astype(np.float64) for name, values in VALUES.items()}
_PAIRS = {  # of the two elements of a byte, the low one first, as one item of 16 bytes
    name: np.stack([table[_BYTE & 15], table[_BYTE >> 4]], axis=1).view(np.complex128)[:, 0]
    for name, table in _TABLES.items()
    if len(table) == 16
}


def decode(words: Array, name: str) -> Array:
    """Registers or bytes (W, N) to the float64 elements in them (W, ...): exact for every type.

    tf32 is the upper 19 bits of a float32. PTX leaves open what the other 13 do; here, nothing.
    """
    if name in _PAIRS:
        return np.take(_PAIRS[name], words.view(np.uint8)).view(np.float64)
    if name in _TABLES:
        return np.take(_TABLES[name], words.view(np.uint8))
    if name == "bf16":
        return bf16.decode(words.view(np.uint16)).astype(np.float64)
    if name == "tf32":
        words = words & np.uint32(0xFFFFE000)
    kept = {"f16": "f2", "f32": "f4", "tf32": "f4", "s32": "i4"}
    return words.view(kept[name]).astype(np.float64)


@lru_cache(maxsize=256)
def _order(fragment: Fragment, by_column: bool) -> tuple[str, Array]:
    """What a tile consists of, registers ("u4") or bytes, and where they are, row after row.

    The elements of a register are neighbours in the tile, so it moves as a whole. Not so the
    scales, of which some bytes are not looked at.
    """
    row, col, unit = fragment.row, fragment.col, "u1"
    if (row >= 0).all():
        row, col, unit = row[:, :, 0], col[:, :, 0], "u4"
    row, col = row.ravel(), col.ravel()
    order = np.lexsort((row, col) if by_column else (col, row))
    return unit, order[row[order] >= 0]


def gather(registers: Array, fragment: Fragment, name: str, by_column: bool = False) -> Array:
    """Registers (W, 32, R) of W warps to their tiles (W, rows, columns) in float64.

    by_column: (W, columns, rows) instead, the transpose.
    """
    unit, order = _order(fragment, by_column)
    flat = np.ascontiguousarray(registers).reshape(len(registers), -1).view(unit)
    shape = fragment.shape[::-1] if by_column else fragment.shape
    return decode(np.take(flat, order, axis=1), name).reshape(-1, *shape)


def scatter(tiles: Array, fragment: Fragment) -> Array:
    """Tiles (W, rows, columns) of bits to registers (W, 32, R) uint32: the way back of `gather`."""
    words = np.ascontiguousarray(tiles).reshape(len(tiles), -1).view(np.uint32)
    flat = np.empty_like(words)
    flat[:, _order(fragment, False)[1]] = words
    return flat.reshape(len(tiles), 32, -1)


def encode(total: Array, name: str, saturate: bool = False) -> Array:
    """Sums to the bits of D's type: floats with one rounding, to nearest even; NaN is 0x7f..ff."""
    if name == "s32":
        limits = np.iinfo(np.int32)
        whole = np.clip(total, limits.min, limits.max) if saturate else total
        return whole.astype(np.int64).astype(np.uint32)
    with np.errstate(over="ignore"):  # too large for the type is infinity, as on the GPU
        rounded = total.astype(np.float16 if name == "f16" else np.float32)
    bits = rounded.view(f"u{rounded.itemsize}")
    return np.where(np.isnan(rounded), bits.dtype.type(2 ** (8 * rounded.itemsize - 1) - 1), bits)


def mma(
    opcode: str,
    a: Array,
    b: Array,
    c: Array,
    scales: Sequence[Array] = (),
    selectors: Sequence[tuple[int, int]] = (),
) -> Array:
    """D (W, 32, R) uint32 of one `mma` by W warps at once.

    a, b, c: registers (W, 32, ...) uint32, as many to a lane as the opcode has. scales: of A and
    of B, (W, 32, 1) each, and selectors: their {byte, thread}, for the block-scaled kinds alone.
    The sum of products is taken in float64 (for integers it is exact), added to C, and rounded
    once. Errors: PtxError for an opcode or a selector that is not supported.
    """
    what, layout = read_mma(opcode), fragment_map(opcode, *selectors)
    left = gather(a, layout["a"], what.a)  # (W, 16, K)
    right = gather(b, layout["b"], what.b, by_column=True)  # (W, 8, K)
    if what.scale:
        size = what.depth // what.blocks
        left = left * np.repeat(gather(scales[0], layout["scale_a"], what.scale), size, axis=2)
        by_column = gather(scales[1], layout["scale_b"], what.scale, by_column=True)
        right = right * np.repeat(by_column, size, axis=2)
    with np.errstate(invalid="ignore"):  # infinity times zero is NaN, as on the GPU
        total = left @ right.swapaxes(1, 2) + gather(c, layout["c"], what.sum)
    return scatter(encode(total, what.sum, what.saturate), layout["c"])


def _execute(machine: Threads, i: Instruction) -> None:
    """The `mma` of the running warps; the machine has seen to it that all their lanes are here."""
    opcode = ".".join(i.opcode)
    try:
        what = read_mma(opcode)
    except PtxError as error:
        machine.refuse(str(error))
    out, *given = i.operands
    if len(given) != (7 if what.scale else 3):
        machine.refuse(f"{len(given) + 1} operands, expected {8 if what.scale else 4}")
    whole_warps(machine)
    selectors = [_selector(machine, operand) for operand in given[4::2]]
    try:
        layout = fragment_map(opcode, *selectors)
    except PtxError as error:
        machine.refuse(str(error))
    for operand, name in zip([out, *given[:3]], "cabc", strict=True):
        if len(elements(operand)) != (count := layout[name].row.shape[1]):
            machine.refuse(f"{operand} has {len(elements(operand))} registers, expected {count}")
    a, b, c, *scales = (_registers(machine, operand) for operand in [*given[:3], *given[3::2]])
    d = mma(opcode, a, b, c, scales, selectors)
    for k, name in enumerate(elements(out)):
        machine.write(name, d[:, :, k].ravel())


def _registers(machine: Threads, operand: str) -> Array:
    """A vector operand as (W, 32, R) uint32."""
    word = np.dtype(np.uint32)
    return np.stack([machine.read(r, word).reshape(-1, 32) for r in elements(operand)], axis=2)


def _selector(machine: Threads, operand: str) -> tuple[int, int]:
    """{byte, thread}, which must be the same in every lane: it is part of the instruction."""
    byte, thread = (machine.read(r, np.dtype(np.uint16)) for r in elements(operand))
    if (byte != byte[0]).any() or (thread != thread[0]).any():
        machine.fail(f"the scale selector {operand} differs between lanes")
    return int(byte[0]), int(thread[0])


HANDLERS["mma"] = _execute
