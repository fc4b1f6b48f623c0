"""Inputs to try the low-precision ops on: ties, zeros, scales that underflow, ragged tiles.

Random normal values rarely meet what breaks a quantiser: a quotient on a midpoint, a block of
zeros, a scale below 2^-9, a tensor scale that is too small for what comes (imp#1544).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tinymoe.core import Array
from tinymoe.formats import bf16, e4m3, nvfp4
from tinymoe.formats.conventions import FP8, MXFP4, NVFP4
from tinymoe.formats.e2m1 import MIDPOINTS
from tinymoe.kernels.gemm_strategies import STRATEGIES as PRODUCTS
from tinymoe.kernels.strategy_values import seeds

Case = dict[str, Any]
block_kinds = st.sampled_from(["ties", "near ties", "scaled ties", "normal", "quiet", "zeros"])
sources = st.sampled_from(["float32", "bfloat16"])
# Of a block's largest value: where exponents change, and next to it.
EDGES = [0.0, 1.9999999, *(x + e * 2.0**-23 for x in (1, 1.5, 1.75) for e in (0, -1, 1, 2))]
# What divides by a scale's own power of two, by a library's log2, is judged on BF16 values alone:
# just above a power of two one library's log2 is not another's.
LOG2 = tuple(name for name, row in MXFP4.items() if row.exponent.endswith("log2"))
FLOORED = tuple(name for name, row in FP8.items() if row.scale not in ("amax/448", "rd(amax/448)"))
DIVIDES = tuple(name for name, row in FP8.items() if row.element in ("w/s", "w*(1/s)"))
BY_LOG2 = ("div32", "deepseek_act", "modelopt_channel", "modelopt_block")


def blocks_of(rng: np.random.Generator, kind: str, shape: tuple[int, int], size: int) -> Array:
    """(N, K) float32 in blocks of `size` along K; the first value is never zero.

    "ties": midpoints of E2M1 times a power of two, with 6 times it in each block, so that a scale
    which is that power leaves ties; "near ties": a float32 to either side; "scaled ties": times
    block scales of any last bits, some half way between two E4M3 values. "quiet": some blocks down
    to where scales, and float32 itself, underflow. "zeros": some blocks are.
    """
    rows, blocks = shape
    if kind == "scaled ties":
        low = rng.integers(0x10, 0x7E, (rows, blocks, 1), np.uint8)
        high = low + rng.integers(0, 2, low.shape, np.uint8)
        scales = (e4m3.decode(low) + e4m3.decode(high)) / np.float32(2)
        scales[0, 0] = e4m3.MAX  # so that the tensor's scale is `peak`
        x = rng.choice([*MIDPOINTS], (rows, blocks, size)) * rng.choice([-1.0, 1.0], size)
        x[..., -1], peak = 6, rng.uniform(1, 2) / e4m3.MAX
        return (x * scales * peak).astype(np.float32).reshape(rows, blocks * size)
    if kind.endswith("ties"):
        x = rng.choice([0.0, 0.5, *MIDPOINTS], (rows, blocks, size))
        x[..., -1] = 6
        x = (x * rng.choice([-1.0, 1.0], x.shape)).astype(np.float32)
        if kind == "near ties":
            x = np.nextafter(x, np.float32(rng.choice([-np.inf, np.inf])))
            x[..., -1] = 6
    else:
        x = rng.standard_normal((rows, blocks, size)).astype(np.float32)
    least = {"quiet": -130, "normal": -12}.get(kind, -2)
    x *= np.exp2(rng.integers(least, 1, (rows, blocks, 1))).astype(np.float32)
    if kind == "zeros":
        x *= rng.random((rows, blocks, 1)) > 0.4
    if not x[0, 0, 0]:
        x[0, 0, 0] = 0.5
    return x.reshape(rows, blocks * size)


@st.composite
def quantize_nvfp4(draw: DrawFn) -> Case:
    """Every convention, under its own tensor scale, or one for a tensor 8 times quieter."""
    rng, convention, source = (
        np.random.default_rng(draw(seeds)), draw(st.sampled_from(list(NVFP4))), draw(sources),
    )  # fmt: skip
    rows = 16 if convention == "te_2d" else draw(st.integers(1, 3))
    x = blocks_of(rng, draw(block_kinds), (rows, draw(st.integers(1, 3))), 16)
    if source == "bfloat16":
        x = bf16.round_to_bf16(x)
    amax = draw(st.sampled_from(["its own", "power of two", "too small"]))
    loudest = {"its own": float(np.abs(x).max()), "power of two": 2688.0, "too small": 0.3}[amax]
    scale = nvfp4.tensor_scale(loudest, convention=convention, source=source)  # type: ignore[arg-type]
    return {
        "x": x,
        "tensor_scale": None if scale is None else float(scale),
        "convention": convention,
        "source": source,
    }


@st.composite
def bytes_of(draw: DrawFn, block: int) -> Case:
    """Codes and scales: any bytes, NaN and signs among them; or those that quantisers write."""
    rng = np.random.default_rng(draw(seeds))
    rows, blocks = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    low, high = draw(st.sampled_from([(0, 256), (0, 127), (0x20, 0x60)]))
    scales = rng.integers(low, high, (rows, blocks), np.uint8)
    if high == 256:  # the ends, where readings differ
        scales[0, 0] = draw(st.sampled_from([0, 1, 0x7E, 0x7F, 254, 255]))
    codes = rng.integers(0, 256, (rows, blocks * block // 2), np.uint8)
    return {"codes": codes, "scales": scales}


@st.composite
def dequantize_nvfp4(draw: DrawFn) -> Case:
    """Every convention's order, tensor scales of any last bits."""
    convention = draw(st.sampled_from(list(NVFP4)))
    scale = draw(
        st.one_of(st.sampled_from([1.0, 0.25, 896.0]), st.floats(2.0**-17, 2.0**17, width=32))
    )
    return {
        **draw(bytes_of(16)),
        "tensor_scale": None if NVFP4[convention].tensor_scale == "none" else scale,
        "convention": convention,
    }


