"""Whatever is wrong with a call: one line on stderr, exit code 2, no traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# arguments after `generate`; {model} and {tmp} are filled in; a part of the message
GENERATE = {
    "no such model": (("hi", "--model", "{tmp}/none"), "no such folder"),
    "a folder that is no model": (("hi", "--model", "{tmp}"), "model folder"),
    "a file for a model": (("hi", "--model", "{tmp}/text"), "found a file"),
    "broken config": (("hi", "--model", "{tmp}/broken"), "config.json"),
    "unknown family": (("hi", "--model", "{tmp}/family"), "model_type"),
    "weights cut off": (("hi", "--model", "{tmp}/cut"), "model.safetensors"),
    "broken tokenizer": (("hi", "--model", "{tmp}/tokenizer"), "tokenizer.json"),
    "strange sampling": (("hi", "--model", "{tmp}/sampling"), "temperature"),
    "empty prompt": (("", "--model", "{model}"), "prompt is empty"),
    "prompt too long": (("a b " * 200, "--model", "{model}"), "256 positions"),
    "id out of range": (("--ids", "5,344", "--model", "{model}"), "0 to 343"),
    "negative id": (("--ids", "-1", "--model", "{model}"), "0 to 343"),
    "huge id": (("--ids", "9" * 30, "--model", "{model}"), "whole numbers"),
    "no number": (("--ids", "5,x", "--model", "{model}"), "'x'"),
    "no ids": (("--ids", "", "--model", "{model}"), "at least one"),
    "no ids file": (("--ids", "@{tmp}/none", "--model", "{model}"), "of this name"),
    "no file": (("--file", "{tmp}/none", "--model", "{model}"), "of this name"),
    "a folder for a file": (("--file", "{tmp}", "--model", "{model}"), "folder"),
    "not UTF-8": (("--file", "{tmp}/latin", "--model", "{model}"), "byte 1 is 0xe9"),
    "surrogates": (("a\udce9", "--model", "{model}"), "not valid UTF-8"),
    "temperature below 0": (("hi", "--temperature", "-1", "--model", "{model}"), "temperature"),
    "temperature nan": (("hi", "--temperature", "nan", "--model", "{model}"), "temperature"),
    "top_p 2": (("hi", "--top-p", "2", "--model", "{model}"), "top_p"),
    "no tokens": (("hi", "--max-tokens", "0", "--model", "{model}"), "max_tokens"),
    "fewer than none": (("hi", "--max-tokens", "-99", "--model", "{model}"), "max_tokens"),
    "seed below 0": (("hi", "--seed", "-1", "--model", "{model}"), "seed"),
    "empty stop": (("hi", "--stop", "", "--model", "{model}"), "stop"),
    "logprobs of more than all": (("hi", "--logprobs", "345", "--model", "{model}"), "344"),
    "numerics": (("hi", "--numerics", "fp16", "--model", "{model}"), "exact, fp32, bf16"),
    "backend": (("hi", "--backend", "abacus", "--model", "{model}"), "of 'auto', 'numpy'"),
    "system alone": (("hi", "--system", "x", "--model", "{model}"), "--chat"),
    "chat with ids": (("--chat", "--ids", "5", "--model", "{model}"), "token ids"),
    "no template": (("--chat", "hi", "--model", "{tmp}/plain"), "chat template"),
}

TRACE = {
    "no folder": (("hi", "-o", "{tmp}/none/t", "--model", "{model}"), "no folder"),
    "a folder": (("hi", "-o", "{tmp}", "--model", "{model}"), "folder"),
    "no tap": (("hi", "-o", "{tmp}/t", "--taps", "zzz", "--model", "{model}"), "no tap matches"),
    "too long": (("a b " * 200, "-o", "{tmp}/t", "--model", "{model}"), "256 positions"),
    "empty": (("", "-o", "{tmp}/t", "--model", "{model}"), "non-empty"),
    "two texts": (("hi", "--ids", "5", "-o", "{tmp}/t", "--model", "{model}"), "one text"),
}


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    """Files and models with something wrong in them."""
    tmp_path = tmp_path_factory.mktemp("wrong")
    (tmp_path / "text").write_text("hi", encoding="utf-8")
    (tmp_path / "latin").write_bytes("héllo".encode("latin-1"))
    names = ("broken", "family", "cut", "tokenizer", "sampling", "plain")
    for name in names:
        shutil.copytree(model, tmp_path / name, copy_function=shutil.copyfile)
        for reference in (tmp_path / name).glob("reference*"):
            reference.unlink()
    (tmp_path / "broken/config.json").write_text("{", encoding="utf-8")
    (tmp_path / "family/config.json").write_text('{"model_type": "abacus"}', encoding="utf-8")
    weights = tmp_path / "cut/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (tmp_path / "tokenizer/tokenizer.json").write_text("{}", encoding="utf-8")
    strange = '{"temperature": "hot"}'
    (tmp_path / "sampling/generation_config.json").write_text(strange, encoding="utf-8")
    (tmp_path / "plain/chat_template.jinja").unlink()
    return tmp_path


def check(run, command, args, part, model, folder) -> None:
    filled = [arg.format(model=model, tmp=folder) for arg in args]
    ran = run(command, *filled)
    assert ran.code == 2
    assert ran.out == ""
    lines = ran.err.splitlines()
    assert lines[-1].startswith("error: ")
    assert part in lines[-1]
    assert [line for line in lines[:-1] if not line.startswith("warning: ")] == []
    as_json = run(command, *filled, "--json")
    assert as_json.code == 2
    assert json.loads(as_json.out) == {"error": lines[-1].removeprefix("error: ")}


@pytest.mark.parametrize("name", GENERATE)
def test_generate(run, model, folder, name):
    check(run, "generate", *GENERATE[name], model, folder)


@pytest.mark.parametrize("name", TRACE)
def test_trace(run, model, folder, name):
    check(run, "trace", *TRACE[name], model, folder)
    assert not (folder / "t").exists()


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("broken", "config.json"),
        ("family", "model_type"),
        ("cut", "model.safetensors"),
        ("tokenizer", "tokenizer.json"),
        ("none", "no such folder"),
    ],
)
def test_info(run, model, folder, name, part):
    check(run, "info", ("--model", f"{folder}/{name}"), part, model, folder)


def test_empty_stdin_is_an_empty_prompt(run, model):
    ran = run("generate", "--model", model, stdin="")
    assert ran.code == 2
    assert "prompt is empty" in ran.err


def test_stdin_that_is_no_text(run, model):
    ran = run("generate", "--model", model, stdin=b"\xff\xfe")
    assert ran.code == 2
    assert "standard input: expected UTF-8" in ran.err


def test_a_conversation_needs_a_terminal(run, model):
    # --json is for a program, which cannot answer; piped stdin would be a message
    ran = subprocess.run(
        [sys.executable, "-m", "tinymoe", "generate", "--chat", "--model", model],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: --chat without a prompt")


def test_not_a_number_is_refused_by_the_option(run):
    ran = run("generate", "hi", "--max-tokens", "many")
    assert ran.code == 2
    assert "--max-tokens" in ran.err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_that_may_not_be_written_to(run, model, tmp_path):
    tmp_path.chmod(0o500)
    ran = run("trace", "hi", "-o", str(tmp_path / "t"), "--model", model)
    tmp_path.chmod(0o700)
    assert ran.code == 2
    assert "may not be written" in ran.err


def test_debug_shows_where_it_came_from(run, model, monkeypatch):
    monkeypatch.setenv("TINYMOE_DEBUG", "1")
    ran = run("generate", "", "--model", model)
    assert ran.code == 2
    assert "Traceback" in ran.err
    assert ran.err.splitlines()[-1].startswith("error: ")
