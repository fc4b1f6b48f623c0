"""The threads of a backend: the caller's own and some helpers, who sleep when there is no work."""

from __future__ import annotations

import os
import threading
import weakref

import numpy as np

from tinymoe.core import Array, TinymoeError
from tinymoe.kernels.cpu.cores import physical_cores as physical_cores
from tinymoe.kernels.cpu.program import Code
from tinymoe.kernels.cpu.threads import LINE, OWN, STEPS, follow, lead


class _Shared:
    """What helpers hold, so that a team that nobody holds any more can end them."""

    def __init__(self, threads: int) -> None:
        size = OWN + LINE * threads
        space = np.zeros(size + LINE, np.int64)
        start = -space.ctypes.data % 64 // 8  # at a cache line's beginning
        self.words: Array = space[start : start + size]
        self.address = self.words.ctypes.data
        self.woken = threading.Condition()
        self.sleepers = 0
        self.coming = False  # a step is, or is under way: nobody goes to sleep
        self.ended = False

    def end(self) -> None:
        """Helpers leave at their next look."""
        with self.woken:
            self.ended = True
            self.woken.notify_all()


class Team:
    """`threads` threads that run a program's instructions together, step after step."""

    def __init__(self, threads: int | None = None) -> None:
        """`threads`: None is `physical_cores()`. Helpers start with the first step."""
        if threads is not None and threads < 1:
            raise TinymoeError(f"threads must be at least 1, got {threads}")
        self.threads = threads or physical_cores()
        self._pid = 0
        self._shared = _Shared(self.threads)

    def run(self, code: Code, batch: int) -> None:
        """One step: every instruction of `code`, helped by all, to its end."""
        if self._pid != os.getpid():  # the first step, or a forked process: threads stay behind
            self._start()
        shared = self._shared
        shared.coming = True
        try:
            if shared.sleepers:  # who is not asleep yet looks before it sleeps
                with shared.woken:
                    shared.woken.notify_all()
            lead(shared.address, code.address, code.length, batch, self.threads)
        finally:
            shared.coming = False

    @property
    def sleepers(self) -> int:
        """Helpers that sleep until there is work."""
        return self._shared.sleepers

    def _start(self) -> None:
        self._shared, self._pid = _Shared(self.threads), os.getpid()
        weakref.finalize(self, self._shared.end)
        for number in range(1, self.threads):
            threading.Thread(
                target=_help,
                args=(self._shared, number, self.threads),
                name=f"tinymoe-{number}",
                daemon=True,
            ).start()


def _help(shared: _Shared, number: int, threads: int) -> None:
    """A helper's life: run the steps that come; sleep when none has come for a while."""
    words, seen = shared.words, OWN + LINE * number + 1
    while not shared.ended:
        follow(shared.address, number, threads)
        with shared.woken:
            shared.sleepers += 1  # first said, then looked: a step that comes is not missed
            while words[STEPS] == words[seen] and not (shared.coming or shared.ended):
                shared.woken.wait()
            shared.sleepers -= 1
