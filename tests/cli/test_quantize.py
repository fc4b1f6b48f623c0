"""`quantize`: a model folder that runs, a report that adds up, and nobody's folder lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tinymoe.checkpoint import Checkpoint

FEW = ("--keep", "*.down_proj")  # the vectors' experts are 24 wide, which 16 does not divide


@pytest.fixture
def quantised(run, model, tmp_path):
    """quantised("--format", "fp8"): what ran, and the folder."""

    def call(*args: str):
        out = tmp_path / "out"
        return run("quantize", model, str(out), *args), out

    return call


def test_the_new_folder_is_a_model_with_all_that_goes_with_it(run, model, quantised):
    ran, out = quantised(*FEW)
    assert ran.code == 0, ran.err
    assert "input scales:" in ran.out
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (out / name).read_bytes() == (Path(model) / name).read_bytes()
    assert json.loads((out / "hf_quant_config.json").read_text())["quantization"]
    again = run("generate", "Hello", "--model", str(out), "--max-tokens", "4", "--temperature", "0")
    assert again.code == 0, again.err


def test_the_report_adds_up(model, quantised):
    ran, out = quantised("--format", "fp8", "--json")
    found = json.loads(ran.out)
    before, after = Checkpoint.open(model), Checkpoint.open(out)
    assert found["bytes_before"] == sum(before.entry(n).nbytes for n in before.names())
    assert found["bytes_after"] == sum(after.entry(n).nbytes for n in after.names())
    assert found["calibration"] is None  # DeepSeek's blocks have dynamic inputs
    kinds = found["relative_error"]
    assert sum(kind["tensors"] for kind in kinds.values()) + len(found["kept"]) == sum(
        name.endswith(".weight") and len(before.entry(name).shape) == 2 for name in before.names()
    )
    # a value is within half a step of 2^-3 of its own binade: 2^-4 of itself, or less; those too
    # small for a normal E4M3 are within 2^-10 * amax / 448, less than 2^-4 of the block's norm
    assert all(0 < kind["l2"] < 2.0**-4 for kind in kinds.values())
    assert max(kind["l2"] for kind in kinds.values()) <= found["worst"]["l2"] < 2.0**-4
    assert ran.err == ""


def test_experts_not_reached_are_counted(quantised):
    ran, _ = quantised(*FEW, "--calibrate-ids", "5", "--json")
    said = json.loads(ran.out)["calibration"]
    assert said["tokens"] == 1
    assert said["experts_not_reached"] > 0
    assert f"warning: {said['experts_not_reached']} experts were not reached" in ran.err


def test_a_text_of_the_users(quantised, tmp_path):
    text = tmp_path / "my.txt"
    text.write_text("Hello there, " * 40)
    ran, _ = quantised(*FEW, "--calibrate", str(text), "--calibrate-tokens", "20", "--json")
    assert json.loads(ran.out)["calibration"]["tokens"] == 20
    assert json.loads(ran.out)["calibration"]["text"] == "given"


def test_quiet_says_nothing(quantised):
    ran, out = quantised("--format", "fp8", "--quiet")
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert out.is_dir()


def test_what_exists_is_kept_unless_forced(quantised):
    _, out = quantised("--format", "fp8", "--quiet")
    before = (out / "config.json").read_bytes()
    ran, _ = quantised("--format", "nvfp4", *FEW)
    assert ran.code == 2
    assert "--force" in ran.err
    assert (out / "config.json").read_bytes() == before
    ran, _ = quantised("--format", "nvfp4", *FEW, "--force")
    assert ran.code == 0
    assert (out / "config.json").read_bytes() != before


WRONG = {
    "rows": ((), "divide by 16"),
    "format": (("--format", "int4"), "nvfp4, mxfp4 or fp8"),
    "convention": (("--convention", "deepseek"), "modelopt"),
    "two texts": (("--calibrate", "a", "--calibrate-ids", "5"), "not both"),
    "no file": ((*FEW, "--calibrate", "{tmp}/none"), "of this name"),
    "bad ids": ((*FEW, "--calibrate-ids", "5,x"), "'x'"),
    "ids past the end": ((*FEW, "--calibrate-ids", "344"), "0 to 343"),
    "no tokens": ((*FEW, "--calibrate-tokens", "0"), "at least 1"),
    "shards of nothing": ((*FEW, "--shard-size", "0"), "at least 1"),
    "shards of nan": ((*FEW, "--shard-size", "nan"), "at least 1"),
    "pattern": ((*FEW, "--also", "*.nothing"), "matches '*.nothing'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(quantised, tmp_path, name):
    args, part = WRONG[name]
    ran, _ = quantised(*(arg.format(tmp=tmp_path) for arg in args), "--json")
    assert ran.code == 2
    assert part in json.loads(ran.out)["error"]
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as a signal")
def test_ctrl_c_leaves_nothing(model, tmp_path):
    source, out = tmp_path / "model", tmp_path / "parent" / "out"
    shutil.copytree(model, source)
    out.parent.mkdir()
    command = [sys.executable, "-m", "tinymoe", "quantize", str(source), str(out), *FEW]
    slow = "import time, tinymoe.quantize.run as r; w = r.SafetensorsWriter.write; "
    slow += "r.SafetensorsWriter.write = lambda *a: (time.sleep(0.05), w(*a)); "
    slow += f"import sys; sys.argv = {command[2:]!r}; from tinymoe.cli.app import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", slow],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # `pytest &` ignores it
    )
    deadline = time.monotonic() + 60
    while not list(out.parent.glob(".out.*/new/*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert list(out.parent.iterdir()) == []
