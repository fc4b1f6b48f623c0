"""Starting: which backend answers first, and what its user is told."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tinymoe.cli import backends
from tinymoe.cli.chat import converse
from tinymoe.kernels.cpu import disk, ready

WORDS = ("Hello", "--temperature", "0", "--max-tokens", "4", "--ignore-eos")


@pytest.fixture
def nothing_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An empty cache, and what would have been started in the background."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    started: list[str] = []
    monkeypatch.setattr(ready, "start_compiling", lambda: started.append("all") or True)
    return started


@pytest.fixture
def nowhere_to_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file where each folder should be: even root cannot write into it."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    return tmp_path / "file"


def text(ran) -> str:
    assert ran.code == 0, ran.err
    return ran.out


def test_the_first_start_answers_with_numpy_and_says_what_happens(run, model, nothing_compiled):
    ran = run("generate", *WORDS, "--model", model, "--backend", "auto")
    assert text(ran) == text(run("generate", *WORDS, "--model", model, "--backend", "numpy"))
    assert nothing_compiled == ["all"]
    (line,) = ran.err.splitlines()
    assert line.startswith("computing with NumPy")
    assert "compiled in the background" in line
    assert "--backend numba" in line


def test_without_a_folder_to_keep_kernels_in_that_is_said(run, model, nowhere_to_keep):
    # before, `auto` answered with NumPy for ever and said nothing
    ran = run("generate", *WORDS, "--model", model, "--backend", "auto")
    assert text(ran) == text(run("generate", *WORDS, "--model", model, "--backend", "numpy"))
    (line,) = ran.err.splitlines()
    assert str(nowhere_to_keep / "cache") in line
    assert "NUMBA_CACHE_DIR" in line
    assert "--backend numba" in line


@pytest.mark.parametrize("kept", [True, False])
def test_who_waits_for_kernels_is_told_whether_they_will_be_kept(
    model, nowhere_to_keep, tmp_path, monkeypatch, kept
) -> None:
    from tinymoe import load
    from tinymoe.kernels.cpu import backend

    monkeypatch.setattr(backend, "compile_all", lambda kernels, tell: tell(0, len(kernels)))
    if kept:
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    told: list[str] = []
    load(model, backend="numba").prepare(lambda what, done, of: told.append(what))
    how = ", once" if kept else " (there is no folder to keep them in)"
    assert told[-1] == f"compiling kernels{how}"


def test_where_no_process_can_be_started_that_is_said(run, model, nothing_compiled, monkeypatch):
    monkeypatch.setattr(ready, "start_compiling", lambda: False)
    ran = run("generate", *WORDS, "--model", model, "--backend", "auto")
    assert "python -m tinymoe.kernels.cpu.ready" in ran.err
    assert len(ran.err.splitlines()) == 1


def test_numpy_compiles_nothing_and_starts_nothing(run, model, nothing_compiled, tmp_path):
    assert run("generate", *WORDS, "--model", model, "--backend", "numpy").err == ""
    assert not nothing_compiled
    assert not (tmp_path / "cache").exists()


def test_a_backend_asked_for_by_name_has_the_others_kernels_compiled_behind(
    run, model, monkeypatch
):
    # or `auto` would go on with NumPy: it waits for all kernels, not for one model's
    started: list[str] = []
    monkeypatch.setattr(ready, "start_compiling", lambda: started.append("all") or True)
    for is_ready in (True, False):
        monkeypatch.setattr(ready, "is_ready", lambda answer=is_ready: answer)
        text(run("generate", *WORDS, "--model", model, "--backend", "numba"))
        assert started == ([] if is_ready else ["all"])


def test_a_warm_start_imports_no_numba(run, model):
    call = ("generate", *WORDS, "--model", model, "--backend", "numba", "--json")
    text(run(*call))  # whatever was not compiled yet is now
    program = (
        "import sys\nfrom tinymoe.cli.app import main\n"
        "try:\n    main()\nfinally:\n"
        "    print([m for m in sys.modules if m.split('.')[0] == 'numba'], file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, *call]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert json.loads(done.stdout)["backend"] == "numba"
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_read_only_folder_serves_what_is_in_it(run, model, monkeypatch):
    # an installation for all users: kernels compiled by who may write, used by who may not
    ran = run("generate", *WORDS, "--model", model, "--backend", "numba")
    monkeypatch.setattr(disk, "writable", lambda: None)
    monkeypatch.setattr(disk, "store", lambda name, code: pytest.fail(f"{name} compiled again"))
    again = run("generate", *WORDS, "--model", model, "--backend", "numba")
    assert text(again) == text(ran)


def test_a_conversation_goes_on_with_compiled_kernels_once_there_are(
    model, monkeypatch, capsys
) -> None:
    from tinymoe import load
    from tinymoe.core import Sampling

    lines = iter(["Hello", "and then?", "/quit"])
    monkeypatch.setattr(builtins, "input", lambda prompt: next(lines))
    numpy, other = load(model), load(model)
    asked: list[str] = []

    def recorded(name: str, of: Callable[..., object]) -> Callable[..., object]:
        return lambda *args, **named: (asked.append(name), of(*args, **named))[1]

    monkeypatch.setattr(numpy, "generate_many", recorded("numpy", numpy.generate_many))
    monkeypatch.setattr(other, "generate_many", recorded("other", other.generate_many))
    found = iter([None, other])  # nothing yet at the first answer; never asked a third time
    converse(numpy, Sampling(max_tokens=2, temperature=0.0), None, lambda: next(found))
    assert asked == ["numpy", "other"]
    assert "compiled kernels compute from here on" in capsys.readouterr().err


def test_auto_takes_numba_once_all_is_compiled(model, monkeypatch, capsys) -> None:
    for is_ready, expected in ((True, "numba"), (False, "numpy")):
        monkeypatch.setattr(ready, "is_ready", lambda answer=is_ready: answer)
        monkeypatch.setattr(ready, "start_compiling", lambda: True)
        assert backends.choose("auto", model, "fp32") == expected
        assert backends.ready_now(model, "fp32", None) is is_ready
    assert not backends.ready_now(model, "exact", None)
    capsys.readouterr()
