"""`trace`: the file holds the model's activations, and nobody's file is lost."""

from __future__ import annotations

import json

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

from tinymoe import load
from tinymoe.checkpoint import Checkpoint


def test_the_file_is_the_models_trace(run, model, tmp_path):
    path = tmp_path / "t.safetensors"
    ran = run("trace", "Hello", "-o", str(path), "--model", model, "--numerics", "bf16")
    assert ran.code == 0, ran.err
    opened = load(model, numerics="bf16")
    expected, found = opened.trace(opened.encode("Hello")), load_file(path)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert np.array_equal(found[name], value), name


def test_metadata_says_what_made_it(run, model, tmp_path):
    path = tmp_path / "t.safetensors"
    run("trace", "--ids", "5,6,7", "-o", str(path), "--model", model)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    assert metadata["schema"] == "tinymoe-trace/1"
    assert metadata["model"] == "qwen3_moe"
    assert metadata["model_sha256"] == Checkpoint.open(model).hash()
    assert metadata["numerics"] == "fp32"
    assert metadata["tokens"] == "3"
    assert metadata["numpy"] == np.__version__


def test_taps_choose(run, model, tmp_path):
    path = tmp_path / "t.safetensors"
    taps = ("--taps", "layers.0.router.*", "--taps", "logits")
    ran = run("trace", "Hello", "-o", str(path), "--model", model, *taps, "--json")
    names = {f"layers.0.router.{n}" for n in ("logits", "scores", "ids", "weights", "margin")}
    assert set(load_file(path)) == set(json.loads(ran.out)["shapes"]) == names | {"logits"}


def test_list_writes_nothing(run, model, tmp_path):
    path = tmp_path / "t.safetensors"
    ran = run("trace", "Hello", "--list", "-o", str(path), "--model", model)
    assert ran.code == 0
    assert "layers.2.moe.out" in ran.out
    assert not path.exists()


def test_a_file_that_exists_is_kept_unless_forced(run, model, tmp_path):
    path = tmp_path / "t.safetensors"
    path.write_bytes(b"dear to someone")
    ran = run("trace", "Hello", "-o", str(path), "--model", model)
    assert ran.code == 2
    assert "--force" in ran.err
    assert path.read_bytes() == b"dear to someone"
    assert run("trace", "Hello", "-o", str(path), "--model", model, "--force").code == 0
    assert "embed" in load_file(path)


def test_without_o_the_error_shows_how(run, model):
    ran = run("trace", "Hello", "--model", model)
    assert ran.code == 2
    assert "-o story.safetensors" in ran.err
