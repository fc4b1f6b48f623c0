"""Experts stored as one stack: ModelOpt's transposed gpt-oss and Llama-4, and Granite's rows.

ModelOpt quantises the fused experts of gpt-oss and Llama-4 along their input but stores them as
transformers keeps them, (E, in, out): codes (E, in/2, out), scales (E, in/16, out). Read as (E,
out, in), or with gate and up exchanged, the model talks rubbish (transformers#40609, sglang#32430).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.low_precision import CHANNEL, LAYOUTS, modelopt, one
from tests.stored import Tensors, config_of, load, write
from tinymoe.core import NUMERICS, TinymoeError
from tinymoe.families import expected_tensors, load_params, read_config
from tinymoe.formats import fp8, nvfp4
from tinymoe.model.weights import QuantisedInput
from tinymoe.oracle.trace import forward_alone

pytestmark = pytest.mark.definition
FUSED = (".experts.gate_up_proj", ".experts.down_proj")
GRANITE = ("moe.input_linear.weight", "moe.output_linear.weight")  # not `shared_mlp`, matrices
IDS = [1, 2, 3]
# by layout: the cases whose stacks of experts are tested in it, here
TRANSPOSED = {"modelopt NVFP4": ("gpt_oss", "llama4_text"), "modelopt FP8": ("llama4_text",)}
TAKEN_APART = {"ct NVFP4": ("llama4_text",), "ct FP8 channel": ("llama4_text",)}
ROWS = {"ct FP8 channel": ("granitemoe", "granitemoeshared")}


def random(config: dict[str, Any]) -> Tensors:
    """All tensors of the config, in float32."""
    rng = np.random.default_rng(3)
    return {
        name: ("F32", rng.standard_normal(shape).astype(np.float32) / np.float32(8))
        for name, shape in expected_tensors(read_config(config))
    }


def transposed(case: str, per_expert: bool) -> tuple[Tensors, Tensors]:
    """Fused experts as ModelOpt stores them, under one tensor scale or one for each expert."""
    low = random(config_of(case))
    plain = dict(low)
    for name, (_, w) in plain.items():
        if not name.endswith(FUSED):
            continue
        rows = w.swapaxes(1, 2)  # (E, out, in): blocks run along the input
        scales = [np.float32(np.abs(e if per_expert else rows).max() / 2688) for e in rows]
        each = [
            nvfp4.encode_with(np.ascontiguousarray(e), g, convention="modelopt", source="float32")
            for e, g in zip(rows, scales, strict=True)
        ]
        low[name] = ("U8", np.stack([q.codes.T for q in each]))
        low[f"{name}_weight_scale"] = ("F8_E4M3", np.stack([q.scales.T for q in each]))
        g, inputs = np.array(scales), np.linspace(0.002, 0.003, len(each), dtype=np.float32)
        low[f"{name}_weight_scale_2"] = ("F32", g if per_expert else g[0])
        low[f"{name}_input_scale"] = ("F32", inputs if per_expert else inputs[0])
        plain[name] = ("F32", np.stack([nvfp4.decode(q).T for q in each]))
    return low, plain


@pytest.mark.parametrize("per_expert", [False, True])
@pytest.mark.parametrize("case", TRANSPOSED["modelopt NVFP4"])
def test_modelopts_transposed_stacks(case: str, per_expert: bool, tmp_path: Path) -> None:
    low, plain = transposed(case, per_expert)
    assert len(low) > len(plain)
    config = config_of(case) | {"quantization_config": modelopt("NVFP4")}
    checkpoint = write(tmp_path / "low", low, config)
    wanted = load(write(tmp_path / "plain", plain, config_of(case)))
    for ours, theirs in zip(load(checkpoint), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    numerics = NUMERICS["checkpoint"]
    params = load_params(checkpoint, read_config(config), numerics)
    stack = params.layers[-1].ffn.gate_up
    assert isinstance(stack, QuantisedInput)
    experts = stack.shape[0]
    assert len(stack.inputs) == (experts if per_expert else 1)
    assert stack.inputs[0].scale == np.float32(0.002)
    logits = forward_alone(params, read_config(config), IDS, numerics)
    assert np.isfinite(logits).all()
    # read expert by expert, when it is used: the same values under the same scales
    on_demand = load_params(checkpoint, read_config(config), numerics, on_demand=True)
    again = forward_alone(on_demand, read_config(config), IDS, numerics)
    np.testing.assert_array_equal(again, logits)


@pytest.mark.parametrize("part", ["", "_weight_scale", "_weight_scale_2"])
def test_a_stack_without_a_part_is_refused_by_name(part: str, tmp_path: Path) -> None:
    low, _ = transposed("gpt_oss", False)
    name = f"model.layers.1.mlp.experts.down_proj{part}"
    del low[name]
    config = config_of("gpt_oss") | {"quantization_config": modelopt("NVFP4")}
    with pytest.raises(TinymoeError, match=f"missing.*{name}[,.]"):
        load(write(tmp_path, low, config))


def test_a_stack_of_rows_where_inputs_come_first_is_refused(tmp_path: Path) -> None:
    # the same bytes the other way round have another shape, unless the model is square
    low, _ = transposed("gpt_oss", False)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    low[name] = ("U8", low[name][1].swapaxes(1, 2))
    config = config_of("gpt_oss") | {"quantization_config": modelopt("NVFP4")}
    with pytest.raises(TinymoeError, match=f"{name}.*makes its shape.*found"):
        load(write(tmp_path, low, config))


@pytest.mark.parametrize("case", TRANSPOSED["modelopt FP8"])
def test_fp8_stacks(case: str, tmp_path: Path) -> None:
    low = random(config_of(case))
    plain = dict(low)
    for name, (_, w) in plain.items():
        if name.endswith(FUSED):
            s = np.float32(np.abs(w).max() / 448)
            each = [fp8.encode_static(e, s, convention="div32", source="float32") for e in w]
            low[name] = ("F8_E4M3", np.stack([q.codes for q in each]))
            low[f"{name}_weight_scale"], low[f"{name}_input_scale"] = one(s), one(0.02)
            plain[name] = ("F32", np.stack([fp8.decode(q) for q in each]))
    config = config_of(case) | {"quantization_config": modelopt("FP8")}
    got = load(write(tmp_path / "low", low, config))
    wanted = load(write(tmp_path / "plain", plain, config_of(case)))
    for ours, theirs in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("layout", TAKEN_APART)
def test_llama4_taken_apart(layout: str, tmp_path: Path) -> None:
    # llm-compressor makes linear layers of the fused experts before it quantises them
    scheme, make = LAYOUTS[layout]
    low = random(config_of("llama4_text"))
    plain = dict(low)
    for name, (_, w) in plain.items():
        if not name.endswith(FUSED):
            continue
        del low[name]
        role, values = name.rpartition(".")[2], []
        modules = ["gate_proj", "up_proj"] if role == "gate_up_proj" else ["down_proj"]
        for expert, matrix in enumerate(w):
            parts = np.split(matrix.T, len(modules))
            stored = [make(np.ascontiguousarray(p), 0.01 * (expert + 1)) for p in parts]
            for module, one_of in zip(modules, stored, strict=True):
                own = f"{name.rpartition('.')[0]}.{expert}.{module}"
                low |= {own + end: value for end, value in one_of.tensors.items()}
            values.append(np.concatenate([s.values for s in stored]).T)
        plain[name] = ("F32", np.stack(values))
    config = config_of("llama4_text") | {"quantization_config": scheme}
    checkpoint = write(tmp_path / "low", low, config)
    wanted = load(write(tmp_path / "plain", plain, config_of("llama4_text")))
    for ours, theirs in zip(load(checkpoint), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    params = load_params(checkpoint, read_config(config), NUMERICS["checkpoint"])
    stack = params.layers[-1].ffn.down
    assert isinstance(stack, QuantisedInput)
    if layout == "ct NVFP4":
        scales = [form.scale for form in stack.inputs]
        assert scales == [np.float32(1 / (0.01 * (e + 1))) for e in range(len(scales))]


@pytest.mark.parametrize("case", ROWS["ct FP8 channel"])
def test_granites_stacks_with_a_scale_a_row(case: str, tmp_path: Path) -> None:
    # vllm#42463: input_linear.weight_scale is (E, 2I, 1), and had no place to go
    low = random(config_of(case))
    plain = dict(low)
    for name, (_, w) in plain.items():
        if name.endswith(GRANITE):
            each = [
                fp8.encode(
                    e,
                    convention="div32",
                    granularity="channel",
                    source="float32",
                    power_of_two="no",
                )
                for e in w
            ]
            low[name] = ("F8_E4M3", np.stack([q.codes for q in each]))
            low[f"{name}_scale"] = ("F32", np.stack([q.scales for q in each]))
            plain[name] = ("F32", np.stack([fp8.decode(q) for q in each]))
    config = config_of(case) | {"quantization_config": CHANNEL}
    checkpoint = write(tmp_path / "low", low, config)
    wanted = load(write(tmp_path / "plain", plain, config_of(case)))
    for ours, theirs in zip(load(checkpoint), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    params = load_params(checkpoint, read_config(config), NUMERICS["checkpoint"])
    assert isinstance(params.layers[0].ffn.gate_up, QuantisedInput)
    del low["model.layers.0.block_sparse_moe.input_linear.weight_scale"]
    with pytest.raises(TinymoeError, match=r"missing.*input_linear.weight_scale[,.]"):
        load(write(tmp_path / "less", low, config))
