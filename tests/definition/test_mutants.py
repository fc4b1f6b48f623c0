"""Mutants: each is another function than the definition, begins where it says, and is unlike all
others. A mutant that does nothing would count as killed by every test."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from tinymoe.core import NUMERICS, TinymoeError
from tinymoe.oracle.mutants import (
    FORMAT_MUTANTS,
    MODEL_MUTANTS,
    MUTANTS,
    SAMPLER_MUTANTS,
    Setup,
    decode,
    mutant,
)
from tinymoe.oracle.mutants.specimen_params import specimen
from tinymoe.oracle.mutants.specimens import CONFIGS, IDS, sampler_rows, stored_tensors
from tinymoe.oracle.trace import trace
from tinymoe.sampler import masked_probabilities

pytestmark = pytest.mark.definition

FP32 = NUMERICS["fp32"]
Trace = Mapping[str, np.ndarray]


def traced(setup: Setup) -> Trace:
    return trace(setup.params, setup.config, IDS, FP32, ops=setup.ops, patterns=["*"])


@pytest.fixture(scope="module")
def right() -> dict[str, tuple[Setup, Trace]]:
    setups = {name: specimen(name, FP32) for name in CONFIGS}
    return {name: (setup, traced(setup)) for name, setup in setups.items()}


@pytest.fixture(scope="module")
def wrong(right: dict[str, tuple[Setup, Trace]]) -> dict[str, dict[str, Trace]]:
    """Mutant, then specimen it applies to."""
    return {
        m.name: {n: traced(m.apply(s)) for n, (s, _) in right.items() if m.applies(s)}
        for m in MODEL_MUTANTS
    }


def first_change(right: Trace, wrong: Trace) -> str | None:
    """The first tap with another bit; ids as sets, since their order follows the weights."""
    assert list(right) == list(wrong)
    for name, value in right.items():
        other = wrong[name]
        if name.endswith("router.ids"):
            value, other = np.sort(value), np.sort(other)
        if value.tobytes() != other.tobytes():
            return name
    return None


def test_there_are_enough_and_their_names_are_their_own() -> None:
    assert len(MUTANTS) >= 60
    assert len({m.name for m in MUTANTS}) == len(MUTANTS)
    steps = {m.step for m in MUTANTS}
    assert steps >= {
        *("router", "scaling", "experts", "activation", "format", "layout", "attention"),
        *("rope", "window", "sinks", "shared", "parallel", "sampler"),
    }
    assert all(m.says and m.says == m.says.strip() for m in MUTANTS)


@pytest.mark.parametrize("m", MODEL_MUTANTS, ids=lambda m: m.name)
def test_it_begins_where_it_says(m: Any, right: Any, wrong: Any) -> None:
    # A mutant that also disturbs what comes before would teach diagnose the wrong signature.
    firsts = {n: first_change(right[n][1], w) for n, w in wrong[m.name].items()}
    assert firsts, "it applies to no specimen"
    if not m.first_tap:
        assert m.equivalent
        assert set(firsts.values()) == {None}
        return
    assert any(name and fnmatchcase(name, m.first_tap) for name in firsts.values()), firsts
    # where its tap does not move on this data, nothing earlier does
    for n, found in firsts.items():
        names = list(right[n][1])
        own = next(i for i, name in enumerate(names) if fnmatchcase(name, m.first_tap))
        assert found is None or names.index(found) >= own, (n, found)


def test_no_two_are_the_same(wrong: Any) -> None:
    # Two names for one function: a diagnosis could not tell which.
    digests = {
        name: {n: b"".join(v.tobytes() for v in w.values()) for n, w in found.items()}
        for name, found in wrong.items()
        if not mutant(name).equivalent
    }
    for (one, a), (other, b) in combinations(digests.items(), 2):
        common = set(a) & set(b)
        assert not common or any(a[n] != b[n] for n in common), (one, other)


def test_an_equivalent_gives_the_same_logits(right: Any, wrong: Any) -> None:
    # vllm#43223 blamed the order of softmax and top-k: it moves the last bits and no more.
    # 1e-5 of the largest logit: some 100 roundings of 2^-24, over at most three layers.
    for m in MODEL_MUTANTS:
        if m.equivalent:
            for n, found in wrong[m.name].items():
                a, b = right[n][1]["logits"], found["logits"]
                assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max(), (m.name, n)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_definition_itself_is_untouched(name: str, right: Any) -> None:
    # A mutant that changed an array in place would be found in every later model.
    setup, before = right[name]
    for m in MODEL_MUTANTS:
        if m.applies(setup):
            traced(m.apply(setup))
    assert first_change(before, traced(setup)) is None


def test_one_that_does_not_apply_says_why(right: Any) -> None:
    for setup, _ in right.values():
        for m in MODEL_MUTANTS:
            why = m.why_not(setup)
            assert why is None or len(why) > 5
    assert mutant("scaling.twice").why_not(right["ties"][0]) == "the routed scaling factor is 1"


def check_values(mutants: Any, specimens: Mapping[str, Any], right: Any) -> None:
    """Each differs from the right values somewhere, and from every other mutant."""
    found: dict[str, dict[str, bytes]] = {}
    for m in mutants:
        changed = False
        for name, given in specimens.items():
            if m.applies(given):
                values, expected = m.apply(given), right(given)
                assert [np.shape(v) for v in values] == [np.shape(v) for v in expected]
                changed |= not all(
                    np.array_equal(a, b, equal_nan=True)
                    for a, b in zip(values, expected, strict=True)
                )
                digest = b"".join(np.asarray(v).tobytes() for v in values)
                found.setdefault(m.name, {})[name] = digest
        assert changed, m.name
    for (one, a), (other, b) in combinations(found.items(), 2):
        common = set(a) & set(b)
        assert not common or any(a[n] != b[n] for n in common), (one, other)


def test_formats_read_wrongly_give_other_values() -> None:
    check_values(FORMAT_MUTANTS, stored_tensors(), lambda given: tuple(map(decode, given)))


def test_wrong_samplers_give_other_probabilities() -> None:
    check_values(SAMPLER_MUTANTS, sampler_rows(), lambda row: masked_probabilities(*row))


def test_an_unknown_name_lists_its_neighbours() -> None:
    with pytest.raises(TinymoeError, match=r"scaling\.twice"):
        mutant("scaling.thrice")
    with pytest.raises(TinymoeError, match="steps: .*router"):
        mutant("nonsense")
