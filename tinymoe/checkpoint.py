"""A model folder, opened lazily: headers are read at once, weights when they are asked for.

Nothing in a folder is trusted: no pickle is opened, no code is run, no path leaves the folder,
and whatever contradicts itself is refused by name.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tinymoe.core import Array, TinymoeError
from tinymoe.formats import bf16
from tinymoe.model.params import aligned_empty
from tinymoe.safetensors_file import Entry, SafetensorsFile
from tinymoe.strict_json import read_object

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_HASH_CHUNK = 2**20  # bytes read at a time
_PIECE = 2**18  # values decoded at a time: what lies in between stays in the processor's cache


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One model folder.

    >>> from tinymoe.api import shipped_model
    >>> checkpoint = Checkpoint.open(shipped_model())
    >>> checkpoint.entry("model.norm.weight").shape
    (256,)
    """

    path: Path
    config: dict[str, Any]  # config.json
    generation: dict[str, Any]  # generation_config.json; empty when there is none
    files: tuple[SafetensorsFile, ...]  # by name
    _home: dict[str, SafetensorsFile]  # tensor name -> the file that holds it

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """Open a folder with config.json and model.safetensors, or an index and its shards.

        When both are there the single file is read, as transformers does. Raises
        `TinymoeError` for a folder that is not a model's and for files that are malformed.
        """
        folder = Path(path)
        _check_folder(folder)
        config = read_object(folder / "config.json")
        extra = folder / "generation_config.json"
        generation = read_object(extra) if extra.is_file() else {}
        if (folder / WEIGHTS).is_file():
            single = SafetensorsFile(folder / WEIGHTS)
            return cls(folder, config, generation, (single,), dict.fromkeys(single.entries, single))
        files, home = _open_shards(folder)
        return cls(folder, config, generation, files, home)

    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return sorted(self._home)

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor of that name."""
        return name in self._home

    def entry(self, name: str) -> Entry:
        """What the header says of a tensor: dtype, shape, nbytes, file."""
        return self._file(name).entries[name]

    def raw(self, name: str) -> Array:
        """The stored bits, mapped from the file and read-only: BF16 as uint16, FP8 as uint8."""
        return self._file(name).raw(name)

    def read(self, name: str, dtype: np.dtype[Any] | type | Literal["float32", "float64"]) -> Array:
        """A tensor's values in a new float32 or float64 array, each exactly as stored."""
        out = aligned_empty(self.entry(name).shape, np.dtype(dtype))
        self.read_into(name, out)
        return out

    def read_into(self, name: str, out: Array) -> None:
        """`read` into a given array of the tensor's shape, or a part of one.

        BF16, F16 and F32 widen exactly into float32 and float64, F64 into float64 alone: where a
        value would have to be rounded, or bits need a scale first (FP8), this is an error.
        """
        entry = self.entry(name)
        self._check_readable(entry, out)
        if out.shape != entry.shape:
            raise TinymoeError(
                f"{entry.file}: tensor {name!r} has shape {entry.shape}, the array {out.shape}"
            )
        _decode(self.raw(name), entry.dtype, out)
        self.release(name)

    def read_rows(
        self, name: str, rows: slice | Array, dtype: np.dtype[Any] | type | Literal["float32"]
    ) -> Array:
        """`read` of some members along the first axis; no other is touched."""
        entry = self.entry(name)
        stored = self.raw(name)[rows]
        out = aligned_empty(stored.shape, np.dtype(dtype))
        self._check_readable(entry, out)
        _decode(stored, entry.dtype, out)
        self.release(name)
        return out

    def release(self, name: str) -> None:
        """Let go of a tensor's mapped pages, which read again if they are asked for again."""
        self._file(name).release(name)

    def _check_readable(self, entry: Entry, out: Array) -> None:
        readable = {"BF16", "F16", "F32"} | ({"F64"} if out.dtype == np.float64 else set())
        if entry.dtype not in readable or out.dtype not in (np.float32, np.float64):
            raise TinymoeError(
                f"{entry.file}: tensor {entry.name!r} is {entry.dtype}, whose values {out.dtype} "
                f"cannot be given exactly; readable into it: {', '.join(sorted(readable))}. "
                + ("Use the numerics 'exact'" if entry.dtype == "F64" else "Use .raw for the bits")
            )

    @property
    def end_ids(self) -> tuple[int, ...]:
        """End-of-sequence ids: generation_config.json's, else config.json's; perhaps none."""
        return read_end_ids(self.generation, self.config)

    @property
    def has_tokenizer(self) -> bool:
        """Whether the folder has a tokenizer.json."""
        return (self.path / "tokenizer.json").is_file()

    def hash(self) -> str:
        """SHA-256 (hex) of the weight files' bytes, one after another by name.

        For a single file this is what `sha256sum model.safetensors` prints.
        """
        digest = hashlib.sha256()
        for file in self.files:
            with file.path.open("rb") as stream:
                while chunk := stream.read(_HASH_CHUNK):
                    digest.update(chunk)
        return digest.hexdigest()

    def hash_headers(self) -> str:
        """SHA-256 (hex) of config.json and of every file's size and header: no weight is read.

        Tells models of other shapes apart, and other files; not two sets of values in one shape.
        """
        digest = hashlib.sha256((self.path / "config.json").read_bytes())
        for file in self.files:
            with file.path.open("rb") as stream:
                start = stream.read(8)
                digest.update(file.path.stat().st_size.to_bytes(8, "little") + start)
                digest.update(stream.read(int.from_bytes(start, "little")))
        return digest.hexdigest()

    def _file(self, name: str) -> SafetensorsFile:
        if name not in self._home:
            raise TinymoeError(f"{self.path}: no tensor is named {name!r}; see .names()")
        return self._home[name]


