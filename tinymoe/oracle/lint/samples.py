"""Numbers of scale tensors, read once for all rules: everything where it is little, else a sample.

A tensor scale is one number and is read, up to some `MOST_SMALL` of them: of more, all those of as
many experts and layers, evenly spread over the names in order, so that gate stays beside up. Block
scales are a sixteenth of the weights: a tensor of up to `WHOLE` bytes is read whole, of a larger
one the beginning, the middle and the end, `SLICE` bytes each; of more than `MOST_LARGE` tensors,
as many, evenly spread. So a checkpoint of any size costs at most some 100 MB of reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import Array
from tinymoe.formats import bf16, e4m3, e8m0
from tinymoe.safetensors_file import DTYPES, Entry

MOST_SMALL, SMALL = 2**15, 64  # tensors; bytes
MOST_LARGE, WHOLE, SLICE = 512, 3 * 2**16, 2**16  # tensors; bytes


@dataclass(frozen=True, slots=True)
class Numbers:
    """What was seen in one tensor of scales."""

    count: int  # values read
    bad: int  # NaN or infinite
    negative: int
    zero: int
    largest: float  # magnitude, of the finite ones; 0 where there are none
    first: float  # the first value read; NaN where there is none


@dataclass(frozen=True, slots=True)
class Sample:
    """Numbers by name, and how much was looked at."""

    numbers: dict[str, Numbers]
    unreadable: dict[str, str]  # name -> a dtype that no scale has
    tensors: int  # of scales, in all
    bytes_read: int
    bytes_there: int


def spread(names: list[str], most: int) -> list[str]:
    """At most so many, evenly spread, the first and the last among them."""
    if len(names) <= most:
        return names
    return [names[i] for i in np.linspace(0, len(names) - 1, most).astype(int)]


def sample(checkpoint: Checkpoint, names: list[str]) -> Sample:
    """Look at the scales of these names."""
    entries = {name: checkpoint.entry(name) for name in names}
    small = [name for name in names if entries[name].nbytes <= SMALL]
    large = [name for name in names if entries[name].nbytes > SMALL]
    chosen = [entries[name] for name in _together(small) + spread(large, MOST_LARGE)]
    numbers, unreadable, read = dict[str, Numbers](), dict[str, str](), 0
    for entry, bits in _read(chosen):
        values = decoded(bits, entry.dtype)
        if values is None:
            unreadable[entry.name] = entry.dtype
            continue
        read += bits.nbytes
        numbers[entry.name] = _numbers(values)
    there = sum(entry.nbytes for entry in entries.values())
    in_order = {name: numbers[name] for name in names if name in numbers}
    return Sample(in_order, unreadable, len(names), read, there)


def _together(names: list[str]) -> list[str]:
    """At most about MOST_SMALL, whole experts and whole attentions at a time."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.rsplit(".", 2)[0], []).append(name)
    most = len(groups) * MOST_SMALL // max(len(names), 1)
    return [name for group in spread(list(groups), max(most, 1)) for name in groups[group]]


def _read(entries: list[Entry]) -> Iterator[tuple[Entry, Array]]:
    """Bits of all of a small tensor; of a large one its beginning, middle and end.

    By reads and not by the map of the file: on a page that is not in memory the system reads
    100 KB around it, which for 50,000 single numbers is the whole checkpoint.
    """
    with ExitStack() as stack:
        files: dict[Path, FileIO] = {}
        for entry in sorted(entries, key=lambda entry: (entry.file, entry.start)):
            if entry.file not in files:
                files[entry.file] = stack.enter_context(FileIO(entry.file))
            item = DTYPES[entry.dtype].itemsize
            parts = [
                _exactly(files[entry.file], entry.start + first * item, number * item)
                for first, number in _pieces(entry.nbytes // item, item)
            ]
            yield entry, np.frombuffer(b"".join(parts), DTYPES[entry.dtype])


def _exactly(file: FileIO, start: int, size: int) -> bytes:
    file.seek(start)
    data = b""
    while len(data) < size and (more := file.read(size - len(data))):
        data += more
    return data


def _pieces(size: int, item: int) -> list[tuple[int, int]]:
    """(first, number) of the values to read of so many, each of `item` bytes."""
    if size * item <= WHOLE:
        return [(0, size)]
    n = SLICE // item
    return [(0, n), ((size - n) // 2, n), (size - n, n)]


def some_of(bits: Array) -> Array:
    """The same of an array."""
    flat = bits.reshape(-1)
    pieces = _pieces(flat.size, flat.itemsize)
    return np.concatenate([flat[first : first + number] for first, number in pieces])


def decoded(bits: Array, dtype: str) -> Array | None:
    """Values of scales in float32 (F64 as it is); None for a type that no scale has."""
    match dtype:
        case "F8_E4M3":
            return e4m3.decode(bits)
        case "U8" | "F8_E8M0":  # a byte that scales is a power of two, whatever its type is called
            return e8m0.decode(bits, reading="nan")
        case "BF16":
            return bf16.decode(bits)
        case "F16" | "F32" | "F64":
            return bits if dtype == "F64" else bits.astype(np.float32)
    return None


def _numbers(values: Array) -> Numbers:
    finite = values[np.isfinite(values)]
    return Numbers(
        count=values.size,
        bad=values.size - finite.size,
        negative=int((finite < 0).sum()),
        zero=int((finite == 0).sum()),
        largest=float(np.abs(finite).max(initial=0)),
        first=float(values[0]) if values.size else float("nan"),
    )
