"""`cvt` of the PTX machine: against fractions, NumPy's halves, and ml_dtypes' small formats."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from tests.kernels.one_instruction import Array, one, signed
from tests.kernels.test_ptx_floats import FORMATS, load, rounded, same, store

pytestmark = pytest.mark.kernels
rng = np.random.default_rng(11)
WIDE = np.ldexp(rng.uniform(-2, 2, 300), rng.integers(-150, 128, 300))
F64 = np.concatenate([WIDE, rng.uniform(-300, 300, 200), [0.0, -0.0, np.inf, -np.inf, np.nan]])
F32 = F64.astype("f4")
INTS = {
    bits: np.concatenate(
        [
            rng.integers(0, 2**64, 200, np.uint64) >> rng.integers(64 - bits, 64, 200, np.uint64),
            np.array([0, 1, 2 ** (bits - 1) - 1, 2 ** (bits - 1), 2**bits - 1], np.uint64),
        ]
    ).astype(f"u{bits // 8}")
    for bits in (8, 16, 32, 64)
}


@pytest.mark.parametrize("sat", [False, True])
@pytest.mark.parametrize("to", ["u8", "s8", "u16", "s32", "u64"])
@pytest.mark.parametrize("source", ["u8", "s8", "s16", "u32", "s32", "s64", "u64"])
def test_integer_to_integer(source: str, to: str, sat: bool) -> None:
    bits, into = int(source[1:]), int(to[1:])
    low, high = (-(2 ** (into - 1)), 2 ** (into - 1) - 1) if to[0] == "s" else (0, 2**into - 1)
    want = []
    for x in INTS[bits]:
        value = signed(x, bits) if source[0] == "s" else int(x)
        want.append((min(max(value, low), high) if sat else value) % 2**into)
    register = max(into, 16)  # there are no registers of 8 bits for numbers
    # a signed result is extended into a wider register
    if into < 16:
        want = [(signed(w, into) if to[0] == "s" else w) % 2**register for w in want]
    text = f"cvt{'.sat' if sat else ''}.{to}.{source} %d, %x"
    assert one(text, register // 8, INTS[bits]).tolist() == want


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("to", ["f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize("source", ["u8", "s16", "s32", "u32", "s64", "u64"])
def test_integer_to_float(source: str, to: str, mode: str) -> None:
    # 64 bits to f32 by way of f64 would round twice
    bits = int(source[1:])
    numbers = [signed(x, bits) if source[0] == "s" else int(x) for x in INTS[bits]]
    want = [rounded(Fraction(n), FORMATS[to], mode) for n in numbers]
    size = {"f16": 2, "bf16": 2, "f32": 4, "f64": 8}[to]
    same(one(f"cvt.{mode}.{to}.{source} %d, %x", size, INTS[bits]), want, to)


WHOLE: dict[str, Callable[[float], int]] = {
    "rni": round,
    "rzi": math.trunc,
    "rmi": math.floor,
    "rpi": math.ceil,
}


@pytest.mark.parametrize("how", WHOLE)
@pytest.mark.parametrize("to", ["u16", "s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("source", ["f16", "f32", "f64"])
def test_float_to_integer_is_clamped(source: str, to: str, how: str) -> None:
    bits = int(to[1:])
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if to[0] == "s" else (0, 2**bits - 1)
    raw = store(F64, source)
    want = []
    for x in load(raw, source).tolist():
        if math.isnan(x):  # PTX ISA 9.0, cvt: 0, or the top bit where 64 bits are concerned
            want.append(2 ** (bits - 1) if source == "f64" or bits == 64 else 0)
        elif math.isinf(x):
            want.append((high if x > 0 else low) % 2**bits)
        else:
            want.append(min(max(WHOLE[how](x), low), high) % 2**bits)
    assert one(f"cvt.{how}.{to}.{source} %d, %x", bits // 8, raw).tolist() == want


def special(x: float, mode_of: Callable[[Fraction], float]) -> float:
    """Infinities and NaN stay; other numbers are rounded."""
    if math.isnan(x) or math.isinf(x):
        return x
    return math.copysign(mode_of(Fraction(x)), x)


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize(
    ("to", "source"),
    [("f16", "f32"), ("bf16", "f32"), ("f32", "f64"), ("f16", "f64"), ("bf16", "f64")],
)
def test_a_narrower_float(to: str, source: str, mode: str) -> None:
    raw = store(F64, source)
    want = [special(x, lambda v: rounded(v, FORMATS[to], mode)) for x in load(raw, source).tolist()]
    size = {"f16": 2, "bf16": 2, "f32": 4}[to]
    same(one(f"cvt.{mode}.{to}.{source} %d, %x", size, raw), want, to)


@pytest.mark.parametrize(("to", "source"), [("f32", "f16"), ("f32", "bf16"), ("f64", "f32")])
def test_a_wider_float_is_exact(to: str, source: str) -> None:
    raw = store(F64, source)
    got = one(f"cvt.{to}.{source} %d, %x", 4 if to == "f32" else 8, raw)
    same(got, load(raw, source).tolist(), to)


def test_whole_numbers_as_floats() -> None:
    for how, function in (("rni", np.rint), ("rzi", np.trunc), ("rmi", np.floor), ("rpi", np.ceil)):
        got = one(f"cvt.{how}.f32.f32 %d, %x", 4, F32)
        same(got, function(F32).astype("f8").tolist(), "f32")


def test_flushing_and_clamping_conversions() -> None:
    x = np.array([1e-40, -1e-40, 0.5, 2.0, -2.0, np.nan], "f4")
    same(one("cvt.ftz.f64.f32 %d, %x", 8, x)[:3], [0.0, -0.0, 0.5], "f64")
    same(one("cvt.sat.f32.f32 %d, %x", 4, x)[2:], [0.5, 1.0, 0.0, 0.0], "f32")
    same(one("cvt.rn.ftz.f32.f64 %d, %x", 4, x.astype("f8"))[:2], [0.0, -0.0], "f32")
    same(one("cvt.rn.relu.f16.f32 %d, %x", 2, x)[3:5], [2.0, 0.0], "f16")
    big = np.array([1e30, -1e30], "f4")
    same(one("cvt.rn.satfinite.f16.f32 %d, %x", 2, big), [65504.0, -65504.0], "f16")


def test_tf32_rounds_a_tie_away_from_zero() -> None:
    x = np.array([1 + 2.0**-11, 1 + 3 * 2.0**-11, -(1 + 2.0**-11), 1 + 2.0**-12, np.inf], "f4")
    want = [1 + 2.0**-10, 1 + 2 * 2.0**-10, -(1 + 2.0**-10), 1.0, math.inf]
    same(one("cvt.rna.tf32.f32 %d, %x", 4, x), want, "f32")


A, B = F32, np.roll(F32, 3)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_two_halves_at_once(kind: str) -> None:
    # the first source goes to the upper half
    got = one(f"cvt.rn.{kind}x2.f32 %d, %x, %y", 4, A, B)
    single = [one(f"cvt.rn.{kind}.f32 %d, %x", 2, v).astype("u4") for v in (A, B)]
    assert np.array_equal(got, single[0] << 16 | single[1])


SMALL = {
    "e4m3x2": (ml_dtypes.float8_e4m3fn, 448.0, 0x7F),
    "e5m2x2": (ml_dtypes.float8_e5m2, 57344.0, 0x7F),
    "e2m1x2": (ml_dtypes.float4_e2m1fn, 6.0, 0x7),
    "e3m2x2": (ml_dtypes.float6_e3m2fn, 28.0, 0x1F),
    "e2m3x2": (ml_dtypes.float6_e2m3fn, 7.5, 0x1F),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_floats_are_rounded_like_ml_dtypes(name: str) -> None:
    dtype, most, nan = SMALL[name]
    middles = np.arange(256).astype("u1")[: 256 if "8" in dtype.__name__ else 16]
    edge = middles.view(dtype).astype("f4") if "8" in dtype.__name__ else np.arange(16.0) / 4
    edge = np.nan_to_num(edge.astype("f4"), posinf=0, neginf=0)
    x = np.concatenate([F32, edge, (edge[1:] + edge[:-1]) / 2]).astype("f4")
    clamped = np.clip(x, -most, most)
    want = clamped.astype(dtype).view("u1").astype("u4")
    want = np.where(np.isnan(x), nan, want)
    bits = 4 if name == "e2m1x2" else 8
    size, register = (1, ".reg .b8 %b; ") if bits == 4 else (2, "")
    target = "%b" if size == 1 else "%d"
    after = "; cvt.u16.u8 %d, %b" if size == 1 else ""
    y = np.roll(x, 5)
    got = one(f"{register}cvt.rn.satfinite.{name}.f32 {target}, %x, %y{after}", 2, x, y)
    assert got.tolist() == (want << bits | np.roll(want, 5)).tolist()


@pytest.mark.parametrize("name", SMALL)
def test_small_floats_come_back_exactly(name: str) -> None:
    dtype = SMALL[name][0]
    if name == "e2m1x2":
        codes = np.arange(256, dtype="u2")
        text = ".reg .b8 %b; cvt.u8.u16 %b, %x; cvt.rn.f16x2.e2m1x2 %d, %b"
        parts = [codes & 15, codes >> 4]
    else:
        width = 6 if "6" in dtype.__name__ else 8
        low = np.arange(1 << width, dtype="u2")
        codes = low | np.roll(low, 9) << 8
        text, parts = f"cvt.rn.f16x2.{name} %d, %x", [codes & 255, codes >> 8]
    halves = [p.astype("u1").view(dtype).astype("f4").astype("f2") for p in parts]
    got = one(text, 4, codes).view("f2").reshape(-1, 2)
    assert np.array_equal(got, np.stack(halves, 1), equal_nan=True)


def test_small_floats_from_pairs_of_halves() -> None:
    with np.errstate(over="ignore"):
        pair = np.stack([B, A], 1).astype("f2").view("u4")[:, 0]  # A in the upper half
    got = one("cvt.rn.satfinite.e4m3x2.f16x2 %d, %x", 2, pair)
    low, up = pair.view("f2").reshape(-1, 2).T.astype("f4")
    assert got.tolist() == one("cvt.rn.satfinite.e4m3x2.f32 %d, %x, %y", 2, up, low).tolist()


@pytest.mark.parametrize("mode", ["rz", "rp"])
def test_powers_of_two(mode: str) -> None:
    x = np.array([1.0, 1.5, 2.0, 3.0, 2.0**-127, 2.0**-140, 3e38, 0.0, np.nan, np.inf], "f4")
    up = mode == "rp"
    want = [127, 127 + up, 128, 128 + up, 0, 0, 254, 0, 255, 254]
    got = one(f"cvt.{mode}.satfinite.ue8m0x2.f32 %d, 0f3F800000, %x", 2, x)
    assert (got & 255).tolist() == want
    assert set((got >> 8).tolist()) == {127}
    codes = np.arange(256, dtype="u2")
    back = one("cvt.rn.bf16x2.ue8m0x2 %d, %x", 4, codes)
    exact: Array = np.where(codes == 255, np.nan, np.ldexp(1.0, codes.astype(int) - 127))
    same(back.astype("u2"), exact.tolist(), "bf16")
