"""The op table: every implementation keeps its contract, on inputs that have broken kernels."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinymoe.core import NUMERICS, RopeCard, TinymoeError
from tinymoe.kernels import contracts, ops
from tinymoe.kernels.contracts import CONTRACTS, contract, register
from tinymoe.kernels.rows_formats import ROWS as ROWS_OF_FORMATS
from tinymoe.model.ops import DEFINITION
from tinymoe.model.rope import rope, rope_naive, rope_tables

pytestmark = pytest.mark.properties
ROWS = [(op, name) for op, row in CONTRACTS.items() for name in row.anywhere]


@pytest.mark.parametrize(("op", "name"), ROWS, ids=[f"{op}-{name}" for op, name in ROWS])
def test_implementation(op, name):
    row = contract(op)

    @settings(
        max_examples=150,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(case=row.inputs())
    def keeps_its_contract(case):
        row.judge(row.implementations[name], case)

    keeps_its_contract()


# ------------------------------------------------------------------------------- the table itself


@settings(max_examples=40, derandomize=True, deadline=None, database=None)
@given(
    position=st.integers(0, 1_000_000),
    pairing=st.sampled_from(["half", "interleaved"]),
    rotary_dim=st.sampled_from([2, 4, 8]),
    seed=st.integers(0, 2**32 - 1),
)
def test_rope_with_its_tables_equals_the_naive_turn(position, pairing, rotary_dim, seed):
    # the row `rope` takes its tables as given; here they are part of what is compared
    card = RopeCard(theta=1e4, rotary_dim=rotary_dim, pairing=pairing, scaling=None)
    exact = NUMERICS["exact"]
    x = np.random.default_rng(seed).normal(size=(1, 1, 8))
    tables = rope_tables(np.array([position]), card, exact)
    # the same float64 angles; cos and sin of two libraries within 2 units, then 3 roundings
    bound = 7 * 2.0**-52 * np.abs(x).max() * 2
    assert (
        np.abs(rope(x, tables, card, exact)[0, 0] - rope_naive(x[0, 0], position, card)).max()
        <= bound
    )


def test_ops_by_name():
    assert ops("numpy") is DEFINITION
    with pytest.raises(TinymoeError, match="'abacus'.*'numpy'"):
        ops("abacus")


def test_register(monkeypatch):
    monkeypatch.setitem(
        CONTRACTS, "permute", replace(contract("permute"), implementations={"definition": max})
    )
    register("permute", "mine", min)
    assert contract("permute").implementations["mine"] is min
    with pytest.raises(TinymoeError, match="already has"):
        register("permute", "mine", min)
    with pytest.raises(TinymoeError, match="unknown op 'permutate'"):
        register("permutate", "mine", min)


def test_the_table_covers_the_model():
    # `outside` is `linear` at other places, `step` all ops at once
    members = set(DEFINITION.__dataclass_fields__) - {"outside", "step"}
    assert DEFINITION.outside is DEFINITION.linear
    formats = {row.name for row in ROWS_OF_FORMATS}
    assert members | {"sample"} | formats == set(CONTRACTS)
    for op, row in CONTRACTS.items():
        assert row.name == op
        if op in members:
            assert row.definition is getattr(DEFINITION, op)


def test_without_hypothesis_the_error_says_what_to_install(monkeypatch):
    for name in [n for n in sys.modules if n.startswith("tinymoe.kernels.") and "strateg" in n]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("tinymoe.kernels.strategies", raising=False)
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(TinymoeError, match=r"pip install 'tinymoe\[test\]'"):
        contracts.contract("route").inputs()
