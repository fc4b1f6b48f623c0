"""Where packed weights are kept, and the hashes that say of which model they are.

Prevents: a folder that may not be written to as an error, a disk that is filled, half a file under
a whole one's name, two processes that spoil each other's, gigabytes hashed at every start.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.repacking import alike, changed, copied, left, params_of, reconfigured, through
from tinymoe.checkpoint import Checkpoint
from tinymoe.core import Array
from tinymoe.kernels.cpu import repack_cache, repack_key
from tinymoe.kernels.cpu.lay_out import weights_of
from tinymoe.kernels.cpu.repack_cache import RepackCache
from tinymoe.safetensors_writer import SafetensorsWriter

pytestmark = pytest.mark.kernels


def test_a_file_is_hashed_once_while_nobody_writes_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, hashed = copied(tmp_path / "model"), []
    checkpoint = Checkpoint.open(folder)

    def digest() -> str:
        return repack_key.source_digest(
            checkpoint, tmp_path / "memo", lambda done, of: hashed.append(done)
        )

    first = digest()
    assert digest() == first
    assert len(hashed) == 2  # written a moment ago: not remembered
    monkeypatch.setattr(repack_key, "SETTLED", -60.0)
    assert digest() == digest() == first
    assert len(hashed) == 3
    (tmp_path / "memo" / "sha256.json").write_text('{"model.safetensors": [1, 2]}')
    assert digest() == first
    (tmp_path / "memo" / "sha256.json").write_text("[")
    assert digest() == first
    assert len(hashed) == 5
    changed(folder)
    assert digest() != first


# ------------------------------------------------------------------------------- where it is kept


def no_space(*_: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_no_place_to_write_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where the folder should be, a full disk, one that fills up, one that is read-only."""
    folder = copied(tmp_path / "model")
    fresh = weights_of(params_of(folder))

    def told(why: str) -> None:
        with pytest.warns(UserWarning, match=f"packed weights are not kept: {why}"):
            weights, cache = through(folder)
        assert alike(fresh, weights)
        assert cache.said == ""

    (folder / ".tinymoe").write_text("")
    told("File exists")
    (folder / ".tinymoe").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))  # type: ignore[attr-defined]
        told("0.3 MB are needed on its disk, 0.0 MB are free")
    with monkeypatch.context() as patch:
        patch.setattr(SafetensorsWriter, "write", no_space)
        told("No space left")
    with monkeypatch.context() as patch:

        def refuse(*_: Any, **__: Any) -> Any:
            raise PermissionError(errno.EACCES, "Permission denied")

        patch.setattr(repack_cache, "SafetensorsWriter", refuse)
        told("Permission denied")
    assert left(folder) == set()


def test_an_interrupted_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(tmp_path / "model")
    before = through(folder)[1].path.read_bytes()
    reconfigured(folder)
    written, real = [], SafetensorsWriter.write

    def interrupted(self: SafetensorsWriter, name: str, values: Array) -> None:
        written.append(name)
        if len(written) == 3:
            raise KeyboardInterrupt
        real(self, name, values)

    monkeypatch.setattr(SafetensorsWriter, "write", interrupted)
    with pytest.warns(UserWarning, match="of other weights"), pytest.raises(KeyboardInterrupt):
        through(folder)
    assert left(folder) == {"packed.safetensors"}
    assert (folder / ".tinymoe" / "packed.safetensors").read_bytes() == before


def test_parts_that_a_killed_process_left_are_removed(tmp_path: Path) -> None:
    """Not those that somebody may be writing just now."""
    folder = copied(tmp_path / "model")
    (folder / ".tinymoe").mkdir()
    for name, age in (("old.part", 2 * repack_cache.ABANDONED), ("new.part", 0.0)):
        file = folder / ".tinymoe" / name
        file.write_text("half")
        then = file.stat().st_mtime - age
        os.utime(file, (then, then))
    through(folder)
    assert left(folder) == {"packed.safetensors", "new.part"}


def test_several_at_once_are_safe(tmp_path: Path) -> None:
    """Threads that write and read over each other; then processes."""
    folder = copied(tmp_path / "model")
    fresh, found = weights_of(params_of(folder)), []
    params = params_of(folder)

    def work() -> None:
        found.append(RepackCache(Checkpoint.open(folder)).weights(params, 1))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 4
    assert all(alike(fresh, weights) for weights in found)
    (folder / ".tinymoe" / "packed.safetensors").unlink()
    program = (
        "import sys, tinymoe; from tinymoe.checkpoint import Checkpoint; "
        "from tinymoe.kernels.cpu.repack_cache import RepackCache; "
        "params = tinymoe.load(sys.argv[1], backend='numba').params; "
        "RepackCache(Checkpoint.open(sys.argv[1])).weights(params, 1)"
    )
    command = [sys.executable, "-W", "ignore", "-c", program, str(folder)]
    running = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(120) for process in running] == [0, 0]
    weights, cache = through(folder)
    assert cache.said == ""
    assert alike(fresh, weights)
    assert left(folder) == {"packed.safetensors"}
