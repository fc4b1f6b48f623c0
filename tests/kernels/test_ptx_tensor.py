"""The tensor-core instructions: layouts as PTX ISA words them, and sums against plain loops."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from tinymoe.formats.exact import rounded
from tinymoe.kernels.ptx import PtxError
from tinymoe.kernels.ptx.fragments import BITS, TABLE, Fragment, Mma, fragment_map, read_mma
from tinymoe.kernels.ptx.tensor import mma

pytestmark = pytest.mark.kernels
Array = np.ndarray[Any, Any]
OPCODES = {opcode: what for family in TABLE for what, opcode in family.members()}
FP4 = next(opcode for opcode in OPCODES if "4X" in opcode)
F16 = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"


# ---- layouts ------------------------------------------------------------------------------------


def cells(fragment: Fragment) -> list[tuple[int, int]]:
    pairs = zip(fragment.row.ravel().tolist(), fragment.col.ravel().tolist(), strict=True)
    return [(row, col) for row, col in pairs if row >= 0]


@pytest.mark.parametrize("opcode", OPCODES)
def test_every_element_of_a_tile_is_in_one_place(opcode: str) -> None:
    for name, fragment in fragment_map(opcode).items():
        rows, cols = fragment.shape
        want = [(row, col) for row in range(rows) for col in range(cols)]
        assert sorted(cells(fragment)) == want, name


# The words of PTX ISA's fragment tables: a lane holds a_0, a_1, ..., and the row and column of a_i
# are given by cases of i. g is its "groupID", t its "threadID_in_group".
Words = Callable[[int, int, int], tuple[int, int]]
LEFT: dict[str, Words] = {
    "m16n8k8 of 16 bits": lambda g, t, i: (g if i < 2 else g + 8, t * 2 + (i & 1)),
    "m16n8k16 of 16 bits": lambda g, t, i: (
        g if 0 <= i < 2 or 4 <= i < 6 else g + 8,
        t * 2 + (i & 1) if i < 4 else t * 2 + (i & 1) + 8,
    ),
    "m16n8k4 of 32 bits": lambda g, t, i: (g if i == 0 else g + 8, t),
    "m16n8k8 of 32 bits": lambda g, t, i: (g if i in (0, 2) else g + 8, t if i < 2 else t + 4),
    "m16n8k16 of 8 bits": lambda g, t, i: (g if i < 4 else g + 8, t * 4 + (i & 3)),
    "m16n8k32 of 8 bits": lambda g, t, i: (
        g if 0 <= i < 4 or 8 <= i < 12 else g + 8,
        t * 4 + (i & 3) if i < 8 else t * 4 + (i & 3) + 16,
    ),
    "m16n8k32 of 4 bits": lambda g, t, i: (g if i < 8 else g + 8, t * 8 + (i & 7)),
    "m16n8k64 of 4 bits": lambda g, t, i: (
        g if 0 <= i < 8 or 16 <= i < 24 else g + 8,
        t * 8 + (i & 7) if i < 16 else t * 8 + (i & 7) + 32,
    ),
}
RIGHT: dict[str, Words] = {
    "m16n8k8 of 16 bits": lambda g, t, i: (t * 2 + i, g),
    "m16n8k16 of 16 bits": lambda g, t, i: (t * 2 + (i & 1) + (8 if i >= 2 else 0), g),
    "m16n8k4 of 32 bits": lambda g, t, i: (t, g),
    "m16n8k8 of 32 bits": lambda g, t, i: (t if i == 0 else t + 4, g),
    "m16n8k16 of 8 bits": lambda g, t, i: (t * 4 + i, g),
    "m16n8k32 of 8 bits": lambda g, t, i: (t * 4 + (i & 3) + (16 if i >= 4 else 0), g),
    "m16n8k32 of 4 bits": lambda g, t, i: (t * 8 + i, g),
    "m16n8k64 of 4 bits": lambda g, t, i: (t * 8 + (i & 7) + (32 if i >= 8 else 0), g),
}


@pytest.mark.parametrize("opcode", OPCODES)
def test_layouts_are_those_of_the_isa(opcode: str) -> None:
    what, layout = OPCODES[opcode], fragment_map(opcode)
    shape = f"m16n8k{what.depth} of {BITS[what.a]} bits"
    words: dict[str, Words] = {
        "a": LEFT[shape],
        "b": RIGHT[shape],
        "c": lambda g, t, i: (g if i < 2 else g + 8, t * 2 + (i & 1)),
    }
    for name, where in words.items():
        row, col = layout[name].row.reshape(32, -1), layout[name].col.reshape(32, -1)
        for lane in range(32):
            for i in range(row.shape[1]):
                assert (row[lane, i], col[lane, i]) == where(lane >> 2, lane % 4, i), name


def test_scales_are_read_from_the_lanes_and_bytes_that_the_selector_names() -> None:
    # a kernel that puts the scales of rows 8..15 into the wrong lane is wrong on the GPU alone
    two = "mma.sync.aligned.kind::mxf4.block_scale.scale_vec::2X.m16n8k64.row.col"
    layout = fragment_map(f"{two}.f32.e2m1.e2m1.f32.ue8m0", (2, 1), (0, 3))
    for m in range(16):
        lane = 4 * (m % 8) + 2 + m // 8
        assert layout["scale_a"].row[lane, 0].tolist() == [-1, -1, m, m]
        assert layout["scale_a"].col[lane, 0].tolist() == [-1, -1, 0, 1]
    for n in range(8):
        assert layout["scale_b"].col[4 * n + 3, 0].tolist() == [n, n, -1, -1]
        assert layout["scale_b"].row[4 * n + 3, 0].tolist() == [0, 1, -1, -1]


@pytest.mark.parametrize("selector", [(1, 0), (4, 0), (0, 2), (-1, 0)])
def test_a_selector_out_of_range_is_refused(selector: tuple[int, int]) -> None:
    with pytest.raises(PtxError, match="the first number is one of"):
        fragment_map(FP4, selector)


@pytest.mark.parametrize(
    "opcode",
    [
        "mma.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32",  # no such depth
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.bf16.f32",  # types do not mix
        "mma.sync.aligned.m16n8k16.row.row.f32.f16.f16.f32",
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f16",  # C and D differ
        "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64",
        "mma.sync.aligned.m16n8k16.row.col.satfinite.f32.f16.f16.f32",
        "mma.sync.aligned.m16n8k64.row.col.f32.e2m1.e2m1.f32",  # FP4 has no unscaled form here
        F16 + ".f32",
        FP4.replace("4X", "2X"),  # a scale for 32 elements is never ue4m3
        FP4.replace("mxf4nvf4", "mxf4"),
    ],
)
def test_an_mma_that_is_not_in_the_table_is_refused(opcode: str) -> None:
    with pytest.raises(PtxError, match="is not supported; m16n8 is, for f16  k"):
        read_mma(opcode)


def test_modifiers_may_stand_in_any_order() -> None:
    # Triton writes the shape first, CUTLASS the kind
    assert read_mma(
        "mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X."
        "f32.e2m1.e2m1.f32.ue4m3"
    ) == read_mma(FP4)


# ---- sums ---------------------------------------------------------------------------------------


def number(code: int, exponent: int, fraction: int, bias: int) -> Fraction:
    """The value of a float of 1 sign bit and so many others; infinities and NaN do not come."""
    sign = -1 if code >> (exponent + fraction) & 1 else 1
    e, f = code >> fraction & (2**exponent - 1), code & (2**fraction - 1)
    scale = Fraction(2) ** (max(e, 1) - bias - fraction)
    return sign * (f + (2**fraction if e else 0)) * scale


FLOATS = {  # exponent bits, fraction bits, bias
    "e2m1": (2, 1, 1),
    "e4m3": (4, 3, 7),
    "e5m2": (5, 2, 15),
    "f16": (5, 10, 15),
    "bf16": (8, 7, 127),
    "f32": (8, 23, 127),
}


def value(code: int, name: str) -> Fraction:
    """What the bits of an element mean."""
    if name == "ue8m0":
        return Fraction(2) ** (code - 127)
    if name == "ue4m3":
        return number(code & 0x7F, 4, 3, 7)
    if name == "tf32":  # the low 13 bits of the float32 are not looked at
        return number(code >> 13, 8, 10, 127)
    if name in FLOATS:
        return number(code, *FLOATS[name])
    bits = BITS[name]
    return Fraction(code - (1 << bits if name[0] == "s" and code >> (bits - 1) else 0))


def draw(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Array:
    """Codes of a type. Floats lie between 2^-4 and 2^4 or are zero: their sums are exact in f64."""
    if name not in FLOATS and name not in ("tf32", "ue8m0", "ue4m3"):
        return rng.integers(0, 1 << BITS[name], shape)
    if name == "ue8m0":
        return rng.integers(123, 132, shape)
    kept = "f32" if name == "tf32" else "e4m3" if name == "ue4m3" else name
    exponent, fraction, bias = FLOATS[kept]
    width = 1 + exponent + fraction
    low, high = max(bias - 4, 0), min(bias + 4, 2**exponent - 1)
    e = rng.integers(low, high + (name == "e2m1"), shape)
    codes = e << fraction | rng.integers(0, 2**fraction, shape)
    return np.where(rng.random(shape) < 0.1, 0, codes) | rng.integers(0, 2, shape) << (width - 1)


def packed(codes: Array, bits: int) -> Array:
    """Elements (W, 32, R, E) to registers (W, 32, R), the first in the low bits."""
    shift = bits * np.arange(codes.shape[-1])
    return (codes.astype(np.uint64) << shift.astype(np.uint64)).sum(axis=-1).astype(np.uint32)


def tile(fragment: Fragment, codes: Array, name: str) -> dict[tuple[int, int], Fraction]:
    """Elements (32, R, E) of one warp, placed one by one."""
    flat = codes.ravel().tolist()
    places = zip(fragment.row.ravel().tolist(), fragment.col.ravel().tolist(), flat, strict=True)
    return {(row, col): value(code, name) for row, col, code in places if row >= 0}


def looped(what: Mma, tiles: dict[str, dict[tuple[int, int], Fraction]]) -> Array:
    """D of one warp as bits, (16, 8): three plain loops over Python integers, and one rounding."""
    unit = 2**16  # every element that `draw` gives is a whole number of 1 / unit
    whole = {k: {at: int(v * unit) for at, v in tiles[k].items()} for k in tiles if k != "c"}
    ones = dict.fromkeys(np.ndindex(16, 16), unit)
    sa, sb = whole.get("scale_a", ones), whole.get("scale_b", ones)
    size = what.depth // max(what.blocks, 1)
    out = np.zeros((16, 8), np.int64)
    for m in range(16):
        for n in range(8):
            total = 0
            for k in range(what.depth):
                scale = sa[m, k // size] * sb[k // size, n]
                total += whole["a"][m, k] * whole["b"][k, n] * scale
            out[m, n] = bits_of(Fraction(total, unit**4) + tiles["c"][m, n], what)
    return out


def bits_of(total: Fraction, what: Mma) -> int:
    if what.sum == "s32":
        if what.saturate:
            total = max(min(total, Fraction(2**31 - 1)), Fraction(-(2**31)))
        return int(total) & 0xFFFFFFFF
    if what.sum == "f16":
        near = rounded(total, bits=11, smallest=-24)
        return int(np.float16(float(near)).view(np.uint16))
    return int(np.float32(float(rounded(total, bits=24, smallest=-149))).view(np.uint32))


@pytest.mark.parametrize("opcode", OPCODES)
def test_sums_are_those_of_plain_loops(opcode: str) -> None:
    what = OPCODES[opcode]
    rng = np.random.default_rng(len(opcode) + what.depth)
    last = (4 - what.blocks, 1) if what.blocks else (0, 0)  # the last bytes, the second lane pair
    layout = fragment_map(opcode, last, last)
    types = {"a": what.a, "b": what.b, "c": what.sum, "scale_a": what.scale, "scale_b": what.scale}
    codes = {k: draw(rng, types[k], (2, *f.row.shape)) for k, f in layout.items()}
    words = {k: packed(codes[k], BITS[types[k]]) for k in codes}
    scales = [words[k] for k in ("scale_a", "scale_b") if k in words]
    selectors = (last, last) if scales else ()
    got = mma(opcode, words["a"], words["b"], words["c"], scales, selectors)
    for warp in range(2):
        tiles = {k: tile(layout[k], codes[k][warp], types[k]) for k in layout}
        want = looped(what, tiles)
        c = layout["c"]
        assert np.array_equal(got[warp], packed(want[c.row, c.col], BITS[what.sum])), warp


def test_integer_sums_wrap_or_stop() -> None:
    # 16 * 127 * 127 above the largest s32 wraps to a negative number unless .satfinite is there
    a = np.full((1, 32, 2), 0x7F7F7F7F, np.uint32)
    c = np.full((1, 32, 4), 0x7FFFFFFF, np.uint32)
    plain = "mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32"
    total = 2**31 - 1 + 16 * 127 * 127
    assert (mma(plain, a, a[:, :, :1], c) == total).all()
    stopping = plain.replace("row.col", "row.col.satfinite")
    assert (mma(stopping, a, a[:, :, :1], c) == 0x7FFFFFFF).all()


def test_infinities_and_nan_come_out() -> None:
    a, b = np.zeros((1, 32, 4), np.uint32), np.zeros((1, 32, 2), np.uint32)
    c = np.zeros((1, 32, 4), np.uint32)
    a[0, 0, 0] = 0x7C00  # infinity at (0, 0): times b's zeros it is NaN, in row 0 alone
    got = mma(F16, a, b, c)
    assert (got[0, :4, :2] == 0x7FFFFFFF).all()
    assert (got[0, 4:] == 0).all()
    b[0, :, 0] = 0x3C00  # ones in row 0 of B (lanes with t = 0), and zeros in the odd rows
    b[0, 1::4] = b[0, 2::4] = b[0, 3::4] = 0
    assert (mma(F16, a, b, c)[0, :4, :2] == 0x7F800000).all()


def test_the_ends_of_ue8m0() -> None:
    # 255 is NaN and 0 is 2^-127: a kernel that shifts the byte into a float32 gets infinity and 0
    opcode = next(o for o in OPCODES if "mxf8f6f4" in o and ".e4m3.e4m3." in o)
    ones, none = np.full((1, 32, 4), 0x38383838, np.uint32), np.zeros((1, 32, 4), np.uint32)
    scale_a = np.full((1, 32, 1), 127, np.uint32)
    scale_a[0, 0], scale_a[0, 4] = 255, 0  # of row 0 and of row 1
    scales = [scale_a, np.full((1, 32, 1), 127, np.uint32)]
    got = mma(opcode, ones, ones[:, :, :2], none, scales, [(0, 0), (0, 0)])[0].view(np.float32)
    assert np.isnan(got[:4, :2]).all()
    assert (got[4:8, :2] == 32 * 2.0**-127).all()
    assert (got[8:] == 32).all()
