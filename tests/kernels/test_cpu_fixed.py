"""Fixed point: rows to digits, whole numbers times codes, and a step that is made of them.

Prevents: a unit that is one power of two off (the loudest number overflows its digits), padding
that takes part in a block's loudest, and another number for a token among many, whose weights are
laid out, than for one alone, whose weights go through registers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tinymoe
from tests.kernels.company import IDS, logits_in_company
from tests.kernels.plain_cpu import on_a_plain_cpu
from tests.low_precision import made
from tests.stored import write
from tinymoe.core import Array, Batch
from tinymoe.formats.bf16 import round_to_bf16
from tinymoe.kernels.cpu import fixed_rows as rows_of
from tinymoe.kernels.cpu.batch import TOKENS, Header, aligned
from tinymoe.kernels.cpu.fixed import FOUR_BITS, SCRATCH, multiply_fixed
from tinymoe.kernels.cpu.program import Program
from tinymoe.kernels.cpu.team import Team
from tinymoe.kernels.cpu.tiles import FORMATS, UE5M3_UNIT

pytestmark = pytest.mark.kernels
UNIT = 2.0**-24
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
E2M1 = np.concatenate([E2M1, -E2M1])
MOST = 11  # tokens: up to 8 by ones and twos; then pairs of many, and one that is left over


def rows_in_fixed_point(x: Array, blocks: int) -> Array:
    """x (T, K) float32 -> (T, bytes of a row)."""
    out = aligned(len(x) * rows_of.row_bytes(16 * blocks), np.uint8).reshape(len(x), -1)
    program, none = Program(), np.zeros(len(x), np.int64)
    program.add(
        rows_of.fixed_rows, x=x, x_stride=x.strides[0] // 4, count=TOKENS, rows=0, per_token=1,
        columns=x.shape[1], blocks=blocks, out=out, out_bytes=out.shape[1],
    )  # fmt: skip
    header = Header(Batch(none, none, (), none[:0]), 1, 1, aligned(16), 1)
    Team(1).run(program.code, header.address)
    return out


def numbers_of(row: Array, blocks: int) -> tuple[Array, Array, Array, Array]:
    """A row's q, by digits and as a whole; -12 times the digits' sums; half units."""
    digits = row[: blocks * 64].reshape(blocks, 2, 8, 2, 2)  # block, digit, pair, copy
    assert np.array_equal(digits[..., 0, :], digits[..., 1, :])
    low, high = digits[..., 0, :].view(np.int8).astype(int).reshape(blocks, 2, 16).swapaxes(0, 1)
    words = row[blocks * 64 : blocks * 96].view(np.int16).astype(int).reshape(blocks, 16)
    more = row[blocks * 96 : blocks * 108].reshape(blocks, 12)
    lift = more[:, :8].copy().view(np.int16).reshape(blocks, 2, 2)  # block, digit, copy
    assert np.array_equal(lift[..., 0], lift[..., 1])
    assert np.array_equal(lift[:, 0, 0], -12 * low.sum(axis=1))
    assert np.array_equal(lift[:, 1, 0], -12 * high.sum(axis=1))
    return low + 128 * high, words, lift[..., 0], more[:, 8:].copy().view(np.float32)[:, 0]


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(
    numbers=st.lists(
        st.floats(-(2.0**120), 2.0**120, width=32) | st.integers(-300, 300).map(float),
        min_size=16,
        max_size=16,
    ),
    power=st.integers(-120, 0),
)
def test_a_block_is_the_nearest_whole_numbers_of_its_unit(numbers, power):
    x = np.array([numbers] * 9, np.float32) * np.float32(2.0**power)
    exact = x[0].astype(np.float64)
    q, same, lift, half = numbers_of(rows_in_fixed_point(x, 1)[0], 1)
    exponent = max(np.frexp(np.abs(exact).max())[1], -109) if exact.any() else -109
    unit = 2.0 ** (exponent - 13)
    assert 2 * half[0] == unit
    assert np.array_equal(q[0], np.rint(exact / unit))  # ties to even, both
    assert np.array_equal(same, q)
    assert lift[0] @ [1, 128] == -12 * q.sum()
    assert np.abs(q).max() <= 2**13


def test_what_is_not_finite_makes_a_block_of_nan_and_no_other():
    x = np.ones((9, 48), np.float32)
    x[0, 20], x[1, 20], x[2, 20] = np.inf, -np.inf, np.nan
    for row in rows_in_fixed_point(x, 3)[:3]:
        assert np.array_equal(np.isnan(numbers_of(row, 3)[3]), [False, True, False])


def test_what_lies_behind_a_row_takes_no_part():
    x = aligned(9 * 64).reshape(9, 64)
    x[:], x[:, 20:] = 1, 1e30
    q, same, lift, _ = numbers_of(rows_in_fixed_point(x[:, :20], 4)[0], 4)
    assert q[0].tolist() == [4096] * 16
    assert q[1].tolist() == [4096] * 4 + [0] * 12
    assert not q[2:].any()
    assert not lift[2:].any()
    assert np.array_equal(q, same)


# ------------------------------------------------------------------------------- products


def weights(name: str, columns: int, scale: int | None = None) -> Array:
    """Codes and scales of 32 rows, as they lie in a pair of tiles; `scale`: all are this byte."""
    form, rng = FORMATS[name], np.random.default_rng(columns)
    data = aligned(form.pair_bytes(columns), np.uint8)
    data[:] = rng.integers(0, 256, len(data))
    low, high = (0, 255) if name == "nvfp4" else (118, 134)
    head = data.reshape(-1, form.block_bytes)[:, : 2 * form.scale_bytes]
    head[:] = rng.integers(low, high, head.shape)
    if name == "nvfp4":
        head[(head > 0) & (head < 8)] = 8  # there are none: UE5M3's smallest has an exponent of 1
    if scale is not None:
        head[:] = scale
    return data


def values(name: str, columns: int, scale: int | None = None) -> Array:
    """The same 32 rows in float64: (32, K)."""
    form, data = FORMATS[name], weights(name, columns, scale)
    blocks = data.reshape(columns // form.block, form.block_bytes)
    head = blocks[:, : 2 * form.scale_bytes].reshape(-1, 2, 16)
    if name == "nvfp4":
        scales = ((head.astype(np.uint32) << 20).view(np.float32) * UE5M3_UNIT).astype(float)
    else:
        scales = 2.0 ** (head.astype(float) - 127)
    codes = blocks[:, 2 * form.scale_bytes :].reshape(len(blocks), form.block // 4, 2, 32)
    row = np.arange(16)[:, None]
    pair = codes[..., np.array([0, 16, 8, 24])[row // 4] + 2 * (row % 4) + np.arange(2)]
    w = E2M1[np.concatenate([pair & 15, pair >> 4], axis=-1)]  # block, quad, tile, row, column
    w = w * scales[:, None, :, :, None]
    return w.transpose(2, 3, 0, 1, 4).reshape(32, columns)


def products(name: str, x: Array, scale: int | None = None) -> Array:
    """x (T, K) float32 times 32 rows: (T, 32)."""
    tokens, columns = x.shape
    tiles, sums = weights(name, columns, scale), aligned(tokens * 32)
    scratch = aligned(SCRATCH, np.uint8)
    rows = rows_in_fixed_point(x, columns // 16)
    starts = rows.ctypes.data + rows.strides[0] * np.arange(tokens)
    at, out, own = (each.ctypes.data for each in (starts, sums, scratch))
    multiply_fixed(name)(tiles.ctypes.data, columns, at, tokens, out, own)
    return sums.reshape(tokens, 32).copy()


def tokens_of(columns: int) -> Array:
    """BF16, with loud columns among them, as models have."""
    x = np.random.default_rng(1).normal(size=(MOST, columns)).astype(np.float32)
    x[:, ::37] *= 50
    return round_to_bf16(x)


COLUMNS = (32, 128, 416)  # less than is laid out at a time, all of it, and a piece left over


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("name", FOUR_BITS)
def test_a_token_s_sums_do_not_depend_on_the_others(name: str, columns: int) -> None:
    x = tokens_of(columns)
    alone = np.concatenate([products(name, x[t : t + 1]) for t in range(MOST)])
    for tokens in range(1, MOST + 1):
        assert products(name, x[:tokens]).tobytes() == alone[:tokens].tobytes()


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("name", FOUR_BITS)
def test_a_product_is_within_its_roundings_and_half_a_unit_of_each_number(
    name: str, columns: int
) -> None:
    x, w = tokens_of(columns), values(name, columns)
    exact = x.astype(np.float64)
    loudest = np.abs(exact).reshape(MOST, -1, 16).max(axis=-1)
    half = np.ldexp(1.0, np.frexp(loudest)[1] - 14)  # of a unit: (T, blocks)
    sizes = np.abs(w).reshape(32, -1, 16).sum(axis=-1)
    off = half @ sizes.T
    n = columns // 16 * UNIT
    # terms are those of x in fixed point: no larger than x's own and what it is off by
    bound = off + n / (1 - n) * (np.abs(exact) @ np.abs(w).T + off)
    bound *= 1 + 2.0**-40  # float64's own roundings here
    assert (np.abs(products(name, x) - exact @ w.T) <= bound).all()


@pytest.mark.parametrize("name", FOUR_BITS)
def test_a_product_of_whole_numbers_is_exact(name: str) -> None:
    """Scales of 1: whole numbers below 2^13 times codes, and no sum above 2^24."""
    x = np.random.default_rng(3).integers(-4096, 4096, (MOST, 64)).astype(np.float32)
    one = 184 if name == "nvfp4" else 127
    wanted = x.astype(np.float64) @ values(name, 64, one).T
    assert np.array_equal(products(name, x, one), wanted)


def all_bytes() -> bytes:
    """Every way through both formats."""
    x = tokens_of(COLUMNS[-1])
    return b"".join(
        products(name, x[:tokens]).tobytes() for name in FOUR_BITS for tokens in (1, 2, MOST)
    )


def test_a_cpu_without_extras_gives_the_same_bits() -> None:
    """There bytes are multiplied one by one, and a number alone is rounded by the C library."""
    assert on_a_plain_cpu(__file__, "all_bytes()") == all_bytes()


# ------------------------------------------------------------------------------- a step


STEPS = ("ct NVFP4A16", "ct MXFP4A16")
Models = Callable[[str, int], tinymoe.Model]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """By layout and number of threads, each loaded once."""
    folders = {layout: tmp_path_factory.mktemp("four-bits") for layout in STEPS}
    for layout, folder in folders.items():
        checkpoint = made(layout)
        write(folder, checkpoint.low, checkpoint.config)

    @cache
    def model(layout: str, threads: int) -> tinymoe.Model:
        where = folders[layout]
        return tinymoe.load(where, backend="numba", numerics="bf16", threads=threads)

    return model


@settings(
    max_examples=15,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    layout=st.sampled_from(STEPS),
    threads=st.sampled_from([1, 2, 4]),
    cuts=st.lists(st.integers(1, 22), max_size=6, unique=True),
    others=st.integers(0, 5),
)
def test_threads_batches_and_cuts_change_no_bit(models, layout, threads, cuts, others):
    edges = [0, *sorted(cuts), len(IDS)]
    pieces = [b - a for a, b in itertools.pairwise(edges)]
    mine = logits_in_company(models(layout, threads), pieces, others)
    assert mine == logits_in_company(models(layout, 1), [len(IDS)], 0)


def test_the_step_computes_in_fixed_point(models: Models) -> None:
    """Else the test above would be one of float32 products."""
    model = models(STEPS[0], 1)
    model.prepare()
    step: Any = model.ops.step
    names = {kernel.name for kernel in step._step.kernels(model.config, model.numerics)}
    assert names >= {"fixed_rows", "multiply_fixed_nvfp4"}
