"""Hard rows for the router's kernels on the PTX machine, until no instruction is left unreached.

The drawn cases of the other tests are many and small. These few are chosen by what the kernels
are made of: each way to score, to limit by groups and to weigh; rows that tie, hold NaN or
infinities; sizes just below, at and above what a register array or an unrolled loop holds.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.kernels.model_kernels import ARCHES, reaches_everything
from tests.kernels.test_cuda_routing import PLAIN, RUNGS, device
from tinymoe.core import NUMERICS, Array, RouterCard
from tinymoe.kernels.check_route import check_route
from tinymoe.kernels.contracts import contract
from tinymoe.kernels.cuda.arguments import NULL
from tinymoe.kernels.cuda.launch import launch
from tinymoe.kernels.cuda.ops_routing import RouteRung, RoutingOps
from tinymoe.model.precision import store

pytestmark = pytest.mark.kernels
FP32 = NUMERICS["fp32"]
MOST = ("naive", "any", "32", "128", "512")
COVERED = ("groups", "scores", "topk", "weights", "route", "permute", "combine")


def card(experts: int, top_k: int, **fields: object) -> RouterCard:
    """A plain card of that size, but for `fields`."""
    return replace(PLAIN, experts=experts, top_k=top_k, **fields)  # type: ignore[arg-type]


GROUPS = {"groups": 4, "groups_kept": 2, "group_score": "top2_sum", "dropped_group": "-inf"}
TO_ZERO = {"groups": 8, "groups_kept": 3, "group_score": "max", "dropped_group": "zero"}
BIASED = {"score": "sigmoid", "selection_bias": True, "scale": 2.5}
CARDS = [
    card(512, 16, **GROUPS, **BIASED, renorm_epsilon=1e-20),
    card(512, 16, **TO_ZERO, **BIASED, renorm_floor=1e-12),
    card(512, 11, weight_from="softmax_of_chosen"),
    card(300, 2, renorm_floor=1e-12),
    card(200, 2, score="identity", weight_from="sigmoid_of_chosen"),
    card(400, 2, score="identity", weight_from="sparsemixer"),
    card(128, 9, **GROUPS, **BIASED, renorm_floor=1e-12),
    card(128, 8, **TO_ZERO, weight_from="softmax_of_chosen"),
    card(128, 3, weight_from="score", renormalise=False),
    card(99, 2, score="identity", weight_from="sparsemixer"),
    card(120, 7, score="identity", weight_from="sigmoid_of_chosen", renormalise=False),
    card(32, 9, **TO_ZERO, **BIASED, renorm_floor=1e-12),
    card(32, 3, **GROUPS, weight_from="sigmoid_of_chosen"),
    card(20, 12, weight_from="softmax_of_chosen"),
    card(12, 4, **GROUPS, weight_from="softmax_of_chosen"),  # three a group: a loop's rest
    card(8, 2, score="identity", weight_from="sparsemixer"),
    card(31, 2, score="identity", weight_from="sparsemixer"),
    card(600, 5, **BIASED),  # more experts than a warp's registers hold
    card(100, 40, score="identity", weight_from="softmax_of_chosen"),  # more chosen than lanes
    card(1, 1),
    card(6, 6, weight_from="softmax_of_chosen"),  # all of them: there is no margin
]


def hard_rows(experts: int) -> Array:
    """Logits (7, E) on which router kernels went wrong."""
    rng = np.random.default_rng(experts)
    rows = rng.normal(size=(7, experts)).astype(np.float32)
    rows[1] = np.round(rows[1] * 2) / 2  # a few values: most tie, some of them 0 and -0
    rows[2] = np.nan  # a padded row (vllm#39288)
    rows[3] = -np.abs(rows[3])  # all negative (flashinfer#2822)
    rows[4] *= 40  # far from zero on either side: e^x of some is 0
    rows[5] = 1  # all tie: the lowest ids win
    rows[6] = 3 + rows[6] / 100  # near rivals, all of them
    return rows


def cards_for(rung: RouteRung) -> list[RouterCard]:
    """Those a rung is for: the naive one is a single long chain of steps for each token."""
    if rung == "naive":
        return [c for c in CARDS if c.experts * c.top_k <= 300]
    return [c for c in CARDS if rung == "steps" or (c.experts <= 512 and c.top_k <= 32)]


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("rung", RUNGS)
def test_hard_rows_on_every_kind_of_card(rung: RouteRung, arch: str) -> None:
    for given in cards_for(rung):
        logits = hard_rows(given.experts)
        rng = np.random.default_rng(given.experts)
        bias = -rng.random(given.experts).astype("f4") if given.selection_bias else None
        got = RoutingOps(device(arch), rung).route_logits(logits, bias, given)
        case = {"x": logits, "weight": np.eye(given.experts, dtype="f4"), "bias": bias}
        check_route({**case, "card": given, "numerics": FP32}, got)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("most", MOST)
def test_where_nothing_can_be_chosen_nothing_is(most: str, arch: str) -> None:
    # sizes of zero, which the ops never ask for: no number and no place beside the arrays is read
    chip, choice = device(arch), hard_rows(5)[:3].copy()
    none = [(0, 0), (0, 1), (5, 5)] if most in ("naive", "any") else []
    for experts, top_k in [*none, (5, 0)]:
        chosen, margin = np.full((3, 5), 7, np.int64), chip.empty((3,), np.float32)
        sizes = [np.int32(n) for n in (3, experts, top_k)]
        launch(chip.kernel("topk", f"topk_{most}"), 1, 96, [chosen, margin, choice, *sizes])
        chosen = np.where(chosen < 0, 7, chosen)  # "none" may also be said as -1
        assert (np.sort(chosen.reshape(-1, 5)) == (range(5) if top_k == 5 else 7)).all()
    if most not in ("naive", "any"):
        outs = [np.full((3, 1), 7, t) for t in (np.int64, np.float32)]
        rest = [np.int32(n) for n in (3, 5, 0, 0, 1, 1, 0, 0, 0, 0)]
        given = [NULL, *outs, chip.empty((3,), np.float32), choice, NULL, *rest]
        given += [np.float32(1)] * 3  # epsilon, floor, scale
        launch(chip.kernel("route", f"route_{most}"), 1, 96, given)
        assert all((out == 7).all() for out in outs)


@pytest.mark.parametrize("arch", ARCHES)
def test_more_groups_than_experts(arch: str) -> None:
    # groups of no members at all: nobody to keep or to drop, in any number of groups
    chip = device(arch)
    for groups, top2 in ((3, 0), (3, 1), (11, 0), (11, 1)):
        out, choice = np.full((2, 2), 7, np.float32), np.ones((2, 2), np.float32)
        sizes = [np.int32(n) for n in (2, 2, groups, 1, top2, 0)]
        launch(chip.kernel("groups", "drop_groups_naive"), 1, 32, [out, choice, *sizes])
        assert (out == 7).all()


@pytest.mark.parametrize("arch", ARCHES)
def test_permuted_in_every_number_of_blocks(arch: str) -> None:
    # one round of the scan's block and two; some experts empty; loops over blocks and slots that
    # go by sixteens, eights, fours, twos and ones, which 47 has all of
    ops = RoutingOps(device(arch))
    for slots, experts in ((5, 1), (47 * 256, 7), (1700, 300)):
        ids = np.random.default_rng(slots).integers(0, experts, (slots, 1))
        ids[ids == 2] = 0
        contract("permute").judge(ops.permute, {"ids": ids, "experts": experts})
        few = {"ids": ids[:47], "experts": experts}
        contract("permute").judge(ops.permute_naive, few)
    count = ops.device.kernel("permute", "count_naive")
    counts = ops.device.empty((5,), np.int64)
    launch(count, 1, 32, [counts, ids, np.int32(0), np.int32(5)])
    assert counts.tolist() == [0] * 5


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("block", [128, 160])
def test_an_order_with_and_without_its_inverse(block: int, arch: str) -> None:
    # `where` may be null; a block's warps take turns, five of them as well as four
    ops, ids = RoutingOps(device(arch)), np.random.default_rng(0).integers(0, 30, 2 * block - 9)
    (want, offsets), inverse = ops.permute_and_inverse(ids, 30)
    starts = np.stack([offsets[:-1], offsets[:-1] + np.bincount(ids[:block], minlength=30)])
    sizes = np.int32(len(ids)), np.int32(30)
    for where in (NULL, ops.device.empty(ids.shape, np.int64)):
        order = ops.device.empty(ids.shape, np.int64)
        given = [order, where, ids, starts.astype(np.int32), *sizes]
        launch(ops.device.kernel("permute", "place"), 2, block, given, 4 * 30)
        assert np.array_equal(order, want)
    assert np.array_equal(where, inverse)


@pytest.mark.parametrize("arch", ARCHES)
def test_tiles_past_one_round_of_the_scan(arch: str) -> None:
    ids = np.random.default_rng(0).integers(0, 300, 500)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(ids, minlength=300))])
    tiles = RoutingOps(device(arch)).schedule(offsets, 2, 500)
    tiles = tiles[tiles[:, 0] >= 0]
    assert np.array_equal(np.repeat(tiles[:, 0], tiles[:, 2] - tiles[:, 1]), np.sort(ids))


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("bf16", [False, True])
def test_rows_come_back_together_from_wherever_they_are(bf16: bool, arch: str) -> None:
    # the loop over K goes by eights, fours, twos and ones: 23 has all of them, and eights twice
    ops, numerics = RoutingOps(device(arch)), NUMERICS["bf16" if bf16 else "fp32"]
    rng = np.random.default_rng(1)
    for top_k, width in [(k, w) for k in (1, 2, 3, 5, 6, 7, 23) for w in (5, 8)]:
        out = store(rng.normal(size=(3, top_k, width)).astype("f4"), numerics.storage)
        out[0, 0, 0] = np.nan  # rounded to BF16 it must not become an infinity
        weights = rng.random((3, top_k)).astype("f4")
        case = {"expert_out": out, "weights": weights, "numerics": numerics}
        contract("combine").judge(ops.combine, case)
        contract("combine").judge(ops.combine_scatter, case)
        order = rng.permutation(3 * top_k)
        rows = out.reshape(-1, width)[order]
        got = ops.combine_rows(rows, np.argsort(order), weights, numerics)
        assert got.tobytes() == ops.combine(out, weights, numerics).tobytes()


@pytest.mark.parametrize("arch", ARCHES)
def test_rows_in_expert_order_are_scattered_to_their_tokens(arch: str) -> None:
    # powers of two and whole numbers: the sums are exact in any order
    rng, (tokens, top_k, width) = np.random.default_rng(2), (3, 2, 5)
    order = rng.permutation(tokens * top_k)
    rows = rng.integers(-9, 9, (tokens * top_k, width)).astype("f4")
    weights = (2.0 ** rng.integers(-3, 3, (tokens, top_k))).astype("f4")
    want = np.zeros((tokens, width), "f4")
    np.add.at(want, order // top_k, weights.ravel()[order][:, None] * rows)
    out, sizes = np.zeros((tokens, width), "f4"), map(np.int32, (tokens * top_k, top_k, width))
    kernel = device(arch).kernel("combine", "combine_scatter")
    launch(kernel, 1, 32, [out, rows, order, weights, *sizes])
    assert np.array_equal(out, want)


# Instructions that no launch can come to, and how many they are. The compiler writes a copy of the
# code for "no experts" or "none to choose", and asks there what is ruled out by then: whether
# fewer are to be chosen than the none there are; what is the rank of one of none.
NEVER = {
    "80": {"topk_naive": 25, "weights_warp": 18},
    "120a": {"topk_naive": 24, "weights_warp": 18},
}


@pytest.mark.parametrize("arch", ARCHES)
def test_the_examples_reach_every_instruction(arch: str) -> None:
    # a tail, a mask or a second round that no example comes to is a part that nobody tested
    reaches_everything(
        arch,
        COVERED,
        [
            *(lambda a, r=r: test_hard_rows_on_every_kind_of_card(r, a) for r in RUNGS),
            *(lambda a, m=m: test_where_nothing_can_be_chosen_nothing_is(m, a) for m in MOST),
            test_more_groups_than_experts,
            test_permuted_in_every_number_of_blocks,
            *(lambda a, b=b: test_an_order_with_and_without_its_inverse(b, a) for b in (128, 160)),
            test_tiles_past_one_round_of_the_scan,
            lambda a: test_rows_come_back_together_from_wherever_they_are(True, a),
            test_rows_in_expert_order_are_scattered_to_their_tokens,
        ],
        never=NEVER[arch],
        device=device(arch),
    )
