"""Quantised checkpoints that we write, run as an engine would: inputs in few bits, too.

An input scale that fits no input, a matrix that was forgotten, a checkpoint that our own lint
complains of: each would be found by whoever serves the file, much later.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.quantising import IDS, READ, quantised
from tinymoe.api import load
from tinymoe.checkpoint import Checkpoint
from tinymoe.families import read_config
from tinymoe.formats import bf16, fp8, mxfp4, nvfp4
from tinymoe.formats.inputs import InputFormat, fake_quantise
from tinymoe.model.weights import QuantisedInput
from tinymoe.oracle.lint import lint
from tinymoe.quantize.layouts import by_name
from tinymoe.quantize.plan import make_plan
from tinymoe.quantize.roles import arrays_of

pytestmark = pytest.mark.definition
TOKENS = IDS[:24]
WEIGHTS_ALONE = ("mxfp4 gpt-oss block",)  # W4A16


def made(layout: str, case: str, tmp_path: Path) -> tuple[Checkpoint, Checkpoint]:
    format_, convention, scales = layout.split()
    return quantised(tmp_path, case, format=format_, convention=convention, scales=scales)


@pytest.mark.parametrize(("layout", "case"), READ)
def test_it_runs_as_an_engine_would(layout: str, case: str, tmp_path: Path) -> None:
    _, after = made(layout, case, tmp_path)
    fp32, engine = load(after.path), load(after.path, numerics="checkpoint")
    wanted, got = fp32(TOKENS), engine(TOKENS)
    assert np.isfinite(got).all()
    # still the same function: what each token says is nearest to what it says without any
    # rounding of activations, among all tokens. A scale taken the wrong way, another module's, or
    # one of another format leaves nothing of that
    far = np.linalg.norm(got[:, None] - wanted[None], axis=-1)  # (T, T)
    np.testing.assert_array_equal(far.argmin(axis=1), np.arange(len(TOKENS)))
    assert (got != load(after.path, numerics="bf16")(TOKENS)).any() == (layout not in WEIGHTS_ALONE)
    for model, same in ((fp32, wanted), (engine, got)):
        lazily = load(after.path, numerics=model.numerics, on_demand=True)
        np.testing.assert_array_equal(lazily(TOKENS), same)
        assert lazily.params.reads is not None


@pytest.mark.parametrize(("layout", "case"), READ)
def test_inputs_of_all_quantised_matrices_are_quantised_and_of_no_others(
    layout: str, case: str, tmp_path: Path
) -> None:
    before, after = made(layout, case, tmp_path)
    params = load(after.path, numerics="checkpoint").params
    found = {path for path, _ in arrays_of(params, "") if path.endswith(".values")}
    plan = make_plan(before, read_config(before.config), by_name()[layout])
    wanted = {f"{module.path}.values" for module in plan.modules.values()}
    assert found == (set() if layout in WEIGHTS_ALONE else wanted)


@pytest.mark.parametrize(
    ("layout", "case"), [pair for pair in READ if pair[0] not in WEIGHTS_ALONE]
)
def test_inputs_are_within_a_step_of_themselves(layout: str, case: str, tmp_path: Path) -> None:
    _, after = made(layout, case, tmp_path)
    params = load(after.path, numerics="checkpoint").params
    weights = [
        value
        for layer in params.layers
        for part in (layer.attention, layer.ffn)
        for value in (getattr(part, name) for name in part.__slots__)
        if isinstance(value, QuantisedInput)
    ]
    assert len(weights) >= len(params.layers)
    rng = np.random.default_rng(6)
    for weight in weights:
        for form in weight.inputs:
            x = rng.standard_normal((5, weight.shape[-1])).astype(np.float32)
            # a quarter louder than the loudest of the calibration, which is then cut off
            loudest = 1.25 * heard(form)
            x = bf16.round_to_bf16(x * np.float32(loudest / np.abs(x).max()))
            assert (np.abs(fake_quantise(x, form) - x) <= distance(x, form)).all()


def heard(form: InputFormat) -> float:
    """The loudest input of the calibration, from its scale; 1 where there is none."""
    if form.scale is None:
        return 1.0
    one = float(form.scale) if form.scale_is == "multiplier" else 1 / float(form.scale)
    return one * (2688 if form.kind == "nvfp4" else 448)


def distance(x: np.ndarray, form: InputFormat) -> np.ndarray:
    """(T, K): the most that a format leaves between a value and its code's, float32 steps aside.

    Half of the widest step, or what is cut off: E4M3 has steps of 2^-3 of a binade's power, and
    2^-9 below its normal numbers. E2M1's widest is from 4 to 6. So a block of largest a is within
    its scale: a / 3.5 at most where that is a power of two (the exponent goes up from 1.75), and
    a / 6, 2^-4 more if E4M3 rounded it up, or nothing but zeros below half of its least scale.
    """
    a = np.abs(x).astype(np.float64)
    loudest = heard(form)
    if form.kind == "mxfp4":
        return block_maxima(a, mxfp4.BLOCK) / 3.5
    if form.kind == "nvfp4":
        least = 6 * 2.0**-10 * loudest / 2688
        inside = block_maxima(a, nvfp4.BLOCK) * (1 + 2.0**-4) / 6 + least
        return np.maximum(inside, a - loudest) * (1 + 2.0**-20)
    if form.kind == "fp8_tensor":
        top = np.full_like(a, loudest)
    else:
        top = block_maxima(a, fp8.SIDE if form.kind == "fp8_group" else a.shape[1])
    steps = np.maximum(a * 2.0**-4, top / 448 * 2.0**-10)
    return np.maximum(steps, a - top) + a * 2.0**-20


def block_maxima(a: np.ndarray, size: int) -> np.ndarray:
    """Each value's block's largest; the last block of a row may be a part of one."""
    out = np.empty_like(a)
    for start in range(0, a.shape[1], size):
        part = a[:, start : start + size]
        out[:, start : start + size] = part.max(axis=1, keepdims=True)
    return out


@pytest.mark.parametrize(("layout", "case"), READ)
def test_the_lint_finds_nothing_that_the_original_has_not(
    layout: str, case: str, tmp_path: Path
) -> None:
    before, after = made(layout, case, tmp_path)
    found = lint(after.path)
    assert found.counts["error"] == found.counts["warning"] == 0
    assert {f.rule for f in found.findings} == {f.rule for f in lint(before.path).findings}


@pytest.mark.parametrize("convention", ["modelopt", "compressed-tensors"])
def test_the_lint_finds_scales_that_engines_stumble_over(convention: str, tmp_path: Path) -> None:
    # vllm#54974: written on purpose by --separate-scales
    _, after = quantised(tmp_path, convention=convention, separate_scales=True)
    assert {f.rule for f in lint(after.path).findings} == {"fused-scale-mismatch"}
