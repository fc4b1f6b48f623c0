"""`trace`: the file holds the model's activations, and nobody's file is lost."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
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


def test_layers_go_on_from_a_trace(run, model, tmp_path):
    whole, part = tmp_path / "whole.safetensors", tmp_path / "part.safetensors"
    assert run("trace", "--ids", "5,6,7", "-o", str(whole), "--model", model).code == 0
    call = ("--layers", "1:3", "--input", str(whole), "-o", str(part), "--model", model)
    ran = run("trace", *call)
    assert ran.code == 0, ran.err
    assert "'layers.0.out' enters layer 1" in ran.err
    expected, found = load_file(whole), load_file(part)
    assert set(found) == {n for n in expected if n.startswith(("layers.1.", "layers.2."))}
    assert all(np.array_equal(found[name], expected[name]) for name in found)
    with safe_open(part, framework="numpy") as file:
        metadata = file.metadata()
    digest = hashlib.sha256(expected["layers.0.out"].tobytes()).hexdigest()
    assert metadata["layers"] == "1:3"
    assert metadata["input"] == "whole.safetensors: layers.0.out"
    assert metadata["input_sha256"] == digest
    # the hash of all weights would read all of them
    assert metadata["model_headers_sha256"] == Checkpoint.open(model).hash_headers()
    assert "model_sha256" not in metadata


def test_first_layers_of_a_prompt(run, model, tmp_path):
    path = tmp_path / "t.safetensors"
    call = ("--ids", "5,6,7", "--layers", ":1", "-o", str(path), "--model", model, "--json")
    ran = run("trace", *call)
    names = set(load_file(path))
    assert {"tokens", "embed", "layers.0.out"} <= names
    assert not {n for n in names if n.startswith("layers.1")} | (names & {"logits", "final_norm"})
    weights = json.loads(ran.out)["weights"]
    assert weights["held"] == "on demand"
    assert 0 < weights["bytes_read"] < weights["resident_bytes"]


def test_memory_changes_no_number(run, model, tmp_path):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    run("trace", "--ids", "5,6,7", "-o", str(one), "--model", model)
    ran = run("trace", "--ids", "5,6,7", "-o", str(two), "--model", model, "--memory", "230kB")
    assert ran.code == 0, ran.err
    assert "weights are read when they are used" in ran.err
    expected, found = load_file(one), load_file(two)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (("--layers", "1:3"), "--input"),
        (("--layers", "3"), "expected a range"),
        (("--layers", ":9"), "within 0:"),
        (("--input", "x.safetensors"), "needs --layers"),
        (("Hello", "--layers", "1:2", "--input", "x.safetensors"), "in place of a prompt"),
        (("--memory", "lots"), "expected a size"),
        (("--memory", "1kB"), "give it more"),
    ],
)
def test_what_cannot_start_is_told_why(run, model, call, says):
    ran = run("trace", *call, "--list", "--model", model)
    assert ran.code == 2
    assert says in ran.err


def test_positions_are_the_model_s_that_is_loaded_for_them(run, model, tmp_path):
    phi, path = str(Path(model).with_name("phimoe")), tmp_path / "t.safetensors"
    ids = [5] * 40
    call = ("trace", "--ids", ",".join(map(str, ids)), "-o", str(path), "--model", phi)
    ran = run(*call)
    assert ran.code == 2
    assert "--positions N" in ran.err
    assert run(*call, "--positions", "40").code == 0
    assert np.array_equal(load_file(path)["logits"], load(phi, positions=40)(ids))
