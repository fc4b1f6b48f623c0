"""Between a projection and attention: a clip."""

from __future__ import annotations

from typing import Any

from tinymoe.kernels.cpu.batch import share_tokens
from tinymoe.kernels.cpu.kernel import ALWAYS, arguments, kernel
from tinymoe.kernels.cpu.rows import piece, put_piece
from tinymoe.kernels.cpu.simd import f64_of, pick, splat


@kernel("x x_stride width limit", by_token=ALWAYS)
def clip(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """Hold the first `width` numbers of each token's row of x within +-limit, in place (OLMoE)."""
    x, x_stride, width, limit = arguments(args, 4)
    high, low = splat(f64_of(limit)), splat(-f64_of(limit))
    first, last = share_tokens(batch, thread, threads)
    for t in range(first, last):
        for k in range(0, width, 16):
            at = x + 4 * (t * x_stride + k)
            v = piece(at, width - k)
            v = pick(v, low, low, pick(high, v, high, v))  # NaN is neither below nor above
            put_piece(at, v, width - k)
