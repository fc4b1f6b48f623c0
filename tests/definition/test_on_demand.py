"""Weights that are read when they are used: the same numbers, within the bytes that were allowed.

Prevents: an expert under another's number, a layer left in memory after its use, a limit that is
not kept, and a whole checkpoint read for two layers of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.stored import ROOT, config_of, stored, write
from tinymoe.api import Model, load
from tinymoe.checkpoint import Checkpoint
from tinymoe.core import NUMERICS, Array, TinymoeError
from tinymoe.families import load_params, memory, read_config, resident_bytes
from tinymoe.families.memory import budget_of, parse_bytes
from tinymoe.model.on_demand import OnDemand
from tinymoe.model.precision import linear_unrounded
from tinymoe.oracle.trace_file import TraceFile, read_hidden, write_trace
from tinymoe.safetensors_file import SafetensorsFile

pytestmark = pytest.mark.definition
IDS = [5, 17, 3, 40, 8, 21, 9]
CASES = sorted(path.parent.name for path in ROOT.glob("*/config.json"))


def least_budget(folder: Path, preset: str) -> int:
    """The smallest that is accepted, from the message that refuses one byte."""
    with pytest.raises(TinymoeError, match="give it more") as refused:
        load(folder, numerics=preset, memory=1)
    return int(str(refused.value).split("take ")[1].split(";")[0].replace(",", ""))


@pytest.mark.parametrize("preset", ["exact", "bf16", "checkpoint"])
@pytest.mark.parametrize("case", CASES)
def test_every_family_gives_the_same_bits_from_the_smallest_budget(case: str, preset: str) -> None:
    folder = ROOT / case
    whole = load(folder, numerics=preset)
    expected = whole.trace(IDS)
    assert whole.params.reads is None
    least = least_budget(folder, preset)
    for budget in (least, resident_bytes(whole.config, whole.numerics) - 1):
        small = load(folder, numerics=preset, memory=budget)
        for _ in range(2):  # the second pass meets what the first has left
            found = small.trace(IDS)
            assert list(found) == list(expected)
            assert all(np.array_equal(found[n], v, equal_nan=True) for n, v in expected.items())
        reads = small.params.reads
        assert reads is not None
        assert 0 < reads.most_held <= budget
        assert reads.bytes_read > 0


def test_generation_is_the_same_too() -> None:
    folder = ROOT / "qwen3_moe"
    settings = {"max_tokens": 8, "temperature": 0, "ignore_eos": True}
    expected = [token.id for token in load(folder).generate(IDS, **settings)]
    small = load(folder, memory=least_budget(folder, "fp32"))
    assert [token.id for token in small.generate(IDS, **settings)] == expected


def test_experts_stay_while_there_is_room() -> None:
    model = load(ROOT / "qwen3_moe", on_demand=True)
    model(IDS)
    reads = model.params.reads
    assert reads is not None
    read, at_first = reads.experts_read, reads.experts_found
    model(IDS)
    assert reads.experts_read == read  # all of the second pass were there
    assert reads.experts_found == at_first + read


def test_less_room_than_one_token_needs_still_finds_experts_again() -> None:
    # dropped by last use over all layers, each would go just before its layer comes round: 0 found
    folder = ROOT / "qwen3_moe"
    model = load(folder, memory=least_budget(folder, "fp32") * 3 // 2)
    reads = model.params.reads
    assert reads is not None
    model([5])
    one_pass, found = reads.experts_read, reads.experts_found
    model([5])
    assert reads.experts_found > found  # something stayed ...
    assert reads.experts_read > one_pass  # ... and not all had room


def test_layers_read_their_own_weights_alone() -> None:
    folder = ROOT / "qwen3_moe"
    expected = load(folder).trace(IDS)
    model = load(folder, on_demand=True)
    assert model.params.reads is not None
    already = model.params.reads.bytes_read  # the last norm
    found = model.trace(layers=(1, 2), hidden=expected["layers.0.out"])
    names = [name for name in expected if name.startswith("layers.1.")]
    assert list(found) == names
    assert all(np.array_equal(found[name], expected[name]) for name in names)
    checkpoint = model.checkpoint
    of_layer = sum(
        checkpoint.entry(name).nbytes for name in checkpoint.names() if ".layers.1." in name
    )
    assert model.params.reads.bytes_read - already <= of_layer


def test_a_walk_layer_by_layer_ends_in_the_same_logits() -> None:
    model = load(ROOT / "gpt_oss", numerics="bf16", on_demand=True)
    expected = load(ROOT / "gpt_oss", numerics="bf16").trace(IDS)
    x = model.trace(IDS, layers=(0, 1))["layers.0.out"]
    for layer in range(1, model.config.num_layers):
        x = model.trace(layers=(layer, layer + 1), hidden=x)[f"layers.{layer}.out"]
    last = model.config.num_layers - 1
    before = expected[f"layers.{last - 1}.out"]
    end = model.trace(layers=(last, None), hidden=before)
    assert np.array_equal(x, expected[f"layers.{last}.out"])
    assert np.array_equal(end["logits"], expected["logits"])


def test_the_head_is_not_read_for_a_trace_without_logits() -> None:
    model = load(ROOT / "qwen3_moe", on_demand=True)
    whole = model.trace(IDS, ["layers.*.out"])
    assert model.params.reads is not None
    without = model.params.reads.bytes_read
    model.trace(IDS, ["logits"])
    assert whole
    assert model.params.reads.bytes_read > without


@pytest.mark.parametrize(
    ("layers", "hidden", "says"),
    [
        ((1, 9), np.zeros((3, 64), np.float32), "within 0:"),
        ((2, 2), np.zeros((3, 64), np.float32), "within 0:"),
        ((1, 2), None, "what enters them"),
        ((1, 2), np.zeros((3, 1), np.float32), "hidden states"),
        ((1, 2), np.zeros((0, 64), np.float32), "hidden states"),
        ((1, 2), np.zeros((3, 64), np.int64), "floating-point"),
    ],
)
def test_a_wrong_start_is_refused(layers: tuple[int, int], hidden: Array | None, says: str) -> None:
    model = load(ROOT / "qwen3_moe")
    if hidden is not None and hidden.shape[1] == 64:
        hidden = np.zeros((len(hidden), model.config.hidden_size), hidden.dtype)
    with pytest.raises(TinymoeError, match=says):
        model.trace(layers=layers, hidden=hidden)


def test_blocks_of_a_head_change_no_bit() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(37, 24)).astype(np.float32)
    for tokens in (0, 1, 5):
        x = rng.normal(size=(tokens, 24)).astype(np.float32)
        rows = OnDemand(weight.shape, lambda rows: weight[rows], block=8)
        assert np.array_equal(linear_unrounded(x, rows), linear_unrounded(x, weight))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------- the budget


@pytest.mark.parametrize(
    ("text", "size"),
    [("3GB", 3 * 10**9), ("3 GiB", 3 * 2**30), ("1.5mb", 1_500_000), ("7", 7), (9, 9)],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-3GB", "3 PB", "3IB", "all"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(TinymoeError, match="expected a size"):
        parse_bytes(text)


def test_what_fits_is_held_and_what_does_not_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert budget_of(100, 100) is None
    assert budget_of(101, 100) == 100
    assert budget_of(1, 100, on_demand=True) == 100
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    assert budget_of(900, None) is None
    assert budget_of(901, None) == 500
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    assert budget_of(10**15, None) is None


def test_a_containers_limit_counts_and_its_file_cache_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = tmp_path / "a" / "b"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("500\n")
    (tmp_path / "a" / "memory.max").write_text("1000\n")
    (tmp_path / "a" / "memory.current").write_text("900\n")
    (tmp_path / "a" / "memory.stat").write_text("anon 300\ninactive_file 400\nactive_file 200\n")
    whole = memory._text
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    monkeypatch.setattr(
        memory, "_text", lambda path: "0::/a/b\n" if "self/cgroup" in str(path) else whole(path)
    )
    assert memory.available_memory() == 700


# ------------------------------------------------------------------------------- the file


def test_a_trace_file_is_what_safetensors_reads(tmp_path: Path) -> None:
    values: dict[str, Array] = {
        "odd": np.arange(3, dtype=np.float32),  # the next would begin at no multiple of 8
        "ids": np.arange(5).reshape(1, 5),
        "empty": np.zeros((0, 4), np.float32),
        "turned": np.arange(6, dtype=np.float64).reshape(2, 3).T,
    }
    path = tmp_path / "t.safetensors"
    write_trace(path, values, {"model": "m"})
    found = load_file(path)
    assert {name: value.dtype for name, value in found.items()} == {
        name: value.dtype for name, value in values.items()
    }
    assert all(np.array_equal(found[name], value) for name, value in values.items())
    assert list(SafetensorsFile(path).entries) == list(values)  # our strict reader; in order
    assert [item.name for item in tmp_path.iterdir()] == ["t.safetensors"]


def test_a_failed_trace_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(b"dear to someone")

    def fail() -> None:
        with TraceFile(path, {}) as file:
            file("embed", np.zeros(3, np.float32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"dear to someone"
    assert [item.name for item in tmp_path.iterdir()] == ["t.safetensors"]


def test_what_enters_a_layer_is_found_by_name(tmp_path: Path) -> None:
    path, x = tmp_path / "t.safetensors", np.ones((2, 3), np.float16)
    save_file({"embed": x, "layers.2.out": 2 * x}, path)
    assert read_hidden(path, 0)[0] == "embed"
    name, value = read_hidden(path, 3)
    assert (name, float(value[0, 0])) == ("layers.2.out", 2.0)
    with pytest.raises(TinymoeError, match=r"'layers.0.out'"):
        read_hidden(path, 1)
    save_file({"hidden": 3 * x, "embed": x}, path)
    assert read_hidden(path, 7)[0] == "hidden"


# ------------------------------------------------------------------------------- the limit


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is checked by Linux alone")
def test_a_model_larger_than_the_limit_runs_and_holding_it_all_does_not(tmp_path: Path) -> None:
    # 288 MB in BF16, 575 MB in memory; 250 MB hold Python, NumPy and its library's buffers, too
    command = [sys.executable, "-m", "tinymoe.measure.larger", "--size", "300MB", "--json"]
    done = subprocess.run(
        [*command, "--limit", "250MB", "--folder", str(tmp_path)],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},  # stacks count
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["ratio"] > 1
    assert "not enough memory" in report["resident"]["error"]
    for run in (report["trace"], report["generate"]):
        assert run["held"] == "on demand"
        assert run["most_held_bytes"] <= run["budget_bytes"] < run["resident_bytes"]
        assert run["peak_resident_bytes"] <= report["limit_bytes"]


def test_a_models_own_hash_is_not_asked_of_one_that_is_not_read(tmp_path: Path) -> None:
    config, tensors = config_of("qwen3_moe"), stored("qwen3_moe")
    checkpoint = write(tmp_path, tensors, config)
    same = checkpoint.hash_headers()
    (tmp_path / "config.json").write_text(json.dumps({**config, "rope_theta": 1.0}))
    assert Checkpoint.open(tmp_path).hash_headers() != same


def test_load_params_and_model_take_the_same_options() -> None:
    checkpoint = Checkpoint.open(ROOT / "qwen3_moe")
    numerics = NUMERICS["fp32"]
    params = load_params(checkpoint, read_config(checkpoint.config), numerics, "1TB")
    assert params.reads is None
    assert Model(checkpoint, numerics, on_demand=True).params.reads is not None
