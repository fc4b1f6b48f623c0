"""`ptx` as its user types it."""

from __future__ import annotations

import json
from pathlib import Path

FILE = str(Path(__file__).parents[1] / "vectors" / "ptx" / "small.ptx")
FLOATS = ("--arg", "f32[64]=0", "--arg", "f32[64]=arange", "--arg", "f32[64]=1")


def test_a_clean_run(run):
    ran = run("ptx", FILE, "--kernel", "add", "--grid", "2", *FLOATS, "--arg", "s32=64", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["arguments"][0] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_finding_is_exit_1(run):
    ran = run("ptx", FILE, "--kernel", "add_past_the_end", "--grid", "3", *FLOATS)
    assert ran.code == 1
    assert "outside every buffer" in ran.out


def test_a_bad_call_is_exit_2(run):
    assert run("ptx", FILE, "--kernel", "nobody").code == 2
    assert run("ptx", FILE, "--kernel", "add", "--arg", "f99[2]=1").code == 2