@st.composite
def quantize_mxfp4(draw: DrawFn) -> Case:
    """Every convention; amax on powers of two, on 1.75 and on 6 times them, and next to those."""
    rng, convention = np.random.default_rng(draw(seeds)), draw(st.sampled_from(list(MXFP4)))
    rows, blocks = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    x = blocks_of(rng, draw(block_kinds), (rows, blocks), 32)
    edge = draw(st.sampled_from(EDGES))
    if edge:  # the largest of the first block
        power = min(draw(st.sampled_from([-3, 0, 5, 127])), 126 if convention in LOG2 else 127)
        x[0, :32] = rng.uniform(-edge, edge, 32) * 2.0**power
        x[0, 5] = edge * 2.0**power
    if convention in LOG2:
        x = bf16.round_to_bf16(x)
        x[np.abs(x) < 2.0**-100] = 0
    return {"x": x, "convention": convention}


@st.composite
def dequantize_mxfp4(draw: DrawFn) -> Case:
    """Every convention's reading of bytes 0 and 255."""
    return {**draw(bytes_of(32)), "convention": draw(st.sampled_from(list(MXFP4)))}


@st.composite
def fp8_shapes(draw: DrawFn) -> tuple[int, int]:
    """One value to more than one block, edges ragged; long in one direction at most."""
    long = draw(st.sampled_from([1, 5, 127, 128, 129, 260]))
    short = draw(st.integers(1, 2))
    return draw(st.sampled_from([(long, short), (short, long)]))


