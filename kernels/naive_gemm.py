"""The naive twins of the products with four-bit weights: one dot product at a time.

Each is the correctly rounded sum of its exact terms, so its order is no order at all.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from tinymoe.core import Array, Numerics
from tinymoe.kernels.formats_ops import MX_PLAIN
from tinymoe.kernels.naive_formats import dequantize_mxfp4, dequantize_nvfp4
from tinymoe.kernels.naive_nvfp4 import quantize_nvfp4
from tinymoe.model.precision import store


def _dot(x: Array, weight: Array, alpha: float, numerics: Numerics) -> Array:
    """alpha * x @ weight.T; terms of float32 numbers are exact in float64."""
    out = np.zeros((len(x), len(weight)), numerics.dtype)
    weights = weight.tolist()
    for t, row in enumerate(x.tolist()):
        for n, column in enumerate(weights):
            out[t, n] = alpha * math.fsum(a * b for a, b in zip(row, column, strict=True))
    return store(out, numerics.storage)


def gemm_nvfp4(
    x: Array, weight_codes: Array, weight_scales: Array, tensor_scale: float, convention: str,
    numerics: Numerics,
) -> Array:  # fmt: skip
    """The weight's values, then one dot product at a time."""
    weight = dequantize_nvfp4(weight_codes, weight_scales, tensor_scale, convention)
    return _dot(x, weight, 1.0, numerics)


def gemm_mxfp4(
    x: Array, weight_codes: Array, weight_scales: Array, convention: str, numerics: Numerics
) -> Array:
    """The weight's values, then one dot product at a time."""
    return _dot(x, dequantize_mxfp4(weight_codes, weight_scales, convention), 1.0, numerics)


def gemm_nvfp4_w4a4(
    x_codes: Array, x_scales: Array, weight_codes: Array, weight_scales: Array, alpha: float,
    numerics: Numerics,
) -> Array:  # fmt: skip
    """Values without tensor scales, exactly; then alpha."""
    x = dequantize_nvfp4(x_codes, x_scales, 1.0, "modelopt")
    weight = dequantize_nvfp4(weight_codes, weight_scales, 1.0, "modelopt")
    return _dot(x, weight, alpha, numerics)


def gemm_mxfp4_w4a4(
    x_codes: Array, x_scales: Array, weight_codes: Array, weight_scales: Array, numerics: Numerics
) -> Array:
    """Values of both sides, then one dot product at a time."""
    x, weight = (
        dequantize_mxfp4(*q, MX_PLAIN) for q in ((x_codes, x_scales), (weight_codes, weight_scales))
    )
    return _dot(x, weight, 1.0, numerics)


def expert_ffn_nvfp4_w4a4(
    x_codes: Array,
    x_scales: Array,
    gate_up_codes: Array,
    gate_up_scales: Array,
    gate_up_alphas: Array,
    hidden_scales: Array,
    down_codes: Array,
    down_scales: Array,
    down_alphas: Array,
    offsets: Array,
    numerics: Numerics,
) -> Array:
    """A row at a time, its intermediate quantised by the naive quantiser."""
    rows = []
    for e, (start, stop) in enumerate(pairwise(offsets.tolist())):
        up_weight = (gate_up_codes[e], gate_up_scales[e], float(gate_up_alphas[e]))
        down_weight = (down_codes[e], down_scales[e], float(down_alphas[e]))
        for r in range(start, stop):
            own = slice(r, r + 1)
            first = gemm_nvfp4_w4a4(x_codes[own], x_scales[own], *up_weight, numerics)[0]
            half = len(first) // 2
            pairs = zip(first[:half].tolist(), first[half:].tolist(), strict=True)
            hidden = [gate / (1 + math.exp(-gate)) * up for gate, up in pairs]
            kept = store(np.array([hidden], numerics.dtype), numerics.storage)
            packed = quantize_nvfp4(kept, float(hidden_scales[e]), "kernel", "float32")
            codes, scales = packed
            rows.append(gemm_nvfp4_w4a4(codes, scales, *down_weight, numerics))
    return np.concatenate(rows)


def grouped(one: Any) -> Any:
    """An expert at a time: `one` on its rows and its weight."""
    several = {"tensor_scales": "tensor_scale", "alphas": "alpha"}

    def op(offsets: Array, **case: Any) -> Array:
        parts = []
        for e, (start, stop) in enumerate(pairwise(offsets.tolist())):
            if start == stop:
                continue
            given = {}
            for name, value in case.items():
                if name.startswith("x"):
                    given[name] = value[start:stop]
                elif name.startswith("weight"):
                    given[name] = value[e]
                elif name in several:
                    given[several[name]] = float(value[e])
                else:
                    given[name] = value
            parts.append(one(**given))
        return np.concatenate(parts)

    return op
