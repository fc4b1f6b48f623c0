"""`diagnose`: the verdict, exit codes and JSON, as a user sees them."""

from __future__ import annotations

import json

import pytest
from safetensors.numpy import load_file, save_file

from tinymoe.api import load
from tinymoe.oracle.diagnose.stored import format_mutants
from tinymoe.oracle.mutants import Setup, mutant
from tinymoe.oracle.trace import trace

METADATA = {"schema": "tinymoe-trace/1", "numerics": "bf16"}


@pytest.fixture
def traces(model, tmp_path):
    """A right trace in bf16, and one by an engine with a bug."""
    opened = load(model, numerics="bf16")
    paths = []
    for name in (None, "experts.gate-up-swapped"):
        setup = Setup(opened.config, opened.params)
        config, params, ops = setup if name is None else mutant(name).apply(setup)
        taps = trace(params, config, [5, 6, 7, 8, 9, 10, 11, 12], opened.numerics, ops=ops)
        paths.append(tmp_path / f"{name}.safetensors")
        save_file(taps, paths[-1], METADATA)
    return paths


def test_a_right_trace_has_nothing_to_diagnose(run, model, traces):
    ran = run("diagnose", model, str(traces[0]))
    assert ran.code == 0, ran.err
    assert "nothing to diagnose: agrees" in ran.out


def test_a_bug_is_named_and_the_exit_code_is_1(run, model, traces):
    ran = run("diagnose", model, str(traces[1]))
    assert ran.code == 1, ran.err
    first = ran.out.splitlines()[0]
    assert "equals the reference with `experts.gate-up-swapped` (error" in first
    assert "see sglang#32430" in first
    assert "explanation" in ran.out


def test_json_is_strict(run, model, traces):
    ran = run("diagnose", model, str(traces[1]), "--json")
    assert ran.code == 1
    found = json.loads(ran.out, parse_constant=lambda name: pytest.fail(name))
    assert found["named"] == "experts.gate-up-swapped"
    assert found["candidates"][0]["case"] == "sglang#32430"


def test_without_a_model(run, traces, tmp_path):
    twice = load_file(traces[0])
    twice["layers.1.moe.out"] = twice["layers.1.moe.out"] * 2
    save_file(twice, tmp_path / "twice.safetensors", METADATA)
    ran = run("diagnose", str(traces[0]), str(tmp_path / "twice.safetensors"))
    assert ran.code == 1, ran.err
    assert "layers.1.moe.out, beside the reference: it is 2 times the reference" in ran.out


def test_a_wrong_call_is_2(run, model, traces, tmp_path):
    assert run("diagnose", model, str(tmp_path / "absent.safetensors")).code == 2
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(traces[1]), bare)
    ran = run("diagnose", model, str(bare))
    assert ran.code == 2
    assert "--numerics bf16" in ran.err
    assert run("diagnose", model, str(bare), "--numerics", "bf16").code == 1


@pytest.mark.parametrize(
    ("form", "bug", "numerics"),
    [
        ("nvfp4", "format.nibbles-swapped", "checkpoint"),  # its inputs are quantised, too
        ("nvfp4", "format.global-scale-inverted", "bf16"),
        ("fp8", "format.e4m3-bias-8", "bf16"),
    ],
)
def test_stored_bytes_read_wrongly_are_named(run, model, tmp_path, form, bug, numerics):
    # 13 of 70 collected engine bugs are in layouts and scales
    folder, wrong = str(tmp_path / form), tmp_path / "wrong.safetensors"
    # the vectors' experts are 24 wide, which blocks of 16 do not divide
    ran = run("quantize", model, folder, "--format", form, "--keep", "*.down_proj")
    assert ran.code == 0, ran.err
    opened = load(folder, numerics=numerics)
    reading = {m.name: m for m in format_mutants(opened.checkpoint)}[bug]
    config, params, ops = reading.apply(Setup(opened.config, opened.params))
    taps = trace(params, config, [5, 6, 7, 8, 9, 10, 11, 12], opened.numerics, ops=ops)
    save_file(taps, wrong, METADATA | {"numerics": numerics})
    ran = run("diagnose", folder, str(wrong))
    assert ran.code == 1, ran.err
    assert f"equals the reference with `{bug}`" in ran.out
