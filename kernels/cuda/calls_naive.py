"""The first rungs: the launches of `calls.py` with the plainest kernels, to read and to compare.

One thread a result (or a row). Same arguments, same results but for the order of sums, which here
is from left to right.
"""

from __future__ import annotations

import numpy as np

from tinymoe.cards import ExpertCard
from tinymoe.kernels.cuda.arguments import blocks_for
from tinymoe.kernels.cuda.calls import THREADS, Buffer, ints
from tinymoe.kernels.cuda.launch import Device, launch


def linear(
    device: Device, out: Buffer, x: Buffer, weight: Buffer, bias: Buffer, bf16: np.int32
) -> None:
    """out (T, outs) = x (T, in) @ weight (outs, in)' + bias (outs,)."""
    launch(
        device.kernel("linear", "linear_naive"),
        blocks_for(out.size, THREADS),
        THREADS,
        [out, x, weight, bias, *ints(len(x), x.shape[1], len(weight)), bf16],
    )


def rmsnorm(
    device: Device,
    out: Buffer,
    x: Buffer,
    weight: Buffer,
    eps: float,
    rounds_before_weight: bool,
    bf16: np.int32,
) -> None:
    """out, x (..., N); weight (N,), or (heads, N) where x is (..., heads, N)."""
    width, heads = x.shape[-1], weight.shape[0] if weight.ndim == 2 else 1
    rows = x.size // width
    launch(
        device.kernel("rmsnorm", "rmsnorm_naive"),
        blocks_for(rows, THREADS),
        THREADS,
        [
            *(out, x, weight, *ints(rows, width, heads)),
            *(np.float32(eps), *ints(rounds_before_weight), bf16),
        ],
    )


def expert_ffn(
    device: Device,
    out: Buffer,
    middle: Buffer,
    x: Buffer,
    weights: tuple[Buffer, Buffer],
    biases: tuple[Buffer, Buffer],
    offsets: Buffer,
    card: ExpertCard,
    bf16: np.int32,
) -> None:
    """Three launches: gate and up go to memory, are read again, and become `middle`."""
    rows, width = middle.shape
    both = device.empty((rows, 2 * width), np.float32)
    grouped(device, both, x, weights[0], biases[0], offsets, bf16)
    limits = np.float32(card.clamp_limit or 0), np.float32(card.clamp_alpha or 0)
    launch(
        device.kernel("expert_ffn", "swiglu_naive"),
        blocks_for(middle.size, THREADS),
        THREADS,
        [middle, both, *ints(rows, width, card.activation != "swiglu"), *limits, bf16],
    )
    grouped(device, out, middle, weights[1], biases[1], offsets, bf16)


def grouped(
    device: Device,
    out: Buffer,
    x: Buffer,
    weights: Buffer,
    biases: Buffer,
    offsets: Buffer,
    bf16: np.int32,
) -> None:
    """out (S, outs) = each row of x (S, in) through its own expert of weights (E, outs, in)."""
    _, outs, width = weights.shape
    launch(
        device.kernel("expert_ffn", "grouped_naive"),
        blocks_for(out.size, THREADS),
        THREADS,
        [out, x, weights, biases, offsets, *ints(len(x), width, outs), bf16],
    )
