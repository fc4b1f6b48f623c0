"""Vectors of stored bytes: what they stand for, their exact products, and where scales lie.

The expected values follow from the definition of each format alone: code times scale, in float64
or whole numbers. What quantisers make of numbers is in `encoders.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinymoe.core import Array, QuantTensor
from tinymoe.formats import e2m1, e4m3
from tinymoe.formats.gemm import alpha
from tinymoe.formats.gemm import exact as exact_product
from tinymoe.formats.scale_layout import offset_8x4, offset_128x4
from tinymoe.oracle.vectors.vector import Vector

VALUES = np.array([*e2m1.MAGNITUDES, *(-v for v in e2m1.MAGNITUDES)])
DECODED = (
    "Sign, exponent and fraction of each byte, in float64; code times block scale times tensor "
    "scale (or over it, where it divides). All are exact in float32: no tolerance."
)
PRODUCT = (
    "Twice a code and 512 times an E4M3 scale are whole numbers, E8M0 scales are powers of two: D "
    "is summed in integers. Every partial sum, in any order, is below 2^24 of its step, so that "
    "a float32 accumulator gives D without a rounding; alpha is a power of two. No tolerance."
)


def format_vectors() -> Iterator[Vector]:
    """All of them."""
    yield _values("nvfp4-multiplier", [nvfp4(0, "multiplier", -4), nvfp4(1, "multiplier", -2)])
    yield _values("nvfp4-divisor", [nvfp4(2, "divisor", 5), nvfp4(3, "divisor", 3)])
    yield _values("nvfp4-square", [nvfp4(4, "multiplier", -3, rows=8)])
    yield _values("mxfp4", [mxfp4(5), mxfp4(6)])
    yield _values("fp8-blocks", [fp8(7)])
    yield _product("nvfp4", [nvfp4(8, "multiplier", -4)], nvfp4(10, "multiplier", -1, rows=5))
    yield _product(
        "nvfp4-gate-up",
        [nvfp4(11, "divisor", 6), nvfp4(12, "divisor", 2)],
        nvfp4(13, "divisor", 3, rows=5),
    )
    yield _product("mxfp4", [mxfp4(14)], mxfp4(15, rows=5))
    yield _grouped("nvfp4", [nvfp4(20 + e, "multiplier", -e) for e in range(4)])
    yield _grouped("mxfp4", [mxfp4(24 + e) for e in range(4)])
    yield _layouts()


def _codes(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """Every code in every row, in another order in each."""
    order = [rng.permutation(np.arange(columns) % 16) for _ in range(rows)]
    return np.array(order, np.uint8)


def nvfp4(seed: int, meaning: Any, power: int, rows: int = 24) -> QuantTensor:
    """(rows, 128): eight blocks a row, no scale like its neighbour's, tensor scale 2^power."""
    rng = np.random.default_rng(seed)
    place = np.add.outer(5 * np.arange(rows), 3 * np.arange(8)) + seed
    return QuantTensor(
        format="nvfp4",
        convention="modelopt" if meaning == "multiplier" else "ct",
        codes=e2m1.pack(_codes(rng, rows, 128)),
        scales=(0x30 + place % 17).astype(np.uint8),  # 0.5 to 2
        block=(1, 16),
        tensor_scale=np.float32(2.0**power),
        tensor_scale_is=meaning,
    )


def mxfp4(seed: int, rows: int = 24) -> QuantTensor:
    """(rows, 256): eight blocks a row, scales 2^-3 to 2^1, none like its neighbour's."""
    rng = np.random.default_rng(seed)
    place = np.add.outer(2 * np.arange(rows), 3 * np.arange(8)) + seed
    return QuantTensor(
        format="mxfp4",
        convention="ocp_floor",
        codes=e2m1.pack(_codes(rng, rows, 256)),
        scales=(124 + place % 5).astype(np.uint8),
        block=(1, 32),
        tensor_scale=None,
        tensor_scale_is="none",
    )


def fp8(seed: int) -> QuantTensor:
    """(32, 64) in blocks of 4 x 8, which makes the scales a square; all 254 finite codes."""
    count = np.arange(32 * 64) * 37 % 256
    codes = np.where(count & 0x7F == 0x7F, 0x38, count).astype(np.uint8).reshape(32, 64)
    place = np.add.outer(3 * np.arange(8), 5 * np.arange(8)) % 31
    return QuantTensor(
        format="fp8",
        convention="div32",
        codes=codes,
        scales=((place + 33) / 4096).astype(np.float32),
        block=(4, 8),
        tensor_scale=None,
        tensor_scale_is="none",
    )


