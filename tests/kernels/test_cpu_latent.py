"""Latent attention out of kernels: a product for each head, and heads that share one long key."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tinymoe.core import NUMERICS, Array, Batch
from tinymoe.kernels.bounds import compare
from tinymoe.kernels.checks import attend_bound
from tinymoe.kernels.cpu.batch import Header, aligned
from tinymoe.kernels.cpu.latent import absorbed, by_head
from tinymoe.kernels.cpu.linear import OWN_WORDS
from tinymoe.kernels.cpu.multiply import multiply
from tinymoe.kernels.cpu.ops import CpuOps
from tinymoe.kernels.cpu.pack import pack
from tinymoe.kernels.cpu.program import Program
from tinymoe.kernels.cpu.team import Team

pytestmark = pytest.mark.kernels


def products(x: Array, stack: Array, threads: int) -> Array:
    """x (T, Nq, K + 4) whose last 4 are another part, stack (Nq, N, K) -> (T, Nq, N + 3)"""
    tokens, heads, width = x.shape
    packed = pack(stack)
    out = np.full((tokens, heads, packed.rows + 3), 7, np.float32)
    program = Program()
    program.add(
        by_head,
        x=x,
        x_stride=heads * width,
        x_head=width,
        heads=heads,
        weight=packed.data,
        pair_bytes=packed.pair_bytes,
        pairs=packed.pairs,
        columns=packed.padded,
        scales=packed.row_scales,
        rows=packed.rows,
        out=out,
        out_stride=heads * (packed.rows + 3),
        out_head=packed.rows + 3,
        rounding=False,
        multiply=multiply(packed.form.name),
    )
    none = np.zeros(tokens, np.int64)
    header = Header(
        Batch(none, none, (), none[:0]), 1, 1, aligned(OWN_WORDS * 2 * threads), threads
    )
    Team(threads).run(program.code, header.address)
    return out


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("sizes", [(1, 2, 40, 12), (5, 3, 32, 8), (7, 1, 16, 4)])
def test_each_head_has_a_matrix_of_its_own(sizes: tuple[int, ...], threads: int) -> None:
    """Whole numbers: every order of sums is exact. What lies beside a head's result stays."""
    tokens, heads, rows, columns = sizes
    rng = np.random.default_rng(rows)
    x = rng.integers(-8, 9, (tokens, heads, columns + 4)).astype(np.float32)
    up = rng.integers(-8, 9, (heads, columns + rows, 6)).astype(np.float32)
    stack = rng.integers(-8, 9, (heads, rows, columns)).astype(np.float32)
    got = products(x, stack, threads)
    want = np.einsum("thk,hnk->thn", x[..., :columns], stack)
    np.testing.assert_array_equal(got[..., :rows], want)
    assert (got[..., rows:] == 7).all()
    to_key, to_value = absorbed(up, columns)
    folded = np.einsum("thn,hnr->thr", x[..., :columns], up[:, :columns])
    got = products(x, to_key, threads)[..., :6]
    np.testing.assert_array_equal(got, folded)  # the query in the latent space
    np.testing.assert_array_equal(to_value, up[:, columns:])


def test_heads_share_one_key_whose_first_numbers_are_its_value() -> None:
    """More heads than a block holds, R + Dr = 28, R = 20: no copy of the keys stands for values."""
    rng = np.random.default_rng(0)
    pages = rng.normal(size=(40, 16, 1, 28)).astype(np.float32)
    values, length, numerics = pages[..., :20], 600, NUMERICS["fp32"]
    q = rng.normal(size=(2, 100, 28)).astype(np.float32)
    table = rng.permutation(40)
    given: dict[str, Any] = {"block_tables": [table] * 2, "lengths": [length, 300], "scale": 0.2}
    got = [
        CpuOps(Team(n)).attention_decode(q, pages, values, numerics=numerics, **given)
        for n in (1, 2)
    ]
    assert got[0].tobytes() == got[1].tobytes()
    for row, seen in enumerate(given["lengths"]):
        k = pages[table].reshape(-1, 1, 28)[:seen].astype(np.float64)
        want, bound = attend_bound(q[row].astype(np.float64), k, k[..., :20], 0.2, numerics)
        compare(f"out[{row}]", got[0][row], want, bound)
