"""The first minute: the bare command, help pages, versions, names that do not exist."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import tinymoe
from tinymoe.cli.app import COMMANDS


def test_the_bare_command_shows_what_to_try(run):
    ran = run()
    assert ran.code == 0
    assert ran.out.count("  python -m tinymoe ") == 3


def test_version_names_what_decides_a_number(run):
    ran = run("--version")
    assert ran.code == 0
    assert ran.out.startswith(f"tinymoe {tinymoe.__version__} (NumPy ")


def test_help_lists_every_command(run):
    ran = run("--help")
    assert ran.code == 0
    assert [name for name in COMMANDS if f" {name} " not in ran.out] == []


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_a_help_page_with_an_example(run, name, flag):
    ran = run(name, flag)
    assert ran.code == 0
    assert f"python -m tinymoe {name}" in ran.out.partition("Usage:")[2].partition("\n")[2]


def test_options_stand_in_groups(run):
    page = run("generate", "--help").out
    for group in ("Prompt", "Sampling", "Model", "Output"):
        assert f"─ {group} ─" in page


def test_an_unknown_command_is_told_which_there_are(run):
    ran = run("genrate")
    assert ran.code == 2
    said = re.sub(r"[\s\u2500-\u257f]", "", ran.err)  # a box breaks lines where the terminal ends
    assert ",".join(COMMANDS) in said


def test_an_unknown_option_is_refused(run):
    ran = run("generate", "hi", "--temprature", "0")
    assert ran.code == 2
    assert "--temperature" in ran.err


def test_a_command_does_not_wait_for_anothers_modules():
    # a first word within two seconds on a slow laptop: nothing is imported that is not needed
    code = (
        "import sys, tinymoe.cli.app as a\n"
        "a.Commands(name='x').get_command(None, 'generate')\n"
        "loaded = {m.partition('tinymoe.cli.')[2] for m in sys.modules} & set(a.COMMANDS)\n"
        "late = {'tokenizers', 'jinja2', 'rich.progress', 'tinymoe.api'} & set(sys.modules)\n"
        "print(sorted(loaded), sorted(late))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "['generate'] []\n"
