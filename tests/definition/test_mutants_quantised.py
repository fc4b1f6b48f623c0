"""Mutants of a quantised model: a weight that is changed still has its input quantised.

One that lost its input's format would be killed for that, and not for what it is named after.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.quantising import IDS, quantised
from tinymoe.api import load
from tinymoe.oracle.mutants import MODEL_MUTANTS, Setup
from tinymoe.oracle.trace import trace
from tinymoe.quantize.roles import arrays_of

pytestmark = pytest.mark.definition


def with_quantised_inputs(params: Any) -> set[str]:
    return {path for path, _ in arrays_of(params, "") if path.endswith(".values")}


@pytest.mark.parametrize("case", ["qwen3_moe", "deepseek_v3"])
def test_a_changed_weight_meets_a_quantised_input(case: str, tmp_path: Path) -> None:
    _, after = quantised(tmp_path, case)
    model = load(after.path, numerics="checkpoint")
    setup = Setup(model.config, model.params, model.ops)
    before = with_quantised_inputs(setup.params)
    applied = [mutant for mutant in MODEL_MUTANTS if mutant.applies(setup)]
    assert len(applied) > len(MODEL_MUTANTS) // 3  # some are of other families
    for mutant in applied:
        config, params, ops = mutant.apply(setup)
        trace(params, config, IDS[:4], model.numerics, ops=ops, patterns=["logits"])  # it runs
        lost = before - with_quantised_inputs(params)
        # left out with all its weights
        assert all(".shared." in path for path in lost), mutant.name
        assert mutant.name.startswith("shared.") or not lost, mutant.name
