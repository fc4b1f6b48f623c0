"""A child process with limits, for programs that come with a checkpoint and have to be run.

A chat template is a program. A regular expression of a tokenizer can be one: some backtrack for
years. No check of their text can tell (a loop may be as long as the messages, or as 10**9), so
they run where they can be stopped: in a process with a limit of time for each answer and a limit
of memory. What goes in and comes out is JSON, one line each.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock, Timer
from typing import Any, Literal

from tinymoe.core import TinymoeError

SECONDS = 5.0  # for each answer; an honest template or tokenizer needs a few thousandths
STARTUP = 120.0  # for our own imports, on a busy machine
MEMORY = 2**30  # bytes of data in the child
MAX_REPLY = 2**26  # characters

# reads requests until its input ends
_PROGRAM = "from tinymoe.guard import serve; serve()"


class Guarded:
    """A part of tinymoe at work in a child process; started when first asked, and after a stop."""

    def __init__(
        self,
        module: Literal["chat", "tokenizer_file"],
        setup: Any,
        where: Path,
        unreadable: str,
    ) -> None:
        """`module`: the one whose `in_child(setup)` gives what answers.

        Errors begin with `where`; `unreadable` introduces those of the setup.
        """
        self._module, self._setup, self._where = module, setup, where
        self._unreadable, self._lock = unreadable, Lock()  # one question at a time
        self._process: subprocess.Popen[str] | None = None

    def ask(self, request: Any, failed: str) -> Any:
        """The answer to a request; `failed` introduces the child's error, if it has one.

        Raises `TinymoeError` for an error in the child, an answer that takes more than SECONDS,
        and a child that needs more than MEMORY: then it is stopped.
        """
        try:
            line = json.dumps(request, default=_plain)
        except (TypeError, ValueError, RecursionError) as error:
            raise TinymoeError(
                f"{self._where}: expected text, numbers, lists and objects as in JSON: {error}"
            ) from None
        with self._lock:
            if self._process is None:
                self._start()
            return self._exchange(line, SECONDS, failed)

    def _start(self) -> None:
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a panic of the library prints its stack
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            text=True,
            encoding="utf-8",
        )
        self._close = weakref.finalize(self, _end, self._process)
        self._exchange(None, STARTUP, self._unreadable)
        try:
            self._exchange(json.dumps(self._setup), SECONDS, self._unreadable)
        except TinymoeError:
            self._stop()
            raise

    def _exchange(self, line: str | None, seconds: float, failed: str) -> Any:
        """One line out, one line back, within the time."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise TinymoeError(f"{self._where}: expected a running child process, found none")
        timer = Timer(seconds, process.kill)
        timer.start()
        try:
            if line is not None:
                process.stdin.write(line + "\n")
                process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:
            answer = ""
        finally:
            timer.cancel()
        if not answer.endswith("\n"):
            self._stop()
            raise TinymoeError(
                f"{self._where}: {failed}: stopped, as it took more than {seconds:g} seconds or "
                f"{MEMORY:,} bytes of memory. Nothing honest does: do not trust this model's files"
            )
        reply = json.loads(answer)
        if "error" in reply:
            raise TinymoeError(f"{self._where}: {failed}: {reply['error']}")
        return reply["ok"]

    def _stop(self) -> None:
        self._close()
        self._process = None


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:  # what was still to be written to it
                continue


def _plain(value: Any) -> Any:
    """Mappings and sequences of any class as JSON's own."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"found {type(value).__name__}")


# ------------------------------------------------------------------------------- in the child


def serve() -> None:
    """Answer lines of standard input until it ends."""
    make, answer = importlib.import_module(f"tinymoe.{sys.argv[1]}").in_child, None
    _limit_memory()
    _say({"ok": None})
    for line in sys.stdin:
        _alarm(SECONDS)
        try:
            if answer is None:
                answer, value = make(json.loads(line)), None
            else:
                value = answer(json.loads(line))
            reply: dict[str, Any] = {"ok": value}
        except BaseException as error:  # a panic in Rust is no Exception
            reply = {"error": f"{type(error).__name__}: {error}"[:1000]}
        _say(reply)
        _alarm(0)


def _say(reply: dict[str, Any]) -> None:
    text = json.dumps(reply)
    if len(text) > MAX_REPLY:
        text = json.dumps({"error": f"its result has more than {MAX_REPLY:,} characters"})
    print(text, flush=True)


def _limit_memory() -> None:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


def _alarm(seconds: float) -> None:
    """End this process in so many seconds, should the parent be gone by then; 0: do not."""
    if sys.platform != "win32":
        import signal

        signal.setitimer(signal.ITIMER_REAL, 2 * seconds)
