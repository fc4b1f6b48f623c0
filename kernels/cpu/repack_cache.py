"""Packed weights kept beside their model, to be mapped into memory instead of packed again.

    MODEL/.tinymoe/packed.safetensors   the tiles, one tensor (E, pairs, bytes of a pair) a matrix,
                                        and (E, rows of the pairs) factors where it has some
    MODEL/.tinymoe/sha256.json          hashes of the model's files: see `repack_key.py`

Written only if somebody asks, to a file of another name that is then renamed, so that a name
stands for a whole file; of two processes that write, the last one's stays, and who has the other
one mapped keeps it. To be rid of it: delete the folder.

What is checked each time before a weight is used:

- the header: made by the same layout, of the same source (`repack_key.py`), under its own SHA-256;
- every tensor's SHA-256, on all threads: this also brings the file into memory;
- every matrix's shape, against what the model's config asks for.

What does not pass is told in a line, packed from the checkpoint, and replaced.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import Array, TinymoeError
from tinymoe.kernels.cpu.lay_out import weights_of
from tinymoe.kernels.cpu.packed import Packed, order_of
from tinymoe.kernels.cpu.repack_key import layout_digest, remembered, source_digest
from tinymoe.kernels.cpu.tiles import FORMATS, ROWS
from tinymoe.kernels.cpu.weights import Weights
from tinymoe.model.params import Params
from tinymoe.safetensors_file import SafetensorsFile
from tinymoe.safetensors_writer import SafetensorsWriter, Spec

FOLDER, NAME = ".tinymoe", "packed.safetensors"
FACTORS = ".row_scales"
LINE = 64  # bytes of a cache line: all sizes are whole ones, or halves where blocks have 4 bits
ABANDONED = 3600.0  # seconds without a write after which a part of a file is nobody's

Report = Callable[[str, int, int], None]  # what is being done, and how much of how much


class RepackCache:
    """The packed weights of one checkpoint. `said`: what its user should know, in a line."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint, self.folder = checkpoint, checkpoint.path / FOLDER
        self.path = self.folder / NAME
        self.said = "repack cache: nothing to keep, this model runs op by op (info --backend numba)"

    def weights(self, params: Params, threads: int, report: Report | None = None) -> Weights:
        """From the file where it is good, else packed now and, if that can be, kept."""
        self.said = ""

        def told(what: str) -> Callable[[int, int], None]:
            return lambda done, of: None if report is None else report(what, done, of)

        source = source_digest(self.checkpoint, self.folder, told("hashing the model's files"))
        key = {"tinymoe": "packed weights", "source": source, "layout": layout_digest()}
        found: dict[str, Packed] = {}
        if self.path.exists():
            try:
                found = read(self.path, key, threads, told("checking packed weights"))
            except (TinymoeError, OSError) as error:
                _warn(f"{error}: packed anew")
        shelf = Shelf(found)
        what = "laying out weights" if not found else "reading norms and biases"
        weights = weights_of(params, told(what), threads=threads, shelf=shelf)
        if shelf.new:
            self._keep(shelf.all, key, threads, told("keeping packed weights"))
        return weights

    def _keep(
        self,
        matrices: Mapping[str, Packed],
        key: Mapping[str, str],
        threads: int,
        progress: Callable[[int, int], None],
    ) -> None:
        """Write it, or say why that cannot be: the weights in memory are as good."""
        size = sum(matrix.nbytes for matrix in matrices.values())
        try:
            self.folder.mkdir(exist_ok=True)
            sweep(self.folder)
            free = shutil.disk_usage(self.folder).free
            if free < 1.01 * size:
                raise OSError(f"{_mega(size)} are needed on its disk, {_mega(free)} are free")
            write(self.path, matrices, key, threads, progress)
        except OSError as error:
            _warn(f"{self.folder}: packed weights are not kept: {error.strerror or error}")
        else:
            self.said = f"packed weights kept: {self.path}, {_mega(size)}"

    def state(self) -> dict[str, Any]:
        """For `info`: where it is, its bytes, and what is known of it without reading weights."""
        if not self.path.exists():
            return {"path": str(self.path), "nbytes": 0, "state": "none"}
        known = remembered(self.checkpoint, self.folder)
        source = source_digest(self.checkpoint, self.folder) if known else ""
        try:
            said = SafetensorsFile(self.path).metadata
        except (TinymoeError, OSError):
            state = "damaged"
        else:
            if said.get("layout") != layout_digest():
                state = "of another version of tinymoe"
            elif not known:
                state = "to be checked: the model's files were touched since"
            else:
                state = "current" if said.get("source") == source else "of other weights"
        return {"path": str(self.path), "nbytes": self.path.stat().st_size, "state": state}


