"""Real processes: closed pipes, Ctrl-C, terminals, encodings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

TINYMOE = [sys.executable, "-m", "tinymoe"]
LONG = ("--max-tokens", "250", "--ignore-eos", "--numerics", "exact")
POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and pseudo-terminals")


def environment(**extra: str) -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "PYTHONIOENCODING")}
    return {**plain, "TERM": "xterm", **extra}


@POSIX
@pytest.mark.parametrize(
    "call", ["generate Hello", "generate Hello --json", "info", "trace Hi --list"]
)
def test_a_reader_that_has_left_is_no_error(call, model):
    # `| head -c 10` must not end in a BrokenPipeError, nor in one more when Python shuts down
    read, write = os.pipe()
    os.close(read)
    ran = subprocess.run(
        [*TINYMOE, *call.split(), "--model", model],
        stdin=subprocess.DEVNULL,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert ran.stderr == ""
    assert ran.returncode == 0


@POSIX
@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&-"])
def test_a_stream_that_was_closed_before_is_no_error(closed, model):
    # Python's stdout is None then: a text's first letter ended in an AttributeError
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    ran = subprocess.run(
        [*shell, *TINYMOE, "generate", "Hello", "--model", model],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, b"")


@POSIX
def test_ctrl_c_ends_with_130_and_no_traceback(model):
    # sixty-four long answers in float64 take seconds, the signal comes with the first letter
    process = subprocess.Popen(
        [*TINYMOE, "generate", *["Hello"] * 64, "--model", model, *LONG, "--stats"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # read(1) takes one byte, and leaves the rest for communicate
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # `pytest &` ignores it
    )
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert out.endswith(b"\n")
    assert b"interrupted" in err  # the stats of what there is


def on_terminal(args: list[str], typed: bytes = b"", **extra: str) -> tuple[int, str]:
    """Exit code and what a terminal of 80 columns shows."""
    import pty  # not on Windows

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        args, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(**extra), close_fds=True
    )
    os.close(theirs)
    os.write(ours, typed)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # Linux: the other end is closed
        pass
    os.close(ours)
    return process.wait(timeout=60), shown.decode().replace("\r\n", "\n")


GREEDY = ["--temperature", "0", "--max-tokens", "5"]


@POSIX
def test_a_terminal_shows_the_prompt_dim(model):
    code, shown = on_terminal([*TINYMOE, "generate", "Hello", "--model", model, *GREEDY])
    assert code == 0
    assert shown.startswith("\x1b[2mHello\x1b[0m")
    assert shown.endswith("\n")


@POSIX
def test_no_color_and_no_echo(model):
    call = [*TINYMOE, "generate", "Hello", "--model", model, *GREEDY]
    code, shown = on_terminal(call, NO_COLOR="1")
    assert code == 0
    assert shown.startswith("Hello")
    assert "\x1b" not in shown
    assert not on_terminal([*call, "--no-echo"])[1].startswith("\x1b[2mHello")


@POSIX
def test_a_text_does_not_move_the_cursor(model):
    # an escape sequence in a text could clear the screen, or forge what stands above it
    code, shown = on_terminal([*TINYMOE, "generate", "a\x1b[2Jb", "--model", model, *GREEDY])
    assert code == 0
    assert "\x1b[2J" not in shown


@POSIX
def test_no_prompt_on_a_terminal_takes_one_and_says_so(model):
    code, shown = on_terminal([*TINYMOE, "generate", "--model", model, *GREEDY], NO_COLOR="1")
    assert code == 0
    first, second = shown.splitlines()[:2]
    assert "no prompt given" in first
    assert second.startswith("Once upon a time")


@POSIX
def test_a_conversation(model):
    call = [*TINYMOE, "generate", "--chat", "--model", model, *GREEDY]
    code, shown = on_terminal(call, b"Hello\n/new\n\nagain\n/quit\n", NO_COLOR="1")
    assert code == 0
    assert shown.count("> ") >= 5
    assert "a new conversation" in shown


@POSIX
def test_a_conversation_survives_a_message_that_is_too_long(model):
    call = [*TINYMOE, "generate", "--chat", "--model", model, *GREEDY]
    code, shown = on_terminal(call, b"a b " * 150 + b"\nHello\n/quit\n", NO_COLOR="1")
    assert code == 0
    assert "256 positions" in shown.partition("error: ")[2].partition("> ")[0]


def test_a_terminal_without_the_letters(model):
    ran = subprocess.run(
        [*TINYMOE, "generate", "Hello", "--model", model, "--seed", "3", "--stats"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(PYTHONIOENCODING="ascii", PYTHONUTF8="0"),
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert (ran.stdout + ran.stderr).isascii()
    assert b"9 the layer's busiest" in ran.stderr


def test_piped_output_has_no_colour(model):
    # a seed, as this untrained model may by itself write an escape and a bracket in a row
    ran = subprocess.run(
        [*TINYMOE, "generate", "Hello", "Tom", "--model", model, "--seed", "3", "--stats"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(),
        check=False,
    )
    assert ran.returncode == 0
    assert b"\x1b[" not in ran.stdout + ran.stderr
