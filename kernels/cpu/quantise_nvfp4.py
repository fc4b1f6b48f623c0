"""NVFP4 as each convention makes it: `formats/nvfp4_encoders.py`, 16 blocks at a time.

Lane = block while scales are found, lane = element while codes are. Every operation is float32 and
rounds once, in the definition's order, so the bytes are the definition's.
"""

from __future__ import annotations

from typing import Any

from tinymoe.kernels.cpu.batch import own, share
from tinymoe.kernels.cpu.codes import (
    LARGEST,
    choose,
    e2m1,
    e4m3_bytes,
    e4m3_value,
    largest_i32,
    most_i32,
    put_bytes,
    put_i32,
    put_nibbles,
    rounded,
    store_i32,
)
from tinymoe.kernels.cpu.kernel import arguments, kernel, part
from tinymoe.kernels.cpu.lazily import njit
from tinymoe.kernels.cpu.simd import (
    absolute,
    as_f32,
    bits,
    f32_at,
    f64_of,
    least,
    load,
    load_i32,
    most,
    pick,
    put_i64,
    splat,
    splat_i32,
    store,
)

MODELOPT, CT, TORCHAO, ONE_LEVEL, PLAIN, KERNEL, FLASHINFER, VLLM, VLLM_REF = range(9)
STEPS = {
    "modelopt": MODELOPT,
    "ct": CT,
    "torchao": TORCHAO,
    "torchao_one_level": ONE_LEVEL,
    "te": PLAIN,
    "te_2d": PLAIN,
    "kernel": KERNEL,
    "kernel_flashinfer": FLASHINFER,
    "kernel_flashinfer_exact": PLAIN,
    "kernel_vllm": VLLM,
    "vllm_ref": VLLM_REF,
}
SIXTH = 0.16666667163372040  # 1/6 as a float32
# of a thread's memory: 16 maxima, then 16 factors, then 16 scale bytes as int32
AMAX, FACTOR, BYTES = 0, 64, 128


@njit(inline="always")
def flushed(x):
    """Subnormals to zero, sign kept: ftz."""
    zero = as_f32(bits(x) & splat_i32(-(2**31)))
    return pick(absolute(x), splat(2.0**-126), zero, x)


@njit(inline="always")
def _rcp(x):
    return flushed(splat(1.0) / flushed(x))


@njit(inline="always")
def _rec(x):
    """vLLM's emulation: 1 / 1e8 stands in for 1 / 0."""
    return splat(1.0) / pick(absolute(x), splat(1e-45), splat(1e8), x)


@njit(inline="always")
def _where(e, factor):
    """A factor where the scale is not zero."""
    return pick(splat(0.0), e, factor, splat(0.0))


@part
def scale_nvfp4(mine, tensor_scale, convention, source):
    """Maxima of 16 blocks at `mine` to their scale bytes and to what elements are scaled by."""
    amax, S, one = load(mine + AMAX), splat(tensor_scale), splat(1.0)
    if convention == MODELOPT:
        s = amax / (splat(6.0) * S)
        code = e4m3_bytes(most(pick(splat(0.0), s, s, one), splat(2.0**-9)))
        factor = e4m3_value(code) * S
    elif convention == CT:
        code = e4m3_bytes(S * rounded(amax / splat(6.0), source))
        code = choose(splat(0.0), e4m3_value(code), code, splat_i32(0x20))
        factor = e4m3_value(code) / S
    elif convention == TORCHAO:
        code = e4m3_bytes(most((amax / splat(6.0)) / S, splat(2.0**-6)))
        factor = (one / S) / e4m3_value(code)
    elif convention == ONE_LEVEL:
        code = e4m3_bytes(most(amax / splat(6.0), splat(2.0**-6)))
        factor = one / e4m3_value(code)
    elif convention == PLAIN:
        code = e4m3_bytes(amax * (S * splat(SIXTH)))
        factor = least(one / (e4m3_value(code) * (one / S)), splat(LARGEST))
    elif convention == KERNEL:
        code = e4m3_bytes(S * (amax * splat(SIXTH)))
        e = e4m3_value(code)
        factor = _where(e, one / (e * (one / S)))
    elif convention == FLASHINFER:
        amax = flushed(amax)
        code = e4m3_bytes(flushed(S * flushed(amax * splat(SIXTH))))
        # zero for a block of zeros alone: where the scale underflows, it is infinite
        factor = _where(amax, _rcp(flushed(e4m3_value(code) * _rcp(S))))
    elif convention == VLLM:
        code = e4m3_bytes(S * (amax * splat(SIXTH)))
        e = e4m3_value(code)
        factor = _where(e, _rcp(e * _rcp(S)))
    else:  # VLLM_REF
        code = e4m3_bytes(S * (amax * splat(SIXTH)))
        factor = _rec(e4m3_value(code) * _rec(S))
    store_i32(mine + BYTES, code)
    store(mine + FACTOR, factor)


@part
def loudest(x, stride, rows, mine, blocks, width):
    """Maxima of |x| of each block of `width` columns and `rows` rows, to `mine`; 0: not finite."""
    store(mine + AMAX, splat(0.0))
    for block in range(blocks):
        loud = splat_i32(0)
        for r in range(rows):
            for k in range(0, width, 16):
                v = load(x + 4 * (r * stride + block * width + k))
                loud = most_i32(loud, bits(absolute(v)))
        put_i32(mine + AMAX + 4 * block, largest_i32(loud))
    # as whole numbers infinity is above every number, and NaN above infinity
    return largest_i32(load_i32(mine + AMAX)) < 0x7F800000


@kernel(
    "x rows columns sharing tensor_scale convention source bounds signs nans codes scales "
    "scale_stride bad"
)
def quantise_nvfp4(args: Any, batch: Any, thread: Any, threads: Any) -> None:
    """x (N, K) -> codes (N, K/2), scale bytes (N, scale_stride); `sharing` rows have one scale.

    `scale_stride`: K/16 up to whole sixteens. `bad` becomes 1 if x is not finite. Threads share
    pieces of 16 blocks.
    """
    (x, rows, columns, sharing, scale_bits, convention, source, bounds, signs, nans, codes,
     scales, scale_stride, bad) = arguments(args, 14)  # fmt: skip
    mine, blocks, pieces = own(batch, thread), columns // 16, scale_stride // 16
    first, last = share(rows // sharing * pieces, thread, threads)
    for item in range(first, last):
        row, begin = item // pieces * sharing, item % pieces * 16
        count = min(16, blocks - begin)
        start = x + 4 * (row * columns + 16 * begin)
        if not loudest(start, columns, sharing, mine, count, 16):
            put_i64(bad, 1)
        scale_nvfp4(mine, f64_of(scale_bits), convention, source)
        for r in range(sharing):
            put_bytes(scales + (row + r) * scale_stride + begin, load_i32(mine + BYTES))
            to = codes + (row + r) * (columns // 2) + 8 * begin
            for block in range(count):
                v = load(start + 4 * (r * columns + 16 * block))
                factor = splat(f32_at(mine + FACTOR + 4 * block))
                if convention <= CT:
                    v = v / factor
                elif convention == FLASHINFER:
                    v = flushed(flushed(v) * factor)
                else:
                    v = v * factor
                put_nibbles(to + 8 * block, e2m1(v, bounds, signs, nans))
