"""`info`: numbers of parameters and bytes that can be counted by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.low_precision import made, one
from tests.stored import write
from tinymoe.checkpoint import Checkpoint
from tinymoe.families import read_config
from tinymoe.safetensors_file import SafetensorsFile


def test_numbers_agree_with_a_count_by_hand(run, model):
    facts = json.loads(run("info", "--model", model, "--json").out)
    V, H, L, E, K, intermediate = 344, 80, 3, 10, 4, 24
    expert = 3 * H * intermediate
    attention = H * 16 * (6 + 3 + 3) + 6 * 16 * H + 2 * 16  # q, k, v; out; two head norms
    rest = 2 * V * H + H + L * (attention + 2 * H + E * H)
    assert facts["parameters"] == {
        "total": rest + L * E * expert,
        "active": rest + L * K * expert,
    }
    assert facts["formats"]["BF16"]["tensors"] == 3 + L * (8 + 1 + 3 * E)
    assert facts["formats"]["BF16"]["nbytes"] == 2 * facts["parameters"]["total"]
    # of the embedding a token reads one row, of 2 bytes a value
    read = 2 * (facts["parameters"]["active"] - (V - 1) * H)
    assert facts["bytes"]["read_per_token"] == read
    assert facts["bytes"]["kv_per_position"] == {"fp32": 4 * 2 * L * 3 * 16, "bf16": 2 * 2 * L * 48}
    assert facts["bytes"]["files"] == (Path(model) / "model.safetensors").stat().st_size


def test_every_field_of_the_router_is_shown(run, model):
    card = read_config(Checkpoint.open(model).config).router
    facts = json.loads(run("info", "--model", model, "--json").out)
    page = run("info", "--model", model).out
    assert set(facts["router"]) == set(card.__dataclass_fields__)
    assert [name for name in card.__dataclass_fields__ if f"  {name} " not in page] == []
    assert facts["end_ids"] == [323]
    assert facts["sampling"] == {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.8,
        "repetition_penalty": 1.05,
    }


def test_weights_are_not_read(run, model, monkeypatch):
    # a checkpoint of 600 GB must be describable on a laptop
    def refuse(self, name):
        raise AssertionError(f"{name} was read")

    monkeypatch.setattr(SafetensorsFile, "raw", refuse)
    assert run("info", "--model", model).code == 0


def test_a_folder_without_tokenizer_is_described(run, model, tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(f"{model}/{name}", tmp_path)
    facts = json.loads(run("info", "--model", str(tmp_path), "--json").out)
    assert facts["tokenizer"] is None
    assert "none (token ids only)" in run("info", "--model", str(tmp_path)).out


def test_a_quantised_model_has_the_parameters_that_its_bytes_stand_for(run, model):
    # two values in a byte, and scales are no parameters
    whole, low = (str(Path(model).parent / name) for name in ("gpt_oss", "gpt_oss-mxfp4"))
    facts = json.loads(run("info", "--model", low, "--json").out)
    V, H, L, E, K, intermediate = 328, 96, 2, 4, 2, 32
    experts = 3 * H * intermediate + 2 * intermediate + H  # and their biases
    q, kv = 64, 2 * 32
    attention = (q + kv) * (H + 1) + H * (q + 1) + 4  # biases and sinks
    rest = 2 * V * H + H + L * (attention + 2 * H + E * (H + 1))
    assert facts["parameters"] == {
        "total": rest + L * E * experts,
        "active": rest + L * K * experts,
    }
    assert facts["quantised"] == "mxfp4"
    assert facts["formats"]["U8"]["parameters"] == L * E * 3 * H * intermediate
    assert "mxfp4" in run("info", "--model", low).out
    assert json.loads(run("info", "--model", whole, "--json").out)["quantised"] == "none"


def quantised(run, folder, layout, only="", more=None):
    case = made(layout, only=only)
    write(folder, case.low | (more or {}), case.config)
    facts = json.loads(run("info", "--model", str(folder), "--json").out)
    return facts, run("info", "--model", str(folder)).out


def test_a_scheme_is_said_kind_by_kind(run, tmp_path):
    # modular#6600: which way the scale goes; vllm#45132: what is quantised and what is not
    facts, page = quantised(run, tmp_path, "ct NVFP4", only=".experts.")
    said = facts["quantisation"]
    assert said["scale_convention"].startswith("divisor: weight_global_scale")
    assert said["inputs"].startswith("NVFP4 under a static scale")
    assert said["cache"] == "none"
    assert said["cache_scales"] == {"stored": 0, "layers": 2}
    assert said["modules"] == {
        "model.embed_tokens": {"plain": 1},
        "lm_head": {"plain": 1},
        **{f"self_attn.{letter}_proj": {"plain": 2} for letter in "qkvo"},
        "mlp.gate": {"plain": 2},
        **{f"mlp.experts.*.{part}_proj": {"quantised": 8} for part in ("gate", "up", "down")},
    }
    assert "divisor: weight_global_scale" in page
    assert "8 quantised" in page
    assert "quantisation" not in run("info").out


def test_scales_of_keys_and_values_are_said(run, tmp_path):
    # vllm#35656: dropped without a word
    scales = {
        f"model.layers.0.self_attn.{letter}_proj.{letter}_scale": one(0.01) for letter in "kv"
    }
    facts, page = quantised(run, tmp_path, "modelopt FP8", more=scales)
    assert facts["quantisation"]["cache_scales"] == {"stored": 1, "layers": 2}
    assert facts["quantisation"]["scale_convention"].startswith("multiplier")
    assert "scales of 1 of 2 layers are stored" in page


def test_what_computes_each_op_is_listed_on_request(run, model):
    # an op that fell back to the definition without a word would be taken for a tested kernel
    assert "ops" not in json.loads(run("info", "--model", model, "--json").out)
    asked = ("info", "--model", model, "--backend", "ptx")
    where = json.loads(run(*asked, "--json").out)["ops"]
    assert where["attention_decode"] == "ptx: attention_decode.cu, attention_latent.cu"
    assert where["gated_delta"] == "ptx: recurrent.cu"
    page = run(*asked).out
    assert all(f"  {op} " in page and place in page for op, place in where.items())
    on_cpu = run("info", "--model", model, "--backend", "numba", "--json").out
    assert json.loads(on_cpu)["ops"]["gated_delta"] == "the definition"
    wrong = run("info", "--backend", "abacus")
    assert wrong.code == 2
    assert "abacus" in wrong.err
