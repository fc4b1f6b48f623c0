"""Vectors as values: every operation against NumPy, and the same bits on a CPU without extras.

The second half runs this file's own kernels in a process that compiles for a CPU without AVX or
FMA, where LLVM takes other instructions for everything here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.kernels.plain_cpu import on_a_plain_cpu
from tinymoe.core import Array
from tinymoe.formats.bf16 import round_to_bf16
from tinymoe.kernels.cpu import maths, simd
from tinymoe.kernels.cpu.kernel import helper
from tinymoe.kernels.cpu.simd import (
    as_f32,
    bits,
    f32_at,
    f64_of,
    fma,
    i64_at,
    load,
    load_i32,
    load_part,
    load_u8,
    put_f32,
    put_i64,
    splat,
    splat_i32,
    store,
    store_part,
)

pytestmark = pytest.mark.kernels
INF, SIZE = np.float32(np.inf), 64


@helper
def floats(x, y, z, out, step):  # type: ignore[no-untyped-def]
    """16 numbers of each of x, y, z to one row of 16 for each operation, `step` bytes apart."""
    a, b, c = load(x), load(y), load(z)
    store(out, a + b)
    store(out + step, a - b)
    store(out + 2 * step, a * b)
    store(out + 3 * step, a / b)
    store(out + 4 * step, fma(a, b, c))
    store(out + 5 * step, simd.sqrt(a))
    store(out + 6 * step, simd.nearest(a))
    store(out + 7 * step, simd.least(a, b))
    store(out + 8 * step, simd.most(a, b))
    store(out + 9 * step, simd.absolute(a))
    store(out + 10 * step, simd.pick(a, b, c, a))
    store(out + 11 * step, simd.to_bf16(a))
    store(out + 12 * step, maths.exp(a))
    store(out + 13 * step, splat(simd.total(a)))
    store(out + 14 * step, splat(simd.largest(a)))
    store(out + 15 * step, splat(simd.lane0(a)))


@helper
def wholes(x, y, small, out, step):  # type: ignore[no-untyped-def]
    """The same for int32, of which the results are kept as the same bits."""
    a, b = load_i32(x), load_i32(y)
    store(out, as_f32(a + b))
    store(out + step, as_f32(a - b))
    store(out + 2 * step, as_f32(a & b))
    store(out + 3 * step, as_f32(a | b))
    store(out + 4 * step, as_f32(a ^ b))
    store(out + 5 * step, as_f32(simd.left(a, 5)))
    store(out + 6 * step, as_f32(simd.right(a, 5)))
    store(out + 7 * step, as_f32(load_u8(x)))
    store(out + 8 * step, as_f32(bits(as_f32(b))))
    store(out + 9 * step, as_f32(splat_i32(-7)))
    store(out + 10 * step, as_f32(simd.whole(load(small))))


@helper
def memory(x, out, count):  # type: ignore[no-untyped-def]
    """Parts of vectors, and single numbers."""
    store(out, load_part(x, count))
    store_part(out + 64, load(x), count)
    put_f32(out + 128, f32_at(x + 4))
    put_i64(out + 136, i64_at(x + 8))
    put_f32(out + 144, f64_of(i64_at(x + 8)))
    put_f32(out + 148, simd.bf16_at(x + 2))


def fused(a: Array, b: Array, c: Array) -> Array:
    """a * b + c rounded once: to odd in float64, of which rounding to float32 is right.

    The product is exact in 48 bits; of the sum float64 keeps 53 and TwoSum says what it lost.
    """
    product, c = a.astype(np.float64) * b, c.astype(np.float64)
    total = product + c
    part = total - product
    lost = (product - (total - part)) + (c - part)
    odd = total.view(np.int64) & 1
    toward = np.where((lost != 0) & (odd == 0), np.sign(lost) * np.sign(total), 0)
    return (total.view(np.int64) + toward.astype(np.int64)).view(np.float64).astype(np.float32)


def halves(x: Array) -> np.float32:
    """Lane i and i + 8, then i + 4, i + 2, i + 1."""
    while len(x) > 1:
        x = x[: len(x) // 2] + x[len(x) // 2 :]
    return np.float32(x[0])


FLOATS: list[Callable[[Array, Array, Array], Any]] = [
    lambda a, b, c: a + b,
    lambda a, b, c: a - b,
    lambda a, b, c: a * b,
    lambda a, b, c: a / b,
    fused,
    lambda a, b, c: np.sqrt(a),
    lambda a, b, c: np.rint(a),
    lambda a, b, c: np.fmin(a, b),
    lambda a, b, c: np.fmax(a, b),
    lambda a, b, c: np.abs(a),
    lambda a, b, c: np.where(a < b, c, a),
    lambda a, b, c: round_to_bf16(a),
    lambda a, b, c: None,  # exp: `test_cpu_maths.py` holds it to float64
    lambda a, b, c: np.full(16, halves(a)),
    lambda a, b, c: np.full(16, a.max()),
    lambda a, b, c: np.full(16, a[0]),
]


def operands(number: int) -> tuple[Array, Array, Array]:
    """Ordinary numbers, neighbours that cancel, ties to even, and all that is not ordinary."""
    rng = np.random.default_rng(number)
    a, b, c = (
        (rng.normal(size=16) * 10.0 ** rng.uniform(-3, 3, 16)).astype(np.float32) for _ in range(3)
    )
    if number % 4 == 1:
        c = (-a * b).astype(np.float32)  # what is left is what one rounding keeps
    if number % 4 == 2:
        a = (rng.integers(-20, 20, 16) / 2).astype(np.float32)
    if number % 4 == 3:
        special = [0.0, -0.0, INF, -INF, np.nan, 1e-45, -1e-40, 3.4e38, 1.0, -1.0]
        a, b = (rng.choice(np.array(special, np.float32), 16) for _ in range(2))
    return a, b, c


def run_floats() -> Array:
    """(SIZE, operations, 16)"""
    out = np.zeros((SIZE, len(FLOATS), 16), np.float32)
    for number in range(SIZE):
        a, b, c = operands(number)
        floats(*(v.ctypes.data for v in (a, b, c, out[number])), 64)
    return out


def test_float_operations_are_numpy_s() -> None:
    """One rounding each: fused products that round twice give other text than other machines."""
    for number, rows in enumerate(run_floats()):
        a, b, c = operands(number)
        for row, (got, formula) in enumerate(zip(rows, FLOATS, strict=True)):
            if row in (4, 14) and number % 4 == 3:  # no definition of ours for what is not finite
                continue
            with np.errstate(all="ignore"):
                want = formula(a, b, c)
            if want is not None:
                np.testing.assert_array_equal(got, want, err_msg=f"operation {row}, case {number}")


def test_whole_number_operations_are_numpy_s() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(-(2**31), 2**31, (2, 16)).astype(np.int32)
    small = (rng.normal(size=16) * 1e4).astype(np.float32)
    out = np.zeros((11, 16), np.int32)
    wholes(*(v.ctypes.data for v in (x, y, small, out)), 64)
    unsigned = x.view(np.uint32)
    expected = [
        x + y, x - y, x & y, x | y, x ^ y, unsigned << 5, unsigned >> 5,
        x.view(np.uint8)[:16], y, np.full(16, -7), small.astype(np.int32),
    ]  # fmt: skip
    for row, want in enumerate(expected):
        want = np.asarray(want).astype(np.int64) & 0xFFFFFFFF
        np.testing.assert_array_equal(out[row].astype(np.int64) & 0xFFFFFFFF, want, f"row {row}")


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 15, 16])
def test_parts_touch_nothing_else(count: int) -> None:
    """What lies behind a row is another row, or the end of the memory."""
    x, out = np.arange(1, 17, dtype=np.float32), np.full(48, 9, np.float32)
    memory(x.ctypes.data, out.ctypes.data, count)
    kept = np.arange(16) < count
    np.testing.assert_array_equal(out[:16], np.where(kept, x, 0))
    np.testing.assert_array_equal(out[16:32], np.where(kept, x, 9))
    assert out[32] == 2
    assert out[34:36].tobytes() == x[2:4].tobytes()
    assert out[36] == np.float32(x[2:4].view(np.float64)[0])
    assert out[37] == round_to_bf16(x[:1])[0]  # the upper half of 1.0


def test_a_cpu_without_extras_gives_the_same_bits() -> None:
    """LLVM has other instructions there; fma is a function of the C library."""
    there = np.frombuffer(on_a_plain_cpu(__file__, "run_floats().tobytes()"), np.float32).reshape(
        SIZE, len(FLOATS), 16
    )
    here = run_floats()
    same = (here.view(np.uint32) == there.view(np.uint32)) | (np.isnan(here) & np.isnan(there))
    assert same.all(), np.argwhere(~same)[:5]
