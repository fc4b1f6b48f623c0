"""`python -m tinymoe bench` beside other engines and in sweeps, as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tinymoe.cli import contest_page
from tinymoe.cli.bench_compare import page

pytestmark = pytest.mark.cli

QWEN = Path(__file__).parents[1] / "vectors" / "parity" / "qwen3_moe"
# what llama.cpp 0.5.0-dev (build 1, commit 0c1e570) said, shortened
SAID = '{"pp": 8, "tg": 2, "pl": 1, "speed_pp": 263.878632, "speed_tg": 117.207748}'


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tinymoe", "bench", "--quick", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A --peer: the model of the tests as GGUF, on a program that says what the real one said."""
    pytest.importorskip("gguf")
    folder = tmp_path_factory.mktemp("peer")
    made = subprocess.run(
        [
            sys.executable, "-m", "tinymoe.measure.peer_model", "--model", str(QWEN),
            "--format", "bf16", str(folder / "tiny.gguf"),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert "bf16, 3 layers" in made.stdout
    program = folder / "llama-batched-bench"
    program.write_text(f"#!{sys.executable}\nprint({SAID!r})\n")
    program.chmod(0o755)
    return f"llama.cpp={program}:{folder / 'tiny.gguf'}"


@pytest.fixture(scope="module")
def report(peer: str) -> dict[str, Any]:
    work = ("--prompt", "8", "--context", "8", "--tokens", "2", "--batch", "1", "--repeats", "2")
    done = call("--model", str(QWEN), "--formats", "bf16,fp32", "--peer", peer, *work, "--json")
    assert done.returncode == 0, done.stderr
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


def test_a_comparison_has_both_formats_the_peer_and_the_limits(report: dict[str, Any]) -> None:
    assert report["schema"] == "tinymoe-contest/1"
    names = [one["name"] for one in report["contestants"]]
    assert names == ["tinymoe numpy bf16", "tinymoe numpy fp32", "llama.cpp bf16"]
    assert report["lines"] == ["prefill 8", "decode, batch 1"]
    theirs = [line["tokens_per_s"]["samples"] for line in report["contestants"][2]["lines"]]
    assert theirs == [[263.878632] * 2, [117.207748] * 2]
    assert len(report["ratios"]) == 2 * 2
    assert min(report["limits"]["read_bytes_per_s"]["samples"]) > 0
    assert all(one["counts"] for one in report["contestants"])


def test_the_page_says_what_each_figure_counts(report: dict[str, Any]) -> None:
    for title, rows in contest_page.tables(report):
        assert len(rows) > 1, title
        assert len({len(row) for row in rows}) == 1, title
    text = contest_page.notes(report, width=80)
    for one in report["contestants"]:
        assert one["name"] in text
    assert "nothing sampled" in text
    assert max(map(len, text.splitlines())) <= 80


def test_cores_that_are_shared_are_said(report: dict[str, Any]) -> None:
    # two cores of a busy host gave one core's arithmetic, and every ratio to a peer moved with it
    limits = report["limits"]
    one = limits["flops_per_s_of_one_thread"]["median"]
    for share, said in ((2.0, False), (1.1, True)):
        changed = {**limits, "flops_per_s": {**limits["flops_per_s"], "median": share * one}}
        settings = {**report["settings"], "threads": 2}
        _, _, _, warnings = page({**report, "limits": changed, "settings": settings})
        assert any("2 threads compute 1.1 times" in text for text in warnings) == said


def test_a_sweep_prints_its_formula_and_draws_its_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "top-k.png"
    done = call(
        "--shape", "small", "--formats", "fp32", "--sweep", "top-k", "--points", "1,2",
        "--context", "8", "--picture", str(picture),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "a decode step in fp32, by top-k" in done.stdout
    assert "predicted = max(bytes / bandwidth, operations / peak)" in done.stdout
    assert "in its round" in done.stdout
    assert done.stdout.isascii()
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--formats", "int3"), "--formats must be of nvfp4, mxfp4, bf16, fp32; got 'int3'"),
        (("--formats", "fp32,fp32"), "the same twice"),
        (("--peer", "ollama"), "--peer must be one of llama.cpp=PROGRAM:MODEL.gguf"),
        (("--peer", "llama.cpp=nowhere:x.gguf"), "expected the program llama-bench"),
        (("--sweep", "batch", "--peer", "transformers"), "--sweep measures tinymoe alone"),
        (("--sweep", "batch", "--points", "one"), "--points: expected numbers as 1,2,4"),
        (("--sweep", "batch", "--prompt", "8"), "see --context"),
        (("--points", "1,2"), "give --formats, --peer or --sweep"),
        (("--formats", "fp32", "--picture", "x.doc"), "--picture: expected a file ending in .png"),
        (("--formats", "fp32", "--threads", "0"), "--threads must be at least 1, got 0"),
        (("--formats", "fp32", "--backend", "magic"), "unknown backend 'magic'"),
        (("--formats", "fp32", "--context", "5000"), "needs 5004 positions, the model has 4096"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], says: str, run: Callable[..., Any]
) -> None:
    done = run("bench", "--quick", "--shape", "small", *arguments, "--json")
    assert done.code == 2
    assert says in json.loads(done.out)["error"]
    assert len(done.err.splitlines()) == 1
