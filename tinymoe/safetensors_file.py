"""The header of a safetensors file, read with suspicion.

    8 bytes: N, little-endian | N bytes: a JSON object, perhaps padded with spaces | tensors

Our own reader, because the library lets through what a model must not be made of: of two equal
keys it keeps one. Format: huggingface/safetensors, README, "Format".
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinymoe.core import Array, TinymoeError
from tinymoe.strict_json import parse_object

MAX_HEADER = 100_000_000  # bytes, the format's own limit
MAX_RANK = 32  # dimensions that every NumPy can hold
_LARGEST = 2**63 - 1  # bytes that an offset can count

# Each dtype of the format as a NumPy type. BF16 and FP8 are kept as their bits.
DTYPES = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E5M2": np.dtype("u1"),
    "F8_E8M0": np.dtype("u1"),
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor as the header describes it."""

    name: str
    dtype: str  # a key of DTYPES
    shape: tuple[int, ...]
    start: int  # first byte of its data, counted from the beginning of the file
    nbytes: int
    file: Path


class SafetensorsFile:
    """One open file: entries by name, and the data, mapped and not yet read."""

    def __init__(self, path: Path) -> None:
        """Read and check the header; raises `TinymoeError` for anything the format forbids."""
        self.path = path
        header, data_start, size = read_header(path)
        self.metadata = _metadata(header.pop("__metadata__", {}), path)
        self.entries = {
            name: _entry(name, fields, data_start, path) for name, fields in header.items()
        }
        _check_cover(list(self.entries.values()), data_start, size, path)
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes: Array = np.frombuffer(self._map, np.uint8)  # (size,)

    def raw(self, name: str) -> Array:
        """The tensor as stored, a read-only view of the file: BF16 as uint16, FP8 as uint8."""
        entry = self.entries[name]
        data = self._bytes[entry.start : entry.start + entry.nbytes]
        return data.view(DTYPES[entry.dtype]).reshape(entry.shape)

    def release(self, name: str) -> None:
        """Let go of the tensor's pages: they stop counting as this process's memory.

        The system may keep them as its cache of the file, and does while nobody needs the room.
        """
        entry = self.entries[name]
        if entry.nbytes and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            start = entry.start - entry.start % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, start, entry.start + entry.nbytes - start)


def read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The JSON object, where the tensors' bytes begin, and the size of the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8:
            raise TinymoeError(f"{path}: expected at least 8 bytes of safetensors, found {size}")
        if length > MAX_HEADER or length > size - 8:
            raise TinymoeError(
                f"{path}: the header says it has {length:,} bytes; expected at most "
                f"{min(MAX_HEADER, size - 8):,} in this file of {size:,}. It may be cut off: "
                "compare its size with the original's and fetch it again"
            )
        data = file.read(length)
    text = data.rstrip(b" ")  # padding that the format allows, at the end alone
    if not text.startswith(b"{"):
        raise TinymoeError(f"{path}: expected a header that begins with {{, found {text[:20]!r}")
    return parse_object(text, f"{path}: header"), 8 + length, size


def _metadata(value: object, path: Path) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise TinymoeError(f"{path}: expected __metadata__ to map strings to strings: {value!r}")
    return value


def _entry(name: str, fields: object, data_start: int, path: Path) -> Entry:
    """One tensor's fields, checked: dtype known, shape and offsets integers, sizes agree."""
    where = f"{path}: tensor {name!r}"
    expected = {"dtype", "shape", "data_offsets"}
    if not isinstance(fields, dict) or set(fields) != expected:
        raise TinymoeError(f"{where}: expected the fields {sorted(expected)}, found {fields!r}")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise TinymoeError(f"{where}: expected a dtype of {', '.join(DTYPES)}, found {dtype!r}")
    if not _naturals(shape) or len(shape) > MAX_RANK:
        raise TinymoeError(
            f"{where}: expected a shape of at most {MAX_RANK} integers >= 0, found {shape!r}"
        )
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise TinymoeError(f"{where}: expected data_offsets [begin, end], found {offsets!r}")
    # zeros aside, so that [0, 2**62, 2**62] is refused here and not by NumPy later
    if math.prod(n for n in shape if n) * DTYPES[dtype].itemsize > _LARGEST:
        raise TinymoeError(f"{where}: the shape {shape} of {dtype} overflows")
    nbytes = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != nbytes:
        raise TinymoeError(
            f"{where}: {dtype} of shape {shape} takes {nbytes} bytes, but its data_offsets "
            f"{offsets} span {offsets[1] - offsets[0]}"
        )
    return Entry(name, dtype, tuple(shape), data_start + offsets[0], nbytes, path)


def _naturals(value: object) -> bool:
    # `type is int`: JSON's true is an int to isinstance
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _check_cover(entries: list[Entry], data_start: int, size: int, path: Path) -> None:
    """Tensors lie end to end from the first byte of the data to the last of the file."""
    end, before = data_start, "the header"
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.nbytes)):
        if entry.start != end:
            what = "overlaps" if entry.start < end else "leaves a hole after"
            raise TinymoeError(
                f"{path}: tensor {entry.name!r} {what} {before}: expected it to begin at byte "
                f"{end - data_start} of the data, found {entry.start - data_start}"
            )
        end, before = entry.start + entry.nbytes, f"tensor {entry.name!r}"
    if end != size:
        raise TinymoeError(
            f"{path}: the tensors end at byte {end:,} of the file, which has {size:,}: it is cut "
            "off or has a tail that no tensor covers"
        )
