"""Permutation and combination in CUDA C on the PTX machine: stable, complete, deterministic."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tests.kernels.model_kernels import ARCHES, keeps_contract
from tests.kernels.test_cuda_routing import device
from tinymoe.core import NUMERICS, Array, Numerics
from tinymoe.kernels.contracts import contract
from tinymoe.kernels.cuda.ops_routing import RoutingOps
from tinymoe.model import experts as definition
from tinymoe.model.precision import store

pytestmark = pytest.mark.kernels
FP32, BF16 = NUMERICS["fp32"], NUMERICS["bf16"]


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", ["permute", "permute_naive"])
def test_permute_keeps_its_contract(name: str, arch: str) -> None:
    keeps_contract("permute", getattr(RoutingOps(device(arch)), name), 12, lambda case: True)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", ["combine", "combine_scatter"])
def test_combine_keeps_its_contract(name: str, arch: str) -> None:
    keeps_contract("combine", getattr(RoutingOps(device(arch)), name), 15)


def many(experts: int, seed: int = 0) -> Array:
    """ids (200, 4): more slots than a block has threads, unevenly spread."""
    rng = np.random.default_rng(seed)
    return (experts * rng.random((200, 4)) ** 2).astype(np.int64)


@pytest.mark.parametrize("name", ["permute", "permute_naive"])
@pytest.mark.parametrize("experts", [1, 5, 256, 300, 512])
def test_slots_keep_their_order_across_blocks(name: str, experts: int) -> None:
    # an atomic counter shared by blocks gives each expert the right rows in the wrong order
    ids = many(experts)
    case = {"ids": ids, "experts": experts}
    contract("permute").judge(getattr(RoutingOps(device("80")), name), case)


def test_nobody_to_permute() -> None:
    for name in ("permute", "permute_naive"):
        got = getattr(RoutingOps(device("80")), name)(np.zeros((0, 2), np.int64), 3)
        assert (got.order.tolist(), got.offsets.tolist()) == ([], [0, 0, 0, 0])


def test_the_inverse_leads_back() -> None:
    (order, _), where = RoutingOps(device("80")).permute_and_inverse(many(7), 7)
    assert np.array_equal(where[order], np.arange(len(order)))


@pytest.mark.parametrize("rows", [1, 8, 64])
@pytest.mark.parametrize("experts", [3, 300])
def test_the_schedule_covers_every_row_once(experts: int, rows: int) -> None:
    ids = many(experts)
    offsets = definition.permute(ids, experts).offsets
    tiles = RoutingOps(device("80")).schedule(offsets, rows, ids.size)
    want = [
        [expert, row, min(row + rows, stop)]
        for expert, (start, stop) in enumerate(pairwise(offsets.tolist()))
        for row in range(start, stop, rows)
    ]
    assert tiles.tolist()[: len(want)] == want
    assert (tiles[len(want) :] == [-1, 0, 0]).all()


def test_the_schedule_has_room_for_the_worst_case() -> None:
    # all experts with one row more than full tiles: no captured grid may be too small for it
    experts, rows = 5, 4
    counts = np.full(experts, 2 * rows + 1)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    tiles = RoutingOps(device("80")).schedule(offsets, rows, int(offsets[-1]))
    assert (tiles[:, 0] >= 0).sum() == 3 * experts
    assert RoutingOps(device("80")).schedule(np.zeros(4, np.int64), rows, 0).shape == (0, 3)


@pytest.mark.parametrize("numerics", [FP32, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("width", [8, 9])
def test_rows_are_gathered_from_expert_order(width: int, numerics: Numerics) -> None:
    # the same bits as from slots; a width of 8 takes the kernel with 16-byte loads, 9 the other
    rng = np.random.default_rng(width)
    out, weights = rng.normal(size=(200, 4, width)), rng.random((200, 4)).astype("f4")
    out = store(out.astype("f4"), numerics.storage)
    ops = RoutingOps(device("80"))
    (order, _), where = ops.permute_and_inverse(many(7), 7)
    rows = out.reshape(-1, width)[order]
    got = ops.combine_rows(rows, where, weights, numerics)
    assert got.tobytes() == ops.combine(out, weights, numerics).tobytes()


def test_wide_loads_give_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    out, weights = rng.normal(size=(5, 3, 12)).astype("f4"), rng.random((5, 3)).astype("f4")
    ops = RoutingOps(device("80"))
    four = ops.combine(out, weights, FP32)
    one = ops.combine(np.pad(out, ((0, 0), (0, 0), (0, 1))), weights, FP32)
    assert four.tobytes() == np.ascontiguousarray(one[:, :12]).tobytes()
