"""One matrix times some tokens, by the kernels that a compiled step is made of."""

from __future__ import annotations

import numpy as np

from tinymoe.core import Array
from tinymoe.kernels.cpu import batch, fixed_rows, linear
from tinymoe.kernels.cpu.fixed import FOUR_BITS, multiply_fixed
from tinymoe.kernels.cpu.packed import Packed
from tinymoe.kernels.cpu.program import Program
from tinymoe.kernels.cpu.team import Team


class Product:
    """A program of one instruction: (T, K) float32 to (T, N), summed as `tiles.py` says.

    fixed: of two, the first of which brings x into fixed point (`fixed_rows.py`), as a step does
    whose activations are BF16 and whose weights have four bits.
    """

    def __init__(
        self, packed: Packed, threads: int = 1, tokens: int = 1, fixed: bool = False
    ) -> None:
        if fixed and packed.form.name not in FOUR_BITS:
            raise ValueError(f"fixed point is for {', '.join(FOUR_BITS)}, not {packed.form.name}")
        self.team, self.rows, self.columns = Team(threads), packed.rows, packed.columns
        self.x = batch.aligned(tokens * packed.padded).reshape(tokens, -1)
        self.out = batch.aligned(tokens * packed.pairs * 32).reshape(tokens, -1)
        self.header = np.zeros(batch.WORDS, np.int64)
        size = 8 * linear.OWN_WORDS // 64 * 64 + 64
        self.own = batch.aligned(size * threads, np.uint8)
        self.header[[batch.TOKENS, batch.OWN_BYTES]] = tokens, size
        self.header[batch.OWN] = self.own.ctypes.data
        self.program, x, tiles = Program(), self.x, linear.tiles_of(packed)
        if fixed:
            x = batch.aligned(tokens * fixed_rows.row_bytes(packed.padded) // 4)
            x = x.reshape(tokens, -1)
            self.program.add(
                fixed_rows.fixed_rows, x=self.x, x_stride=self.x.shape[1], count=batch.TOKENS,
                rows=0, per_token=1, columns=packed.columns,
                blocks=packed.padded // fixed_rows.BLOCK, out=x, out_bytes=4 * x.shape[1],
            )  # fmt: skip
            tiles["multiply"] = multiply_fixed(packed.form.name)
        self.program.add(
            linear.linear, x=x, x_stride=x.shape[1], count=batch.TOKENS, rows=0, **tiles, bias=None,
            out=self.out, out_stride=self.out.shape[1], residual=None, part=None, factor=1.0,
            kind=linear.PLAIN, rounding=0,
        )  # fmt: skip

    def __call__(self, x: Array) -> Array:
        """x (T, K), or (K,) for each of T: (T, N), the matrix's scales included."""
        self.x[:, : self.columns] = x
        self.team.run(self.program.code, self.header.ctypes.data)
        return self.out[:, : self.rows].copy()
