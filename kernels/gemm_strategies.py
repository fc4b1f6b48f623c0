"""Inputs to try the products with four-bit weights on: exact sums, loud blocks, empty experts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tinymoe.core import NUMERICS, Array
from tinymoe.formats import e4m3
from tinymoe.kernels.strategy_values import fill, seeds

Case = dict[str, Any]
Generator = np.random.Generator
numerics = st.sampled_from([NUMERICS["fp32"], NUMERICS["bf16"]])
weight_kinds = st.sampled_from(["exact", "exact", "any", "apart", "zeros"])
BLOCK = {"nvfp4": 16, "mxfp4": 32}
# Conventions with a tensor scale, one for each meaning and order; readings of E8M0.
CONVENTIONS = {
    "nvfp4": ["modelopt", "ct", "te", "kernel"],
    "mxfp4": ["ocp_floor", "gpt_oss", "deepgemm", "ct"],
}


def stored(rng: Generator, form: str, kind: str, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Codes (..., K/2) and scale bytes (..., K/block) for shape (..., blocks).

    "exact": scales that are powers of two from 1/4 to 4; "apart": blocks far apart in loudness,
    where the order of the sum shows; "zeros": blocks of zeros among the others.
    """
    codes = rng.integers(0, 256, (*shape, BLOCK[form] // 2), np.uint8)
    if form == "nvfp4":
        one, step, low, high = 0x38, 8, 0x01, 0x7F
    else:
        one, step, low, high = 127, 1, 112, 142
    if kind == "exact":
        scales = (one + step * rng.integers(-2, 3, shape)).astype(np.uint8)
    elif kind == "apart":
        scales = rng.choice([low, one, high - 1], shape).astype(np.uint8)
    else:
        scales = rng.integers(low, high, shape, np.uint8)
    if kind == "zeros":
        nothing = rng.random(shape) < 0.5
        codes[nothing] = rng.choice([0x00, 0x88])
        if form == "nvfp4":
            scales[nothing] = 0
    return codes.reshape(*shape[:-1], -1), scales


def factor(rng: Generator, kind: str) -> float:
    """A tensor scale or an alpha: a float32 value, a power of two for exact sums."""
    exponent = int(rng.integers(-9, 1))
    return 2.0**exponent * (1.0 if kind == "exact" else float(np.float32(rng.uniform(1, 2))))


def spread_rows(rng: Generator, experts: int) -> Array:
    """Offsets (E + 1,): at least one row, experts without any."""
    counts = rng.integers(0, 3, experts)
    counts[rng.integers(experts)] += 1
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


@st.composite
def product(draw: DrawFn, form: str, *, coded: bool, grouped: bool) -> Case:
    """One block or several, one output, one token; every expert's weight is another."""
    rng, kind, n = np.random.default_rng(draw(seeds)), draw(weight_kinds), draw(numerics)
    blocks, out = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    experts = draw(st.integers(1, 4)) if grouped else 1
    offsets = spread_rows(rng, experts)
    rows = int(offsets[-1]) if grouped else draw(st.integers(1, 4))
    case: Case = {"numerics": n}
    if coded:
        case["x_codes"], case["x_scales"] = stored(rng, form, kind, (rows, blocks))
    else:
        values = "grid" if kind == "exact" else draw(st.sampled_from(["normal", "wide", "zeros"]))
        case["x"] = fill(rng, values, (rows, blocks * BLOCK[form]), n)
        case["convention"] = draw(st.sampled_from(CONVENTIONS[form]))
    lead = (experts, out) if grouped else (out,)
    case["weight_codes"], case["weight_scales"] = stored(rng, form, kind, (*lead, blocks))
    if grouped:
        case["offsets"] = offsets
    if form == "nvfp4":
        name = "alpha" if coded else "tensor_scale"
        factors = [factor(rng, kind) for _ in range(experts)]
        case |= {f"{name}s": np.array(factors, np.float32)} if grouped else {name: factors[0]}
    return case


@st.composite
def expert_ffn(draw: DrawFn) -> Case:
    """Gates small and large; an intermediate as loud as calibrated, quieter, and louder."""
    rng, kind, n = np.random.default_rng(draw(seeds)), draw(weight_kinds), draw(numerics)
    hidden, width = 16 * draw(st.integers(1, 2)), draw(st.integers(1, 2))
    experts = draw(st.integers(1, 3))
    offsets = spread_rows(rng, experts)
    case: Case = {"offsets": offsets, "numerics": n}
    case["x_codes"], case["x_scales"] = stored(rng, "nvfp4", kind, (int(offsets[-1]), hidden // 16))
    up_shape, down_shape = (experts, 32 * width, hidden // 16), (experts, hidden, width)
    case["gate_up_codes"], case["gate_up_scales"] = stored(rng, "nvfp4", kind, up_shape)
    case["down_codes"], case["down_scales"] = stored(rng, "nvfp4", kind, down_shape)
    loudest = draw(st.sampled_from([0.5, 3.0, 20.0]))  # of the first product
    reach = 36.0 * hidden * float(e4m3.decode(case["x_scales"]).max())
    peaks = reach * e4m3.decode(case["gate_up_scales"]).max(axis=(1, 2))  # (E,)
    case["gate_up_alphas"] = np.float32(loudest * 4) / np.maximum(peaks, np.float32(1e-3))
    calibrated = draw(st.sampled_from([0.1, 1.0, 10.0])) * loudest**2
    case["hidden_scales"] = np.full(experts, 2688 / calibrated, np.float32)
    case["hidden_scales"] *= np.float32(1) + np.arange(experts, dtype=np.float32)
    case["down_alphas"] = np.array([factor(rng, kind) for _ in range(experts)], np.float32)
    return case


STRATEGIES: dict[str, Callable[[], SearchStrategy[Case]]] = {
    f"{'grouped_' * grouped}gemm_{form}{'_w4a4' * coded}": partial(
        product, form, coded=coded, grouped=grouped
    )
    for form in BLOCK
    for coded in (False, True)
    for grouped in (False, True)
} | {"expert_ffn_nvfp4_w4a4": expert_ffn}
