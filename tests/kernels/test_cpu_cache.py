"""Machine code kept on disk: each kernel finds its own, whole, whoever else writes meanwhile.

Numba's own cache numbered the files of all functions that one `def` makes. Two processes that
compiled the products of two formats at once could both take number 1: then one format ran the
other's code. And code that is half written must never run.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tinymoe.kernels.cpu import disk, ready
from tinymoe.kernels.cpu.compile import machine_code
from tinymoe.kernels.cpu.every import every_kernel
from tinymoe.kernels.cpu.kernel import Kernel, helper
from tinymoe.kernels.cpu.link import put_in_memory
from tinymoe.kernels.cpu.simd import i64_at, put_i64

pytestmark = pytest.mark.kernels


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "cache" / f"kernels-{disk.key()}"


def add_one() -> Kernel:
    @helper
    def one_more(at):  # type: ignore[no-untyped-def]
        put_i64(at, i64_at(at) + 1)

    return one_more


def run(kernel: Kernel) -> int:
    number = np.array([6], np.int64)
    kernel(number.ctypes.data)
    return int(number[0])


def test_no_two_kernels_share_a_file() -> None:
    files = Counter(kernel.file for kernel in every_kernel())
    assert max(files.values()) == 1, files.most_common(3)
    assert {"multiply.multiply_nvfp4", "multiply.multiply_mxfp4"} <= set(files)


def test_what_was_compiled_is_found_by_the_next_process(folder: Path) -> None:
    first, second = add_one(), add_one()
    assert not second.ready
    assert run(first) == 7
    assert second.ready
    second.compile = None  # type: ignore[method-assign,assignment]  # it must not be called
    assert run(second) == 7


@pytest.mark.parametrize("keep", [0, 16, 32, 500])
def test_half_a_file_is_compiled_again(folder: Path, keep: int) -> None:
    # of a disk that was full, or a machine that went down
    assert run(add_one()) == 7
    (file,) = folder.glob("*.o")
    whole = file.read_bytes()
    assert keep < len(whole)
    file.write_bytes(whole[:keep])
    assert run(add_one()) == 7
    assert disk.load(file.stem) is not None


def test_a_change_of_what_code_depends_on_is_another_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = disk.key()
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    other = disk.key()
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "")
    assert len({before, other, disk.key()}) == 3


def test_another_machine_s_folder_is_not_this_one_s(monkeypatch: pytest.MonkeyPatch) -> None:
    # of one model, but AVX512 is hidden by what it runs on: its instructions would end the process
    before = disk._fixed.__wrapped__()
    assert before == disk._fixed.__wrapped__()
    less = disk.binding.get_host_cpu_features()
    some = next(name for name, has in less.items() if has)
    less[some] = False
    monkeypatch.setattr(disk.binding, "get_host_cpu_features", lambda: less)
    hidden = disk._fixed.__wrapped__()
    monkeypatch.setattr(disk.binding, "get_host_cpu_name", lambda: "znver5")
    assert len({before, hidden, disk._fixed.__wrapped__()}) == 3


def test_where_nothing_can_be_kept_kernels_are_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a file where the folder should be: even root cannot write into it
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert disk.writable() is None
    assert not disk.store("a", b"code")
    assert disk.load("a") is None
    assert not ready.is_ready()
    assert not ready.start_compiling()
    kernel = add_one()
    ready.compile_all([kernel])
    assert run(kernel) == 7


def test_home_serves_where_the_first_folder_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert disk.store("a", b"code")
    assert disk.load("a") == b"code"
    assert (tmp_path / "home" / "tinymoe").is_dir()


def test_work_that_another_has_claimed_is_left_to_it_but_not_for_ever(folder: Path) -> None:
    kernel = add_one()
    folder.mkdir(parents=True)
    busy = folder / f"{kernel.file}.busy"
    busy.touch()
    os.utime(busy, (time.time() - ready.STALE + 0.3,) * 2)  # whoever it was died
    begin = time.monotonic()
    ready.compile_all([kernel])
    assert time.monotonic() - begin >= 0.2
    assert run(kernel) == 7
    assert not busy.exists()


@pytest.mark.skipif(os.name != "posix", reason="elsewhere nobody can ask for a process")
def test_work_that_a_process_claimed_and_was_killed_is_taken_up_at_once(folder: Path) -> None:
    # one that had no memory left, or a container that was stopped: the next start took a minute
    killed = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    kernel = add_one()
    folder.mkdir(parents=True)
    busy = folder / f"{kernel.file}.busy"
    busy.write_text(str(killed.pid))
    assert ready._claimed(busy)
    with killed:
        killed.kill()
    assert not ready._claimed(busy)
    ready.compile_all([kernel])
    assert run(kernel) == 7
    assert not busy.exists()


def test_several_processes_share_the_work(folder: Path) -> None:
    # of which one compiles what the other wants
    names = ["threads.follow", "threads.lead"]
    command = [sys.executable, "-m", "tinymoe.kernels.cpu.ready"]
    children = [subprocess.Popen([*command, *order]) for order in (names, names[::-1])]
    assert [child.wait(120) for child in children] == [0, 0]
    assert sorted(file.name for file in folder.iterdir()) == [f"{name}.o" for name in names]


def test_two_files_may_use_one_name_for_two_functions() -> None:
    # Numba numbers functions from 1 in each process: names inside two files may well be equal
    @helper
    def five(at):  # type: ignore[no-untyped-def]
        put_i64(at, 5)

    codes = [machine_code(k.function, 1, "same") for k in (add_one(), five)]
    kind, number = ctypes.CFUNCTYPE(None, ctypes.c_int64), np.zeros(1, np.int64)
    first, second = (kind(put_in_memory({"same": code})["same"]) for code in codes)
    second(number.ctypes.data)
    first(number.ctypes.data)
    assert number[0] == 6


def test_a_kernel_that_needs_numba_s_runtime_is_refused() -> None:
    # its machine code would look for what a process without Numba has not, and end it
    @helper
    def makes_an_array(n):  # type: ignore[no-untyped-def]
        put_i64(n, len(np.zeros(i64_at(n))))

    with pytest.raises(TypeError, match="makes_an_array calls .*NRT"):
        assert makes_an_array.address
