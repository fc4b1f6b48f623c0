"""A weight as tiles, and in which order its rows lie there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinymoe.core import Array
from tinymoe.kernels.cpu.batch import aligned
from tinymoe.kernels.cpu.simd import LANES
from tinymoe.kernels.cpu.tiles import ROWS, Format


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """Four-bit activations of a product: see `inputs.py`. Of NVFP4 or MXFP4, as its tiles are."""

    divisors: Array  # (1,) or (E,) float32: S of NVFP4's quantiser


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A matrix (N, K), or E of them, as tiles."""

    form: Format
    data: Array  # uint8, E * pairs * pair_bytes of them
    experts: int  # 1 of a plain matrix
    rows: int  # N
    columns: int  # K
    pairs: int  # of 32 rows, in each matrix
    row_scales: Array | None  # (E, pairs * 32) float32: factors that come last; None: all 1
    inputs: Inputs | None = None  # how x is quantised on its way in; None: it is not

    @property
    def pair_bytes(self) -> int:
        """Of 32 rows."""
        return self.form.pair_bytes(self.columns)

    @property
    def padded(self) -> int:
        """K as kernels see it; what lies behind K in x must be finite, its weights are 0."""
        return self.form.columns(self.columns)

    @property
    def nbytes(self) -> int:
        """In memory."""
        return self.data.nbytes + (0 if self.row_scales is None else self.row_scales.nbytes)

    @property
    def blocks(self) -> Array:
        """The tiles by block, a view: (E, pairs, blocks, bytes of a block)."""
        return self.data.reshape(self.experts, self.pairs, -1, self.form.block_bytes)


def empty(form: Format, shape: tuple[int, ...], order: Array, *, scaled: bool = False) -> Packed:
    """Tiles of zeros to fill, for a matrix (N, K) or a stack (E, N, K)."""
    *lead, rows, columns = shape
    experts, pairs = lead[0] if lead else 1, len(order) // ROWS
    data = aligned(experts * pairs * form.pair_bytes(columns), np.uint8)
    factors = aligned(experts * len(order)).reshape(experts, -1) if scaled else None
    return Packed(form, data, experts, rows, columns, pairs, factors)


def order_of(rows: int, gate_up: bool) -> Array:
    """Which row lies at each place of the tiles; -1: none.

    Of a gate-up matrix (2I, K), gate rows above, each pair holds 16 of gate, then the same of up.
    """
    if not gate_up:
        place = np.arange(-(-rows // ROWS) * ROWS)
        return np.where(place < rows, place, -1)
    half = rows // 2
    unit: Array = np.arange(-(-half // LANES) * LANES)
    unit = np.where(unit < half, unit, -1).reshape(-1, 1, LANES)
    up = np.where(unit < 0, -1, unit + half)
    return np.concatenate([unit, up], axis=1).reshape(-1)


def placed(values: Array, order: Array, columns: int) -> Array:
    """Rows in the order of the tiles, zeros where there is none: (pairs, 2, 16, columns)."""
    out = np.zeros((len(order), columns), values.dtype)
    there = order >= 0
    out[there, : values.shape[1]] = values[order[there]]
    return out.reshape(-1, 2, LANES, columns)


def quads(words: Array, of_one: int) -> Array:
    """Words (pairs, 2, 16, n), `of_one` of a quad, as in tiles: (pairs, quads, 2, of_one, 16).

    Words, not single columns: copying 16 rows' words of 2 or 4 bytes from row by row to side by
    side is what packing takes its time for, and it is paid by the word.
    """
    return words.reshape(len(words), 2, LANES, -1, of_one).transpose(0, 3, 1, 4, 2)
