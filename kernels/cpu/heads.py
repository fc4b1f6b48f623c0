"""Between a projection and attention: each head by itself, from the product to the pages."""

from __future__ import annotations

from typing import Any

from tinymoe.kernels.cpu.batch import POSITIONS, TOKENS, word
from tinymoe.kernels.cpu.kernel import arguments, kernel, part
from tinymoe.kernels.cpu.norm import norm_one
from tinymoe.kernels.cpu.pages import put_key, put_value, slot_of
from tinymoe.kernels.cpu.rope import turn
from tinymoe.kernels.cpu.rows import piece, put_piece
from tinymoe.kernels.cpu.simd import f64_of, i64_at, pick, splat


@part
def clip(x, width, limit):
    """Hold numbers within +-limit, in place (OLMoE)."""
    high, low = splat(limit), splat(-limit)
    for k in range(0, width, 16):
        v = piece(x + 4 * k, width - k)
        v = pick(v, low, low, pick(high, v, high, v))  # NaN is neither below nor above
        put_piece(x + 4 * k, v, width - k)


@kernel(
    "x x_stride heads kv_heads dim weight eps rounds_before_weight norm_after_rope limit "
    "rotary_dim interleaved turns rounding keys values item group"
)
def prepare(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """Norm, clip and turn each token's queries and keys, in place; keys and values to their slots.

    A row of x is `heads` queries, `kv_heads` keys and as many values, of `dim` numbers each.
    weight: (heads + kv_heads, dim) of `norm_one`, 0: no norm. limit: 0 is none, values are clipped,
    too. rotary_dim 0: no turns; see `turn`. Pages: see `put_key`.

    Threads share heads, not tokens: in decoding there may be one token.
    """
    (x, x_stride, heads, kv_heads, dim, weight, eps, before, after, limit, rotary_dim, interleaved,
     turns, rounding, keys, values, item, group) = arguments(args, 18)  # fmt: skip
    turning, every = heads + kv_heads, heads + 2 * kv_heads
    for number in range(thread, word(batch, TOKENS) * every, threads):  # each some of each kind
        t, head = number // every, number % every
        at = x + 4 * (t * x_stride + head * dim)
        normed = weight + 4 * head * dim if weight and head < turning else 0
        if normed and not after:
            norm_one(at, at, dim, normed, f64_of(eps), rounding, before)
        if limit:
            clip(at, dim, f64_of(limit))
        if head < turning and rotary_dim:
            position = i64_at(word(batch, POSITIONS) + 8 * t)
            turn(at, at, position, turns, dim, rotary_dim, interleaved, rounding)
        if normed and after:
            norm_one(at, at, dim, normed, f64_of(eps), rounding, before)
        if head >= heads:
            slot = slot_of(batch, group, t)
            if head < turning:
                put_key(at, dim, keys, item, kv_heads, head - heads, slot)
            else:
                put_value(at, dim, values, item, kv_heads, head - turning, slot)
