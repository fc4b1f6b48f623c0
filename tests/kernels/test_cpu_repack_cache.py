"""Packed weights beside their model: the same bits, and nothing is believed that a hash denies.

Prevents: weights of yesterday's checkpoint, or of another layout; a flipped bit that becomes a
wrong word; a file that was cut off while it was written; a second copy in memory; an error where
there is no place to write.
"""

from __future__ import annotations

import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.low_precision import made
from tests.repacking import (
    CASE,
    alike,
    arrays_of,
    changed,
    copied,
    flipped,
    left,
    params_of,
    reconfigured,
    through,
)
from tests.stored import ROOT
from tests.stored import write as write_checkpoint
from tinymoe.api import shipped_model
from tinymoe.checkpoint import Checkpoint
from tinymoe.kernels.cpu import repack_cache, repack_key
from tinymoe.kernels.cpu.lay_out import weights_of
from tinymoe.kernels.cpu.repack_cache import RepackCache

pytestmark = pytest.mark.kernels
# ------------------------------------------------------------------------------- the same weights


@pytest.mark.parametrize("case", [CASE, "deepseek_v3", "granitemoeshared", "ct NVFP4A16"])
def test_the_bits_are_those_that_are_packed(case: str, tmp_path: Path) -> None:
    """On any number of threads: MXFP4, latent attention, a tied head, NVFP4 with its factors."""
    folder = tmp_path / "model"
    if (ROOT / case).is_dir():
        copied(folder, case)
    else:
        checkpoint = made(case)
        write_checkpoint(folder, checkpoint.low, checkpoint.config)
    fresh = weights_of(params_of(folder))
    first, wrote = through(folder, threads=2)
    again, read = through(folder, threads=1)
    assert str(wrote.path) in wrote.said
    assert read.said == ""
    assert alike(fresh, first)
    assert alike(fresh, again)
    assert (fresh.head is fresh.embed) == (again.head is again.embed)
    assert left(folder) == {"packed.safetensors"}
    through(folder, threads=3)
    assert all(array.ctypes.data % 32 == 0 for array in arrays_of(again))


def test_what_is_kept_is_mapped_and_not_copied(tmp_path: Path) -> None:
    """Bytes held besides the map: norms, and Python's own. A copy would be 100 %."""
    for file in shipped_model().glob("*.[js]*"):
        shutil.copy(file, tmp_path)
    weights = through(tmp_path)[0]
    tiles = sum(matrix.nbytes for matrix in weights.matrices)
    params, cache = params_of(tmp_path), RepackCache(Checkpoint.open(tmp_path))
    tracemalloc.start()
    try:
        again = cache.weights(params, 2)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert alike(weights, again)
    assert held < 0.02 * tiles
    assert not any(array.flags.writeable for array in arrays_of(again))


# ------------------------------------------------------------------------------- what is refused


def in_a_hash(file: Path) -> None:
    flipped(file, file.read_bytes().index(b"sha256") + 40)


def cut_off(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


FAULTS: dict[str, Callable[[Path], None]] = {
    "a bit of the last matrix": lambda file: flipped(file, -1),
    "a bit in the middle": lambda file: flipped(file, file.stat().st_size // 2),
    "a bit of a hash": in_a_hash,
    "the header's length": lambda file: flipped(file, 0),
    "cut off": cut_off,
    "cut off in the header": lambda file: os.truncate(file, 100),
    "empty": lambda file: os.truncate(file, 0),
    "another file": lambda file: file.write_bytes(b"\x02\0\0\0\0\0\0\0{}"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_file_is_told_and_replaced(fault: str, tmp_path: Path) -> None:
    folder = copied(tmp_path / "model")
    fresh, cache = through(folder)
    FAULTS[fault](cache.path)
    with pytest.warns(UserWarning, match=r"packed\.safetensors.*: packed anew") as told:
        mended, again = through(folder)
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    assert again.said
    assert alike(fresh, mended)
    assert through(folder)[1].said == ""


@pytest.mark.parametrize("change", [changed, reconfigured])
def test_another_checkpoint_is_packed_anew(
    change: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where hashes are remembered at once."""
    monkeypatch.setattr(repack_key, "SETTLED", -60.0)
    folder = copied(tmp_path / "model")
    cache = through(folder)[1]
    assert cache.state()["state"] == "current"
    change(folder)
    assert cache.state()["state"] != "current"
    with pytest.warns(UserWarning, match="of other weights: packed anew"):
        weights = through(folder)[0]
    assert alike(weights, weights_of(params_of(folder)))
    assert through(folder)[1].said == ""


def test_another_layout_is_packed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied(tmp_path / "model")
    cache = through(folder)[1]
    monkeypatch.setattr(repack_cache, "layout_digest", lambda: "0" * 64)
    assert cache.state()["state"] == "of another version of tinymoe"
    with pytest.warns(UserWarning, match="of another version of tinymoe: packed anew"):
        through(folder)


def test_the_layout_is_that_of_its_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = repack_key.layout_digest()
    shutil.copytree(Path(repack_key.__file__).parent, tmp_path / "cpu")
    monkeypatch.setattr(repack_key, "__file__", str(tmp_path / "cpu" / "repack_key.py"))
    assert repack_key.layout_digest() == before
    with (tmp_path / "cpu" / "packed.py").open("a") as file:
        file.write("# another word\n")
    assert repack_key.layout_digest() != before


def test_matrices_of_other_shapes_are_not_taken(tmp_path: Path) -> None:
    """A file may be whole, under the right hashes, and made by somebody else: kernels would read
    behind its end."""
    folder = copied(tmp_path / "model")
    fresh, cache = through(folder)
    file = repack_cache.SafetensorsFile(cache.path)
    key = {name: file.metadata[name] for name in ("tinymoe", "source", "layout")}
    kept = repack_cache.read(cache.path, key, 1, lambda done, of: None)
    name = "layers.0.ffn.gate_up"
    for other in ("layers.0.ffn.down", "layers.0.attention.out"):
        repack_cache.write(cache.path, {**kept, name: kept[other]}, key, 1, lambda done, of: None)
        mended, again = through(folder)
        assert again.said
        assert alike(fresh, mended)
