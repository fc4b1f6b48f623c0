"""Two traces alone, without a model: the jump is found, and other tokens are refused."""

from __future__ import annotations

import numpy as np
import pytest

from tinymoe.core import NUMERICS, TinymoeError
from tinymoe.oracle.diff import diff_traces
from tinymoe.oracle.mutants import Setup, mutant
from tinymoe.oracle.mutants.specimen_params import specimen
from tinymoe.oracle.mutants.specimens import IDS
from tinymoe.oracle.trace import trace

pytestmark = pytest.mark.definition

FP32 = NUMERICS["fp32"]


def traced(setup: Setup) -> dict[str, np.ndarray]:
    return trace(setup.params, setup.config, IDS, FP32, ops=setup.ops, patterns=("*",))


def test_two_traces_alone_show_the_jump() -> None:
    setup = specimen("mixer", FP32)
    reference = traced(setup)
    assert diff_traces(reference, traced(setup), (FP32, FP32)).agrees
    for name, tap in (("rope.backwards", "attn.q"), ("experts.gate-up-swapped", "moe.expert_out")):
        wrong = traced(mutant(name).apply(setup))
        report = diff_traces(reference, wrong, (FP32, FP32))
        assert report.first.name == f"layers.0.{tap}"


def test_two_traces_must_be_of_the_same_tokens() -> None:
    reference = traced(specimen("mixer", FP32))
    other = reference | {"tokens": reference["tokens"] + 1}
    with pytest.raises(TinymoeError, match="other tokens"):
        diff_traces(reference, other, (FP32, FP32))
    with pytest.raises(TinymoeError, match="no tap in common"):
        diff_traces(reference, {"x": np.zeros(2)}, (FP32, FP32))
