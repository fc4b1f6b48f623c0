"""Are the kernels compiled? If not: who compiles them, how many at a time, and who is told.

Numba compiles one function at a time in a process, so several processes share the work: each walks
through a list, claims a kernel, compiles it and leaves it on disk (`disk.py`) for all. Nothing
here imports Numba before something must be compiled, so that asking takes no time.

    python -m tinymoe.kernels.cpu.ready        compile everything now
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinymoe.kernels.cpu import disk
from tinymoe.kernels.cpu.cores import physical_cores

if TYPE_CHECKING:
    from tinymoe.kernels.cpu.kernel import Kernel

STALE = 60.0  # seconds after which somebody who claimed a kernel is believed no longer
STALE_ALL = 600.0  # the same, of all kernels
FEW = 2  # kernels that are compiled sooner than another process has started
PROCESSES = 4  # at most: there are some twenty kernels, and one takes a third of the time
LONG_FIRST = ("attention", "routing", "linear", "multiply")  # modules whose kernels take longest

_left_alone: list[subprocess.Popen[bytes]] = []  # kept: one that is dropped would be a warning
Report = Callable[[int, int], None]  # kernels that are there, and how many there shall be


def is_ready() -> bool:
    """All kernels there are were compiled and kept."""
    return any((folder / "all").exists() for folder in disk.folders())


def start_compiling() -> bool:
    """Compile everything in processes of their own, which go on by themselves; False: cannot.

    They are polite: they take what others leave of the CPU. Who is at it already is left to it.
    """
    folder = disk.writable()
    if folder is None:
        return False
    if not _claim(folder / "all.busy", STALE_ALL):
        return True
    process = _start("--all")
    if process is not None:
        _left_alone.append(process)
        with contextlib.suppress(OSError):
            (folder / "all.busy").write_text(str(process.pid))  # this process will soon be gone
    return process is not None


def compile_all(kernels: Sequence[Kernel], report: Report | None = None) -> None:
    """See that all of these are in memory; compile those that are not on disk, with helpers."""
    from tinymoe.kernels.cpu.kernel import put_all_in_memory

    wanted = sorted((kernel for kernel in kernels if not kernel.ready), key=_patience)
    helpers = []
    if len(wanted) > FEW and disk.writable() is not None:
        for number in range(min(physical_cores(), PROCESSES) - 1):  # each begins elsewhere
            order = wanted[number:] + wanted[:number]
            helpers.append(_start(*(kernel.file for kernel in order)))
    for _ in _compiled(wanted[::-1]):  # the shortest first, so that there is soon news
        if report is not None:
            report(sum(kernel.ready for kernel in wanted), len(wanted))
    for helper in helpers:  # they find nothing left to do
        if helper is not None:
            helper.wait()
    put_all_in_memory(kernels)


def _patience(kernel: Kernel) -> int:
    """Where a kernel stands in line: those that take longest first, so that none is left alone."""
    module = kernel.file.partition(".")[0]
    return LONG_FIRST.index(module) if module in LONG_FIRST else len(LONG_FIRST)


def _compiled(kernels: Sequence[Kernel]) -> Iterator[None]:
    """Compile what nobody else has compiled or is compiling; then wait for the others' work.

    It comes back whenever one more is done.
    """
    folder, left = disk.writable(), []
    for kernel in kernels:
        if kernel.ready:
            continue
        if folder is None:
            assert kernel.address  # nowhere but in memory
        elif not _claim(_busy(folder, kernel)):
            left.append(kernel)
            continue
        else:
            _compile(kernel, folder)
        yield
    for kernel in left:
        assert folder is not None
        while _claimed(_busy(folder, kernel)) and not kernel.ready:
            time.sleep(0.02)
        if not kernel.ready:  # whoever claimed it has failed
            _compile(kernel, folder)
        yield


def _compile(kernel: Kernel, folder: Path) -> None:
    try:
        kernel.compile()
    finally:
        _busy(folder, kernel).unlink(missing_ok=True)


def _busy(folder: Path, kernel: Kernel) -> Path:
    """The file by which a kernel is claimed."""
    return folder / f"{kernel.file}.busy"


def _claim(file: Path, stale: float = STALE) -> bool:
    """Say that this process will do it; False: another has said so."""
    if _claimed(file, stale):
        return False
    try:
        file.unlink(missing_ok=True)
        mine = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except OSError:
        return False
    with contextlib.suppress(OSError):  # the disk is full: an empty file says it, too
        os.write(mine, str(os.getpid()).encode())
    os.close(mine)
    return True


def _claimed(file: Path, stale: float = STALE) -> bool:
    try:
        return time.time() - file.stat().st_mtime < stale and _alive(file.read_text())
    except OSError:
        return False


def _alive(pid: str) -> bool:
    """Nobody waits for a process that was killed and could not say so; an empty file: who knows."""
    if not pid.isdigit() or os.name != "posix":  # elsewhere to ask is to end it
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def _start(*arguments: str) -> subprocess.Popen[bytes] | None:
    """Run this module as a process; None: there can be none."""
    if not sys.executable:
        return None
    command = [sys.executable, "-m", "tinymoe.kernels.cpu.ready", *arguments]
    nothing = subprocess.DEVNULL
    try:
        return subprocess.Popen(
            command, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True
        )
    except OSError:
        return None


def main(arguments: list[str]) -> None:
    """`FILE...`: those kernels, in that order. Without: all, `--all` as a process nobody awaits."""
    from tinymoe.kernels.cpu.every import every_kernel

    kernels = list(every_kernel())
    if arguments and arguments != ["--all"]:
        by_file = {kernel.file: kernel for kernel in kernels}
        for _ in _compiled([by_file[name] for name in arguments if name in by_file]):
            pass
        return
    if arguments and hasattr(os, "nice"):
        os.nice(10)
    compile_all(kernels, None if arguments else _say)
    folder = disk.writable()
    if folder is not None:
        (folder / "all").touch()
        (folder / "all.busy").unlink(missing_ok=True)


def _say(done: int, of: int) -> None:
    print(f"{done} of {of} kernels compiled", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
