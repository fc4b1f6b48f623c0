"""`diff`: exit codes, the verdict, JSON and the page, as a user sees them."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

DUMPS = Path(__file__).parents[1] / "vectors" / "dumps"
METADATA = {"schema": "tinymoe-trace/1"}


@pytest.fixture
def traces(run, model, tmp_path):
    """A right trace in bf16, and one whose second layer's experts are off."""
    right, wrong = tmp_path / "right.safetensors", tmp_path / "wrong.safetensors"
    ran = run("trace", "--ids", "5,6,7,8", "-o", str(right), "-m", model, "--numerics", "bf16")
    assert ran.code == 0, ran.err
    taps = load_file(right)
    taps["layers.1.moe.routed"] = taps["layers.1.moe.routed"] * np.float32(2.5)
    save_file(taps, wrong, METADATA | {"numerics": "bf16"})
    return right, wrong


def test_a_right_trace_agrees(run, model, traces):
    ran = run("diff", model, str(traces[0]))
    assert ran.code == 0, ran.err
    assert "agrees: 52 tensors within the bounds of bf16" in ran.out


def test_a_wrong_one_is_named_and_the_exit_code_is_1(run, model, traces):
    ran = run("diff", model, str(traces[1]))
    assert ran.code == 1
    assert "layers.1.moe.routed is the first wrong tensor" in ran.out
    assert "layers.1.router.margin and all before it agree" in ran.out


def test_json_is_strict(run, model, traces):
    ran = run("diff", model, str(traces[1]), "--json")
    assert ran.code == 1
    found = json.loads(ran.out, parse_constant=lambda name: pytest.fail(name))
    assert found["first"] == "layers.1.moe.routed"
    assert found["agrees"] is False


def test_the_page_is_written(run, model, traces, tmp_path):
    page = tmp_path / "report.html"
    ran = run("diff", model, str(traces[1]), "--html", str(page))
    assert ran.code == 1
    assert "<svg" in page.read_text("utf-8")
    assert str(page) in ran.out


def test_two_traces(run, traces):
    assert run("diff", str(traces[0]), str(traces[0])).code == 0
    ran = run("diff", str(traces[0]), str(traces[1]))
    assert ran.code == 1
    assert "layers.1.moe.routed is the first wrong tensor" in ran.out


def test_two_traces_and_their_model(run, model, traces):
    ran = run("diff", str(traces[0]), str(traces[1]), "--model", model, "--local")
    assert ran.code == 1
    # moe.out is right for what routed was before it was changed in the file: one place is wrong
    assert "layers.1.moe.routed is the first wrong tensor" in ran.out


def test_a_wrong_call_is_2(run, model, traces, tmp_path):
    assert run("diff", str(traces[0]), str(traces[1]), "--local").code == 2
    assert run("diff", model, str(tmp_path / "absent.safetensors")).code == 2
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(traces[0]), bare)
    ran = run("diff", model, str(bare))
    assert ran.code == 2
    assert "--numerics bf16" in ran.err
    assert run("diff", model, str(bare), "--numerics", "bf16").code == 0


def test_a_dump_without_its_tokens(run, model, traces, tmp_path):
    # Engines know names of modules, not what was asked: without the ids there is no reference.
    taps = load_file(traces[0])
    del taps["tokens"]
    nameless = tmp_path / "nameless.safetensors"
    save_file(taps, nameless, METADATA | {"numerics": "bf16"})
    ran = run("diff", model, str(nameless))
    assert ran.code == 2
    assert "--ids 5,6,7" in ran.err
    assert run("diff", model, str(nameless), "--ids", "5,6,7,8").code == 0
    assert run("diff", model, str(nameless), "--ids", "5,6,7,9").code == 1
    ran = run("diff", model, str(traces[0]), "--ids", "5,6,7,9")
    assert ran.code == 2
    assert "is of the tokens [5 6 7 8], --ids says [5 6 7 9]" in ran.err


def test_rank_and_pass_of_a_dump(run, model, tmp_path):
    # Rank 1 holds other slices, pass 1 is another token: taken silently, both look like bugs.
    with tarfile.open(DUMPS / "sglang.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    folder = str(tmp_path / "ranks")
    ran = run("diff", model, folder, "--rank", "7", "--numerics", "bf16")
    assert ran.code == 2
    assert "nothing of rank 7 in pass 0; there are ranks [0, 1] and passes [0, 1]" in ran.err
    ran = run("diff", model, folder, "--step", "5", "--numerics", "bf16")
    assert "nothing of rank 0 in pass 5" in ran.err
    ran = run("diff", model, folder, "--rank", "1", "--step", "1", "--numerics", "bf16")
    assert "nothing of rank" not in ran.err
