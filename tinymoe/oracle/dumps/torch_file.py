"""Files of `torch.save`, read with NumPy alone, and without running what is in them.

Such a file is a ZIP archive: `data.pkl` is a pickle, `data/KEY` the bytes of each storage. A
pickle may name any function and have it called, which is how opening a file runs code. The reader
here answers for the eight names that plain tensors need and refuses every other name.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tinymoe.core import Array, TinymoeError
from tinymoe.formats import bf16

_MOST_PICKLE = 64 * 2**20  # bytes; names and shapes of a million tensors

# torch's name of a storage's type -> (type of the bits, whether they are bfloat16)
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    # kept as their bits: `view` in a mapping, or a format's decoder, gives them a meaning
    "Float8_e4m3fnStorage": "uint8",
    "Float8_e5m2Storage": "uint8",
}
DTYPES = {
    "float64": "float64", "float32": "float32", "float16": "float16", "bfloat16": "bfloat16",
    "int64": "int64", "int32": "int32", "int16": "int16", "int8": "int8", "uint8": "uint8",
    "uint16": "uint16", "uint32": "uint32", "uint64": "uint64", "bool": "bool",
    "float8_e4m3fn": "uint8", "float8_e5m2": "uint8",
}  # fmt: skip


class _Storage(NamedTuple):
    """A stretch of memory and the type of what lies in it."""

    data: Array  # flat, bfloat16 as uint16
    dtype: str


class _Kind(NamedTuple):
    """Stands for a torch storage class or dtype: its type, and nothing that can be called."""

    dtype: str


def read_torch_file(path: Path) -> Any:
    """What was saved: tensors as arrays (bfloat16 widened to float32) in the same containers."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickled) != 1:
                raise TinymoeError(f"{path}: expected one data.pkl as torch.save writes it")
            if archive.getinfo(pickled[0]).file_size > _MOST_PICKLE:
                raise TinymoeError(f"{path}: its data.pkl is larger than {_MOST_PICKLE:,} bytes")
            return _Reader(archive, pickled[0], path).load()
    except (zipfile.BadZipFile, OSError) as error:
        raise TinymoeError(
            f"{path}: expected a file of torch.save (a ZIP archive since torch 1.6): {error}"
        ) from error


class _Reader(pickle.Unpickler):
    """Builds arrays; every global name but those of plain tensors is refused."""

    def __init__(self, archive: zipfile.ZipFile, member: str, path: Path) -> None:
        super().__init__(io.BytesIO(archive.read(member)))
        self._archive, self._folder, self._path = archive, member.removesuffix("data.pkl"), path
        order = self._folder + "byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise TinymoeError(f"{path}: is in big-endian byte order, which is not read")

    def load(self) -> Any:
        """The object, or a `TinymoeError`."""
        try:
            return super().load()
        except TinymoeError:
            raise
        except Exception as error:  # a pickle may be wrong in any way
            raise TinymoeError(f"{self._path}: its data.pkl cannot be read: {error}") from error

    def find_class(self, module: str, name: str) -> Any:
        """The few names that tensors need."""
        if module == "torch" and name in STORAGES:
            return _Kind(STORAGES[name])
        if module == "torch" and name in DTYPES:
            return _Kind(DTYPES[name])
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_tensor_v3"): _rebuild_typed,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("torch.storage", "UntypedStorage"): _Kind("uint8"),
            ("torch", "Size"): tuple,
            ("collections", "OrderedDict"): OrderedDict,
        }
        if (module, name) not in known:
            raise TinymoeError(
                f"{self._path}: asks for {module}.{name}. Of torch files only tensors, numbers, "
                "texts, lists and dictionaries are read: save those"
            )
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """The bytes of a storage: pid is ("storage", type, key, device, number of values)."""
        _, kind, key, _, _ = pid
        member = self._archive.getinfo(f"{self._folder}data/{key}")
        if member.compress_type != zipfile.ZIP_STORED:  # torch never compresses
            raise TinymoeError(f"{self._path}: data/{key} is compressed")
        bits = np.dtype("uint16" if kind.dtype == "bfloat16" else kind.dtype)
        return _Storage(np.frombuffer(self._archive.read(member), bits), kind.dtype)


def _rebuild_tensor(
    storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Array:
    """A tensor as a copy of its part of the storage; the part must lie inside."""
    count = len(storage.data)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min(offset, *size, *stride, 0) < 0 or (0 not in size and last >= count):
        raise ValueError(f"a tensor {size} with strides {stride} reaches out of its {count} values")
    steps = [step * storage.data.itemsize for step in stride]
    if 0 in size:
        part = np.empty(size, storage.data.dtype)
    else:
        part = as_strided(storage.data[offset:], size, steps).copy()
    return bf16.decode(part) if storage.dtype == "bfloat16" else part


def _rebuild_typed(
    storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any
) -> Array:
    """As above, of bytes whose type comes apart from them: (requires_grad, hooks, dtype, ...)."""
    dtype: str = rest[2].dtype
    bits = np.dtype("uint16" if dtype == "bfloat16" else dtype)
    return _rebuild_tensor(_Storage(storage.data.view(bits), dtype), offset, size, stride)
