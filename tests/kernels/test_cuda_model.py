"""The model's kernels on the PTX machine: contracts kept, with bounds and races checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels.model_kernels import ARCHES, keeps_contract, machine, reaches_everything
from tinymoe.core import NUMERICS, Array, RopeCard, TinymoeError
from tinymoe.kernels.contracts import contract
from tinymoe.kernels.cuda import calls
from tinymoe.kernels.cuda.ops_model import ModelOps
from tinymoe.kernels.strategies import CLAMPED
from tinymoe.model.on_demand import OnDemand
from tinymoe.model.precision import store
from tinymoe.model.rope import rope_tables

pytestmark = pytest.mark.kernels
COVERED = ("linear", "rmsnorm", "rope", "expert_ffn", "rows", "write_pages")  # files
OPS = ("linear", "rmsnorm", "rope", "expert_ffn")
RAGGED = [
    (9, 0, 8, 1, 17),  # full tiles, a last row alone, an expert without rows
    (0, 25, 0),  # at either end
    tuple(int(n) for n in np.random.default_rng(5).integers(0, 3, 70)),  # found in the third 32
]
FP32, BF16 = NUMERICS["fp32"], NUMERICS["bf16"]


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("op", OPS)
def test_fast_kernels_keep_their_contract(op: str, arch: str) -> None:
    keeps_contract(op, getattr(ModelOps(machine(arch)), op), 30 if arch == "80" else 10)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("op", ["linear", "rmsnorm", "expert_ffn"])
def test_naive_kernels_keep_their_contract(op: str, arch: str) -> None:
    keeps_contract(op, getattr(ModelOps(machine(arch), "naive"), op), 30 if op == "rmsnorm" else 10)


def values(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# ------------------------------------------------- sizes past one tile, in every dimension


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize(
    ("tokens", "width", "outs"),
    [(1, 32, 64), (1, 33, 65), (2, 1, 1), (8, 64, 64), (9, 70, 130), (17, 31, 63)],
)
def test_linear_has_the_same_bits_in_every_company(
    arch: str, tokens: int, width: int, outs: int
) -> None:
    # a product that picks its order of sums by the number of rows gives a token other bits in
    # a batch than alone; a lost tail row, column or stretch of the sum shows here as well
    ops = ModelOps(machine(arch))
    x, weight, bias = values((tokens, width)), values((outs, width), 1), values((outs,), 2)
    case = {"x": x, "weight": weight, "bias": bias, "numerics": FP32}
    contract("linear").judge(ops.linear, case)
    together = ops.linear(x, weight, FP32, bias=bias)
    alone = np.concatenate([ops.linear(row[None], weight, FP32, bias=bias) for row in x])
    assert together.tobytes() == alone.tobytes()


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("clamped", [False, True])
@pytest.mark.parametrize("counts", RAGGED)
def test_experts_over_ragged_tiles(arch: str, clamped: bool, counts: tuple[int, ...]) -> None:
    experts, rows, hidden, width = len(counts), sum(counts), 33, 66
    case: dict[str, Any] = {
        "x": values((rows, hidden)),
        "gate_up": values((experts, 2 * width, hidden), 1) / 4,
        "down": values((experts, hidden, width), 2) / 4,
        "offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "numerics": BF16 if clamped else FP32,
    }
    for name in ("x", "gate_up", "down"):  # bf16 storage holds such values
        case[name] = (case[name].view(np.uint32) & 0xFFFF0000).view(np.float32)
    if clamped:
        case["card"] = CLAMPED
        case["gate_up_bias"] = np.full((experts, 2 * width), 0.5, np.float32)
        case["down_bias"] = np.full((experts, hidden), -0.25, np.float32)
    fast, naive = ModelOps(machine(arch)), ModelOps(machine(arch), "naive")
    contract("expert_ffn").judge(fast.expert_ffn, case)
    contract("expert_ffn").judge(naive.expert_ffn, case)


def test_a_grid_for_the_worst_case_is_enough() -> None:
    rng = np.random.default_rng(7)
    for _ in range(200):
        counts, tile = rng.integers(0, 20, rng.integers(1, 9)), int(rng.integers(1, 9))
        needed, rows = sum(-(-int(n) // tile) for n in counts), int(counts.sum())
        assert needed <= calls.most_tiles(rows, len(counts), tile)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("width", [1, 31, 300, 1700])
@pytest.mark.parametrize("early", [False, True])
def test_rmsnorm_of_heads_with_weights_of_their_own(arch: str, width: int, early: bool) -> None:
    # a weight a head (the queries' and keys' norms): head h of every token takes row h
    x, weight = values((3, 2, width)), values((2, width), 1)
    x[0, 0, 0] = np.nan  # all of its row is, and stays so when rounded
    for ops in (ModelOps(machine(arch)), ModelOps(machine(arch), "naive")):
        got = ops.rmsnorm(x, weight, 1e-6, BF16, rounds_before_weight=early)
        for head in range(2):
            case = {"x": x[:, head].copy(), "weight": weight[head], "eps": 1e-6, "numerics": BF16}
            case["rounds_before_weight"] = early
            contract("rmsnorm").check(case, np.ascontiguousarray(got[:, head]))


@pytest.mark.parametrize("arch", ARCHES)
def test_rope_takes_its_angles_by_position_from_a_table_of_all(arch: str) -> None:
    # what a replayed graph does: the host no longer says which row is whose
    device, card = machine(arch), RopeCard(theta=1e4, rotary_dim=6, pairing="half", scaling=None)
    x, positions = values((3, 2, 8)), np.array([5, 0, 9])
    direct = ModelOps(device).rope(x, rope_tables(positions, card, FP32), card, FP32)
    every, out = rope_tables(np.arange(10), card, FP32), device.empty(x.shape, np.float32)
    calls.rope(device, out, x, every, positions, False, np.int32(0))
    assert out.tobytes() == direct.tobytes()


@pytest.mark.parametrize("arch", ARCHES)
def test_rows_are_taken_added_and_written_where_the_block_table_says(arch: str) -> None:
    device, table = machine(arch), values((7, 5))
    table[6, 1] = np.nan  # rounded to BF16 it must not become an infinity
    out, part = device.empty((4, 5), np.float32), values((4, 5), 1)
    for bf16, storage in ((0, "float32"), (1, "bfloat16")):
        calls.take_rows(device, out, table, np.array([12, 0, 13, 5]), 2, 3.0, np.int32(bf16))
        want = store(table[[6, 0, 6, 2]] * np.float32(3), storage)
        assert np.array_equal(out, want, equal_nan=True)
        calls.add_to(device, out, out, part, 0.5, np.int32(bf16))
        half = store(part * np.float32(0.5), storage)
        assert np.array_equal(out, store(want + half, storage), equal_nan=True)
    tables, positions = np.array([[3, -1], [0, 2]]), np.array([1, 6])
    slots = device.empty((2,), np.int64)
    calls.slots_of(device, slots, positions, tables, 4)
    assert slots.tolist() == [3 * 4 + 1, 2 * 4 + 2]
    pages, new = device.zeros((5, 4, 2, 3), np.float32), values((2, 2, 3))
    calls.write_pages(device, pages, slots, new)
    assert np.array_equal(pages.reshape(20, 2, 3)[slots], new)
    assert np.count_nonzero(pages) == new.size


def test_what_the_kernels_do_not_do_is_refused_with_a_way_out() -> None:
    # nothing falls back without a word: float64 computed in float32 would pass for exact
    ops, x, weight = ModelOps(machine("80")), values((2, 4)), values((3, 4), 1)
    with pytest.raises(TinymoeError, match="float32, numerics 'exact'.*backend 'numpy'"):
        ops.linear(x.astype(np.float64), weight.astype(np.float64), NUMERICS["exact"])
    with pytest.raises(TinymoeError, match="expected float32, got float64"):
        ops.linear(x.astype(np.float64), weight, FP32)
    with pytest.raises(TinymoeError, match="do not fit"):
        ops.linear(x, values((3, 5)), FP32)
    with pytest.raises(TinymoeError, match="do not fit"):
        ops.rmsnorm(x, values((5,)), 1e-6, FP32, rounds_before_weight=False)
    with pytest.raises(TinymoeError, match="more --memory"):
        ops.linear(x, OnDemand((3, 4), lambda at: weight[at]), FP32)


def test_no_tokens_no_launch() -> None:
    # a launch of no blocks is an error on a GPU
    ops, none = ModelOps(machine("80")), np.empty((0, 4), np.float32)
    assert ops.linear(none, values((3, 4)), FP32).shape == (0, 3)
    assert ops.rmsnorm(none, values((4,)), 1e-6, FP32, rounds_before_weight=True).shape == (0, 4)
    offsets, weights = np.zeros(3, np.int64), (values((2, 6, 4)), values((2, 4, 3)))
    assert ops.expert_ffn(none, *weights, offsets, FP32).shape == (0, 4)


@pytest.mark.parametrize("arch", ARCHES)
def test_the_examples_reach_every_instruction(arch: str) -> None:
    # a tail, a mask or a second round that no example comes to is a part that nobody tested
    reaches_everything(
        arch,
        COVERED,
        [
            *(lambda a, op=op: test_fast_kernels_keep_their_contract(op, a) for op in OPS),
            *(
                lambda a, op=op: test_naive_kernels_keep_their_contract(op, a)
                for op in ("linear", "rmsnorm", "expert_ffn")
            ),
            lambda a: test_linear_has_the_same_bits_in_every_company(a, 9, 70, 130),
            *(
                lambda a, e=e, c=c: test_experts_over_ragged_tiles(a, e, c)
                for e in (False, True)
                for c in RAGGED
            ),
            *(
                lambda a, e=e: test_rmsnorm_of_heads_with_weights_of_their_own(a, 1700, e)
                for e in (False, True)
            ),
            test_rope_takes_its_angles_by_position_from_a_table_of_all,
            test_rows_are_taken_added_and_written_where_the_block_table_says,
        ],
    )
