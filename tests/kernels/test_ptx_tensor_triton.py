"""GEMMs compiled by Triton, run on the PTX machine: an independent idea of every layout.

Inputs lie on a grid where every partial sum is exact, so results must equal the integers to the
bit, whatever the order of the sums. Shapes have tails in all three dimensions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinymoe.formats import bf16, e2m1, e4m3, e8m0
from tinymoe.kernels.ptx import DefectError, Kernel, Report, launch, parse

pytestmark = pytest.mark.kernels
Array = np.ndarray[Any, Any]
FOLDER = Path(__file__).parents[1] / "vectors" / "ptx"
SCRATCH = np.zeros(16, np.uint8)  # Triton passes two pointers that these kernels do not use
UE4M3 = np.array([0x30, 0x38, 0x3C, 0x40], np.uint8)  # 0.5, 1, 1.5, 2
UE8M0 = np.array([126, 127, 128, 129], np.uint8)  # 0.5, 1, 2, 4


def text_of(name: str) -> str:
    return (FOLDER / f"triton_{name}.ptx").read_text("utf-8")


def kernel_of(text: str) -> Kernel:
    (kernel,) = parse(text).values()
    return kernel


@cache
def compiled(name: str) -> Kernel:
    return kernel_of(text_of(name))


# ---- inputs: stored operands, and their values in float64 ---------------------------------------

Operand = tuple[list[Array], Array]
Rng = np.random.Generator
Draw = Callable[[Rng, int, int], Operand]


def whole(rng: Rng, rows: int, cols: int, most: int) -> Array:
    return rng.integers(-most, most + 1, (rows, cols)).astype(np.float32)


def f16(rng: Rng, rows: int, cols: int) -> Operand:
    x = whole(rng, rows, cols, 64)
    return [x.astype(np.float16)], x


def bf(rng: Rng, rows: int, cols: int) -> Operand:
    x = whole(rng, rows, cols, 64)
    return [bf16.encode(x)], x


def tf32(rng: Rng, rows: int, cols: int) -> Operand:
    x = whole(rng, rows, cols, 64)
    return [x], x


def s8(rng: Rng, rows: int, cols: int) -> Operand:
    x = rng.integers(-128, 128, (rows, cols), np.int8)
    return [x], x


def fp8(rng: Rng, rows: int, cols: int) -> Operand:
    x = whole(rng, rows, cols, 16)
    return [to_e4m3(x)], x


def fp4(scales: Array, size: int, decode: Callable[[Array], Array]) -> Draw:
    def draw(rng: Rng, rows: int, cols: int) -> Operand:
        codes = rng.integers(0, 256, (rows, cols // 2), np.uint8)
        blocks = rng.choice(scales, (rows, cols // size))
        x = e2m1.decode_packed(codes, code_8="-0") * np.repeat(decode(blocks), size, axis=1)
        return [codes, blocks], x

    return draw


def mxfp8(most: int, encode: Callable[[Array], Array]) -> Draw:
    def draw(rng: Rng, rows: int, cols: int) -> Operand:
        x = whole(rng, rows, cols, most)
        blocks = rng.choice(UE8M0, (rows, cols // 32))
        return [encode(x), blocks], x * np.repeat(ue8m0(blocks), 32, axis=1)

    return draw


def to_e4m3(x: Array) -> Array:
    return e4m3.encode(x, overflow="nan", nan_sign="kept")


def to_e5m2(x: Array) -> Array:
    return (x.astype(np.float16).view(np.uint16) >> 8).astype(np.uint8)  # up to 8 it is exact


def ue8m0(codes: Array) -> Array:
    return e8m0.decode(codes, reading="nan")


nvfp4 = fp4(UE4M3, 16, e4m3.decode)
mxfp4 = fp4(UE8M0, 32, ue8m0)

# name -> how to draw A and B, tile of D, shapes (M, N, K). Triton was promised that K, and N where
# B is read along it, are multiples of 16. Sums stay below 2^24 grid steps: exact in f32.
PLAIN = [(32, 64, 32), (1, 16, 16), (33, 80, 48), (48, 64, 96), (5, 144, 112), (2, 16, 0)]
SCALED = [(32, 32, 64), (1, 1, 64), (33, 35, 160), (7, 70, 416), (3, 2, 0)]
LARGE = [(128, 64, 128), (1, 1, 64), (130, 65, 160), (33, 47, 256), (7, 9, 208), (3, 2, 0)]
CASES: dict[str, tuple[tuple[Draw, Draw], tuple[int, int], list[tuple[int, int, int]]]] = {
    "f16_sm80": ((f16, f16), (32, 64), PLAIN),
    "bf16_sm120": ((bf, bf), (32, 64), PLAIN),
    "tf32_sm80": ((tf32, tf32), (32, 32), PLAIN),
    "s8_sm80": ((s8, s8), (32, 32), PLAIN),
    "e4m3_sm89": ((fp8, fp8), (32, 32), PLAIN),
    "nvfp4_sm120": ((nvfp4, nvfp4), (128, 64), LARGE),
    "mxfp4_sm120": ((mxfp4, mxfp4), (32, 32), SCALED),
    "mxfp8_sm120": ((mxfp8(16, to_e4m3), mxfp8(8, to_e5m2)), (32, 32), SCALED),
    "nvfp4_sm89": ((nvfp4, nvfp4), (16, 32), [*SCALED, (7, 9, 208)]),
    "mxfp4_sm80": ((mxfp4, mxfp4), (16, 32), SCALED),
}


def operands(draws: tuple[Draw, Draw], shape: tuple[int, int, int]) -> tuple[Operand, Operand]:
    """A (M, K), and B (K, N): stored as (N, K) where it has scales."""
    (m, n, k), rng = shape, np.random.default_rng(shape)
    left = draws[0](rng, m, k)
    if len(left[0]) == 1:
        return left, draws[1](rng, k, n)
    stored, b = draws[1](rng, n, k)
    return left, (stored, b.T)


def gemm(
    name: str,
    shape: tuple[int, int, int],
    kernel: Kernel | None = None,
    draws: tuple[Draw, Draw] | None = None,
    **checks: Any,
) -> tuple[Array, Array, Report]:
    """D as the kernel computes it, from a buffer of NaN or -1; the exact D; the report."""
    (left, a), (right, b) = operands(draws or CASES[name][0], shape)
    m, n, _ = shape
    d = np.full((m, n), -1, np.int32) if name[:2] == "s8" else np.full((m, n), np.nan, "f4")
    shared, threads = map(int, re.findall(r"(\d+) bytes; threads: (\d+)", text_of(name))[0])
    grid = [-(-size // tile) for size, tile in zip((m, n), CASES[name][1], strict=True)]
    args = [*left, *right, d, *map(np.int32, shape), SCRATCH, SCRATCH]
    report = launch(kernel or compiled(name), grid, threads, args, shared_bytes=shared, **checks)
    return d, a.astype(np.float64) @ b.astype(np.float64), report


@pytest.mark.parametrize("name", CASES)
def test_results_are_the_exact_integers(name: str) -> None:
    total = Report.empty(compiled(name))
    for shape in CASES[name][2]:
        got, want, report = gemm(name, shape)
        assert np.array_equal(got, want), shape
        total += report
    assert not total.missed  # every instruction that Triton wrote has run: main loop and tails


@pytest.mark.parametrize("name", CASES)
def test_no_false_alarm_within_a_warp_and_no_bank_conflict(name: str) -> None:
    # Triton permutes its tiles in shared memory so that no access meets a bank twice: the counters
    # must see none, and the strict race check, which tells lanes apart, nothing at all
    got, want, report = gemm(name, CASES[name][2][0], strict=True, counters=True, seed=1)
    assert np.array_equal(got, want)
    assert report.bank_conflicts.used == report.bank_conflicts.needed > 0


def test_nvfp4_with_scales_of_the_whole_range() -> None:
    # every UE4M3 byte but NaN as a scale. One mma rounds 64 products and C to float32 once, so D
    # differs from the exact sum by K / 64 roundings of partial sums, each at most sum |products|
    draw, shape = fp4(np.arange(0x7F, dtype=np.uint8), 16, e4m3.decode), (70, 33, 320)
    got, want, _ = gemm("nvfp4_sm120", shape, draws=(draw, draw))
    (_, a), (_, b) = operands((draw, draw), shape)
    sums = np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64)
    assert (np.abs(got - want) <= shape[2] / 64 * 2.0**-24 * sums).all()


# ---- what the machine says when one line of Triton's is gone -------------------------------------

SYNC = r"bar\.sync \t0;|cp\.async\.wait_group \t\d;"
SYNCS = {name: len(re.findall(SYNC, text_of(name))) for name in ("f16_sm80", "nvfp4_sm120")}
# Triton waits more often than it must: at the head of its loop for what the end of the loop or the
# lines before it waited for (2, 3), and twice in a row there (5, 6)
NEEDLESS = {("f16_sm80", n) for n in (2, 3, 5, 6)}


@pytest.mark.parametrize(("name", "nth"), [(k, n) for k in SYNCS for n in range(SYNCS[k])])
def test_each_barrier_and_each_wait_is_missed(name: str, nth: int) -> None:
    text, shape = text_of(name), CASES[name][2][0]
    place = list(re.finditer(SYNC, text))[nth]
    spoiled = kernel_of(text[: place.start()] + text[place.end() :])
    if (name, nth) in NEEDLESS:
        got, want, _ = gemm(name, shape, spoiled)
        assert np.array_equal(got, want)
        return
    what = "race in shared memory" if "bar" in place[0] else "shared memory are still on their way"
    with pytest.raises(DefectError, match=what):
        gemm(name, shape, spoiled)
