"""`--repack-cache` as its user meets it: what is said, where, and that words stay the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repacking import copied, flipped
from tinymoe.cli import backends, progress

WORDS = ("--ids", "5,6,7", "--max-tokens", "4", "--temperature", "0", "--numerics", "bf16")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TINYMOE_BACKEND", raising=False)  # `auto`, as for anybody
    return copied(tmp_path / "model", "qwen3_moe")


def answer(ran) -> list[int]:
    assert ran.code == 0, ran.err
    return json.loads(ran.out)["answers"][0]["token_ids"]


def test_weights_are_kept_and_found_with_the_same_words(run, folder):
    call = ("generate", *WORDS, "--json", "--model", str(folder))
    plain = answer(run(*call, "--backend", "numba"))
    assert not (folder / ".tinymoe").exists()  # only if asked
    first = run(*call, "--repack-cache")
    file = folder / ".tinymoe" / "packed.safetensors"
    said = [line for line in first.err.splitlines() if "kept" in line]
    assert said == [f"packed weights kept: {file}, 0.7 MB"]
    before = file.stat().st_mtime_ns
    again = run(*call, "--repack-cache", "--threads", "1")
    assert "kept" not in again.err
    assert file.stat().st_mtime_ns == before
    assert answer(first) == answer(again) == plain
    assert json.loads(first.out)["backend"] == "numba"  # what auto means once it is asked for


def test_a_damaged_cache_is_one_warning_and_the_same_words(run, folder):
    call = ("generate", *WORDS, "--json", "--model", str(folder), "--repack-cache")
    first = answer(run(*call))
    flipped(folder / ".tinymoe" / "packed.safetensors", -1)
    with pytest.warns(UserWarning, match="damaged.*: packed anew"):
        mended = run(*call)
    assert answer(mended) == first
    assert "packed weights kept" in mended.err


def test_the_warning_is_one_line_of_a_real_process(folder):
    (folder / ".tinymoe").write_text("a file where the folder should be")
    command = [sys.executable, "-m", "tinymoe", "generate", *WORDS, "--model", str(folder)]
    ran = subprocess.run(
        command, env={**os.environ, "TINYMOE_REPACK_CACHE": "1"}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = [line for line in ran.stderr.splitlines() if "packed" in line]
    where = folder / ".tinymoe"
    assert lines == [f"warning: {where}: packed weights are not kept: File exists"]


def test_a_trace_is_the_same_from_the_cache(run, folder, tmp_path):
    files = []
    for more in (("--backend", "numba"), ("--repack-cache",), ("--repack-cache",)):
        files.append(tmp_path / f"{len(files)}.safetensors")
        ran = run("trace", "--ids", "5,6,7", "--model", str(folder), "-o", str(files[-1]), *more)
        assert ran.code == 0, ran.err
    assert len({file.read_bytes() for file in files}) == 1


def test_info_shows_the_cache(run, folder):
    call = ("info", "--backend", "numba", "--model", str(folder))
    assert json.loads(run(*call, "--json").out)["repack_cache"]["state"] == "none"
    run("generate", *WORDS, "--model", str(folder), "--repack-cache")
    kept = json.loads(run(*call, "--json").out)["repack_cache"]
    file = folder / ".tinymoe" / "packed.safetensors"
    assert kept["path"] == str(file)
    assert kept["nbytes"] == file.stat().st_size
    assert str(file) in run(*call).out
    file.write_bytes(b"")
    assert json.loads(run(*call, "--json").out)["repack_cache"]["state"] == "damaged"


def test_other_backends_pack_nothing(run, folder):
    ran = run("generate", *WORDS, "--model", str(folder), "--repack-cache", "--backend", "numpy")
    assert ran.code == 2
    assert "of the backend 'numba' alone" in ran.err
    assert not (folder / ".tinymoe").exists()


def test_a_model_that_runs_op_by_op_says_that_nothing_is_kept(run, folder):
    call = ("generate", *WORDS[:-1], "exact", "--model", str(folder), "--repack-cache")
    ran = run(*call)
    assert ran.code == 0
    assert "nothing to keep, this model runs op by op" in ran.err
    assert not (folder / ".tinymoe").exists()


# ------------------------------------------------------------------------------- how far it is


def test_nothing_is_said_within_a_second(capsys):
    with progress.when_long() as report:
        report("laying out weights", 1, 9)
    assert capsys.readouterr().err == ""


def test_later_it_is_a_line_for_each_work_where_nobody_looks(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SILENT", -1.0)
    with progress.when_long() as report:
        for what in ("hashing", "packing"):
            for done in range(1, 4):
                report(what, done, 3)
    assert capsys.readouterr().err == "hashing ...\npacking ...\n"


@pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal")
def test_on_a_terminal_it_is_a_bar_that_goes_away():
    program = (
        "from tinymoe.cli import progress; progress.SILENT = -1\n"
        "with progress.when_long() as report:\n"
        "    report('laying out weights', 1, 4); report('laying out weights', 2, 4)"
    )
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program], stderr=theirs, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # Linux: the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0
    assert b"laying out weights" in shown
    assert b"25%" in shown
    assert b"50%" in shown
    assert shown.rstrip(b"\x1b[?25h").endswith(b"\x1b[2K")  # the line is wiped


def test_making_ready_reports_through_it(folder, monkeypatch, capsys):
    """The bar is given what the packing threads have done."""
    from tinymoe.api import load

    monkeypatch.setattr(progress, "SILENT", -1.0)
    backends.make_ready(load(folder, backend="numba"), "numba")
    assert "laying out weights ..." in capsys.readouterr().err
