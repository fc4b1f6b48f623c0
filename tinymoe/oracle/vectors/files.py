"""A folder of vectors: a safetensors file and a JSON card each, and `index.json` with the hashes.

router/mixtral.safetensors   every array, by name
router/mixtral.json          what is given, what is expected, tolerance, derivation, kills
index.json                   schema, and of each vector both files' SHA-256
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinymoe.core import Array, TinymoeError
from tinymoe.oracle.vectors.packing import pack, unpack
from tinymoe.oracle.vectors.vector import SCHEMA, Vector
from tinymoe.safetensors_file import SafetensorsFile
from tinymoe.safetensors_writer import SafetensorsWriter, Spec
from tinymoe.strict_json import parse_object

INDEX = "index.json"
_DTYPES = {"float32": "F32", "float64": "F64", "int64": "I64", "uint8": "U8"}


def card_of(vector: Vector) -> tuple[dict[str, Any], dict[str, Array]]:
    """The JSON card of a vector and the arrays that it names."""
    tensors: dict[str, Array] = {}
    given = {name: pack(value, name, tensors) for name, value in vector.given.items()}
    expected: dict[str, Any] = {}
    for name, value in vector.expected.items():
        tensors[f"expected.{name}"] = value
        expected[name] = {"tensor": f"expected.{name}", "tolerance": 0}
        if name in vector.tolerance:
            tensors[f"tolerance.{name}"] = rounded_up(vector.tolerance[name])
            expected[name]["tolerance"] = {"tensor": f"tolerance.{name}"}
    card = {
        "schema": SCHEMA,
        **{"name": vector.name, "op": vector.op, "holds": vector.holds},
        **{"given": given, "expected": expected},
        **{"derivation": vector.derivation, "ties": vector.ties, "kills": list(vector.kills)},
    }
    return card, tensors


def rounded_up(tolerance: Array) -> Array:
    """As float32, not below what it was: half the bytes."""
    narrow = tolerance.astype(np.float32)
    return np.where(narrow < tolerance, np.nextafter(narrow, np.float32(np.inf)), narrow)


def write_vectors(folder: Path, vectors: Iterable[Vector]) -> dict[str, Any]:
    """Write all and their index; the index. Vectors of an older one that are no more go."""
    before = read_index(folder)["vectors"] if (folder / INDEX).is_file() else {}
    entries = {}
    for vector in vectors:
        card, tensors = card_of(vector)
        data = folder / f"{vector.name}.safetensors"
        data.parent.mkdir(parents=True, exist_ok=True)
        _write_tensors(data, tensors)
        text = json.dumps(card, indent=1, allow_nan=False) + "\n"
        _write_text(folder / f"{vector.name}.json", text)
        entries[vector.name] = {
            "op": vector.op,
            "json": _hash(folder / f"{vector.name}.json"),
            "safetensors": _hash(data),
        }
    for name in before.keys() - entries.keys():
        for kind in ("json", "safetensors"):
            (folder / f"{name}.{kind}").unlink(missing_ok=True)
    index = {"schema": SCHEMA, "vectors": entries}
    _write_text(folder / INDEX, json.dumps(index, indent=1) + "\n")
    return index


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a folder."""
    path = folder / INDEX
    if not path.is_file():
        raise TinymoeError(f"{folder}: expected {INDEX}, which `tinymoe vectors DIR` writes")
    index = parse_object(path.read_bytes(), str(path))
    if index.get("schema") != SCHEMA:
        raise TinymoeError(f"{path}: expected schema {SCHEMA!r}, got {index.get('schema')!r}")
    return index


def read_vector(folder: Path, name: str, entry: Mapping[str, str] | None = None) -> Vector:
    """One vector; with the index's entry, its files must have those hashes."""
    paths = {kind: folder / f"{name}.{kind}" for kind in ("json", "safetensors")}
    for kind, path in paths.items():
        if not path.is_file():
            raise TinymoeError(f"{path}: expected the vector's {kind} file")
        if entry is not None and _hash(path) != entry[kind]:
            raise TinymoeError(f"{path}: not the file that {INDEX} was written for (SHA-256)")
    card = parse_object(paths["json"].read_bytes(), str(paths["json"]))
    file = SafetensorsFile(paths["safetensors"])
    tensors = {found: np.array(file.raw(found)) for found in file.entries}
    expected, tolerance = {}, {}
    for field, how in card["expected"].items():
        expected[field] = np.asarray(unpack({"tensor": how["tensor"]}, tensors))
        if how["tolerance"] != 0:
            tolerance[field] = np.asarray(unpack(how["tolerance"], tensors))
    return Vector(
        given={key: unpack(value, tensors) for key, value in card["given"].items()},
        expected=expected,
        tolerance=tolerance,
        kills=tuple(card["kills"]),
        **{key: card[key] for key in ("name", "op", "holds", "derivation", "ties")},
    )


def read_vectors(folder: Path, op: str | None = None) -> list[Vector]:
    """All vectors of a folder, or those of one op, hashes checked."""
    found = read_index(folder)["vectors"]
    return [
        read_vector(folder, name, entry)
        for name, entry in found.items()
        if op in (None, entry["op"])
    ]


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _write_tensors(path: Path, tensors: Mapping[str, Array]) -> None:
    specs = {name: Spec(_DTYPES[str(a.dtype)], a.shape) for name, a in tensors.items()}
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    with SafetensorsWriter(temporary, specs, {"format": SCHEMA}) as file:
        for name, values in tensors.items():
            file.write(name, values)
    temporary.replace(path)
