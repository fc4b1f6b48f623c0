"""A page for each kind of bug: it runs, draws, is short, and its commands exist."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from tinymoe.cli.app import Commands, app
from tinymoe.kernels.contracts import CONTRACTS

mpl.use("Agg")  # no window

FOLDER = Path(__file__).parents[1] / "tutorials" / "bugs"
PAGES = sorted(FOLDER.glob("plot_*.py"))


def test_there_is_a_page_for_each_kind() -> None:
    kinds = {page.stem.removeprefix("plot_") for page in PAGES}
    assert kinds == {
        *("router", "scaling", "precision", "formats"),
        *("activation", "attention", "parallel", "sampling"),
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs_and_draws(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its asserts say that the check that it recommends finds the bug that it shows.
    shown: list[int] = []
    monkeypatch.setattr(plt, "show", lambda: shown.extend(plt.get_fignums()))
    with mpl.rc_context():
        runpy.run_path(str(page))
    plt.close("all")
    assert shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_is_short_and_names_cases_and_commands(page: Path) -> None:
    # An issue links to it: its reader has a minute, and pastes the command.
    text = page.read_text("utf-8")
    assert len(text.splitlines()) <= 100
    intro = text.split('"""')[1]
    assert len(re.findall(r"[\w.-]+#\d+", intro)) >= 3
    commands = re.findall(r"^#    python -m tinymoe (.*)$", text, re.MULTILINE)
    assert commands
    group = get_command(app)
    assert isinstance(group, Commands)
    for command in commands:
        name, *rest = command.split()
        found = group.get_command(None, name)
        assert found is not None, command
        options = {option for param in found.params for option in param.opts}
        assert {word for word in rest if word.startswith("--")} <= options, command
        if name == "conform":
            assert rest[0] in CONTRACTS, command
        if name == "mutants":
            assert CliRunner().invoke(app, ["mutants", *rest]).exit_code == 0, command
