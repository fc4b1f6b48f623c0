"""The router in CUDA C on the PTX machine: contracts, every family's card, every rung, races."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.family_table import KIN
from tests.kernels.model_kernels import ARCHES, in_float32, keeps_contract
from tests.stored import ROOT, config_of
from tinymoe.checkpoint import Checkpoint
from tinymoe.core import NUMERICS, Array, RouterCard, TinymoeError
from tinymoe.families import FAMILIES, load_params, read_config
from tinymoe.kernels.check_route import check_route, score_error, weights_and_error
from tinymoe.kernels.cuda.check_sizes import PLAIN
from tinymoe.kernels.cuda.devices import PtxDevice
from tinymoe.kernels.cuda.ops_routing import RouteRung, RoutingOps
from tinymoe.model import router

pytestmark = pytest.mark.kernels
FP32 = NUMERICS["fp32"]
CASES = sorted(folder.name for folder in ROOT.iterdir() if folder.is_dir())
RUNGS: tuple[RouteRung, ...] = ("naive", "steps", "fused")


@cache
def device(arch: str) -> PtxDevice:
    """Strict: lanes of one warp may not race either."""
    return PtxDevice(arch, strict=True)


def up_to(most: int) -> Callable[[dict[str, Any]], bool]:
    """Cases with so many experts times choices: one long chain of steps for a thread or a warp."""
    return lambda case: in_float32(case) and case["card"].experts * case["card"].top_k <= most


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("rung", RUNGS)
def test_every_rung_keeps_the_contract(rung: RouteRung, arch: str) -> None:
    examples = {"naive": 5, "steps": 10, "fused": 25}[rung]
    wanted = up_to(256 if rung == "naive" else 2048)
    keeps_contract("route", RoutingOps(device(arch), rung).route, examples, wanted)


def test_every_family_has_a_case() -> None:
    # else the next test could not say "all routing cards"
    families = {config_of(case)["model_type"] for case in CASES}
    assert {KIN.get(name, name) for name in FAMILIES} <= families


@cache
def card_and_bias(case: str) -> tuple[RouterCard, dict[int, Array | None]]:
    """The card of a recorded model, and the selection bias of each layer with experts."""
    checkpoint = Checkpoint.open(ROOT / case)
    config = read_config(checkpoint.config)
    params = load_params(checkpoint, config, FP32)
    biases = {
        number: getattr(layer.ffn, "selection_bias", None)
        for number, layer in enumerate(params.layers)
    }
    return config.router, biases


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("case", CASES)
def test_recorded_logits_give_the_recorded_experts(case: str, rung: RouteRung) -> None:
    # transformers' own logits in; its experts, in its order, and its weights must come out
    card, biases = card_and_bias(case)
    recorded, layers = load_file(ROOT / case / "reference.safetensors"), 0
    for key, logits in recorded.items():
        prompt, name, *rest = key.split(".")
        if name != "router_logits":
            continue
        layers += 1
        at = f"{prompt}.{{}}.{rest[0]}"
        bias = biases[int(rest[0])]
        got = RoutingOps(device("80"), rung).route_logits(logits, bias, card)
        np.testing.assert_array_equal(got.ids, recorded[at.format("expert_ids")])
        want, allowed = bounded_weights(logits, bias, card, got.ids)
        assert (np.abs(got.weights - want) <= allowed).all()
        # the reference's own are as far from exact at most
        assert (np.abs(recorded[at.format("expert_weights")] - want) <= allowed).all()
    assert layers >= 2


def bounded_weights(
    logits: Array, bias: Array | None, card: RouterCard, ids: Array
) -> tuple[Array, Array]:
    """The exact weights of the experts, and how far float32 may be from them."""
    wide = logits.astype(np.float64)
    exact = router.route_logits(wide, None if bias is None else bias.astype(np.float64), card)
    blur = score_error(wide, exact.scores, card.score, FP32)
    return weights_and_error(exact, ids, blur, card, FP32)


def grown(card: RouterCard, experts: int) -> RouterCard:
    """A family's card at the size of its largest models."""
    top_k = card.top_k if card.weight_from == "sparsemixer" else min(16, experts // 4)
    limited = card.groups_kept < card.groups
    return replace(
        card,
        experts=experts,
        top_k=top_k,
        groups=8 if limited else 1,
        groups_kept=4 if limited else 1,
    )


@pytest.mark.parametrize("case", CASES)
def test_families_at_full_size_choose_exactly_the_definitions_experts(case: str) -> None:
    card, _ = card_and_bias(case)
    rng = np.random.default_rng(CASES.index(case))
    for arch, experts in (("80", 32), ("80", 512), ("120a", 256)):
        big = grown(card, experts)
        logits = rng.normal(size=(6, experts)).astype(np.float32)
        logits[0] = np.round(logits[0] * 4) / 4  # a few values: most tie
        logits[1] = np.nan  # a padded row (vllm#39288)
        bias = rng.normal(size=experts).astype(np.float32) if card.selection_bias else None
        got = RoutingOps(device(arch)).route_logits(logits, bias, big)
        with np.errstate(invalid="ignore"):
            exact = router.route_logits(logits.astype(np.float64), bias, big)
        np.testing.assert_array_equal(got.ids, exact.ids)
        assert got.ids[1].tolist() == list(range(big.top_k))
        given = {"x": logits, "weight": np.eye(experts, dtype="f4"), "bias": bias, "card": big}
        # a row of NaN times a matrix is NaN: these are the logits of that x
        check_route({**given, "numerics": FP32}, got)


@pytest.mark.parametrize(("experts", "top_k"), [(600, 5), (100, 40), (1, 1), (33, 32), (512, 16)])
def test_any_number_of_experts_and_choices(experts: int, top_k: int) -> None:
    # past what a warp's registers hold, other kernels take over; none may be left out
    card = replace(PLAIN, experts=experts, top_k=top_k)
    logits = np.random.default_rng(experts).normal(size=(3, experts)).astype("f4")
    got = RoutingOps(device("80")).route_logits(logits, None, card)
    given = {"x": logits, "weight": np.eye(experts, dtype="f4"), "bias": None, "card": card}
    check_route({**given, "numerics": FP32}, got)


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("dropped", ["-inf", "zero"])
def test_a_dropped_group_stays_out_or_comes_back_as_the_card_says(
    rung: RouteRung, dropped: Any
) -> None:
    # vllm#13474: with all biased scores negative, a mask of 0 makes the forbidden experts win
    card = replace(PLAIN, groups=4, groups_kept=1, group_score="max", dropped_group=dropped)
    card = replace(card, score="sigmoid", selection_bias=True)
    logits = np.array([[0, 1, 2, 3, 8, 7, 0, 0]], "f4")
    bias = np.full(8, -3, "f4")
    got = RoutingOps(device("80"), rung).route_logits(logits, bias, card)
    assert sorted(got.ids[0].tolist()) == ([4, 5] if dropped == "-inf" else [0, 1])


@pytest.mark.parametrize("rung", RUNGS)
def test_ranks_are_by_weight_where_that_is_not_the_order_of_choice(rung: RouteRung) -> None:
    # the bias picks expert 3 first; its weight is the smaller one, so it stands second
    card = replace(PLAIN, score="sigmoid", selection_bias=True)
    logits = np.array([[0, 2, 0, 1, -9, -9, -9, -9]], "f4")
    bias = np.array([0, 0, 0, 5, 0, 0, 0, 0], "f4")
    got = RoutingOps(device("80"), rung).route_logits(logits, bias, card)
    assert got.ids.tolist() == [[1, 3]]
    assert got.weights[0, 0] > got.weights[0, 1]


def test_what_the_kernels_cannot_do_is_said() -> None:
    ops = RoutingOps(device("80"))
    x = np.zeros((1, 8), "f4")
    with pytest.raises(TinymoeError, match="8 logits a token, the card has 16"):
        ops.route_logits(x, None, replace(PLAIN, experts=16))
    with pytest.raises(TinymoeError, match="compute in float32"):
        ops.route(x, np.eye(8, dtype="f4"), None, PLAIN, NUMERICS["exact"])
    assert ops.route_logits(x[:0], None, PLAIN).ids.shape == (0, 2)
