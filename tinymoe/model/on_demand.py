"""Weights that are read when they are used, for models that are bigger than the memory.

`OnDemand` stands where the definition takes one expert, some rows or one block of a matrix at a
time; there a plain array and this give the same numbers, bit for bit. Whoever multiplies with
codes and scales themselves gets them from it as they are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from tinymoe.core import Array, QuantTensor

BLOCK_BYTES = 16 * 2**20  # of a matrix that is multiplied block by block


class CodedRows(NamedTuple):
    """Rows of a matrix (N, K) as a checkpoint stores them in few bits."""

    rows: Array  # (n,) which row of the matrix each row of the tensor is
    tensor: QuantTensor  # (n, K)


Codes = Callable[[int | None], list[CodedRows]]  # of the matrix, or of a stack's expert


class OnDemand:
    """An array that is not in memory: `array[index]` along its first axis reads that part.

    >>> import numpy as np
    >>> stack = OnDemand((2, 3, 4), lambda expert: np.full((3, 4), expert))
    >>> len(stack), stack[1].shape, int(stack[1].max())
    (2, (3, 4), 1)
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        read: Callable[[Any], Array],
        block: int | None = None,
        stored: str = "",
        codes: Codes | None = None,
    ) -> None:
        """`read`: a whole number, a slice or whole numbers -> those parts; `block`: rows of one.

        `stored`: in which format, "bf16" or "nvfp4"; "": not known, or in several. `codes`: what
        reads all rows of it as they are stored in few bits; None: it has to be values.
        """
        self.shape, self._read = shape, read
        self.stored, self.codes = stored, codes
        row = 8 * max(1, shape[-1])  # bytes, in the widest type
        self.rows_at_once = block or max(1, BLOCK_BYTES // row)  # all, where one costs as much

    def __len__(self) -> int:
        """Length of the first axis."""
        return self.shape[0]

    def __getitem__(self, index: int | slice | Array) -> Array:
        """Read it, anew each time or from what is kept."""
        return self._read(index)

    def blocks(self) -> Iterator[Array]:
        """All rows, a block at a time."""
        for start in range(0, len(self), self.rows_at_once):
            yield self._read(slice(start, min(start + self.rows_at_once, len(self))))


@dataclass
class Reads:
    """What was read so far of weights that are read on demand, and what is kept of it."""

    budget: int  # bytes that weights may take at once
    whole: int  # bytes that all of them would take
    bytes_read: int = 0  # as stored, of the tensors and rows that were asked for
    experts_read: int = 0  # matrices of experts that came from the file ...
    experts_found: int = 0  # ... and those that were still there
    most_held: int = 0  # bytes of weights at once, at most
