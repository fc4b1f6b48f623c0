"""What this machine does at most with whole numbers: products of four-bit weights are made of them.

An instruction multiplies 16-bit numbers and adds them by pairs, another adds the sums up
(`kernels/cpu/whole.py`, `fixed.py`). Here both follow each other in registers, in chains, enough of
them to hide what one takes; nothing is read, and no block ends. So this is the roof over the
kernels of NVFP4 and MXFP4 that `limits.py` has over those that multiply in float32.
"""

from __future__ import annotations

from typing import Any

from tinymoe.kernels.cpu.integers import word_pairs
from tinymoe.kernels.cpu.kernel import helper
from tinymoe.kernels.cpu.lazily import operation
from tinymoe.kernels.cpu.simd import I32, as_f32, bits, load, splat_i32, store
from tinymoe.kernels.cpu.whole import HALVES


def _pairs_onto(builder: Any, x: Any, y: Any, sums: Any) -> Any:
    products = word_pairs(builder, *(builder.bitcast(each, HALVES) for each in (x, y)))
    return builder.add(sums, products)


pairs_onto = operation(
    I32, (I32, I32, I32), _pairs_onto, "sums + x[2i] y[2i] + x[2i + 1] y[2i + 1], of 16 bits."
)


@helper
def five_whole_chains(rounds: Any, sink: Any) -> None:
    """Ten registers of AVX2. Each sum is multiplied next, or the products would all be one."""
    one = splat_i32(1)
    a = b = c = d = e = bits(load(sink))
    for _ in range(rounds):
        a, b, c = pairs_onto(a, one, b), pairs_onto(b, one, c), pairs_onto(c, one, d)
        d, e = pairs_onto(d, one, e), pairs_onto(e, one, a)
    store(sink, as_f32((a + b) + (c + d) + e))


@helper
def ten_whole_chains(rounds: Any, sink: Any) -> None:
    """For 32 registers of the full width."""
    one = splat_i32(1)
    a = b = c = d = e = f = g = h = i = j = bits(load(sink))
    for _ in range(rounds):
        a, b, c = pairs_onto(a, one, b), pairs_onto(b, one, c), pairs_onto(c, one, d)
        d, e, f = pairs_onto(d, one, e), pairs_onto(e, one, f), pairs_onto(f, one, g)
        g, h, i = pairs_onto(g, one, h), pairs_onto(h, one, i), pairs_onto(i, one, j)
        j = pairs_onto(j, one, a)
    store(sink, as_f32((a + b) + (c + d) + (e + f) + (g + h) + (i + j)))


# operations of each of 16 lanes in a round: two products and two sums a chain
WHOLE_CHAINS = {five_whole_chains: 4 * 5, ten_whole_chains: 4 * 10}
