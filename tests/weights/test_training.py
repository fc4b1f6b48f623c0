"""The trainer: a killed run goes on to the same end, the export is the same model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (extra `train`)")

from weights.recipe.corpus import write_atomically  # noqa: E402
from weights.recipe.evaluate import load_network, load_windows, report  # noqa: E402
from weights.recipe.export import export  # noqa: E402
from weights.recipe.shape import Shape, hub_config  # noqa: E402

pytestmark = pytest.mark.train

ROOT = Path(__file__).parents[2]
TINY = Shape(
    vocab=64,
    hidden=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    experts=4,
    top_k=2,
    ffn=16,
    max_positions=256,
)
BUDGET = 60 * 2 * 4 * 16  # steps, processes, rows, context


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains: one counts upwards, the other draws at random."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for split in ("train", "valid"):
        for domain, ids in {
            "stories": np.arange(3000) % 50,
            "code": random.integers(0, 64, 2000),
        }.items():
            write_atomically(folder / f"{domain}.{split}.u16", ids.astype(np.uint16).tobytes())
    return folder


def start(data: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    shape = data / "config.json"
    shape.write_text(json.dumps(hub_config(TINY)))
    command = [
        sys.executable,
        "-m",
        "weights.recipe.train",
        "--data",
        str(data),
        "--out",
        str(out),
        "--shape",
        str(shape),
        "--no-compile",
        "--rows",
        "4",
        "--context",
        "16",
        "--warmup-steps",
        "5",
        "--tokens",
        str(BUDGET),
        "--checkpoint-minutes",
        "0.001",
        "--evaluate-minutes",
        "60",
        *more,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    return output


def log(out: Path) -> list[dict[str, float]]:
    path = out / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def steps(out: Path) -> list[dict[str, float]]:
    return [entry for entry in log(out) if "loss" in entry]


def wait_for_step(
    process: subprocess.Popen[str], out: Path, step: int, written_after_ns: int = 0
) -> None:
    """Until the log has so many steps; lines that an earlier process left behind do not count."""
    limit = time.monotonic() + 300
    while time.monotonic() < limit:
        if process.poll() is not None:
            pytest.fail(f"ended before step {step}: {finish(process)}")
        there = (out / "checkpoint.pt").exists() and len(steps(out)) >= step
        if there and (out / "log.jsonl").stat().st_mtime_ns > written_after_ns:
            return
        time.sleep(0.02)
    pytest.fail(f"step {step} never came")


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole")
    process = start(data, out)
    output = finish(process)
    assert process.returncode == 0, output
    return out


def test_a_run_learns_what_can_be_learnt(whole: Path) -> None:
    first, last = steps(whole)[0], steps(whole)[-1]
    assert last["tokens"] == BUDGET
    assert last["loss"] < 0.75 * first["loss"]
    assert last["context"] == 32
    assert last["speed"] < 0.1


def test_a_killed_run_goes_on_to_the_same_end(data: Path, whole: Path, tmp_path: Path) -> None:
    killed = start(data, tmp_path)
    wait_for_step(killed, tmp_path, 12)
    killed.send_signal(signal.SIGKILL)
    finish(killed)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["progress"]
    assert 0 < saved["tokens"] < BUDGET
    refused = start(data, tmp_path)
    assert "--resume" in finish(refused)
    assert refused.returncode not in (0, 3)

    left = (tmp_path / "log.jsonl").stat().st_mtime_ns
    resumed = start(data, tmp_path, "--resume")
    wait_for_step(resumed, tmp_path, saved["updates"] + 3, left)
    resumed.send_signal(signal.SIGTERM)
    output = finish(resumed)
    assert resumed.returncode == 3, output
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["progress"]["tokens"] > 0
    last = start(data, tmp_path, "--resume")
    output = finish(last)
    assert last.returncode == 0, output

    assert [e["step"] for e in steps(tmp_path)] == list(range(1, len(steps(whole)) + 1))
    ours = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    other = torch.load(whole / "checkpoint.pt", weights_only=True)
    assert ours["progress"]["sampler"] == other["progress"]["sampler"]
    assert ours["progress"]["tokens"] == other["progress"]["tokens"] == BUDGET
    # One thread a process, and the same batches: not even rounding may differ.
    for name, weight in other["weights"].items():
        assert torch.equal(ours["weights"][name], weight), name


def test_weights_alone_start_a_run(data: Path, whole: Path, tmp_path: Path) -> None:
    export(whole / "checkpoint.pt", None, tmp_path / "model")
    (tmp_path / "run").mkdir()
    process = start(
        data,
        tmp_path / "run",
        "--weights",
        str(tmp_path / "model" / "model.safetensors"),
        "--processes",
        "1",
        "--tokens",
        "640",
    )
    output = finish(process)
    assert process.returncode == 0, output
    # Below the loss of equal chances: the run began with what the other had learnt.
    assert steps(tmp_path / "run")[0]["loss"] < 0.9 * np.log(TINY.vocab)


@pytest.mark.filterwarnings("default")
def test_the_export_is_the_same_model_in_transformers(whole: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    export(whole / "checkpoint.pt", None, tmp_path)
    theirs = transformers.Qwen3MoeForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ours = load_network(tmp_path, torch.float32)
    tokens = torch.randint(0, 64, (2, 200), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        difference = (theirs(tokens).logits - ours.logits(tokens)).abs().max()
    assert difference < 1e-4


def test_evaluation_compares_domains(whole: Path, data: Path) -> None:
    network = load_network(whole / "checkpoint.pt", torch.float32)
    result = report(network, load_windows(data, "valid", 16, 10), rows=8)
    assert result["loss"]["stories"] < result["loss"]["code"]
    assert len(result["window_losses"]["code"]) == 10
    assert len(result["specialisation"]) == TINY.layers
    for loads in result["expert_loads"].values():
        assert np.allclose(np.sum(loads, axis=1), 1.0, atol=1e-4)
