"""e^x and its kin on vectors, against float64: every exponent, and a dense sweep of the range."""

from __future__ import annotations

import numpy as np
import pytest

from tinymoe.core import Array
from tinymoe.kernels.cpu import maths
from tinymoe.kernels.cpu.kernel import helper
from tinymoe.kernels.cpu.simd import f32_at, load, put_f32, store

pytestmark = pytest.mark.kernels
INF = np.float32(np.inf)


@helper
def all_of_them(x, out, count):  # type: ignore[no-untyped-def]
    """(count, 16) float32 to (4, count, 16): exp, sigmoid, silu, and exp of one number."""
    step = 64 * count
    for i in range(count):
        v = load(x + 64 * i)
        store(out + 64 * i, maths.exp(v))
        store(out + step + 64 * i, maths.sigmoid(v))
        store(out + 2 * step + 64 * i, maths.silu(v))
        for lane in range(16):
            at = 64 * i + 4 * lane
            put_f32(out + 3 * step + at, maths.exp_one(f32_at(x + at)))


def run(x: Array) -> Array:
    """(4, N)"""
    x = np.ascontiguousarray(np.resize(x, -(-len(x) // 16) * 16), np.float32)
    out = np.empty((4, len(x)), np.float32)
    all_of_them(x.ctypes.data, out.ctypes.data, len(x) // 16)
    return out


def inputs() -> Array:
    """Every exponent and sign with fractions spread over each; the range of e^x, finely."""
    every = np.arange(0, 2**32, 4_099, np.uint64).astype(np.uint32).view(np.float32)
    dense = np.linspace(-104.5, 89.0, 1 << 20).astype(np.float32)
    return np.concatenate([every[np.isfinite(every)], dense])


def last_place(value: Array) -> Array:
    """The distance of neighbouring float32 at values (float64)."""
    exponent = np.floor(np.log2(np.maximum(value, 2.0**-126)))
    return 2.0 ** (exponent - 23)


def test_exp_is_within_one_unit_in_the_last_place() -> None:
    x = inputs()
    got = run(x)[0, : len(x)]
    with np.errstate(over="ignore"):
        want = np.exp(x.astype(np.float64))
    finite = want < float(np.finfo(np.float32).max)
    off = np.abs(got[finite] - want[finite]) / last_place(want[finite])
    assert off.max() <= 1  # derived in the docstring of `exp`
    assert (got[~finite] == INF).all()


def test_the_ends_of_the_range() -> None:
    """A NaN that becomes a number hides where a model went wrong; e^-inf is a masked score."""
    x = np.array([-INF, INF, np.nan, 0, -0.0, -104, 89, 88.72283, -103.97, 2.0**-149], np.float32)
    expected = np.array([0, INF, np.nan, 1, 1, 0, INF, np.exp(88.72283), 2.0**-149, 1])
    got = run(x)[0, : len(x)]
    special = np.array([0, 1, 2, 3, 4, 5, 6, 8, 9])
    np.testing.assert_array_equal(got[special], expected[special].astype(np.float32))
    assert np.isfinite(got[7])


def test_sigmoid_and_silu_are_the_definition_s_formulas() -> None:
    """exp (2 u), 1 + e (1), the division (1): 4 u = 2^-22, and what an underflow of exp leaves."""
    x = inputs()
    _, sigmoid, silu, *_ = run(x)[:, : len(x)]
    wide = x.astype(np.float64)
    with np.errstate(over="ignore"):
        want = np.where(wide >= 0, 1, np.exp(-np.abs(wide))) / (1 + np.exp(-np.abs(wide)))
        product = wide / (1 + np.exp(-wide))
    assert (np.abs(sigmoid - want) <= 2.0**-22 * want + 2.0**-149).all()
    # e^-x is infinite from x = -88.73 on: x e^x, below 2^-121, becomes 0 there
    assert (np.abs(silu - product) <= 2.0**-22 * np.abs(product) + 2.0**-121).all()


def test_one_number_has_the_bits_of_a_lane() -> None:
    """What folds spans, one query at a time, must agree with what weighs sixteen keys."""
    out = run(inputs())
    assert out[3].tobytes() == out[0].tobytes()