def scale_values(q: QuantTensor) -> Array:
    """The block scales by definition, float64."""
    if q.format == "mxfp4":
        return np.exp2(q.scales.astype(np.float64) - 127)
    if q.format == "fp8":
        return q.scales.astype(np.float64)
    exponent, fraction = (q.scales >> 3).astype(int), (q.scales & 7).astype(np.float64)
    return np.where(exponent == 0, fraction * 2.0**-9, (8 + fraction) * 2.0 ** (exponent - 10.0))


def values_of(q: QuantTensor) -> Array:
    """What it stands for, float64, without a rounding."""
    scales = scale_values(q)
    for axis in (-2, -1):
        scales = np.repeat(scales, q.block[axis], axis=axis)
    if q.format == "fp8":
        return e4m3.decode(q.codes).astype(np.float64) * scales
    factor = 1.0 if q.tensor_scale is None else float(q.tensor_scale)
    factor = 1 / factor if q.tensor_scale_is == "divisor" else factor
    codes = np.stack([q.codes & 15, q.codes >> 4], axis=-1).reshape(q.shape)  # low nibble first
    return VALUES[codes] * scales * factor


def _values(name: str, stored: list[QuantTensor]) -> Vector:
    expected = {f"values.{i}": values_of(q) for i, q in enumerate(stored)}
    assert all((v == v.astype(np.float32)).all() for v in expected.values())
    two = " Two tensors, as of a gate and an up projection." if len(stored) > 1 else ""
    return Vector(
        name=f"formats/{name}",
        op="dequantize",
        holds=f"Every code in every row; no block scale is its neighbour's.{two}",
        given={"stored": tuple(stored)},
        expected={n: v.astype(np.float32) for n, v in expected.items()},
        derivation=DECODED,
    )


def _product(name: str, weights: list[QuantTensor], x: QuantTensor) -> Vector:
    """D and y = alpha D of x with all the matrices, side by side."""
    D = [_exact(x, w) for w in weights]
    y = [d * float(alpha(x, w)) for d, w in zip(D, weights, strict=True)]
    rows = "Two matrices with one input, each with a tensor scale of its own: " if y[1:] else ""
    return Vector(
        name=f"gemm/{name}",
        op="gemm",
        holds=f"{rows}x ({x.shape[0]}, {x.shape[1]}) and w ({weights[0].shape[0]}, ...), both "
        f"{x.format.upper()}: D before and y after the tensor scales.",
        given={"x": x, "weights": tuple(weights)},
        expected={"D": np.concatenate(D, axis=1), "y": np.concatenate(y, axis=1)},
        derivation=PRODUCT,
    )


def _exact(x: QuantTensor, w: QuantTensor) -> Array:
    """D (M, N), whose partial sums are all exact in float32."""
    found = exact_product(x, w)
    largest = np.abs(values_of(x)) @ np.abs(values_of(w)).T / float(alpha(x, w))
    step = np.gcd.reduce(np.abs(found.integers).ravel().astype(np.int64))
    assert largest.max() <= 2**24 * np.ldexp(float(step & -step), found.exponent)
    return found.as_float64()


def _grouped(name: str, weights: list[QuantTensor]) -> Vector:
    """Rows sorted by expert; the third has none."""
    offsets = np.array([0, 2, 3, 3, 5], np.int64)
    x = nvfp4(30, "multiplier", -2, rows=5) if name == "nvfp4" else mxfp4(31, rows=5)
    owner = np.repeat(np.arange(4), np.diff(offsets))
    y = [_exact(x, weights[e])[row] * float(alpha(x, weights[e])) for row, e in enumerate(owner)]
    return Vector(
        name=f"gemm/grouped-{name}",
        op="grouped_gemm",
        holds=f"Four experts' {name.upper()} matrices, each with scales of its own; five rows in "
        "expert order, none for the third.",
        given={"x": x, "weights": tuple(weights), "offsets": offsets},
        expected={"y": np.stack(y)},
        derivation=PRODUCT,
    )


def _layouts() -> Vector:
    """Every byte another than those beside it; rows and columns that need padding."""
    rows, columns = 150, 6
    scales = (np.arange(rows * columns) * 7 % 251 + 1).astype(np.uint8).reshape(rows, columns)
    tiles_128 = np.zeros(256 * 8, np.uint8)
    tiles_8 = np.zeros(152 * 8, np.uint8)
    for m, k in np.ndindex(rows, columns):
        tiles_128[offset_128x4(m, k, columns)] = scales[m, k]
        tiles_8[offset_8x4(m, k, columns)] = scales[m, k]
    return Vector(
        name="formats/scale-tiles",
        op="scale_layout",
        holds="A (150, 6) matrix of scales as tiles of 128x4 and of 8x4, padded with zeros, and "
        "the way back (vllm#50084, modular#6600).",
        given={"scales": scales},
        expected={"tiles_128x4": tiles_128, "tiles_8x4": tiles_8, "rows": scales},
        derivation="Each byte put where the layout's formula says; bytes, so no tolerance.",
    )