class Shelf:
    """Tiles by name: those that were kept, and those that had to be made."""

    def __init__(self, found: Mapping[str, Packed]) -> None:
        self.all, self.new = dict(found), False

    def get(self, name: str, shape: tuple[int, ...], gate_up: bool) -> Packed | None:
        """What was kept of a matrix of this shape; no other will do."""
        matrix = self.all.get(name)
        if matrix is None:
            return None
        experts = shape[0] if len(shape) == 3 else 1
        pairs = len(order_of(shape[-2], gate_up)) // ROWS
        wanted = (experts, *shape[-2:], pairs, experts * pairs * matrix.pair_bytes)
        stated = (matrix.experts, matrix.rows, matrix.columns, matrix.pairs, matrix.data.nbytes)
        factors = matrix.row_scales is None or matrix.row_scales.shape == (experts, pairs * ROWS)
        return matrix if stated == wanted and factors else None

    def put(self, name: str, matrix: Packed) -> None:
        """One that was made."""
        self.all[name], self.new = matrix, True


# ------------------------------------------------------------------------------- the file


def write(
    path: Path,
    matrices: Mapping[str, Packed],
    key: Mapping[str, str],
    threads: int,
    progress: Callable[[int, int], None],
) -> None:
    """All of it under another name, then renamed."""
    arrays: dict[str, Array] = {}
    for name, matrix in matrices.items():
        arrays[name] = matrix.data.reshape(matrix.experts, matrix.pairs, -1)
        if matrix.row_scales is not None:
            arrays[name + FACTORS] = matrix.row_scales
    with ThreadPoolExecutor(threads) as pool:
        sums = dict(zip(arrays, pool.map(_sha256, arrays.values()), strict=True))
    forms = {name: [m.form.name, m.rows, m.columns] for name, m in matrices.items()}
    said = {**key, "matrices": json.dumps(forms), "sha256": json.dumps(sums)}
    types = {"uint8": "U8", "float32": "F32"}
    specs = {name: Spec(types[str(array.dtype)], array.shape) for name, array in arrays.items()}
    part = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        with SafetensorsWriter(part, specs, {**said, "seal": _seal(said)}, alignment=LINE) as file:
            for done, (name, array) in enumerate(arrays.items(), 1):
                file.write(name, array)
                progress(done, len(arrays))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read(
    path: Path, key: Mapping[str, str], threads: int, progress: Callable[[int, int], None]
) -> dict[str, Packed]:
    """The matrices, mapped. Raises `TinymoeError` for what is not this model's, or not whole."""
    file = SafetensorsFile(path)
    said = dict(file.metadata)
    damaged = TinymoeError(f"{path}: damaged, its bytes are not those that were written")
    if said.pop("seal", "") != _seal(said):
        raise damaged
    for name, what in (("source", "other weights"), ("layout", "another version of tinymoe")):
        if said.get(name) != key[name]:
            raise TinymoeError(f"{path}: of {what}")
    arrays = {name: file.raw(name) for name in file.entries}
    with ThreadPoolExecutor(threads) as pool:
        sums = {}
        for name, found in zip(arrays, pool.map(_sha256, arrays.values()), strict=True):
            sums[name] = found
            progress(len(sums), len(arrays))
    try:
        if sums != json.loads(said["sha256"]):
            raise damaged
        stated = json.loads(said["matrices"])
        return {name: _packed(arrays, name, *fields) for name, fields in stated.items()}
    except (KeyError, TypeError, ValueError, AttributeError):  # sealed, and not by us
        raise damaged from None


def _packed(arrays: Mapping[str, Array], name: str, form: str, rows: int, columns: int) -> Packed:
    data, factors = arrays[name], arrays.get(name + FACTORS)
    experts, pairs, _ = data.shape
    typed = data.dtype == np.uint8 and (factors is None or factors.dtype == np.float32)
    if not typed or type(rows) is not int or type(columns) is not int:
        raise TypeError("tiles are bytes, their factors float32, their sizes whole numbers")
    return Packed(FORMATS[form], data.reshape(-1), experts, rows, columns, pairs, factors)


def sweep(folder: Path) -> None:
    """Remove parts of files that a process left when it was ended."""
    for part in folder.glob("*.part"):
        if time.time() - part.stat().st_mtime > ABANDONED:
            part.unlink(missing_ok=True)


def _sha256(array: Array) -> str:
    return hashlib.sha256(array.reshape(-1).view("uint8").data).hexdigest()


def _seal(said: Mapping[str, str]) -> str:
    """Of what the header says besides: the hashes of all tensors among it."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _mega(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=2)
