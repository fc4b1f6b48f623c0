"""Float instructions of the PTX machine against exact fractions, rounded here digit by digit."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest

from tests.kernels.one_instruction import Array, one
from tinymoe.formats import bf16

pytestmark = pytest.mark.kernels


class Format(NamedTuple):
    """Digits of the mantissa with its leading 1, exponents of the least and the greatest number."""

    digits: int
    least: int  # of the smallest subnormal
    most: int  # 2**most is already too great


FORMATS = {
    "f32": Format(24, -149, 128),
    "f64": Format(53, -1074, 1024),
    "f16": Format(11, -24, 16),
    "bf16": Format(8, -133, 128),
}


def rounded(x: Fraction, f: Format, mode: str) -> float:
    """The exact number x in a format; what overflows is infinite or the greatest number."""
    if x == 0:
        return 0.0
    size, sign = abs(x), -1 if x < 0 else 1
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    unit = Fraction(2) ** max(exponent - f.digits + 1, f.least)
    whole, rest = divmod(size / unit, 1)
    up = {
        "rn": rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1),
        "rz": False,
        "rm": sign < 0 and rest > 0,
        "rp": sign > 0 and rest > 0,
    }[mode]
    value = (whole + up) * unit
    if value >= Fraction(2) ** f.most:
        last = Fraction(2) ** f.most - Fraction(2) ** (f.most - f.digits)
        return sign * (math.inf if mode in ("rn", "rm" if sign < 0 else "rp") else float(last))
    return math.copysign(float(value), sign)


def values(kind: str, count: int, seed: int) -> Array:
    """Numbers of a format: small whole ones, close ones, and any exponents."""
    f, rng = FORMATS[kind], np.random.default_rng(seed)
    wide = np.ldexp(rng.uniform(-2, 2, count), rng.integers(f.least, f.most - 1, count))
    near = rng.choice([-1, 1], count) * (1 + rng.integers(0, 1 << f.digits - 1, count) / 2.0**20)
    x = np.concatenate([wide[: count // 2], near[: count - count // 2]])
    return store(x, kind)


def store(x: Array, kind: str) -> Array:
    """As raw bits; values of x that a format lacks are rounded by NumPy first."""
    if kind == "bf16":
        return bf16.encode(x.astype("f4"))
    dtype = {"f32": "f4", "f64": "f8", "f16": "f2"}[kind]
    with np.errstate(over="ignore", under="ignore"):
        return x.astype(dtype).view(f"u{np.dtype(dtype).itemsize}")


def load(raw: Array, kind: str) -> Array:
    """Raw bits as float64."""
    if kind == "bf16":
        return (raw.astype("u4") << 16).view("f4").astype("f8")
    return raw.view({"f32": "f4", "f64": "f8", "f16": "f2"}[kind]).astype("f8")


def same(got: Array, want: list[float], kind: str) -> None:
    """Equal bit by bit, but for which NaN."""
    expected = np.array(want)
    found = load(got, kind)
    alike = (found == expected) & (np.signbit(found) == np.signbit(expected))
    alike |= np.isnan(found) & np.isnan(expected)
    bad = int(np.argmin(alike))
    assert alike.all(), f"element {bad}: {found[bad].hex()}, expected {expected[bad].hex()}"


EXACT: dict[str, tuple[int, Callable[..., Fraction]]] = {
    "add": (2, lambda a, b: a + b),
    "sub": (2, lambda a, b: a - b),
    "mul": (2, lambda a, b: a * b),
    "fma": (3, lambda a, b, c: a * b + c),
    "div": (2, lambda a, b: a / b),
    "rcp": (1, lambda a: 1 / a),
}
ROUNDED = [
    *((name, "f32", mode) for name in EXACT for mode in ("rn", "rz", "rm", "rp")),
    *((name, "f64", mode) for name in ("add", "sub", "mul") for mode in ("rn", "rz", "rm", "rp")),
    *((name, "f64", "rn") for name in ("fma", "div", "rcp")),
    *((name, kind, "rn") for name in ("add", "sub", "mul", "fma") for kind in ("f16", "bf16")),
]


@pytest.mark.parametrize(("name", "kind", "mode"), ROUNDED)
def test_one_rounding(name: str, kind: str, mode: str) -> None:
    # two roundings, to f64 and then to f32, differ where the first lands on a tie
    count, exact = EXACT[name]
    inputs = [values(kind, 400, seed) for seed in range(count)]
    if name == "fma":  # a sum where the product nearly cancels, and one with a crumb
        a, b = load(inputs[0], kind)[:100], load(inputs[1], kind)[:100]
        with np.errstate(over="ignore", invalid="ignore"):
            inputs[2][:100] = store(np.nan_to_num(-(a * b), posinf=1, neginf=1), kind)
    rows = [load(v, kind) for v in inputs]
    keep = np.isfinite(rows).all(axis=0) & (rows[-1] != 0) & (rows[0] != 0)
    inputs, rows = [v[keep] for v in inputs], [v[keep] for v in rows]
    want = []
    for row in zip(*rows, strict=True):
        x = exact(*map(Fraction, row))
        zero = -0.0 if mode == "rm" else 0.0  # x - x
        want.append(rounded(x, FORMATS[kind], mode) if x else zero)
    names = ", ".join(f"%{k}" for k in "xyz"[:count])
    got = one(f"{name}.{mode}.{kind} %d, {names}", inputs[0].itemsize, *inputs)
    same(got, want, kind)


@pytest.mark.parametrize(("kind", "mode"), [("f32", m) for m in ("rn", "rz", "rm", "rp")])
def test_square_roots(kind: str, mode: str) -> None:
    x = np.abs(load(values(kind, 400, 5), kind))
    raw = store(x, kind)
    got = load(one(f"sqrt.{mode}.f32 %d, %x", 4, raw), kind)
    for root, square in zip(got, load(raw, kind), strict=True):
        near = np.float32(root)
        below, above = (np.nextafter(near, np.float32(s)) for s in (-1, np.inf))
        exact, mine = Fraction(square), Fraction(float(near))
        middle = [(mine + Fraction(max(float(v), 0.0))) / 2 for v in (below, above)]
        if mode == "rn":
            assert middle[0] ** 2 <= exact <= middle[1] ** 2
        elif mode == "rp":
            assert Fraction(max(float(below), 0.0)) ** 2 < exact <= mine**2 or exact == 0
        else:
            assert mine**2 <= exact < Fraction(float(above)) ** 2


def test_fma_in_f64_at_the_ends_of_the_range() -> None:
    # Dekker's splitting overflows there; the sum of a product that overflows with an infinity is
    # that infinity, since the product was exact
    a = np.array([2.0**1000, 2.0**1000, 2.0**-600, 1e308, 3e9, np.inf, 0.0, 2.0**-1074, 1.5])
    b = np.array([2.0**1000, 2.0**-1000, 2.0**-500, 1e10, 1e300, 0.0, np.inf, 0.5, 2.0**-1073])
    c = np.array([0.0, 1.0, 2.0**-1074, -np.inf, -np.inf, 1.0, 1.0, 2.0**-1074, -(2.0**-1074)])
    nan, tiny = math.nan, 2.0**-1074
    want = [math.inf, 2.0, tiny, -math.inf, -math.inf, nan, nan, 2 * tiny, 2 * tiny]
    same(one("fma.rn.f64 %d, %x, %y, %z", 8, *(v.view("u8") for v in (a, b, c))), want, "f64")


def test_a_computed_nan_is_the_hardwares() -> None:
    # x86's own has its sign set: as a sort key it would come last instead of first
    inf = np.full(1, np.inf, "f4")
    assert one("sub.f32 %d, %x, %x", 4, inf).tolist() == [0x7FFFFFFF]
    half = np.array([0x7C00], "u2")
    assert one("sub.f16 %d, %x, %x", 2, half).tolist() == [0x7FFF]
    assert one("sub.bf16 %d, %x, %x", 2, np.array([0x7F80], "u2")).tolist() == [0x7FFF]


ODD = np.array([0.0, -0.0, np.nan, 2.0, -1.0, np.inf, 1e-40, -1e-40], "f4")


def test_the_smaller_and_the_greater() -> None:
    x, y = (v.ravel().copy() for v in np.meshgrid(ODD, ODD))
    rank: Callable[[float], tuple[float, float]] = lambda v: (v, math.copysign(1, v))  # noqa: E731
    for name, pick in (("min", min), ("max", max)):
        want = []
        for a, b in zip(x.tolist(), y.tolist(), strict=True):
            numbers = [v for v in (a, b) if v == v]
            want.append(pick(numbers, key=rank) if numbers else math.nan)
        same(one(f"{name}.f32 %d, %x, %y", 4, x, y), want, "f32")
        lost = np.isnan(x) | np.isnan(y)
        strict = [math.nan if n else w for n, w in zip(lost, want, strict=True)]
        same(one(f"{name}.NaN.f32 %d, %x, %y", 4, x, y), strict, "f32")


def test_flushing_and_clamping() -> None:
    tiny = np.array([1e-40, -1e-40, 2.0**-126, 1.5, -3.0, np.nan, 0.25, -0.0], "f4")
    one_ = np.ones(len(tiny), "f4")
    same(one("mul.ftz.f32 %d, %x, %y", 4, tiny, one_)[:4], [0.0, -0.0, 2.0**-126, 1.5], "f32")
    same(one("mul.f32 %d, %x, %y", 4, tiny, one_)[:1], [float(tiny[0])], "f32")
    want = [float(tiny[0]), 0.0, 2.0**-126, 1.0, 0.0, 0.0, 0.25, 0.0]
    same(one("add.sat.f32 %d, %x, %y", 4, tiny, 0 * one_), want, "f32")
    down = np.full(8, 2.0**-100, "f4")  # a product below the smallest normal number
    assert one("mul.rn.ftz.f32 %d, %x, %x", 4, down).tolist() == [0] * 8


APPROXIMATE = {
    "rsqrt.approx.f32": lambda x: 1 / np.sqrt(x),
    "sin.approx.f32": np.sin,
    "cos.approx.f32": np.cos,
    "ex2.approx.f32": np.exp2,
    "lg2.approx.f32": np.log2,
    "tanh.approx.f32": np.tanh,
}


@pytest.mark.parametrize("name", APPROXIMATE)
def test_approximations(name: str) -> None:
    x = np.array([0.1, 0.5, 1, 1.5, 2, 3, 10.25, 1e-5], "f4")
    want = np.asarray(APPROXIMATE[name](x.astype("f8")))
    got = one(f"{name} %d, %x", 4, x).view("f4")
    # half a float32 step of the result, and the float64 library's own last digits
    assert np.all(np.abs(got - want) <= np.abs(want) * 2.0**-23)


FLUSHED = np.where(np.abs(ODD) < 1e-39, np.copysign(np.float32(0), ODD), ODD)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("neg.f32 %d, %x", -ODD),
        ("abs.f32 %d, %x", np.abs(ODD)),
        ("neg.ftz.f32 %d, %x", -FLUSHED),
        ("copysign.f32 %d, %x, 0f40400000", np.copysign(np.float32(3), ODD)),
    ],
)
def test_signs(text: str, want: Array) -> None:
    same(one(text, 4, ODD), want.astype("f8").tolist(), "f32")


def test_reciprocals_of_zeros() -> None:
    inf = math.inf
    want = [inf, -inf, math.nan, 0.5, -1.0, 0.0, inf, -inf]
    same(one("rcp.approx.ftz.f32 %d, %x", 4, ODD), want, "f32")


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("finite", [1, 1, 0, 1, 1, 0, 1, 1]),
        ("infinite", [0, 0, 0, 0, 0, 1, 0, 0]),
        ("number", [1, 1, 0, 1, 1, 1, 1, 1]),
        ("notanumber", [0, 0, 1, 0, 0, 0, 0, 0]),
        ("normal", [0, 0, 0, 1, 1, 0, 0, 0]),
        ("subnormal", [0, 0, 0, 0, 0, 0, 1, 1]),
    ],
)
def test_classes(name: str, want: list[int]) -> None:
    assert one(f"testp.{name}.f32 %p, %x; selp.u32 %d, 1, 0, %p", 4, ODD).tolist() == want


ORDERED: dict[str, Callable[[Array, Array], Array]] = {
    **{"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal},
    **{"gt": np.greater, "ge": np.greater_equal},
}


@pytest.mark.parametrize("test", ORDERED)
def test_comparisons_with_nan(test: str) -> None:
    # ordered ones are false on a NaN, `ne` too; the `u` ones are true
    x, y = (v.ravel().copy() for v in np.meshgrid(ODD, ODD))
    lost, plain = np.isnan(x) | np.isnan(y), ORDERED[test](x, y)
    choose = "selp.u32 %d, 1, 0, %p"
    got = one(f"setp.{test}.f32 %p, %x, %y; {choose}", 4, x, y)
    assert got.tolist() == (plain & ~lost).astype(int).tolist()
    got = one(f"setp.{test}u.f32 %p, %x, %y; {choose}", 4, x, y)
    assert got.tolist() == (plain | lost).astype(int).tolist()
    assert one(f"setp.nan.f32 %p, %x, %y; {choose}", 4, x, y).tolist() == lost.astype(int).tolist()


def test_pairs_of_halves() -> None:
    a, b, c = (values("f16", 64, s).view("u4") for s in (1, 2, 3))
    parts = [v.view("u2") for v in (a, b, c)]
    pair = one("fma.rn.f16x2 %d, %x, %y, %z", 4, a, b, c)
    single = one("fma.rn.f16 %d, %x, %y, %z", 2, *parts)
    assert np.array_equal(pair.view("u2"), single)
    pair = one("add.bf16x2 %d, %x, %y", 4, a, b)
    assert np.array_equal(pair.view("u2"), one("add.bf16 %d, %x, %y", 2, *parts[:2]))
    pair = one("mul.rn.f16x2 %d, %x, 0x74007400", 4, a)  # a constant for both halves: 16384
    assert np.array_equal(pair.view("u2"), one("mul.rn.f16 %d, %x, 0x7400", 2, parts[0]))
    pair = one("max.NaN.f16x2 %d, %x, %y", 4, a, b)
    assert np.array_equal(pair.view("u2"), one("max.NaN.f16 %d, %x, %y", 2, *parts[:2]))
    assert np.array_equal(one("neg.f16x2 %d, %x", 4, a), a ^ np.uint32(0x80008000))
