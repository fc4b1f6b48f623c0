"""Four-bit weights times four-bit activations: whole numbers within a block, float32 across them.

    y[t, n] = alpha * sum over blocks b of (sx[t, b] * sw[n, b]) * (sum of codes' products, exact)

A block's term is exact, scales included: E4M3 scales have 4 bits and E8M0's one, the whole number
13. So there is one rounding a block, where the term is added, and the order of these sums is
written: from the first block to the last.

    y = fma(n[0], sx[0] * sw[0], 0); y = fma(n[1], sx[1] * sw[1], y); ...; y = y * alpha

That is `formats.gemm.emulated`, bit for bit. Against the sum in whole numbers K/B - 1 additions
and alpha's product are rounded: |error| <= n u / (1 - n u) * alpha * sum |terms|, n = K/B.

How: `whole.py`, with x of one digit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from tinymoe.kernels.cpu.coded_rows import CODES
from tinymoe.kernels.cpu.kernel import Kernel
from tinymoe.kernels.cpu.multiply import _clear
from tinymoe.kernels.cpu.tiles import FORMATS, Format
from tinymoe.kernels.cpu.whole import times_whole

TOGETHER = 4  # rows of x that share a look at the weight's codes
QUARTER = 0.25  # both sides were doubled


@cache
def multiply_codes(name: str) -> Kernel:
    """`f(weight, columns, rows, tokens, sums, scratch)`: as `multiply`, of rows that are coded."""
    return Kernel(lambda: _product(FORMATS[name]), f"multiply_codes_{name}", __name__, (), 6)


def _product(form: Format) -> Callable[..., None]:
    rows_of = CODES[form.block]
    four, one = (times_whole(form, rows_of, tokens, QUARTER) for tokens in (TOGETHER, 1))

    def product(weight: Any, columns: Any, rows: Any, tokens: Any, sums: Any, scratch: Any) -> None:
        _clear(sums, tokens)
        t = 0
        while t + TOGETHER <= tokens:
            four(weight, columns, rows + 8 * t, sums + 128 * t)
            t += TOGETHER
        while t < tokens:
            one(weight, columns, rows + 8 * t, sums + 128 * t)
            t += 1

    return product
