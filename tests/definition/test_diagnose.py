"""diagnose: the right bug by name, two at once, and none where none fits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tinymoe.core import NUMERICS
from tinymoe.oracle.diagnose import diagnose, diagnose_traces
from tinymoe.oracle.diagnose.replay import narrowed, run, stages
from tinymoe.oracle.diagnose.told import as_values, rows, verdict
from tinymoe.oracle.mutants import Setup, mutant
from tinymoe.oracle.mutants.specimen_params import specimen
from tinymoe.oracle.mutants.specimens import CONFIGS, IDS
from tinymoe.oracle.trace import trace

pytestmark = pytest.mark.definition

FP32, BF16 = NUMERICS["fp32"], NUMERICS["bf16"]


@pytest.fixture(scope="module")
def setups() -> dict[str, Setup]:
    return {name: specimen(name, FP32) for name in CONFIGS}


def traced(setup: Setup, *names: str, numerics: Any = FP32) -> dict[str, np.ndarray]:
    for name in names:
        setup = mutant(name).apply(setup)
    config, params, ops = setup
    return trace(params, config, IDS, numerics, ops=ops, patterns=["*"])


def diagnosed(setup: Setup, mine: Any, **how: Any) -> Any:
    return diagnose(setup.params, setup.config, mine, FP32, **how)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_replayed_part_is_the_model_bit_for_bit(setups: dict[str, Setup], name: str) -> None:
    # the halves of a layer are written here a second time: they may not drift from the model
    setup = setups[name]
    mine = traced(setup)
    every = stages(setup.config.num_layers)
    got: dict[str, np.ndarray] = {}
    for stage in every:
        few = narrowed(setup, [stage])
        run(few, [stage], mine, FP32, lambda n, x: got.update({n: np.array(x)}))
    assert set(got) == set(mine)
    for tap, value in got.items():
        assert np.array_equal(value, mine[tap]), tap


def test_the_verdict_names_the_bug_and_its_public_case(setups: dict[str, Setup]) -> None:
    seen: list[tuple[int, int]] = []
    setup = setups["groups"]
    found = diagnosed(
        setup, traced(setup, "scaling.twice"), progress=lambda *step: seen.append(step)
    )
    assert found.named.name == "scaling.twice"
    said = verdict(found)
    assert said.startswith("layers.1.router.weights equals the reference with `scaling.twice` (err")
    assert "see vllm#24119" in said
    assert "next best" in said
    assert seen[-1][0] == seen[-1][1] == found.tried
    assert rows(found)[1][0] == "scaling.twice"
    assert as_values(found)["named"] == "scaling.twice"


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("clipped", ("rope.backwards", "router.renorm-inverted")),  # in the two halves of a layer
        ("groups", ("scaling.lost", "shared.lost")),  # one after the other
        ("ties", ("experts.first-dropped", "experts.gate-up-swapped")),
    ],
)
def test_two_bugs_at_once(setups: dict[str, Setup], name: str, pair: tuple[str, str]) -> None:
    found = diagnosed(setups[name], traced(setups[name], *pair))
    assert set(found.named.name.split(" + ")) == set(pair), verdict(found)


def test_an_unknown_bug_is_not_given_a_name(setups: dict[str, Setup]) -> None:
    setup = setups["ties"]
    mine = traced(setup)
    noise = np.random.default_rng(0).normal(size=mine["layers.1.moe.routed"].shape)
    for tap in ("layers.1.moe.routed", "layers.1.moe.out", "layers.1.out"):
        mine[tap] = mine[tap] + noise.astype(np.float32)
    found = diagnosed(setup, mine)
    assert found.named is None
    assert verdict(found).startswith("none of ")
    assert "fits layers.1.moe.routed" in verdict(found)
    assert as_values(found)["named"] is None


def test_a_right_engine_is_not_accused(setups: dict[str, Setup]) -> None:
    for name in CONFIGS:
        setup = specimen(name, BF16)
        found = diagnose(setup.params, setup.config, traced(setup, numerics=BF16), BF16)
        assert found.agrees
        assert verdict(found).startswith("nothing to diagnose: agrees")


def test_few_taps_are_enough(setups: dict[str, Setup]) -> None:
    # an engine dumps what it has: layers' outputs and the experts, here
    setup = setups["clipped"]
    mine = traced(setup, "router.renorm-inverted")
    few = {n: x for n, x in mine.items() if n.endswith((".out", "ids")) or n == "tokens"}
    found = diagnosed(setup, few)
    assert found.report.first.name == "layers.0.moe.out"
    assert found.named.name == "router.renorm-inverted"


def test_bugs_that_these_tokens_do_not_tell_apart_are_all_named(setups: dict[str, Setup]) -> None:
    found = diagnosed(setups["groups"], traced(setups["groups"], "router.bias-negative-clipped"))
    names = {found.named.name, *(each.name for each in found.alike)}
    assert names == {"router.bias-lost", "router.bias-negative-clipped"}
    assert "cannot be told from" in verdict(found)


def test_a_factor_without_a_mutant_is_seen(setups: dict[str, Setup]) -> None:
    setup = setups["ties"]
    mine = traced(setup)
    mine["layers.1.moe.routed"] = mine["layers.1.moe.routed"] * np.float32(2688)
    found = diagnosed(setup, mine)
    assert found.named.kind == "signature"
    assert "2688 times the reference, which is 448 x 6" in verdict(found)


def test_two_traces_without_a_model(setups: dict[str, Setup]) -> None:
    reference = traced(setups["groups"])
    mine = traced(setups["groups"], "parallel.shared-times-ranks")
    found = diagnose_traces(reference, mine, (FP32, FP32))
    assert found.named.name == "ratio"
    assert "2 times the reference, which is 2 ranks" in verdict(found)
    assert diagnose_traces(reference, reference, (FP32, FP32)).agrees


def test_a_wrong_shape_is_a_verdict(setups: dict[str, Setup]) -> None:
    mine = traced(setups["ties"])
    mine["layers.0.mid"] = mine["layers.0.mid"].T
    found = diagnosed(setups["ties"], mine)
    assert "transposed: (24, 12) in place of (12, 24)" in verdict(found)
