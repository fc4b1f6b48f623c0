"""`conform --device` as its user types it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kernels import cupy_stand_in as gpu
from tinymoe.core import TinymoeError
from tinymoe.kernels.cuda import check_device
from tinymoe.kernels.cuda.devices import CupyDevice

WHOLE = {
    *("format", "conforms", "silicon", "device", "versions", "began", "seconds", "seed", "cases"),
    *("finished", "rows", "left_out", "never_launched"),
}
ROW = {
    *("op", "rung", "files", "cases", "tried", "kept", "compared", "equal", "conforms", "failure"),
    *("failing_case", "failing_number", "evidence", "difference", "reference_failure"),
    *("processes", "device_ms", "ptx_ms", "launched"),
}


def no_gpu() -> bool:
    try:
        CupyDevice()
    except TinymoeError:
        return True
    return False


def test_kernels_on_the_ptx_machine(run, tmp_path):
    asked = ("conform", "--device", "ptx", "--ops", "swizzle_scales,unswizzle_scales")
    ran = run(*asked, "--cases", "2", "--out", str(tmp_path / "report.json"))
    assert ran.code == 0, ran.err
    assert "all 2 conform, on the PTX machine, nothing on silicon" in ran.out
    written = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]  # none half written
    # who collects such reports reads these names
    assert set(written) == WHOLE
    assert all(set(row) == ROW for row in written["rows"])
    assert written["format"] == "tinymoe conform --device, 1"
    assert (written["conforms"], written["silicon"], written["finished"]) == (True, False, True)


def with_device(monkeypatch, opens):
    """Children open this instead of what is asked for."""
    real = check_device.check_device

    def opened(*args, order, **named):
        return real(*args, order=replace(order, opens=opens), **named)

    monkeypatch.setattr(check_device, "check_device", opened)


def test_a_wrong_kernel_is_exit_code_1_and_named(run, monkeypatch):
    with_device(monkeypatch, gpu.opens_mutant)
    asked = ("conform", "combine", "--device", "ptx:80", "--cases", "6")
    ran = run(*asked)
    assert ran.code == 1
    assert "combine (fast): combine: out[" in ran.out
    assert "weights = float32" in ran.out
    assert "1 of 3 do NOT conform" in ran.out


def test_json_of_a_gpu_and_its_report_in_a_file(run, monkeypatch, tmp_path):
    with_device(monkeypatch, gpu.opens)
    monkeypatch.chdir(tmp_path)
    ran = run("conform", "--device", "--ops", "rope", "--cases", "2", "--json")  # cuda is meant
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["silicon"]
    assert found["rows"][0]["equal"] == 2
    assert json.loads(Path("conform-cuda.json").read_text("utf-8")) == found


@pytest.mark.parametrize("room", [0, 1])
def test_a_disk_that_fills_up_stops_nothing_but_at_the_beginning(run, monkeypatch, tmp_path, room):
    # the results of an hour on a borrowed GPU are not thrown away for a file
    real, calls = Path.replace, []

    def replace_once(self, target):
        calls.append(target)
        if len(calls) > room:
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace_once)
    asked = ("conform", "swizzle_scales", "--device", "ptx", "--cases", "1")
    ran = run(*asked, "--out", str(tmp_path / "report.json"))
    if not room:
        assert ran.code == 2
        assert "report.json: cannot be written: No space left on device" in ran.err
        return
    assert ran.code == 0
    assert "report.json was not written: No space left on device" in ran.err
    assert "all 1 conform" in ran.out


@pytest.mark.skipif(not no_gpu(), reason="there is a GPU here")
def test_without_a_gpu_it_is_said_what_is_missing_and_what_to_do(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for asked in (["--device"], ["--device", "cuda", "--json"]):
        ran = run("conform", *asked)
        assert ran.code == 2
        assert "no GPU backend: " in ran.err
        assert "python -m tinymoe conform --device ptx" in ran.err
    assert "no GPU backend" in json.loads(ran.out)["error"]
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--device", "gpu"], "--device 'gpu': expected cuda (a GPU), ptx"),
        (["--device", "ptx:"], "as ptx:120a"),
        (["--device", "ptx:blackwell"], "a chip's number"),
        (["--device", "ptx", "--ops", "routing"], "unknown op 'routing'"),
        (["--device", "ptx", "--ops", ","], "expected ops, as --ops route,permute"),
        (["combine", "x.y:z", "--device", "ptx"], "MODULE:FUNCTION is for a function of yours"),
        (["--device", "ptx", "--arrays", "torch"], "--arrays is for a function of yours"),
        (["--device", "ptx", "--out", "no/such/folder/r.json"], "a file in a folder that is there"),
        (["combine", "--ops", "route"], "--ops, --out and --timeout belong to --device"),
        (["--device", "ptx", "--cases", "0"], "--cases"),
    ],
)
def test_nonsense(run, arguments, says):
    ran = run("conform", *arguments)
    assert ran.code == 2
    assert says in " ".join(ran.err.replace("│", " ").split())
