"""A folder of vectors held to what this code makes, and to what its cards claim."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from tinymoe.core import Array, TinymoeError
from tinymoe.oracle.vectors.files import card_of, read_index, read_vector
from tinymoe.oracle.vectors.kills import killed_by
from tinymoe.oracle.vectors.vector import Vector, outside

SHARE = 0.01  # of a tolerance: what another machine's exp and cos may move an expected value by


def problems(folder: Path, fresh: Mapping[str, Vector]) -> Iterator[str]:
    """What is wrong with the files: hashes, contents, claimed kills; nothing if all is well."""
    entries = read_index(folder)["vectors"]
    for name in entries.keys() - fresh.keys():
        yield f"{name}: no such vector is made"
    for name, want in fresh.items():
        if name not in entries:
            yield f"{name}: missing from the folder"
            continue
        try:
            found = read_vector(folder, name, entries[name])
        except TinymoeError as error:
            yield str(error)
            continue
        if why := unlike(found, want):
            yield f"{name}: {why}"
        killed = killed_by(found)
        if killed != found.kills:
            both = sorted(set(killed) ^ set(found.kills))
            yield f"{name}: kills other mutants than its card claims: {', '.join(both)}"


def unlike(found: Vector, want: Vector) -> str | None:
    """How two vectors of one name differ, or None.

    Everything is equal bit for bit, but for expected values that have a tolerance, and the
    tolerance: a last bit of exp or cos is the machine's.
    """
    (card, tensors), (other, others) = card_of(found), card_of(want)
    for key in card.keys() - {"kills"}:
        if card[key] != other[key]:
            return f"another {key!r} than is made"
    if tensors.keys() != others.keys():
        return f"other tensors: {sorted(tensors.keys() ^ others.keys())}"
    for name, value in tensors.items():
        kind, _, field = name.partition(".")
        loose = kind in ("expected", "tolerance") and field in want.tolerance
        if not _alike(value, others[name], others[f"tolerance.{field}"] if loose else None):
            return f"another {name!r} than is made"
    return None


def _alike(a: Array, b: Array, tolerance: Array | None) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if tolerance is None:
        return a.tobytes() == b.tobytes()
    return not outside(a, b, SHARE * tolerance.astype(np.float64)).any()