@st.composite
def quantize_fp8(draw: DrawFn) -> Case:
    """Zero rows where the convention has a floor; whole numbers of the scale, and halves."""
    rng, convention = np.random.default_rng(draw(seeds)), draw(st.sampled_from(list(FP8)))
    shape, source = draw(fp8_shapes()), draw(sources)
    x: Array = rng.standard_normal(shape).astype(np.float32)
    kind = draw(st.sampled_from(["normal", "ties", "scaled ties", "zeros"]))
    if kind == "scaled ties":  # half way between two values, times what is no power of two
        low = rng.integers(0x20, 0x7E, shape, np.uint8)
        x = (e4m3.decode(low) + e4m3.decode(low + np.uint8(1))) / np.float32(2)
        x[:, 0] = e4m3.MAX
        x *= np.float32(rng.uniform(1, 2))
    if kind == "ties":  # with 448 in the tensor: steps of E4M3 and what lies half way
        x = (rng.integers(-32, 33, shape) / 2).astype(np.float32)
        x[:, 0] = 448
    x *= np.exp2(rng.integers(-8, 1, (shape[0], 1))).astype(np.float32)
    if kind == "zeros" and convention in FLOORED:
        x *= rng.random((shape[0], 1)) > 0.5
    elif convention not in FLOORED:
        x[x == 0] = 0.5
    rounds = ["no"]
    if convention in DIVIDES:
        rounds += ["bits"] + ["log2"] * (convention in BY_LOG2)
    rounding = draw(st.sampled_from(rounds))
    if source == "bfloat16" or rounding == "log2":
        x = bf16.round_to_bf16(x)
    return {
        "x": x,
        "convention": convention,
        "granularity": draw(st.sampled_from(["tensor", "channel", "block", "group"])),
        "source": source,
        "power_of_two": rounding,
    }


@st.composite
def dequantize_fp8(draw: DrawFn) -> Case:
    """Every byte; a tensor's scale, rows', blocks' and groups'."""
    rng, shape = np.random.default_rng(draw(seeds)), draw(fp8_shapes())
    block = draw(st.sampled_from([shape, (1, shape[1]), (128, 128), (1, 128)]))
    grid = (-(-shape[0] // block[0]), -(-shape[1] // block[1]))
    scales = np.exp2(rng.uniform(-20, 8, grid)).astype(np.float32)
    codes = rng.integers(0, draw(st.sampled_from([256, 127])), shape, np.uint8)
    return {"codes": codes, "scales": scales, "block": block}


@st.composite
def scale_matrices(draw: DrawFn) -> Array:
    """One byte to several tiles, ragged both ways; every byte differs from its neighbours."""
    rows = draw(st.sampled_from([1, 5, 31, 33, 127, 128, 129, 200]))
    columns = draw(st.sampled_from([1, 2, 3, 4, 5, 9]))
    rng = np.random.default_rng(draw(seeds))
    scales: Array = rng.permutation(rows * columns).reshape(rows, columns) % 251
    return (scales + 1).astype(np.uint8)


def swizzle_scales() -> SearchStrategy[Case]:
    """Partial tiles, and zeros where nothing is."""
    return scale_matrices().map(lambda scales: {"scales": scales})


@st.composite
def unswizzle_scales(draw: DrawFn) -> Case:
    """Bytes in the padding, which must not come back."""
    rows, columns = draw(scale_matrices()).shape
    size = -(-rows // 128) * 128 * -(-columns // 4) * 4
    flat = np.random.default_rng(draw(seeds)).integers(0, 256, size, np.uint8)
    return {"flat": flat, "rows": rows, "columns": columns}


STRATEGIES: dict[str, Callable[[], SearchStrategy[Case]]] = {
    "quantize_nvfp4": quantize_nvfp4,
    "dequantize_nvfp4": dequantize_nvfp4,
    "quantize_mxfp4": quantize_mxfp4,
    "dequantize_mxfp4": dequantize_mxfp4,
    "quantize_fp8": quantize_fp8,
    "dequantize_fp8": dequantize_fp8,
    "swizzle_scales": swizzle_scales,
    "unswizzle_scales": unswizzle_scales,
    **PRODUCTS,
}