def _decode(stored: Array, dtype: str, out: Array) -> None:
    """Values of a plain float type into `out`, a piece at a time."""
    if stored.ndim == 0:
        out[...] = bf16.decode(stored) if dtype == "BF16" else stored
        return
    rows = max(1, _PIECE * len(stored) // max(1, stored.size))
    for start in range(0, len(stored), rows):
        bits = stored[start : start + rows]
        out[start : start + rows] = bf16.decode(bits) if dtype == "BF16" else bits


def read_end_ids(generation: dict[str, Any], config: dict[str, Any]) -> tuple[int, ...]:
    """`eos_token_id` of the first of the two files that has one: a number or a list (GLM)."""
    for source, where in ((generation, "generation_config.json"), (config, "config.json")):
        value = source.get("eos_token_id")
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(type(number) is int and number >= 0 for number in ids):
            raise TinymoeError(f"{where}: expected eos_token_id to be token ids, found {value!r}")
        return tuple(ids)
    return ()


def _check_folder(folder: Path) -> None:
    """A folder with a config and weights that we read, or an error that says what is there."""
    needs = f"expected a model folder with config.json, tokenizer.json and {WEIGHTS}"
    if not folder.exists():
        raise TinymoeError(f"{folder}: no such folder; {needs}")
    if not folder.is_dir():
        raise TinymoeError(f"{folder}: {needs}, found a file; give its folder, {folder.parent}")
    found = sorted(item.name for item in folder.iterdir())
    listed = ", ".join(found[:12]) + (", ..." if len(found) > 12 else "")
    if not found:
        raise TinymoeError(f"{folder}: {needs}, found an empty folder")
    if "config.json" not in found:
        raise TinymoeError(f"{folder}: {needs}, found no config.json but {listed}")
    if WEIGHTS not in found and INDEX not in found:
        pickled = any(name.endswith((".bin", ".pt", ".pth")) for name in found)
        hint = ". Pickled weights can run code and are never opened: convert them" * pickled
        raise TinymoeError(f"{folder}: expected {WEIGHTS} or {INDEX}, found {listed}{hint}")


def _open_shards(folder: Path) -> tuple[tuple[SafetensorsFile, ...], dict[str, SafetensorsFile]]:
    """The files that the index names, and which of them holds each tensor."""
    index = folder / INDEX
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise TinymoeError(f"{index}: expected an object 'weight_map' of tensor name to file name")
    shards: dict[str, SafetensorsFile] = {}
    home: dict[str, SafetensorsFile] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not _plain_file_name(shard):
            raise TinymoeError(
                f"{index}: tensor {name!r}: expected the name of a .safetensors file in this "
                f"folder, without any path, found {shard!r}"
            )
        if shard not in shards:
            if not (folder / shard).is_file():
                raise TinymoeError(f"{index}: names the file {shard!r}, which is not in {folder}")
            shards[shard] = SafetensorsFile(folder / shard)
        if name not in shards[shard].entries:
            raise TinymoeError(f"{index}: says that {shard!r} holds {name!r}, but it does not")
        home[name] = shards[shard]
    unlisted = sorted({name for file in shards.values() for name in file.entries} - set(home))
    if unlisted:
        warnings.warn(f"{index}: does not list {', '.join(unlisted[:8])}: ignored", stacklevel=3)
    return tuple(shards[name] for name in sorted(shards)), home


def _plain_file_name(name: str) -> bool:
    """No separator of any system, no drive, and not "..": the name cannot leave the folder."""
    short = len(name.encode("utf-8", "replace")) <= 255  # what a file system takes
    return short and not set(name) & set("/\\:\0") and name.endswith(".safetensors")
