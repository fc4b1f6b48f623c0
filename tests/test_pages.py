"""The written pages: every command in them is run, and prints what the page says it prints."""

from __future__ import annotations

import importlib.util
import re
import runpy
import shlex
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from tests.endpoint_server import serving
from tinymoe.api import load
from tinymoe.cli.app import app

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "tests" / "vectors" / "parity" / "qwen3_moe"
PAGE = ROOT / "tutorials" / "is_my_engine_right.rst"
URL = "http://127.0.0.1:8000/v1"
NEEDS = {"capture.py": "transformers"}  # a script that is left out where that is not installed


class Block(NamedTuple):
    """A piece of code of a page: its language, the file it is, its text."""

    language: str
    caption: str
    text: str


def blocks(text: str) -> Iterator[Block]:
    """All of a page's code blocks, in its order."""
    form = r"^\.\. code-block:: (\w+)\n(?:   :caption: (\S+)\n)?\n((?:(?:   .*)?\n)+)"
    for found in re.finditer(form, text, re.MULTILINE):
        yield Block(found[1], found[2] or "", textwrap.dedent(found[3]).strip() + "\n")


def run(line: str, url: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit code and output of a command of a page, in this process."""
    words = [word.replace("$MODEL", str(MODEL)).replace(URL, url) for word in shlex.split(line)]
    assert words[0] == "python"
    if words[1:3] == ["-m", "tinymoe"]:
        result = CliRunner().invoke(app, words[3:])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output
    monkeypatch.setattr(sys, "argv", words[1:])
    runpy.run_path(words[1], run_name="__main__")
    return 0, ""


def squeezed(text: str) -> str:
    """One space between words: columns and line breaks are no part of what is said."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())


def check_output(output: str, expected: str, line: str) -> None:
    """Every line of `expected` is somewhere in the output, in order; `...` is any text."""
    got = squeezed(output)
    for wanted in expected.splitlines():
        parts = [re.escape(part.strip()) for part in squeezed(wanted).split("...")]
        found = re.search(r"\s?.*?\s?".join(parts), got)
        assert found, f"{line}\nprints no {wanted!r}:\n{output}"
        got = got[found.end() :]


def test_the_page_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A command that has been renamed, a flag that is gone, an output that says something else now.
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    left_out = {s for s, module in NEEDS.items() if importlib.util.find_spec(module) is None}
    skipped, output, ran, last = set[str](), "", 0, ""
    with serving(load(MODEL, numerics="bf16"), dialect="vllm") as server:
        for block in blocks(PAGE.read_text("utf-8")):
            if block.caption:
                Path(block.caption).write_text(block.text, "utf-8")
            elif block.language == "text":
                if last not in skipped:
                    check_output(output, block.text, last)
            else:
                assert block.language == "shell"
                output = ""
                for line in block.text.splitlines():
                    command, _, code = line.partition("  # exit code ")
                    last = block.text
                    if set(shlex.split(command)) & left_out or last in skipped:
                        skipped.add(last)
                        continue
                    got, printed = run(command, server.url, monkeypatch)
                    assert got == int(code or 0), f"{line}\n{printed}"
                    output, ran = output + printed, ran + 1
    assert ran >= 15
    assert (tmp_path / "report.html").is_file()


def test_the_check_of_outputs_can_fail() -> None:
    check_output("a  1\nb 2.5 c", "a ...\nb ... c", "x")
    for wrong in ("b ...\na ...", "a ... d", "A 1"):
        with pytest.raises(AssertionError):
            check_output("a  1\nb 2.5 c", wrong, "x")


def test_every_row_of_the_agreement_names_a_test_that_exists() -> None:
    # A claim whose test was renamed or dropped is a claim that nobody holds any more.
    text = (PAGE.parent / "agreement.rst").read_text("utf-8")
    notes = re.findall(r"^\.\. \[#([\w-]+)\] ``(tests/[\w/]+\.py)::(\w+)``$", text, re.MULTILINE)
    assert len(notes) >= 30
    for _, file, test in notes:
        assert f"\ndef {test}(" in (ROOT / file).read_text("utf-8"), f"{file} has no {test}"
    used = set(re.findall(r"\[#([\w-]+)\]_", text))
    assert used == {label for label, _, _ in notes}
    rows = re.split(r"^   \* - ", text, flags=re.MULTILINE)[1:]
    heads = [row for row in rows if re.search(r"^     - held$", row, re.MULTILINE)]
    assert len(heads) == 4
    assert not [row for row in rows if row not in heads and "]_" not in row]


def test_how_a_row_is_known_is_said() -> None:
    # "run" and "read" are different promises.
    text = (PAGE.parent / "agreement.rst").read_text("utf-8")
    for row in re.split(r"^   \* - ", text.partition("transformers\n---")[2], flags=re.MULTILINE):
        cells = re.split(r"^     - ", row, flags=re.MULTILINE)[1:-1]
        theirs = cells[:1] if len(cells) == 2 else cells
        if "- held\n" not in row and cells:
            for cell in theirs:
                assert re.search(r"\((run|read|recorded)\)|not compared", cell), cell
