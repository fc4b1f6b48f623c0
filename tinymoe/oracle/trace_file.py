"""Trace files: written tensor by tensor, and read as what enters a layer."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from tinymoe.core import Array, TinymoeError
from tinymoe.formats import bf16
from tinymoe.safetensors_file import DTYPES, SafetensorsFile

SCHEMA = "tinymoe-trace/1"
_BITS = ("BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0")  # no types of NumPy's own
_NAMES = {dtype: name for name, dtype in DTYPES.items() if name not in _BITS}


class TraceFile:
    """A safetensors file, whole or not there: `with TraceFile(path, metadata) as file: file(...)`.

    Its header comes first and says where all lies, which is known last. So values wait in unnamed
    files beside it, and are copied behind the header at the end: the disk holds a trace twice for
    a moment, the memory at no time. Wider types lie before narrower ones, or some libraries
    cannot map them; the header names tensors in the order they came.
    """

    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Nothing is written yet; a file at `path` stays until this one is complete."""
        self.path, self._metadata = path, {"schema": SCHEMA, **metadata}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype[Any]] = {}
        self.nbytes = 0  # of all values so far
        self._data: dict[int, IO[bytes]] = {}  # by the width of a value

    def __call__(self, name: str, value: Array) -> None:
        """Add a tensor. This is a `Tap`."""
        if name in self.shapes or value.dtype not in _NAMES:
            raise TinymoeError(
                f"{name}: expected a new name and a plain type, got {value.dtype}, and the names "
                f"so far are {list(self.shapes)[-3:]} and {len(self.shapes)} in all"
            )
        width = value.dtype.itemsize
        if width not in self._data:
            self._data[width] = tempfile.TemporaryFile(dir=self.path.parent)  # noqa: SIM115
        self.shapes[name], self.dtypes[name] = value.shape, value.dtype
        self.nbytes += value.nbytes
        self._data[width].write(np.ascontiguousarray(value).data)

    def __enter__(self) -> TraceFile:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the file in its place, unless something went wrong."""
        try:
            if kind is None:
                self._finish()
        finally:
            for file in self._data.values():
                file.close()

    def _header(self) -> bytes:
        widths = sorted(self._data, reverse=True)
        at = {width: sum(self._data[w].tell() for w in widths if w > width) for width in widths}
        header: dict[str, Any] = {"__metadata__": self._metadata}
        for name, shape in self.shapes.items():
            dtype = self.dtypes[name]
            start = at[dtype.itemsize]
            at[dtype.itemsize] += dtype.itemsize * int(np.prod(shape, dtype=np.int64))
            offsets = [start, at[dtype.itemsize]]
            header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": offsets}
        text = json.dumps(header).encode()
        return text + b" " * (-len(text) % 8)  # so that data begin at a multiple of 8

    def _finish(self) -> None:
        header, folder = self._header(), self.path.parent
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{self.path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(len(header).to_bytes(8, "little") + header)
                for width in sorted(self._data, reverse=True):
                    self._data[width].seek(0)
                    shutil.copyfileobj(self._data[width], file, 2**20)
            Path(temporary).chmod(0o644)  # mkstemp makes files that only their owner can read
            Path(temporary).replace(self.path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_trace(path: Path, taps: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write taps and metadata (with the schema's name) to `path`, whole or not at all."""
    with TraceFile(path, metadata) as file:
        for name, value in taps.items():
            file(name, value)


def read_hidden(path: Path, layer: int) -> tuple[str, Array]:
    """What enters a layer, from a trace or another engine's file: the tensor's name, (T, H).

    `hidden` if there is one, else what the layer before put out, or for layer 0 the embedding.
    BF16 and F16 are widened.
    """
    file = SafetensorsFile(path)
    tap = f"layers.{layer - 1}.out" if layer else "embed"
    name = next((name for name in ("hidden", tap) if name in file.entries), None)
    if name is None:
        listed = ", ".join(sorted(file.entries)[:8])
        raise TinymoeError(f"{path}: expected a tensor 'hidden' or {tap!r}, found {listed}")
    kind = file.entries[name].dtype
    if kind not in ("BF16", "F16", "F32", "F64"):
        raise TinymoeError(f"{path}: tensor {name!r}: expected a float type, found {kind}")
    stored = file.raw(name)
    return name, bf16.decode(stored) if kind == "BF16" else np.array(stored)
