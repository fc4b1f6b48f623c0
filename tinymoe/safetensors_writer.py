"""A safetensors file, written tensor by tensor: no more than one of them is in memory.

    8 bytes: N, little-endian | N bytes: a JSON object, padded with spaces | tensors

What each tensor is must be known before the first is written, since the header comes first. The
tensors may then come in any order: each has its place. Format: huggingface/safetensors, README.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import numpy as np

from tinymoe.core import Array, TinymoeError
from tinymoe.safetensors_file import DTYPES, MAX_HEADER

ALIGNMENT = 8  # the data begin at a multiple of it, if nobody asks for more


class Spec(NamedTuple):
    """What the header says of one tensor."""

    dtype: str  # a key of `safetensors_file.DTYPES`
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


class SafetensorsWriter:
    """One file that is being written; left by an exception, it is removed.

    with SafetensorsWriter(path, {"w": Spec("F32", (2, 3))}, {"format": "pt"}) as file:
        file.write("w", np.zeros((2, 3), np.float32))

    Wide types come first, as the format's own library has it: torch views a tensor's bytes only
    where they begin at a multiple of its type's size.
    """

    def __init__(
        self,
        path: Path,
        specs: Mapping[str, Spec],
        metadata: Mapping[str, str],
        *,
        alignment: int = ALIGNMENT,
    ) -> None:
        """Create the file and write its header; the data begin at a multiple of `alignment`."""
        self.path, self._specs = path, dict(specs)
        self._left = set(specs)
        wide_first = sorted(specs, key=lambda name: (-DTYPES[specs[name].dtype].itemsize, name))
        header: dict[str, object] = {"__metadata__": dict(metadata)}
        self._places, end = dict[str, int](), 0
        for name in wide_first:
            spec, start = specs[name], end
            end += spec.nbytes
            header[name] = {
                **{"dtype": spec.dtype, "shape": list(spec.shape)},
                "data_offsets": [start, end],
            }
            self._places[name] = start
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % alignment)
        if len(text) > MAX_HEADER:
            raise TinymoeError(
                f"{path}: a header of {len(text):,} bytes, for {len(specs):,} tensors; the format "
                f"allows {MAX_HEADER:,}: write more and smaller files"
            )
        self._data_start = 8 + len(text)
        self._file: BinaryIO = path.open("xb")
        self._file.write(len(text).to_bytes(8, "little") + text)

    def write(self, name: str, values: Array) -> None:
        """One tensor's bits in the NumPy type that `DTYPES` has for it: BF16 as uint16, FP8 uint8.

        Raises `TinymoeError` for another shape or type than announced, and for a second time.
        """
        spec = self._specs.get(name)
        if spec is None or name not in self._left:
            why = "was not announced" if spec is None else "is written already"
            raise TinymoeError(f"{self.path}: tensor {name!r} {why}")
        if values.shape != spec.shape or values.dtype != DTYPES[spec.dtype]:
            raise TinymoeError(
                f"{self.path}: tensor {name!r}: announced as {spec.dtype} of shape {spec.shape}, "
                f"got {values.dtype} of shape {values.shape}"
            )
        self._file.seek(self._data_start + self._places[name])
        # reshape: a scalar's view has no buffer of bytes
        self._file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
        self._left.remove(name)

    def close(self) -> None:
        """Flush to the disk. Raises `TinymoeError` if a tensor has not come."""
        if self._left:
            raise TinymoeError(f"{self.path}: tensors were not written: {sorted(self._left)[:8]}")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> SafetensorsWriter:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        """Close, or remove what an exception left half-written."""
        try:
            if kind is None:
                self.close()
        finally:
            if not self._file.closed:
                self._file.close()
                self.path.unlink(missing_ok=True)
