"""`--backend ptx` and `--backend cuda`, as their user types them."""

from __future__ import annotations

import json
import sys

from safetensors import safe_open


def test_generate_gives_the_tokens_of_the_definition(run, model):
    asked = ("generate", "--ids", "5,6,7", "--max-tokens", "2", "--temperature", "0", "--json")
    answers = [
        json.loads(run(*asked, "--model", model, "--backend", backend).out)
        for backend in ("numpy", "ptx")
    ]
    assert answers[1]["backend"] == "ptx"
    assert answers[0]["answers"][0]["token_ids"] == answers[1]["answers"][0]["token_ids"]


def test_a_trace_of_the_kernels_says_so_and_agrees(run, model, tmp_path):
    file = str(tmp_path / "kernels.safetensors")
    made = run("trace", "--ids", "5,6,7", "--model", model, "--backend", "ptx", "-o", file)
    assert made.code == 0, made.err
    with safe_open(file, "numpy") as opened:
        assert opened.metadata()["backend"] == "ptx"
    judged = run("diff", model, file)
    assert judged.code == 0, judged.out


def test_what_is_missing_for_a_gpu_is_said(run, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # as where it is not installed
    for command in ("generate", "trace"):
        more = ("-o", "unused.safetensors") if command == "trace" else ()
        refused = run(command, "--ids", "5,6", "--model", model, "--backend", "cuda", *more)
        assert refused.code == 2
        assert "no GPU backend: the package cupy is missing" in refused.err
    in_float64 = run(
        *("generate", "--ids", "5,6", "--model", model, "--backend", "ptx"),
        *("--numerics", "exact"),
    )
    assert in_float64.code == 2
    assert "float32" in in_float64.err
