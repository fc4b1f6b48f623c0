"""Entries in another order: of tokens, of columns, inside heads, or rows for columns."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinymoe.core import Array

MOST = 4096  # columns that are matched with each other
LEAST = 4  # entries of a column by which it is told from the others
Moved = tuple[str, str, float]  # name, what it says, relative L2 error


def permuted(a: Array, b: Array, shape: tuple[int, ...]) -> Iterator[Moved]:
    """Orders in which the reference (T, N) is the engine's; `shape` has the heads, if any."""
    if a.shape[0] == a.shape[1] > 1:
        yield "transposed", "it is the reference transposed", _error(a.T, b)
    if a.shape[1] > 1:
        read_as = a.T.reshape(a.shape)
        yield "transposed", "rows and columns are exchanged in memory", _error(read_as, b)
    for name, says, order in known(a.shape[1], shape[-1] if len(shape) > 2 else 0):
        yield name, says, _error(a[:, order], b)
    if len(a) >= LEAST and 1 < a.shape[1] <= MOST:
        columns = matching(a.T, b.T)
        if columns is not None:
            says = f"columns in another order, {said(columns)}"
            yield "columns-moved", says, _error(a[:, columns], b)
    if a.shape[1] >= LEAST and 1 < len(a) <= MOST:
        tokens = matching(a, b)
        if tokens is not None:
            yield "rows-moved", f"tokens in another order, {said(tokens)}", _error(a[tokens], b)


def known(width: int, head: int) -> Iterator[tuple[str, str, Array]]:
    """Orders that layouts are mistaken for, of a row, and inside each head."""
    columns = np.arange(width)
    sizes = [(width, "the row's")] + ([(head, "each head's")] if 0 < head < width else [])
    for size, whose in sizes:
        if size % 2 or width % size:
            continue
        cut = columns.reshape(-1, size)
        swapped = np.roll(cut, size // 2, axis=1).ravel()
        yield "halves", f"{whose} two halves are exchanged", swapped
        split = np.concatenate([cut[:, 0::2], cut[:, 1::2]], axis=1).ravel()
        yield "interleaved", f"{whose} halves are read as even and odd columns", split
        merged = np.stack([cut[:, : size // 2], cut[:, size // 2 :]], axis=2).ravel()
        yield "interleaved", f"{whose} even and odd columns are read as halves", merged
    if width % 2 == 0:
        swapped = columns.reshape(-1, 2)[:, ::-1].ravel()
        yield (
            "neighbours",
            "neighbours are exchanged, as with the four-bit halves of bytes",
            swapped,
        )
    if 0 < head < width:
        turned = columns.reshape(-1, head).T.ravel()
        yield "heads", "heads and their columns are exchanged in memory", turned


def matching(a: Array, b: Array) -> Array | None:
    """For each row of b the row of a that points the same way, if no two have the same one."""
    x, y = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-300) for v in (a, b))
    order = (y @ x.T).argmax(1)
    moved = len(np.unique(order)) == len(order) and (order != np.arange(len(order))).any()
    return order if moved else None


def said(order: Array) -> str:
    """A few words about a permutation."""
    step = (order - np.arange(len(order))) % len(order)
    if (step == step[0]).all():
        by = int(-step[0]) % len(order)
        return f"moved on by {by} of {len(order)}"
    if (order == np.arange(len(order))[::-1]).all():
        return "reversed"
    moved = int((order != np.arange(len(order))).sum())
    return f"{moved} of {len(order)} moved"


def _error(predicted: Array, b: Array) -> float:
    size = np.linalg.norm(b)
    return float(np.linalg.norm(predicted - b) / size) if size else float(predicted.any())
