"""Run a command in this process, as `python -m tinymoe` would."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tinymoe.cli.app import app

VECTORS = Path(__file__).parents[1] / "vectors" / "parity" / "qwen3_moe"


class Ran:
    """Exit code, stdout and stderr of a command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cli)


@pytest.fixture(scope="session")
def model() -> str:
    return str(VECTORS)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """run("info", "--json"): no exception but SystemExit may leave a command."""
    monkeypatch.setenv("COLUMNS", "120")

    def call(*args: str, stdin: str | bytes | None = None) -> Ran:
        result = CliRunner().invoke(app, list(args), input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        # CI services make the help page coloured
        out, err = (re.sub(r"\x1b\[[0-9;]*m", "", t) for t in (result.stdout, result.stderr))
        return Ran(result.exit_code, out, err)

    return call
