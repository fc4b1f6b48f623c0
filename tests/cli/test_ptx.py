"""`ptx` as its user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "vectors" / "ptx"
FILE, DEFECTS = str(FOLDER / "small.ptx"), str(FOLDER / "defects.ptx")
FLOATS = ("--arg", "f32[64]=0", "--arg", "f32[64]=arange", "--arg", "f32[64]=1")
PAIR = ("--block", "128", "--arg", "s32[128]=0", "--arg", "s32[128]=arange")


def test_a_clean_run(run):
    ran = run("ptx", FILE, "--kernel", "add", "--grid", "2", *FLOATS, "--arg", "s32=64", "--json")
    assert ran.code == 0
    page = json.loads(ran.out)
    assert page["arguments"][0] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert page["ran"]["executed"] == page["ran"]["instructions"]
    assert page["ran"]["missed"] == []


def test_a_finding_is_exit_1(run):
    ran = run("ptx", FILE, "--kernel", "add_past_the_end", "--grid", "3", *FLOATS)
    assert ran.code == 1
    assert "outside every buffer" in ran.out


def test_the_line_of_cuda_c_is_shown_with_a_caret(run):
    ran = run("ptx", DEFECTS, "--kernel", "neighbour_bad", *PAIR)
    assert ran.code == 1
    lines = ran.out.splitlines()
    assert lines[1].startswith("defects.cu:13:")
    assert lines[1][lines[2].index("^") :].startswith("out[t] = row")


def test_a_finding_in_json_has_its_place(run):
    ran = run("ptx", DEFECTS, "--kernel", "neighbour_bad", *PAIR, "--json")
    finding = json.loads(ran.out)["finding"]
    assert (finding["file"], finding["line"], finding["block"]) == ("defects.cu", 13, [0, 0, 0])


def test_strict_finds_what_the_default_does_not(run):
    assert run("ptx", DEFECTS, "--kernel", "within_warp_bad", *PAIR).code == 0
    assert run("ptx", DEFECTS, "--kernel", "within_warp_bad", *PAIR, "--strict").code == 1


def test_lines_not_reached_are_listed_with_their_source(run):
    # 30 is below the mask's lanes: nobody takes the early return
    args = ("--arg", "s32[32]=0", "--arg", "s32[32]=0", "--arg", "s32=0")
    ran = run("ptx", DEFECTS, "--kernel", "tail_good", *args, "--coverage")
    assert ran.code == 0
    assert "out[i] = in[i]" in ran.out.split("not reached")[1]


def test_uncoalesced_reads_are_counted(run):
    ran = run("ptx", DEFECTS, "--kernel", "vector_good", *PAIR[2:])
    assert "100% efficient" in ran.out


def test_two_dimensions_a_file_and_a_kept_result(run, tmp_path):
    given, out = str(tmp_path / "x.npy"), str(tmp_path / "y.npy")
    np.save(given, np.arange(64, dtype="f4"))
    args = ("--arg", "f32[64]=0", "--arg", given, "--arg", given, "--arg", "s32=64")
    ran = run(
        *("ptx", FILE, "--kernel", "add", "--grid", "2,1", "--block", "32,1,1"),
        *args,
        *("--save", f"0={out}"),
    )
    assert ran.code == 0
    assert np.array_equal(np.load(out), 2 * np.arange(64))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--kernel", "nobody"), "it has no kernel 'nobody'"),
        ((), "choose one with --kernel"),
        (("--kernel", "add", "--arg", "f99[2]=1"), "TYPE one of"),
        (("--kernel", "add", "--arg", "f32=arange"), "TYPE one of"),
        (("--kernel", "add", "--arg", "s8[2]=300"), "s8[2]=300"),
        (("--kernel", "add", *FLOATS), "takes 4 arguments"),
        (("--kernel", "add", "--grid", "2x2"), "--grid '2x2'"),
        (("--kernel", "add", "--block", "2000", *FLOATS, "--arg", "s32=1"), "1024 threads"),
        (("--kernel", "add", *FLOATS, "--arg", "s64=1"), "reads 4 bytes, got 8"),
        (("--kernel", "add", *FLOATS, "--arg", "s32=1", "--save", "9=x.npy"), "N from 0 to 3"),
    ],
)
def test_a_bad_call_says_what_was_expected(run, options, said):
    ran = run("ptx", FILE, *options)
    assert ran.code == 2
    assert said in ran.err


def test_a_file_that_is_no_ptx_is_named(run, tmp_path):
    path = tmp_path / "x.ptx"
    path.write_bytes(b"\xff\xfe\x00")
    assert "not text" in run("ptx", str(path)).err
    path.write_text("hello", "utf-8")
    assert "no .entry" in run("ptx", str(path)).err
