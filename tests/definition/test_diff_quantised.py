"""`diff` of an engine that quantises its activations, as a W4A4 checkpoint asks it to."""

from __future__ import annotations

import numpy as np
import pytest

import tinymoe
from tests.quantising import IDS, quantised
from tinymoe.core import NUMERICS, TinymoeError
from tinymoe.oracle.diff import diff, diff_traces

pytestmark = pytest.mark.definition
CHECKPOINT = NUMERICS["checkpoint"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    _, after = quantised(tmp_path_factory.mktemp("w4a4"), format="nvfp4")
    return tinymoe.load(after.path, numerics="checkpoint")


def test_the_emulated_engine_agrees(model):
    mine = model.trace(IDS[:12])
    assert diff(model.params, model.config, mine, CHECKPOINT).first is None


def test_the_cost_of_quantised_activations_is_not_an_error_but_more_is(model):
    """With bounds of 0.1 all-zero output passes published W4A4 tests."""
    mine = model.trace(IDS[:12])
    name = "layers.1.moe.out"
    for broken in (mine[name] * 2.5, np.zeros_like(mine[name])):
        report = diff(model.params, model.config, mine | {name: broken}, CHECKPOINT)
        assert report.first is not None
        assert report.first.name == name


def test_what_bf16_weights_give_is_told_from_what_the_checkpoint_asks_for(model):
    """Numerics that are not the engine's: bf16 knows no quantised activation, and accuses it."""
    mine = model.trace(IDS[:12])
    bf16 = tinymoe.load(model.checkpoint.path, numerics="bf16")
    report = diff(bf16.params, bf16.config, mine, NUMERICS["bf16"])
    assert report.first is not None
    assert report.first.name == "layers.0.attn.q"


def test_two_traces_alone_are_not_enough(model):
    """Without the model nobody knows what the format costs: an error in place of a guess."""
    mine = model.trace(IDS[:12])
    with pytest.raises(TinymoeError, match="--model DIR"):
        diff_traces(mine, mine, (NUMERICS["fp32"], CHECKPOINT))
