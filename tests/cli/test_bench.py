"""`python -m tinymoe bench` as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tinymoe.cli import bench_page
from tinymoe.measure.definitions import DEFINITIONS

pytestmark = pytest.mark.cli

QWEN = Path(__file__).parents[1] / "vectors" / "parity" / "qwen3_moe"


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tinymoe", "bench", "--quick", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    done = call("--model", str(QWEN), "--repeats", "1", "--json")
    assert done.returncode == 0, done.stderr
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


def test_json_has_everything(report: dict[str, Any]) -> None:
    assert report["schema"] == "tinymoe-bench/1"
    assert report["settings"]["repeats"] == 1
    assert report["settings"]["prompt"] == 16
    assert report["model"]["parameters"] > report["model"]["active_parameters"]
    assert set(report["definitions"]) == set(DEFINITIONS)
    assert [case["batch"] for case in report["cases"]] == [1, 8]
    for case in report["cases"]:
        assert case["decode_context"] == [17, 23]
        for form in ("model", "engine"):
            (raw,) = case[form]["raw_s"]
            assert len(raw) == 8
            assert min(raw) > 0
            rate = case["batch"] * 7 / sum(raw[1:])
            assert case[form]["decode_tokens_per_s"]["samples"] == [rate]
    assert report["memory"]["peak_bytes"] >= report["memory"]["after_loading_bytes"]


def test_json_has_whole_processes(report: dict[str, Any]) -> None:
    start = report["start"]
    assert start["command"][:4] == ["python", "-m", "tinymoe", "generate"]
    for kind in ("cold", "warm", "uncompiled"):
        (first,), (total,) = (start[kind][k]["samples"] for k in ("first_word_s", "total_s"))
        assert 0 < first <= total


def test_the_page_shows_each_table_and_each_definition(report: dict[str, Any]) -> None:
    for title, rows in bench_page.tables(report):
        assert len(rows) > 1, title
        assert len({len(row) for row in rows}) == 1, title
    text = bench_page.definitions(report, width=80)
    assert all(f"  {name}" in text for name in DEFINITIONS)
    assert max(map(len, text.splitlines())) <= 80


def test_plain_text_when_piped_and_a_random_model_has_no_start() -> None:
    done = call("--shape", "small", "--batch", "2", "--tokens", "2", "--repeats", "1")
    assert done.returncode == 0, done.stderr
    assert "random, shape small, seed 0" in done.stdout
    assert "not measured: a random model" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stdout.isascii()  # no box drawing for a program to parse


def test_a_wrong_call_is_one_line_and_exit_code_2() -> None:
    done = call("--shape", "huge", "--json")
    assert done.returncode == 2
    assert "--shape must be one of" in json.loads(done.stdout)["error"]
    assert len(done.stderr.splitlines()) == 1
