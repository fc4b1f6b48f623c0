"""Where a step's activations lie: one array for all layers, or, to be looked at, one for each."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinymoe.core import Array
from tinymoe.kernels.cpu.batch import aligned
from tinymoe.kernels.cpu.simd import LANES

PADDING = 128  # a row's length is a multiple: the columns that some format's tiles are padded to


def stride_of(width: int) -> int:
    """Numbers from one row to the next.

    One cache line more than whole paddings: rows at equal places modulo 4,096 bytes would all
    want the same few places in the nearest cache.
    """
    return -(-width // PADDING) * PADDING + LANES


class Buffers:
    """Arrays by name, for up to `tokens` tokens. What nobody writes is 0."""

    def __init__(self, tokens: int, traced: bool) -> None:
        """`traced`: an activation is not overwritten by another layer's."""
        self.tokens, self.traced = tokens, traced
        self._held: dict[str, Array] = {}

    def rows(self, name: str, width: int, per_token: int = 1) -> Array:
        """(T * per_token, stride) float32, the first `width` numbers of each row in use."""
        shape = (self.tokens * per_token, stride_of(width))
        return self._get(name, shape, np.float32)

    def numbers(self, name: str, count: int, dtype: Any = np.int64) -> Array:
        """(count,) of anything."""
        return self._get(name, (count,), dtype)

    def _get(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """The array of this name; without tracing, that of the name without its layer."""
        key = name if self.traced else name.split("/")[-1]
        key = f"{key} {shape}"
        if key not in self._held:
            self._held[key] = aligned(int(np.prod(shape)), dtype).reshape(shape)
        return self._held[key]

    @property
    def nbytes(self) -> int:
        """In memory."""
        return sum(array.nbytes for array in self._held.values())
