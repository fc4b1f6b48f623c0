"""`python -m tinymoe.measure.start`: which processes are timed, and with which caches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tinymoe.core import TinymoeError
from tinymoe.measure import start
from tinymoe.measure.process import Start

pytestmark = pytest.mark.definition


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What would have been started; each finds its kernels compiled soon after."""
    calls: list[dict[str, Any]] = []

    def once(command: Sequence[str], environment: Mapping[str, str], clock: object) -> Start:
        folder = environment.get("NUMBA_CACHE_DIR")
        backend = command[list(command).index("--backend") + 1]
        kept = sorted(p.name for p in Path(folder).iterdir()) if folder else None
        calls.append({"backend": backend, "folder": folder, "kept": kept, **environment})
        if folder is not None:
            (Path(folder) / "kernels-0").mkdir(parents=True)
            (Path(folder) / "kernels-0" / "all").touch()
        return Start(len(calls), 100.0)

    monkeypatch.setattr(start, "start_once", once)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return calls


def test_warm_starts_come_after_one_that_is_not_counted(started, capsys) -> None:
    start.main(["3"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("of 3")
    assert lines[1].split() == ["numpy", "3.00", "[2.00-4.00]"]  # the first is call 1
    assert lines[2].split()[-2:] == ["7.00", "[6.00-8.00]"]
    assert [call["backend"] for call in started] == ["numpy"] * 4 + ["numba"] * 4 + [
        "auto",
        "numba",
    ]


def test_cold_starts_each_have_an_empty_folder_that_is_gone_afterwards(started) -> None:
    # the second would otherwise find what the first has compiled
    start.main(["1"])
    *warm, auto, numba = started
    assert all(call["folder"] is None for call in warm)
    assert auto["kept"] == numba["kept"] == []
    assert auto["folder"] != numba["folder"]
    assert not Path(auto["folder"]).exists()


def test_python_keeps_its_modules_whatever_this_machine_says(started) -> None:
    # with PYTHONDONTWRITEBYTECODE every start would compile 170 modules: no user's start does
    start.main(["1"])
    assert all("PYTHONDONTWRITEBYTECODE" not in call for call in started)
    assert len({call["PYTHONPYCACHEPREFIX"] for call in started}) == 1


def test_kernels_that_never_come_are_an_error(started, monkeypatch) -> None:
    monkeypatch.setattr(start, "PATIENCE", -1.0)
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    with pytest.raises(TinymoeError, match="no end of compiling"):
        start.main(["1"])


@pytest.mark.parametrize("given", [["0"], ["many"], ["1", "2"]])
def test_nonsense_is_refused(started, given, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        start.main(given)
    assert ended.value.code == 2
    assert not started
