"""The diff engine: a comparison that accuses the wrong tensor is worse than none."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pytest

from tinymoe.core import NUMERICS, TinymoeError
from tinymoe.oracle.diff import diff, diff_local
from tinymoe.oracle.diff.page import page
from tinymoe.oracle.diff.routing import gaps
from tinymoe.oracle.diff.tensors import Bound, bound_of, compare
from tinymoe.oracle.diff.told import as_values, verdict
from tinymoe.oracle.mutants import MODEL_MUTANTS, Setup, mutant
from tinymoe.oracle.mutants.specimen_params import specimen
from tinymoe.oracle.mutants.specimens import CONFIGS, IDS
from tinymoe.oracle.trace import trace

pytestmark = pytest.mark.definition

FP32, BF16 = NUMERICS["fp32"], NUMERICS["bf16"]
Trace = dict[str, np.ndarray]


def traced(setup: Setup, numerics: Any = FP32, patterns: tuple[str, ...] = ("*",)) -> Trace:
    config, params, ops = setup
    return trace(params, config, IDS, numerics, ops=ops, patterns=patterns)


@pytest.fixture(scope="module")
def setups() -> dict[str, Setup]:
    return {name: specimen(name, FP32) for name in CONFIGS}


def judged(setup: Setup, mine: Trace, **how: Any) -> Any:
    return diff(setup.params, setup.config, mine, FP32, **how)


# Mutants that leave some specimen's numbers as they are, or move nothing but what chooses there:
# no group of equal scores at the cut, no negative score among the best, no expert without rows.
CAN_HIDE = {
    "router.bias-bf16",
    "router.negative-scores-lost",
    "router.tie-highest",
    "router.tie-by-added-index",
    "router.softmax-after-top-k",
    "experts.empty-expert-skipped",
    "experts.sort-unstable",
}


@pytest.mark.parametrize("m", MODEL_MUTANTS, ids=lambda m: m.name)
def test_every_mutant_is_found_at_its_first_tap(m: Any, setups: dict[str, Setup]) -> None:
    firsts = {}
    for name, setup in setups.items():
        if m.applies(setup):
            report = judged(setup, traced(m.apply(setup)))
            firsts[name] = None if report.first is None else report.first.name
    at = {name for name, tap in firsts.items() if tap and fnmatchcase(tap, m.first_tap)}
    if m.name in CAN_HIDE:
        assert at or m.equivalent, firsts
    else:
        assert at == set(firsts), firsts


def test_what_came_in_is_said_to_be_right(setups: dict[str, Setup]) -> None:
    setup = setups["ties"]
    report = judged(setup, traced(mutant("experts.first-dropped").apply(setup)))
    assert report.first.name == "layers.1.moe.routed"
    assert report.before == "layers.1.moe.expert_out"
    assert "layers.1.moe.expert_out and all before it agree" in verdict(report)


def test_taps_that_are_not_there_are_named(setups: dict[str, Setup]) -> None:
    # The first wrong tensor that one can see need not be the first wrong one.
    setup = setups["ties"]
    mine = traced(mutant("experts.first-dropped").apply(setup))
    few = {name: mine[name] for name in ("tokens", "layers.1.router.ids", "layers.1.out")}
    report = judged(setup, few)
    assert report.first.name == "layers.1.out"
    assert "layers.1.moe.routed" in verdict(report)
    assert "layers.1.moe.routed" in report.missing


def test_names_that_are_no_taps_are_listed(setups: dict[str, Setup]) -> None:
    mine = traced(setups["ties"]) | {"layers.0.attn.quux": np.zeros(3)}
    report = judged(setups["ties"], mine)
    assert report.agrees
    assert report.extra == ("layers.0.attn.quux",)


def test_no_common_name_and_no_tokens_are_errors(setups: dict[str, Setup]) -> None:
    with pytest.raises(TinymoeError, match="no tap to compare"):
        judged(setups["ties"], {"tokens": np.array(IDS), "hidden": np.zeros(3)})
    with pytest.raises(TinymoeError, match="add the token ids"):
        judged(setups["ties"], {"embed": np.zeros(3)})
    with pytest.raises(TinymoeError, match="whole numbers"):
        judged(setups["ties"], {"tokens": np.zeros(3), "embed": np.zeros(3)})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_never_passes(setups: dict[str, Setup], bad: float) -> None:
    # |NaN - x| > bound is false: the plain comparison lets NaN through.
    mine = traced(setups["ties"])
    mine["layers.1.moe.norm"][3, 7] = bad
    report = judged(setups["ties"], mine)
    assert report.first.name == "layers.1.moe.norm"
    assert report.first.worst == (3, 7)
    assert f"1 of {mine['layers.1.moe.norm'].size} entries are {bad}" in verdict(report)
    assert as_values(report)["tensors"]  # JSON knows no NaN
    assert "(3, 7)" in page(report, "ref", "mine")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: x.T, "transposed"),
        (lambda x: x[None], "drop the batch axis"),
        (lambda x: x.reshape(-1), "reshape it to"),
        (lambda x: x[:-1], "dump the whole sequence"),
        (lambda x: x[:, :3], "same tokens"),
    ],
)
def test_a_wrong_shape_says_what_it_looks_like(
    setups: dict[str, Setup], change: Any, says: str
) -> None:
    mine = traced(setups["ties"])
    mine["layers.0.mid"] = change(mine["layers.0.mid"])
    report = judged(setups["ties"], mine)
    assert report.first.name == "layers.0.mid"
    assert "expected the shape (12, 24)" in verdict(report)
    assert says in verdict(report)


def test_a_square_transposed_tensor_is_recognised() -> None:
    x = np.random.default_rng(0).normal(size=(5, 5))
    assert compare("x", x, x.T, Bound(0.1, 0.1)).note == "it is the reference transposed"


def test_zeros_are_not_close_to_small_numbers() -> None:
    # bugs.md, section 4: with atol 0.1 all zeros passed at 10 of 16 shapes.
    x = np.random.default_rng(0).normal(size=(5, 8)) * 1e-9
    found = compare("x", x, np.zeros_like(x), bound_of("x", x, [x.astype(np.float32)], "float32"))
    assert (found.status, found.note) == ("differs", "all entries are 0")


def test_masked_entries_are_not_looked_at() -> None:
    x = np.random.default_rng(0).normal(size=(4, 6))
    engine = np.ma.masked_array(x.copy(), mask=np.zeros(x.shape, bool))
    engine[2, 2:4] = np.ma.masked
    engine.data[2, 2:4] = 1e9
    assert compare("x", x, engine, Bound(0.0, 0.0)).status == "agrees"


def test_a_small_token_is_judged_by_its_own_size() -> None:
    # A token of 1000 times the size must not hide an error in its neighbours.
    x = np.random.default_rng(0).normal(size=(4, 64))
    x[0] *= 1000
    emulated = x * (1 + 2.0**-9 * np.sign(x))
    bound = bound_of("x", x, [emulated], "bfloat16")
    wrong = x.copy()
    wrong[2] *= 1.5
    assert compare("x", x, emulated, bound).status == "agrees"
    assert compare("x", x, wrong, bound).status == "differs"


# ------------------------------------------------------------------------------------ routing


def scores_of(rows: list[list[float]]) -> np.ndarray:
    return np.array(rows)


def test_gaps_are_what_the_scores_must_move_by(setups: dict[str, Setup]) -> None:
    card = replace(setups["ties"].config.router, experts=4, top_k=2)
    choice = scores_of([[0.4, 0.3, 0.2, 0.1]] * 3)
    found = gaps(choice, np.array([[0, 1], [0, 2], [2, 3]]), card)
    assert np.allclose(found, [0, 0.1, 0.3], rtol=0, atol=1e-15)


def test_gaps_know_groups(setups: dict[str, Setup]) -> None:
    # Three groups of two, one kept: the best two experts are not in the best group.
    card = replace(setups["groups"].config.router, experts=6, top_k=2, groups=3, groups_kept=1)
    choice = scores_of([[0.9, 0.0, 0.6, 0.5, 0.55, 0.5]])
    assert gaps(choice, np.array([[2, 3]]), card)[0] == 0
    other = gaps(choice, np.array([[4, 5]]), card)[0]
    assert abs(other - (1.1 - 1.05) / 2) < 1e-15  # of the two sums, each of two scores
    assert gaps(choice, np.array([[0, 2]]), card)[0] > 1  # of two groups: no move of scores helps


def test_a_far_choice_is_a_fault_and_a_close_call_is_not(setups: dict[str, Setup]) -> None:
    setup = setups["clipped"]
    mine = traced(setup)
    name = "layers.0.router"
    margin, ids = mine[f"{name}.margin"], mine[f"{name}.ids"]
    far = int(margin.argmax())
    out = next(e for e in range(8) if e not in ids[far])
    mine[f"{name}.ids"][far, -1] = out
    report = judged(setup, mine)
    assert [(f.token, f.why) for f in report.flips] == [(far, "against its own scores")]
    assert report.first.name == f"{name}.ids"
    without = {n: v for n, v in mine.items() if not n.endswith("scores")}
    (flip,) = judged(setup, without).flips
    assert flip.why == "not a tie"
    assert flip.gap >= margin[far] > flip.tie
    assert flip.ulps > 1000  # of float32


def test_ties_that_fall_the_other_way_are_no_fault(setups: dict[str, Setup]) -> None:
    # Nearly equal experts 2 and 6, scores not dumped: an engine may take either.
    setup = setups["ties"]
    mine = traced(mutant("router.tie-by-added-index").apply(setup))
    mine = {n: v for n, v in mine.items() if not n.endswith(("scores", "margin"))}
    report = judged(setup, mine)
    assert {flip.why for flip in report.flips} == {"tie"}
    assert report.agrees
    assert "close calls" in verdict(report)
    found = next(t for t in report.tensors if t.name == "layers.1.router.ids")
    assert "all close calls" in found.note


def test_its_own_scores_convict_it(setups: dict[str, Setup]) -> None:
    # sglang#31768: 3e-7 times the index, within rounding of the right scores, and still wrong.
    setup = setups["ties"]
    report = judged(setup, traced(mutant("router.tie-by-added-index").apply(setup)))
    assert "against its own scores" in {flip.why for flip in report.flips}
    assert report.first.name == "layers.1.router.ids"


def test_an_exact_tie_goes_to_the_lowest_index(setups: dict[str, Setup]) -> None:
    setup = setups["ties"]
    report = judged(setup, traced(mutant("router.tie-highest").apply(setup)))
    assert {"tie rule"} <= {flip.why for flip in report.flips}


@pytest.mark.parametrize("bad", [-1, 8, "twice"])
def test_ids_that_are_no_choice(setups: dict[str, Setup], bad: Any) -> None:
    # vllm#39288: the same expert twice; vllm#57036: -1 indexes memory.
    setup = setups["clipped"]
    mine = traced(setup)
    ids = mine["layers.1.router.ids"]
    ids[4, 1] = ids[4, 0] if bad == "twice" else bad
    report = judged(setup, mine)
    assert report.first.name == "layers.1.router.ids"
    assert "an id twice or out of range" in verdict(report)


def test_another_order_of_experts_is_no_difference(setups: dict[str, Setup]) -> None:
    # Engines list the chosen in the order of scores, or of ids: sets, then weights, then order.
    setup = setups["sinks"]
    mine = traced(setup)
    for layer in range(3):
        for name in ("router.ids", "router.weights", "moe.expert_out"):
            mine[f"layers.{layer}.{name}"] = mine[f"layers.{layer}.{name}"][:, ::-1]
    assert judged(setup, mine).agrees


# ------------------------------------------------------------------------------ replay and local


def test_replay_separates_arithmetic_from_routing(setups: dict[str, Setup]) -> None:
    setup = setups["mixed-bias"]
    biased = mutant("router.bias-lost").apply(setup)
    assert judged(setup, traced(biased)).first.name == "layers.0.router.ids"
    mine = {n: v for n, v in traced(biased).items() if not n.endswith("margin")}
    report = judged(setup, mine, replay=True)
    assert report.agrees  # with its experts, all its numbers are right
    assert report.flips
    assert "taken as given" in verdict(report)
    both = mutant("experts.first-dropped").apply(biased)
    mine = {n: v for n, v in traced(both).items() if not n.endswith("margin")}
    assert judged(setup, mine, replay=True).first.name == "layers.0.moe.routed"


def test_local_finds_what_an_early_fault_hides(setups: dict[str, Setup]) -> None:
    setup = setups["sinks"]
    wrong = mutant("sinks.lost").apply(setup)
    mine = traced(wrong)
    report = diff_local(setup.params, setup.config, mine, FP32)
    assert report.wrong == tuple(f"layers.{layer}.attn.mix" for layer in range(3))
    assert "layers.1.attn.mix, layers.2.attn.mix" in verdict(report)
    # one faulty layer alone: those after it are right from their own input
    layers = (setup.params.layers[0], wrong.params.layers[1], setup.params.layers[2])
    one = setup._replace(params=replace(setup.params, layers=layers))
    report = diff_local(setup.params, setup.config, traced(one), FP32)
    assert report.wrong == ("layers.1.attn.mix",)
    assert judged(setup, traced(one)).tensors[-1].status != "agrees"


@pytest.mark.parametrize("name", CONFIGS)
def test_local_agrees_with_the_model_itself(setups: dict[str, Setup], name: str) -> None:
    for numerics in (FP32, BF16):
        setup = specimen(name, numerics)
        mine = traced(setup, numerics)
        report = diff_local(setup.params, setup.config, mine, numerics)
        assert report.agrees, verdict(report)
        assert {t.name for t in report.tensors} == set(mine) - {"tokens"}


def test_local_says_what_it_could_not_judge(setups: dict[str, Setup]) -> None:
    setup = setups["sinks"]
    mine = traced(setup)
    del mine["layers.0.out"]
    report = diff_local(setup.params, setup.config, mine, FP32)
    assert any("layers.1" in note for note in report.notes)
    with pytest.raises(TinymoeError, match="no layer can be judged"):
        diff_local(setup.params, setup.config, {"tokens": mine["tokens"]}, FP32)
