"""Numerics "checkpoint": inputs quantised as the checkpoint's scheme says an engine would.

An input scale that is read and not used (flashinfer#3423), an intermediate that is not quantised
again, a scale of the wrong expert (vllm#26135): each moves results by less than the tolerances of
published tests. Here products are compared within a derived bound, and everything else exactly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinymoe
from tests.definition.test_quantised import CASES, FP8, quantised
from tests.low_precision import QWEN, WEIGHT_ONLY, made
from tests.quantised_runs import (
    AS_STORED,
    IDS,
    QUANTISED,
    activations,
    inputs_of,
    params_of,
    run,
)
from tests.stored import ROOT, config_of, stored
from tinymoe.checkpoint import Checkpoint
from tinymoe.core import NUMERICS, TinymoeError
from tinymoe.families import load_params, read_config
from tinymoe.formats import fp8, gemm
from tinymoe.formats.activations import quantize_nvfp4
from tinymoe.formats.inputs import InputFormat, fake_quantise
from tinymoe.kernels import naive
from tinymoe.model.experts import ffn
from tinymoe.model.precision import linear_unrounded
from tinymoe.model.weights import QuantisedInput, emulation_bound
from tinymoe.oracle.trace import forward_alone

pytestmark = pytest.mark.definition

# ------------------------------------------------------------------------------- the product


@pytest.mark.parametrize(
    ("layout", "is_"), [("modelopt NVFP4", "multiplier"), ("ct NVFP4", "divisor")]
)
def test_nvfp4_agrees_with_the_exact_integer_product(layout: str, is_: Any, tmp_path: Path) -> None:
    case = made(layout)
    params = params_of(tmp_path, case.low, case.config)
    weight, w = params.layers[1].attention.out, case.modules["model.layers.1.self_attn.o_proj"]
    assert isinstance(weight, QuantisedInput)
    form = weight.inputs[0]
    assert form.scale is not None
    assert form.scale_is == is_
    x = activations(50, 96)
    q = quantize_nvfp4(x, form.scale, meaning=is_, convention="kernel", source="bfloat16")
    D = gemm.exact(q, w.quantised).as_float64()
    factors = [float(form.scale), float(w.quantised.tensor_scale or 0)]
    exact = D * (factors[0] * factors[1] if is_ == "multiplier" else 1 / factors[0] / factors[1])
    bound = emulation_bound(x, weight)
    assert (np.abs(linear_unrounded(x, weight) - exact) <= bound).all()
    # the bound is worth something: inputs left alone are outside of it nearly everywhere
    assert (np.abs(linear_unrounded(x, weight.values) - exact) > bound).mean() > 0.99


@pytest.mark.parametrize("layout", ["DeepSeek FP8", "ct FP8 block"])
def test_fp8_blocks_agree_with_the_exact_product(layout: str, tmp_path: Path) -> None:
    config = QWEN | {"hidden_size": 160, "num_hidden_layers": 1}  # K of one block and a quarter
    case = made(layout, config)
    params = params_of(tmp_path, case.low, case.config)
    weight = params.layers[0].ffn.gate_up[0]
    gate = case.modules["model.layers.0.mlp.experts.0.gate_proj"]
    up = case.modules["model.layers.0.mlp.experts.0.up_proj"]
    x = activations(20, 160)
    assert isinstance(weight, QuantisedInput)
    convention = "deepseek_act" if layout.startswith("DeepSeek") else "vllm_group"
    q = fp8.encode(
        x, convention=convention, granularity="group", source="bfloat16", power_of_two="no"
    )
    values = fp8.decode_blocks(q.codes, q.scales.astype(np.float64), (1, 128))
    stored = [
        fp8.decode_blocks(s.quantised.codes, s.quantised.scales.astype(np.float64), (128, 128))
        for s in (gate, up)
    ]
    got, bound = linear_unrounded(x, weight), emulation_bound(x, weight)
    assert (np.abs(got - values @ np.concatenate(stored).T) <= bound).all()
    # the engine's order, scales after each block's sum, lies within the same distance
    engine = np.hstack([gemm.fp8_product(q, s.quantised) for s in (gate, up)])
    assert (np.abs(got - engine) <= 2 * bound).all()


def test_louder_inputs_than_the_calibration_clip() -> None:
    # imp#1544: blocks above 2688 scales are cut, block scale at 448 and codes at 6, unsaid
    form = InputFormat(
        kind="nvfp4", convention="kernel", scale=np.float32(2**-10), scale_is="multiplier"
    )
    x = np.zeros((1, 16), np.float32)
    x[0, :3] = 104, -3, 2.625
    np.testing.assert_array_equal(fake_quantise(x, form)[0, :3], [2.625, -2.625, 2.625])
    fp8_form = InputFormat(
        kind="fp8_tensor", convention="vllm_token", scale=np.float32(0.5), scale_is="multiplier"
    )
    np.testing.assert_array_equal(fake_quantise(x, fp8_form)[0, :3], [104, -3, 2.5])
    x[0, 0] = 300
    assert fake_quantise(x, fp8_form)[0, 0] == 224


@pytest.mark.parametrize("layout", QUANTISED)
def test_a_token_does_not_see_its_company(layout: str, tmp_path: Path) -> None:
    case = made(layout)
    config = read_config(case.config)
    params = params_of(tmp_path, case.low, case.config)
    whole = forward_alone(params, config, IDS, AS_STORED)
    for n in (1, 3):
        np.testing.assert_array_equal(forward_alone(params, config, IDS[:n], AS_STORED), whole[:n])


# ------------------------------------------------------------------------------- where it applies


@pytest.mark.parametrize("layout", QUANTISED)
def test_every_quantised_matrix_has_its_input_quantised(layout: str, tmp_path: Path) -> None:
    case = made(layout)
    params = params_of(tmp_path / "a", case.low, case.config)
    assert len(inputs_of(params)) == 4 * len(params.layers)  # qkv, out, gate_up, down
    got = run(tmp_path / "b", case.low, case.config)
    assert (got != run(tmp_path / "c", case.low, case.config, NUMERICS["bf16"])).mean() > 0.9


@pytest.mark.parametrize("layout", WEIGHT_ONLY)
def test_weights_alone_leave_inputs_as_they_are(layout: str, tmp_path: Path) -> None:
    case = made(layout)
    assert not inputs_of(params_of(tmp_path / "a", case.low, case.config))
    got = run(tmp_path / "b", case.low, case.config)
    np.testing.assert_array_equal(got, run(tmp_path / "c", case.low, case.config, NUMERICS["bf16"]))


@pytest.mark.parametrize("case", ["qwen3_moe", "gpt_oss-mxfp4"])
def test_without_quantised_inputs_it_is_bf16(case: str) -> None:
    # an unquantised checkpoint, and gpt-oss's MXFP4, whose activations stay BF16 (W4A16)
    checkpoint = Checkpoint.open(ROOT / case)
    config = read_config(checkpoint.config)
    both = [
        forward_alone(load_params(checkpoint, config, NUMERICS[n]), config, IDS, NUMERICS[n])
        for n in ("checkpoint", "bf16")
    ]
    np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("layout", QUANTISED)
def test_modules_left_out_get_plain_inputs(layout: str, tmp_path: Path) -> None:
    case = made(layout, only=".experts.")
    params = params_of(tmp_path, case.low, case.config)
    for layer in params.layers:
        assert isinstance(layer.attention.qkv, np.ndarray)  # type: ignore[union-attr]
        assert isinstance(layer.attention.out, np.ndarray)
        assert isinstance(layer.ffn.gate_up, QuantisedInput)
        assert isinstance(layer.ffn.down, QuantisedInput)


def test_load_takes_the_name() -> None:
    model, same = tinymoe.load(numerics="checkpoint"), tinymoe.load(numerics="bf16")
    np.testing.assert_array_equal(model([5, 6]), same([5, 6]))


# ------------------------------------------------------------------------------- other ops


def weight() -> QuantisedInput:
    form = InputFormat(kind="fp8_token", convention="vllm_token")
    return QuantisedInput(np.ones((3, 4, 16), np.float32), (form,))


def test_an_implementation_that_does_not_know_such_weights_fails() -> None:
    x, stack = np.ones((2, 16), np.float32), weight()
    says = "input is quantised"
    with pytest.raises(TinymoeError, match=says):
        naive.linear(x, stack[0], AS_STORED)
    with pytest.raises(TinymoeError, match=says):
        naive.expert_ffn(x, stack, stack, np.array([0, 1, 2, 2]), AS_STORED)
    with pytest.raises(TinymoeError, match=says):
        np.asarray(stack)
    with pytest.raises(TinymoeError, match=says):
        list(stack[0])
    with pytest.raises(TinymoeError, match=says):
        x @ stack[0]
    with pytest.raises(AttributeError):
        stack[0].T  # noqa: B018


def test_a_dense_network_and_a_bias() -> None:
    w, x = weight()[0], activations(3, 16)
    bias = np.arange(4, dtype=np.float32)
    wanted = linear_unrounded(fake_quantise(x, w.inputs[0]), w.values, bias)
    np.testing.assert_array_equal(linear_unrounded(x, w, bias), wanted)
    down = QuantisedInput(np.ones((5, 2), np.float32), w.inputs)
    assert ffn(x, w, down, AS_STORED).shape == (3, 5)


@pytest.mark.parametrize("case", CASES)
def test_every_family_hands_over_all_its_matrices(case: str, tmp_path: Path) -> None:
    # one that a family forgot would meet inputs that nobody quantised: it is an error instead
    low, _ = quantised(stored(case))
    config = config_of(case) | {"quantization_config": FP8}
    got = run(tmp_path / "a", low, config)
    assert np.isfinite(got).all()
    assert (got != run(tmp_path / "b", low, config, NUMERICS["bf16"])).any()
