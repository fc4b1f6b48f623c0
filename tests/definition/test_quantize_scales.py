"""Scales of quantised checkpoints that we write: whose they are, and which modules have none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.quantising import IDS, made, quantised, scalar
from tests.stored import ROOT
from tinymoe.checkpoint import Checkpoint
from tinymoe.core import NUMERICS
from tinymoe.families import expected_tensors, load_params, read_config
from tinymoe.formats import bf16, fp8, nvfp4
from tinymoe.oracle.trace import trace
from tinymoe.quantize.calibrate import calibrate
from tinymoe.quantize.layouts import by_name, pick_layout
from tinymoe.quantize.plan import make_plan
from tinymoe.quantize.roles import roles_of
from tinymoe.quantize.run import Settings, quantize

pytestmark = pytest.mark.definition


@pytest.mark.parametrize("convention", ["modelopt", "compressed-tensors"])
def test_fused_matrices_share_one_tensor_scale(convention: str, tmp_path: Path) -> None:
    # vllm#54974: engines keep gate's scale for up as well; 69 % of pairs differed, by up to 10x
    before, after = quantised(tmp_path, convention=convention)
    end = "weight_scale_2" if convention == "modelopt" else "weight_global_scale"
    for head, parts in (
        ("model.layers.1.self_attn", ("q_proj", "k_proj", "v_proj")),
        ("model.layers.1.mlp.experts.2", ("gate_proj", "up_proj")),
    ):
        amax = max(np.abs(before.read(f"{head}.{p}.weight", "float32")).max() for p in parts)
        found = {scalar(after, f"{head}.{part}.{end}") for part in parts}
        by = "modelopt" if convention == "modelopt" else "ct"
        assert found == {nvfp4.tensor_scale(amax, convention=by, source="bfloat16")}
        # modular#6600: a multiplier is small, a divisor its inverse; off by its square if mixed up
        ideal = amax / 2688 if convention == "modelopt" else 2688 / amax
        # BF16 arithmetic in compressed-tensors: two roundings of 2^-8 each, and their product
        assert abs(found.pop() / ideal - 1) < 2.0**-7 + 2.0**-16


def test_experts_have_scales_of_their_own(tmp_path: Path) -> None:
    _, after = quantised(tmp_path)
    name = "model.layers.1.mlp.experts.{}.gate_proj.weight_scale_2"
    assert len({scalar(after, name.format(expert)) for expert in range(4)}) == 4


def test_separate_scales_are_the_faulty_kind(tmp_path: Path) -> None:
    _, after = quantised(tmp_path, separate_scales=True)
    head = "model.layers.1.mlp.experts.2"
    parts = [f"{head}.{part}_proj.weight_scale_2" for part in ("gate", "up")]
    assert scalar(after, parts[0]) != scalar(after, parts[1])


def test_latent_attention_shares_what_reads_one_input(tmp_path: Path) -> None:
    _, after = quantised(tmp_path, "deepseek_v3")
    name = "model.layers.1.self_attn.{}.weight_scale_2"
    a, kv, b = (name.format(p) for p in ("q_a_proj", "kv_a_proj_with_mqa", "q_b_proj"))
    assert scalar(after, a) == scalar(after, kv) != scalar(after, b)


def test_modelopt_fp8_shares_over_experts_pairs_alone(tmp_path: Path) -> None:
    before, after = quantised(tmp_path, format="fp8", convention="modelopt")
    pair = [f"model.layers.1.mlp.experts.2.{p}_proj" for p in ("gate", "up")]
    amax = max(np.abs(before.read(f"{p}.weight", "float32")).max() for p in pair)
    assert {scalar(after, f"{p}.weight_scale") for p in pair} == {np.float32(amax) / fp8.TOP}
    qkv = [f"model.layers.1.self_attn.{p}_proj.weight_scale" for p in "qkv"]
    assert len({scalar(after, name) for name in qkv}) == 3


@pytest.mark.parametrize(
    ("settings", "end", "scale_of"),
    [
        ({}, "input_scale", lambda a: np.float32(a) / np.float32(6 * 448)),
        (
            {"convention": "compressed-tensors"},
            "input_global_scale",
            lambda a: nvfp4.tensor_scale(a, convention="ct", source="bfloat16"),
        ),
        (
            {"format": "fp8", "convention": "modelopt"},
            "input_scale",
            lambda a: np.float32(a) / np.float32(448),
        ),
        (
            {"format": "fp8", "convention": "compressed-tensors", "scales": "tensor"},
            "input_scale",
            lambda a: bf16.round_to_bf16(np.float32(a) / np.float32(448))[()],
        ),
    ],
)
def test_input_scales_are_of_the_calibrations_maximum(
    settings: dict[str, Any], end: str, scale_of: Any, tmp_path: Path
) -> None:
    # imp#1544: what is louder than the scale is clipped, with no word
    before, after = quantised(tmp_path, **settings)
    config, numerics = read_config(before.config), NUMERICS["bf16"]
    taps = trace(load_params(before, config, numerics), config, IDS, numerics)
    for module, tap in (
        ("self_attn.q_proj", "attn.norm"),
        ("self_attn.o_proj", "attn.mix"),
    ):
        amax = np.abs(taps[f"layers.1.{tap}"]).max()
        assert scalar(after, f"model.layers.1.{module}.{end}") == scale_of(amax), module
    ids, normed = taps["layers.1.router.ids"], taps["layers.1.moe.norm"]
    expert = int(ids[0, 0])
    amax = np.abs(normed[(ids == expert).any(axis=1)]).max()
    name = f"model.layers.1.mlp.experts.{expert}.up_proj.{end}"
    assert scalar(after, name) == scale_of(amax)


@pytest.mark.parametrize("case", ["qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_calibration_hears_every_matrix_and_changes_nothing(case: str, tmp_path: Path) -> None:
    before = made(tmp_path, case)
    config = read_config(before.config)
    heard = calibrate(before, config, IDS, lambda _, __: None)
    plan = make_plan(before, config, pick_layout("nvfp4", None, None, config.family))
    values = [heard.of(module) for module in plan.modules.values()]
    assert min(values) > 0
    # pieces of the text cannot make a maximum smaller
    less = calibrate(before, config, IDS[:7], lambda _, __: None)
    for module in plan.modules.values():
        if module.path.endswith("attention.qkv"):
            assert less.of(module) <= heard.of(module)


def test_an_expert_that_no_token_reached_gets_the_loudest_ones_scale(tmp_path: Path) -> None:
    before = made(tmp_path / "before", "qwen3_moe")
    report = quantize(tmp_path / "before", tmp_path / "after", Settings(calibration=[5]))
    after, config = Checkpoint.open(tmp_path / "after"), read_config(before.config)
    missing = report["calibration"]["not_reached"]
    experts, chosen = config.router.experts, config.router.top_k
    moe_layers = [i for i, kind in enumerate(config.layers) if kind == "moe"]
    assert report["calibration"]["experts_not_reached"] == len(moe_layers) * (experts - chosen)
    layer = moe_layers[0]
    name = f"model.layers.{layer}.mlp.experts.{{}}.down_proj.input_scale"
    absent = missing[str(layer)]
    reached = [scalar(after, name.format(e)) for e in range(experts) if e not in absent]
    assert {scalar(after, name.format(e)) for e in absent} == {max(reached)}


# ------------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize("layout", [name for name in by_name() if "gpt-oss" not in name])
@pytest.mark.parametrize("case", ["qwen3_moe", "deepseek_v3"])
def test_the_list_of_kept_modules_is_what_is_stored(layout: str, case: str, tmp_path: Path) -> None:
    # vllm#45132: lm_head was listed and stored quantised
    format_, convention, scales = layout.split()
    before, after = quantised(
        tmp_path, case, format=format_, convention=convention, scales=scales, keep=["*.layers.0.*"]
    )
    said = after.config["quantization_config"]
    listed = set(said.get("ignore", said.get("modules_to_not_convert")))
    stored = {
        name.removesuffix(".weight")
        for name in after.names()
        if name.endswith(".weight")
        and len(after.entry(name).shape) == 2
        and after.entry(name).dtype in ("BF16", "F32")
        and after.entry(name).shape == before.entry(name).shape
    }
    assert listed == stored
    assert {"lm_head", "model.embed_tokens", "model.layers.1.mlp.gate"} <= listed
    file = after.path / "hf_quant_config.json"
    assert file.is_file() == (convention == "modelopt")
    if file.is_file():
        assert set(json.loads(file.read_text())["quantization"]["exclude_modules"]) == listed


def test_kept_tensors_are_kept_bit_for_bit(tmp_path: Path) -> None:
    before, after = quantised(tmp_path)
    kept = [name for name in before.names() if name in after and ".experts." not in name]
    plain = [n for n in kept if after.entry(n).dtype == "BF16"]
    assert "model.norm.weight" in plain
    assert "model.layers.1.mlp.gate.weight" in plain
    for name in plain:
        np.testing.assert_array_equal(after.raw(name), before.raw(name))


def test_also_quantises_what_exporters_leave(tmp_path: Path) -> None:
    _, after = quantised(tmp_path, also=["lm_head"])
    assert after.entry("lm_head.weight").dtype == "U8"
    assert "lm_head" not in after.config["quantization_config"]["ignore"]
    assert scalar(after, "lm_head.input_scale") > 0


def test_every_family_has_a_role_for_every_tensor() -> None:
    for folder in sorted(ROOT.iterdir()):
        if folder.is_dir():
            config = read_config(json.loads((folder / "config.json").read_text("utf-8")))
            assert [(r.name, r.shape) for r in roles_of(config)] == expected_tensors(config)
