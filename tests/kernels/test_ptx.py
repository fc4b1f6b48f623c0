"""The PTX machine: right results from compiled kernels, and defects found and named."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kernels.one_instruction import one
from tinymoe.kernels.ptx import PtxError, launch, parse
from tinymoe.kernels.ptx.arithmetic import fma32

pytestmark = pytest.mark.kernels
TEXT = (Path(__file__).parents[1] / "vectors" / "ptx" / "small.ptx").read_text("utf-8")
KERNELS = parse(TEXT)


def test_fma_rounds_once() -> None:
    # rounding to f64 and then to f32 differs in about one of 2^29 random sums: these are built so
    rng = np.random.default_rng(3)
    a = (1 + rng.integers(0, 2**12, 400) / 2**12).astype("f4")
    b = (1 + rng.integers(0, 2**11, 400) / 2**11 + 2.0**-23).astype("f4")
    c = (rng.choice([-1, 1], 400) * 2.0 ** rng.integers(-90, -20, 400)).astype("f4")
    a[0], b[0], c[0] = 1 + 2.0**-12, 1 + 2.0**-12, 2.0**-80  # a tie, and a crumb above it
    got = fma32(a, b, c)
    assert np.float32(np.float64(a[0]) * np.float64(b[0]) + np.float64(c[0])) != got[0]
    for x, y, z, r in zip(a, b, c, got, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        error = abs(Fraction(float(r)) - exact)
        for near in (np.nextafter(r, np.float32(-np.inf)), np.nextafter(r, np.float32(np.inf))):
            other = abs(Fraction(float(near)) - exact)
            assert error < other or (error == other and r.view("u4") % 2 == 0)


def test_zeros_have_signs_and_nan_loses() -> None:
    x = np.array([0.0, -0.0, np.nan, 2.0], "f4")
    y = np.array([-0.0, 0.0, 1.0, np.nan], "f4")
    assert np.signbit(one("min.f32 %d, %x, %y", 4, x, y).view("f4")[:2]).all()
    high = one("max.f32 %d, %x, %y", 4, x, y).view("f4")
    assert not np.signbit(high[:2]).any()
    assert high[2:].tolist() == [1.0, 2.0]


def test_float_to_integer_saturates() -> None:
    x = np.array([1.9, -1.9, 3e9, -3e9, np.nan, 0.5], "f4")
    got = one("cvt.rzi.s32.f32 %d, %x", 4, x).view("i4").tolist()
    assert got == [1, -1, 2**31 - 1, -(2**31), 0, 0]


def test_vector_add_with_a_tail() -> None:
    a, b = np.arange(100, dtype="f4"), np.full(100, 0.5, "f4")
    out = np.zeros(100, "f4")
    report = launch(KERNELS["add"], 4, 32, [out, a, b, np.int32(100)])
    assert np.array_equal(out, a + b)
    assert report.executed == report.instructions


def test_a_store_past_the_end_is_named_with_its_source_line() -> None:
    x = np.zeros(100, "f4")
    with pytest.raises(
        PtxError, match=r"add_past_the_end block 3 thread 4, .*source line 9.*outside"
    ):
        launch(KERNELS["add_past_the_end"], 4, 32, [x.copy(), x, x])


def test_block_sum() -> None:
    x = np.arange(128, dtype="f4")  # sums of small whole numbers are exact in any order
    out = np.zeros(2, "f4")
    launch(KERNELS["block_sum"], 2, 64, [out, x])
    assert out.tolist() == [x[:64].sum(), x[64:].sum()]


def test_a_missing_barrier_is_a_race() -> None:
    # in lock step the result is right all the same: only the race detector sees it
    start = TEXT.index(".entry block_sum")
    cut = TEXT.index("bar.sync", start)
    spoiled = parse(TEXT[:cut] + "//" + TEXT[cut:])["block_sum"]
    with pytest.raises(PtxError, match="block_sum block 0 thread .*race in shared memory"):
        launch(spoiled, 1, 64, [np.zeros(1, "f4"), np.ones(64, "f4")])


def test_divergent_loops_come_together() -> None:
    start, steps = np.arange(1, 65, dtype="i4"), np.zeros(64, "i4")
    launch(KERNELS["collatz"], 1, 64, [steps, start])
    for first, count in zip(start.tolist(), steps.tolist(), strict=True):
        x = first
        for _ in range(count):
            assert x != 1
            x = 3 * x + 1 if x % 2 else x // 2
        assert x == 1


def test_atomics_count_every_thread() -> None:
    x = (np.arange(256) ** 2 % 7).astype("i4")
    count = np.zeros(7, "i4")
    launch(KERNELS["histogram"], 4, 64, [count, x])
    assert np.array_equal(count, np.bincount(x, minlength=7))


def test_a_misaligned_vector_load_is_found() -> None:
    x, out = np.arange(132, dtype="f4"), np.zeros(32, "f4")
    launch(KERNELS["vector_load"], 1, 32, [out, x, np.int32(4)])
    assert np.array_equal(out, x[4:].reshape(32, 4).sum(axis=1))
    with pytest.raises(PtxError, match="thread 0.*not aligned to its 16 bytes"):
        launch(KERNELS["vector_load"], 1, 32, [out, x, np.int32(1)])


def test_a_long_loop_is_not_a_stall_and_its_steps_can_be_bounded() -> None:
    text = """.entry k(.param .u64 out, .param .u32 n) { .reg .b32 %r, %n; .reg .b64 %o;
        .reg .pred %p; ld.param.u32 %n, [n]; mov.u32 %r, 0; AGAIN: add.u32 %r, %r, 1;
        setp.lt.u32 %p, %r, %n; @%p bra AGAIN; ld.param.u64 %o, [out];
        st.global.u32 [%o], %r; ret; }"""
    kernel, out = parse(text)["k"], np.zeros(1, "u4")
    launch(kernel, 1, 1, [out, np.uint32(20_000)])
    assert out[0] == 20_000
    with pytest.raises(PtxError, match="still running after 500 steps"):
        launch(kernel, 1, 1, [out, np.uint32(20_000)], 500)


def test_different_barriers_are_found() -> None:
    with pytest.raises(PtxError, match="different barriers"):
        launch(KERNELS["barrier_for_some"], 1, 64, [np.zeros(64, "i4")])


def test_an_unsupported_instruction_says_so() -> None:
    text = ".entry k(.param .u64 out) {\n wgmma.fence.aligned;\n ret;\n}"
    with pytest.raises(PtxError, match=r"PTX line 2: instruction not supported: `wgmma.fence"):
        launch(parse(text)["k"], 1, 1, [np.zeros(1, "f4")])


def test_a_python_number_is_refused() -> None:
    # a Python int becomes 8 bytes on a GPU launch while the kernel reads 4
    x = np.zeros(32, "f4")
    with pytest.raises(PtxError, match="expected a NumPy array or scalar"):
        launch(KERNELS["add"], 1, 32, [x, x, x, 32])


def test_one_array_given_twice_is_one_buffer() -> None:
    x = np.arange(32, dtype="f4")
    launch(KERNELS["add"], 1, 32, [x, x, x, np.int32(32)])
    assert np.array_equal(x, 2 * np.arange(32))


@pytest.mark.parametrize("line", ["bra nowhere", "ld.param.u64 %q, [nothing]"])
def test_a_name_that_is_not_there_is_named(line: str) -> None:
    text = f".entry k(.param .u64 out) {{ .reg .b64 %q;\n {line};\n ret;\n}}"
    with pytest.raises(PtxError, match=r"PTX line 2: there is no such"):
        launch(parse(text)["k"], 1, 1, [np.zeros(1, "f4")])


FLOATS = np.array([1, 2, 3, 0.1, 7e-30, 1e30, 2.0**-130, 0.75], np.float32)


@pytest.mark.parametrize(
    ("instruction", "exact"),
    [
        ("sqrt.rn.f32 %d, %x", lambda x: np.sqrt(x)),
        ("rcp.rn.f32 %d, %x", lambda x: 1 / x),
        ("div.rn.f32 %d, %x, %y", lambda x: x / np.float64(3)),
    ],
)
def test_division_and_roots_are_rounded_once(instruction: str, exact: Any) -> None:
    # float64 has more than twice the digits of float32: rounding its result again is exact
    others = [np.full(len(FLOATS), 3, np.float32)] if "%y" in instruction else []
    with np.errstate(over="ignore"):
        want = exact(FLOATS.astype(np.float64)).astype(np.float32)
    assert np.array_equal(one(instruction, 4, FLOATS, *others), want.view(np.uint32))


@pytest.mark.parametrize(
    ("instruction", "exact"), [("ex2.approx.f32", np.exp2), ("lg2.approx.f32", np.log2)]
)
def test_powers_and_logarithms_of_two(instruction: str, exact: Any) -> None:
    x = np.array([0.1, 0.5, 1, 2, 3, 10.25], np.float32)
    got = one(f"{instruction} %d, %x", 4, x).view(np.float32)
    # half a float32 step of the result, and the float64 library's own last digits
    want = exact(x.astype(np.float64))
    assert np.all(np.abs(got - want) <= np.abs(want) * 2.0**-23)
