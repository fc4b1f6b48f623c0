"""Models with packed weights beside them, for tests of `kernels/cpu/repack_cache.py`."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import tinymoe
from tests.stored import ROOT
from tinymoe.checkpoint import Checkpoint
from tinymoe.core import Array
from tinymoe.kernels.cpu.repack_cache import RepackCache
from tinymoe.kernels.cpu.weights import Weights

CASE = "gpt_oss-mxfp4"


def copied(folder: Path, case: str = CASE) -> Path:
    shutil.copytree(ROOT / case, folder)
    return folder


def params_of(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of checkpoints' own oddities: tested elsewhere
        return tinymoe.load(folder, backend="numba").params


def through(folder: Path, threads: int = 1) -> tuple[Weights, RepackCache]:
    """What a run with a cache computes with; `said` is empty where nothing was written."""
    params = params_of(folder)
    cache = RepackCache(Checkpoint.open(folder))
    return cache.weights(params, threads), cache


def arrays_of(weights: Weights) -> list[Array]:
    found = []
    for packed in weights.matrices:
        found += [packed.data] + ([] if packed.row_scales is None else [packed.row_scales])
    return found


def alike(one: Weights, other: Weights) -> bool:
    pairs = zip(one.matrices, other.matrices, strict=True)
    same = all(a.form is b.form and a.columns == b.columns for a, b in pairs)
    arrays = zip(arrays_of(one), arrays_of(other), strict=True)
    return same and all(np.array_equal(a, b) for a, b in arrays)


def left(folder: Path) -> set[str]:
    return {file.name for file in (folder / ".tinymoe").iterdir()} - {"sha256.json"}


def flipped(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 4
    file.write_bytes(content)


def changed(folder: Path) -> None:
    """One bit of a weight, in a file of the same size and the same time of change."""
    file = folder / "model.safetensors"
    before = file.stat()
    flipped(file, -1)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def reconfigured(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(
        json.dumps({**config, "_name_or_path": "elsewhere"}), "utf-8"
    )
