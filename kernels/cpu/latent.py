"""What latent attention needs besides: a product for each head. See `model/latent.py`.

The absorbed form as instructions, for T tokens, Nq heads, and pages (pages, P, 1, R + Dr):

    linear       the queries q (T, Nq (Dn + Dr)), and down (T, R + Dr)
    rmsnorm      down's first R numbers to the first R of a row `latent` (T, R + Dr)
    rope         down's other Dr numbers to those of `latent`
    write_keys   `latent`, as one head's key
    write_values its first R numbers, as the value
    by_head      the first Dn numbers of q times to_key to R numbers of `folded` (T, Nq, R + Dr)
    rope         each head's other Dr numbers of q to those of `folded`
    attend       `folded` over the pages, D = R + Dr, Dv = R, to `mix` (T, Nq, R); merge
    by_head      each head's `mix` times to_value: (T, Nq, Dv)

The expanded form is plain attention whose keys are longer than its values: write_keys takes each
head's Dn numbers of the grown keys, and rope gives all heads the same Dr.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinymoe.core import Array
from tinymoe.kernels.cpu.batch import TOKENS, own, share, word
from tinymoe.kernels.cpu.kernel import arguments, call_helper, kernel
from tinymoe.kernels.cpu.linear import AT_ONCE
from tinymoe.kernels.cpu.multiply import SCRATCH
from tinymoe.kernels.cpu.rows import kept, put_piece
from tinymoe.kernels.cpu.simd import load, put_i64


def absorbed(up: Array, nope_dim: int) -> tuple[Array, Array]:
    """up (Nq, Dn + Dv, R) as the two stacks to `pack`: to_key (Nq, R, Dn), to_value (Nq, Dv, R)."""
    to_key = np.ascontiguousarray(up[:, :nope_dim].transpose(0, 2, 1))
    return to_key, np.ascontiguousarray(up[:, nope_dim:])


@kernel(
    "x x_stride x_head heads weight pair_bytes pairs columns scales rows out out_stride out_head "
    "rounding multiply"
)
def by_head(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """Each head's piece of each token's row of x times the head's own matrix (N, K): N numbers.

    x: heads `x_head` numbers apart, out likewise. weight: a packed stack (Nq, N, K); `rows` is N,
    `columns` K with its padding: what follows a head's K numbers must be finite. Threads share the
    heads' pairs of tiles. Memory of a thread: as `linear`. Order of sums: as `tiles`.
    """
    (x, x_stride, x_head, heads, weight, pair_bytes, pairs, columns, scales, rows,
     out, out_stride, out_head, rounding, multiply) = arguments(args, 15)  # fmt: skip
    scratch = own(batch, thread)
    starts, sums = scratch + SCRATCH, scratch + SCRATCH + 8 * AT_ONCE
    count = word(batch, TOKENS)
    first, last = share(heads * pairs, thread, threads)
    for item in range(first, last):
        head, place = item // pairs, item % pairs * 32
        for done in range(0, count, AT_ONCE):
            tokens = min(AT_ONCE, count - done)
            for t in range(tokens):
                put_i64(starts + 8 * t, x + 4 * ((done + t) * x_stride + head * x_head))
            at = weight + item * pair_bytes
            call_helper(multiply, at, columns, starts, tokens, sums, scratch)
            for t in range(tokens):
                to = out + 4 * ((done + t) * out_stride + head * out_head + place)
                for k in range(0, min(32, rows - place), 16):
                    v = load(sums + 128 * t + 4 * k)
                    if scales:
                        v = v * load(scales + 4 * (32 * item + k))
                    put_piece(to + 4 * k, kept(v, rounding), rows - place - k)
