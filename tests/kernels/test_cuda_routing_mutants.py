"""The tests of routing, tested: each kernel here has one bug, and these cases see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.kernels.test_cuda_permute import many
from tests.kernels.test_cuda_routing import FP32, PLAIN
from tinymoe.core import RouterCard
from tinymoe.kernels.contracts import contract
from tinymoe.kernels.cuda.devices import PtxDevice
from tinymoe.kernels.cuda.launch import Kernel
from tinymoe.kernels.cuda.ops_routing import RoutingOps
from tinymoe.kernels.cuda.source import source
from tinymoe.kernels.ptx import DefectError
from tinymoe.model import router

pytestmark = pytest.mark.kernels
Judge = Callable[[RoutingOps], None]


class Mutated(PtxDevice):
    """A machine on which one file reads otherwise."""

    def __init__(self, file: str, right: str, wrong: str) -> None:
        super().__init__(strict=True)
        text = source(file).text
        assert text.count(right) == 1, f"{file}: {right!r} stands there {text.count(right)} times"
        text = text.replace(right, wrong)
        for large in ("ROUTE(4, 128)", "ROUTE(16, 512)"):  # nobody asks for these here
            text = text.replace(large, "")
        self.file, self.text = file, text

    def kernel(self, source: str, entry: str, defines: tuple[str, ...] = ()) -> Kernel:
        return super().kernel(self.text if source == self.file else source, entry, defines)


def logits(kind: str, experts: int) -> Any:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, experts)).astype("f4")
    if kind == "tied":
        x = np.round(x)
    if kind == "far":
        x = np.float32(60) * x
    if kind == "zeros":
        x = np.copysign(np.float32(0), x)
    if kind == "nan":
        x[1] = np.nan
        x[2, :5] = np.nan
    return x


def routes(kind: str, card: RouterCard, bias: float | None = None) -> Judge:
    def judge(ops: RoutingOps) -> None:
        x, given = logits(kind, card.experts), None
        if bias is not None:
            given = (np.random.default_rng(1).random(card.experts) + bias).astype("f4")
        contract("route").judge(
            ops.route,
            {
                **{"x": x, "weight": np.eye(card.experts, dtype="f4"), "bias": given},
                **{"card": card, "numerics": FP32},
            },
        )

    return judge


def chooses(kind: str) -> Judge:
    """By logits as they are: a product makes a row with a NaN all NaN, and -0 to 0."""

    def judge(ops: RoutingOps) -> None:
        x = logits(kind, UNSCORED.experts)
        want = router.route_logits(x.astype("f8"), None, UNSCORED)
        assert ops.route_logits(x, None, UNSCORED).ids.tolist() == want.ids.tolist()

    return judge


def permutes(experts: int) -> Judge:
    return lambda ops: contract("permute").judge(
        ops.permute, {"ids": many(experts), "experts": experts}
    )


def combines(ops: RoutingOps) -> None:
    rng = np.random.default_rng(0)
    out, weights = rng.normal(size=(5, 3, 8)).astype("f4"), rng.random((5, 3)).astype("f4")
    contract("combine").judge(
        ops.combine, {"expert_out": out, "weights": weights, "numerics": FP32}
    )


def schedules(ops: RoutingOps) -> None:
    tiles = ops.schedule(np.array([0, 5, 5, 13]), 4, 13)
    assert tiles.tolist() == [
        *([0, 0, 4], [0, 4, 5], [2, 5, 9], [2, 9, 13]),
        *([-1, 0, 0], [-1, 0, 0]),
    ]


GROUPED = replace(
    *(PLAIN,),
    **{"experts": 24, "top_k": 3, "groups": 4, "groups_kept": 2, "score": "sigmoid"},
    **{"group_score": "top2_sum", "dropped_group": "-inf", "selection_bias": True},
)
TIED, BIASED = replace(PLAIN, experts=24, top_k=5), replace(GROUPED, groups=1, groups_kept=1)
UNSCORED = replace(TIED, score="identity", renormalise=False)
FLOORED = replace(TIED, score="sigmoid", renorm_floor=4.0)
MIXER = replace(PLAIN, experts=24, score="identity", weight_from="sparsemixer", renormalise=False)

MUTANTS: dict[str, tuple[str, str, str, Judge]] = {
    "a tie goes to the higher index": (
        *("route", "(0xffffffffu - index)", "(u32)index"),
        routes("tied", TIED),
    ),
    "NaN above every number": (
        *("route", "#define ORDER_OF_NAN 1u", "#define ORDER_OF_NAN 0xffffffffu"),
        chooses("nan"),
    ),
    "-0 below 0": (
        *("route", "if (bits == 0x80000000u) bits = 0;", ""),
        chooses("zeros"),
    ),
    "an expert is chosen twice": (
        *("route", "if (lane + WARP * j == e) order[j] = TAKEN;", ""),
        routes("plain", TIED),
    ),
    "experts that are not there can be chosen": (
        *(
            "route",
            "lane + WARP * j < experts ? order_of(choice[j]) : TAKEN",
            "order_of(choice[j])",
        ),
        routes("nan", UNSCORED),
    ),
    "the maximum is not taken off": (
        *("route", "*top = most = warp_max(most);", "*top = most = 0.0f;"),
        routes("far", TIED),
    ),
    "the bias weighs as well as chooses": (
        *("route", "if (scores) store_row(scores + start, choice, experts);", ""),
        routes("plain", BIASED, 0),
    ),
    "no bias": ("route", "if (bias) {", "if (0) {", routes("plain", BIASED, 0)),
    "groups by their best member alone": (
        *("route", "top2 ? best.first + best.second : best.first", "best.first"),
        routes("plain", GROUPED, 0),
    ),
    "a group of one too many": (
        *("route", "lane < groups && better < kept", "lane < groups && better <= kept"),
        routes("plain", GROUPED, 0),
    ),
    "dropped groups at zero, all biased scores negative": (
        *("route", "(to_zero ? 0.0f : -INF)", "0.0f"),
        routes("plain", GROUPED, -3),
    ),
    "not divided by the sum": (
        "route",
        "if (renormalise) weight",
        "if (0) weight",
        routes("plain", TIED),
    ),
    "the sum over all lanes": (
        *("route", "warp_sum(lane < top_k ? weight : 0.0f)", "warp_sum(weight)"),
        routes("plain", TIED),
    ),
    "no floor under the sum": (
        *("route", "floor != 0.0f ? max_nan(total, floor) : total", "total"),
        routes("plain", FLOORED),
    ),
    "no scale": ("route", "weight *= scale;", "", routes("plain", replace(TIED, scale=2.5))),
    "rivals of the mixer are all": (
        *("route", "(far ? -INF : x) - top", "x - top"),
        routes("plain", MIXER),
    ),
    "the mixer's best stays in the second's way": (
        *("route", "if (own == best || lane_id() + WARP * j != best) sum", "sum"),
        routes("tied", MIXER),
    ),
    "in the order of choice, not of weight": (
        *("route", "rank += __shfl_sync(ALL, place, k) > place;", "rank = lane;"),
        routes("plain", replace(BIASED, score="sigmoid"), 0),
    ),
    "tokens past the end": ("route", "if (t >= tokens) return;", "", routes("plain", TIED)),
    "slots past the end are counted": (
        *("permute", "if (i < slots) atomicAdd", "atomicAdd"),
        permutes(5),
    ),
    "counts without atomics": (
        *("permute", "atomicAdd(&seen[ids[i]], 1)", "seen[ids[i]] += 1"),
        permutes(5),
    ),
    "counts read before all are in": (
        *("permute", "1);\n  __syncthreads();\n  for", "1);\n  for"),
        permutes(5),
    ),
    "counters used before they are zero": (
        *("permute", "seen[e] = 0;\n  __syncthreads();", "seen[e] = 0;"),
        permutes(5),
    ),
    "warps do not wait for their turn": (
        *("permute", "    __syncthreads();\n  }\n}\n\n// ---- for", "  }\n}\n\n// ---- for"),
        permutes(5),
    ),
    "one lane writes before all have read": (
        *("permute", "__syncwarp();  // all have read, then one writes", ""),
        permutes(5),
    ),
    "lanes of one expert take one place": (
        *("permute", "int before = __popc(peers & ((1u << lane_id()) - 1));", "int before = 0;"),
        permutes(5),
    ),
    "a stretch of experts forgets those before": (
        *("permute", "if (threadIdx.x == blockDim.x - 1) scan.carry = before + x;", ""),
        permutes(300),
    ),
    "the last warp's sum is lost": (
        *("permute", "(warp ? scan.of_warp[warp - 1] : 0)", "0"),
        permutes(300),
    ),
    "tiles overlap the next expert": (
        *("permute", "min(row + rows, stop)", "row + rows"),
        schedules,
    ),
    "the first tile without work is not marked": (
        *(
            "permute",
            "tile = running.carry + threadIdx.x",
            "tile = running.carry + 1 + threadIdx.x",
        ),
        schedules,
    ),
    "the first expert's weight for all": (
        *("combine", "float w = weights[slot];", "float w = weights[t * top_k];"),
        combines,
    ),
    "the first row is forgotten": (
        *("combine", "sum.x = k == 0 ? w * x.x :", "sum.x = k == 0 ? 0.0f :"),
        combines,
    ),
}


@cache
def right_files() -> PtxDevice:
    return PtxDevice(strict=True)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_bug_is_seen(name: str) -> None:
    file, right, wrong, judge = MUTANTS[name]
    judge(RoutingOps(right_files()))
    with pytest.raises((AssertionError, DefectError)):
        judge(RoutingOps(Mutated(file, right, wrong)))
