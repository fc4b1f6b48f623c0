"""What begins and ends a part of a layer: ids to vectors, experts to sums, sums to the residual."""

from __future__ import annotations

from typing import Any

from tinymoe.kernels.cpu.batch import IDS, share_tokens, word
from tinymoe.kernels.cpu.kernel import ALWAYS, arguments, kernel
from tinymoe.kernels.cpu.maths import sigmoid
from tinymoe.kernels.cpu.rows import kept
from tinymoe.kernels.cpu.simd import (
    bf16_at,
    f32_at,
    f64_of,
    i64_at,
    load,
    put_f32,
    splat,
    store,
)


@kernel("table pair_bytes bf16 width out out_stride factor rounding", by_token=ALWAYS)
def embed(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """ids (T,) -> rows (T, H) of a table in BF16 or float32 tiles, times `factor`.

    The table may be the head's: it is held once.
    """
    table, pair_bytes, bf16, width, out, stride, factor, rounding = arguments(args, 8)
    first, last = share_tokens(batch, thread, threads)
    for t in range(first, last):
        row = i64_at(word(batch, IDS) + 8 * t)
        tile = table + row // 32 * pair_bytes + row // 16 % 2 * (128 if bf16 else 256)
        to = out + 4 * stride * t
        for k in range(width):
            if bf16:
                word_ = tile + k // 4 * 256 + k // 2 % 2 * 64 + row % 16 * 4
                put_f32(to + 4 * k, bf16_at(word_ + k % 2 * 2))
            else:
                put_f32(to + 4 * k, f32_at(tile + k // 4 * 512 + k % 4 * 64 + row % 16 * 4))
        for k in range(0, width, 16):
            v = load(to + 4 * k)
            if f64_of(factor) != 1.0:
                v = v * splat(f64_of(factor))
            store(to + 4 * k, kept(v, rounding))


@kernel(
    "rows stride weights top_k shared shared_stride gate gate_stride width factor rounding "
    "residual routed part out x_stride",
    by_token=ALWAYS,
)
def combine(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """Each token's experts, weighted and summed; the shared expert; and all that onto the residual.

    y = ((w0 o0 + w1 o1) + w2 o2) + ..., weight descending, rounded; plus the shared expert times
    sigmoid of its gate, if it has one, rounded; times `factor`, rounded; plus the residual,
    rounded: out (T, H). `routed` and `part` are given what comes before and after the shared
    expert, unless they are 0; all four have rows `x_stride` apart. `shared` is left gated.
    """
    (rows, stride, weights, top_k, shared, shared_stride, gate, gate_stride, width, factor_bits,
     rounding, residual, routed, part, out, x_stride) = arguments(args, 16)  # fmt: skip
    factor = f64_of(factor_bits)
    first, last = share_tokens(batch, thread, threads)
    for t in range(first, last):
        for k in range(0, 4 * width, 64):
            total = splat(0.0)
            for choice in range(top_k):
                slot = t * top_k + choice
                weight = splat(f32_at(weights + 4 * slot))
                weighted = weight * load(rows + 4 * stride * slot + k)
                total = weighted if choice == 0 else total + weighted
            total = kept(total, rounding)
            at = 4 * x_stride * t + k
            if routed:
                store(routed + at, total)
            if shared:
                extra = load(shared + 4 * shared_stride * t + k)
                if gate:
                    opened = sigmoid(splat(f32_at(gate + 4 * gate_stride * t)))
                    extra = kept(kept(opened, rounding) * extra, rounding)
                    store(shared + 4 * shared_stride * t + k, extra)
                total = kept(total + extra, rounding)
            if part:
                store(part + at, total)
            if factor != 1.0:
                total = kept(total * splat(factor), rounding)
            store(out + at, kept(load(residual + at) + total, rounding))
