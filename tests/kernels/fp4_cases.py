"""Hard inputs for the FP4 kernels, by op: few, but they reach every instruction.

Sizes past a tile in each direction and short of one, rows whose scales are not aligned, products
over nothing, experts without rows and with more than a tile of them; every convention; scales of
every byte; values on ties, next to them, and where scales underflow or saturate.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinymoe.core import NUMERICS, Array, Numerics
from tinymoe.formats import bf16, nvfp4
from tinymoe.formats.conventions import MXFP4, NVFP4
from tinymoe.kernels.formats_strategies import LOG2, blocks_of
from tinymoe.kernels.gemm_strategies import BLOCK, CONVENTIONS, factor, stored
from tinymoe.kernels.strategy_values import fill

Case = dict[str, Any]
FP32, BF16 = NUMERICS["fp32"], NUMERICS["bf16"]
KINDS = ("ties", "near ties", "scaled ties", "normal", "quiet", "zeros")


def cases(op: str) -> Iterator[Case]:
    """The op's hard cases, arguments by name."""
    return {
        "quantize_nvfp4": to_nvfp4,
        "quantize_mxfp4": to_mxfp4,
        "dequantize_nvfp4": from_nvfp4,
        "dequantize_mxfp4": from_mxfp4,
        "swizzle_scales": tiles,
        "unswizzle_scales": flat_tiles,
        "expert_ffn_nvfp4_w4a4": networks,
    }.get(op, lambda: products(op))()


# ---------------------------------------------------------------------------------- formats


def to_nvfp4() -> Iterator[Case]:
    """Each convention under the tensor's own scale and under that of one far quieter."""
    for convention in NVFP4:
        rng = np.random.default_rng(5)
        rows = 16 if convention == "te_2d" else 5
        x = np.concatenate([blocks_of(rng, kind, (rows, 3), 16) for kind in KINDS])
        x[0, 16:19] = -0.0, -1e-9, 3e-39  # signs of zero
        x[3, 32:48] = 3e-39  # a block that ftz would flush, and so take for zeros
        for source, amax in (("float32", float(np.abs(x).max())), ("bfloat16", 0.02)):
            scale = nvfp4.tensor_scale(amax, convention=convention, source=source)  # type: ignore[arg-type]
            yield {
                "x": bf16.round_to_bf16(x) if source == "bfloat16" else x,
                "tensor_scale": None if scale is None else float(scale),
                "convention": convention,
                "source": source,
            }
        # a tensor scale so large that scales underflow, or its reciprocal does
        if NVFP4[convention].tensor_scale == "divisor" and convention != "ct":
            yield {
                "x": x,
                "tensor_scale": float(np.float32(2.0**-80)),
                "convention": convention,
                "source": "float32",
            }


def to_mxfp4() -> Iterator[Case]:
    """Each convention; blocks whose largest value lies on, and next to, the edges of the rules."""
    for convention in MXFP4:
        rng = np.random.default_rng(6)
        x = np.concatenate([blocks_of(rng, kind, (3, 2), 32) for kind in KINDS])
        edges = np.float32([1, 1.5, 1.75, 3, 3.5, 6, 7, 1.5 * 2.0**126])
        for row, edge in enumerate(edges):
            x[row, 32:] = rng.uniform(-edge, edge, 32)
            x[row, 40] = (edge, np.nextafter(edge, np.float32(0)))[row % 2]
        x[8, :32] = 0
        x[9, 3] = -1.99 * 2.0**127
        x[10, 32:] = rng.uniform(-1, 1, 32) * 2.0**-126  # byte 0
        if convention in LOG2:  # its library's log2, on BF16 values alone
            x = bf16.round_to_bf16(np.clip(x, -(2.0**126), 2.0**126))
            x[np.abs(x) < 2.0**-100] = 0
        yield {"x": x, "convention": convention}


def from_nvfp4() -> Iterator[Case]:
    """Every scale byte with every code, by each convention's order."""
    rng = np.random.default_rng(7)
    codes = np.tile(rng.permutation(np.arange(16) * 17).astype(np.uint8)[:8], (16, 16))
    codes[1::2] = codes[1::2] >> 4 | codes[1::2] << 4
    for convention in NVFP4:
        yield {
            "codes": codes,
            "scales": np.arange(256, dtype=np.uint8).reshape(16, 16),
            "tensor_scale": None if NVFP4[convention].tensor_scale == "none" else 0.37109375,
            "convention": convention,
        }


def from_mxfp4() -> Iterator[Case]:
    """Every scale byte with every code, ends as each convention reads them."""
    pairs = np.arange(16, dtype=np.uint8) * 16 + np.arange(16, dtype=np.uint8)[::-1]
    for convention in MXFP4:
        yield {
            "codes": np.tile(pairs, (16, 16)),
            "scales": np.arange(256, dtype=np.uint8).reshape(16, 16),
            "convention": convention,
        }


def tiles() -> Iterator[Case]:
    """Short of a tile and past one, both ways; aligned and not."""
    for rows, columns in ((1, 1), (130, 7), (33, 8)):
        scales = (np.arange(rows * columns) % 251 + 1).astype(np.uint8)
        yield {"scales": scales.reshape(rows, columns)}


def flat_tiles() -> Iterator[Case]:
    """With bytes in the padding that must not come back."""
    for rows, columns in ((1, 1), (130, 7), (33, 8)):
        size = -(-rows // 128) * 128 * -(-columns // 4) * 4
        flat = (np.arange(size) % 251 + 1).astype(np.uint8)
        yield {"flat": flat, "rows": rows, "columns": columns}


# --------------------------------------------------------------------------------- products


def products(op: str) -> Iterator[Case]:
    """Exact sums in both storages and sizes, and sums that round."""
    form = "mxfp4" if "mxfp4" in op else "nvfp4"
    block = BLOCK[form]
    yield product(op, FP32, "exact", rows=35, outs=133, blocks=3)
    yield product(op, BF16, "exact", rows=18, outs=34, blocks=128 // block)
    yield product(op, FP32, "any", rows=3, outs=6, blocks=64 // block + 1)


def of_nothing(op: str) -> Iterator[Case]:
    """Products over K = 0, which the contract's check does not take: all zeros."""
    for numerics in (FP32, BF16):
        if op.startswith("expert"):
            yield network(numerics, "exact", hidden=0, width=16, rows=3)
        else:
            yield product(op, numerics, "exact", rows=2, outs=3, blocks=0)


def product(op: str, numerics: Numerics, kind: str, *, rows: int, outs: int, blocks: int) -> Case:
    """As gemm_strategies.product draws them, of a given size."""
    rng = np.random.default_rng(rows * outs + blocks)
    form, coded = "mxfp4" if "mxfp4" in op else "nvfp4", op.endswith("w4a4")
    case: Case = {"numerics": numerics}
    lead: tuple[int, ...] = (outs,)
    if grouped := op.startswith("grouped"):
        case["offsets"] = np.array([0, 0, rows - 1, rows - 1, rows], np.int64)
        lead = (4, outs)
    if coded:
        case["x_codes"], case["x_scales"] = stored(rng, form, kind, (rows, blocks))
    else:
        values = "grid" if kind == "exact" else "wide"
        case["x"] = fill(rng, values, (rows, blocks * BLOCK[form]), numerics)
        case["convention"] = CONVENTIONS[form][rows % 2]
    case["weight_codes"], case["weight_scales"] = stored(rng, form, kind, (*lead, blocks))
    if form == "nvfp4":
        name = "alpha" if coded else "tensor_scale"
        factors = [factor(rng, kind) for _ in range(4)]
        case |= {f"{name}s": np.array(factors, np.float32)} if grouped else {name: factors[0]}
    return case


def ends(op: str) -> Iterator[Case]:
    """E8M0 at its ends, where readings differ: one value of x is 1, so outputs are the weights."""
    for convention in CONVENTIONS["mxfp4"]:
        for numerics in (FP32, BF16):
            case = product(op, numerics, "exact", rows=4, outs=5, blocks=1)
            case["convention"] = convention
            case["x"] = np.eye(4, 32, 3, dtype=np.float32)
            case["weight_codes"] = np.full_like(case["weight_codes"], 0x91)  # 0.5 and -0.5
            case["weight_scales"][..., 0] = [0, 1, 2, 254, 255]
            yield case


def networks() -> Iterator[Case]:
    """Experts' networks: more than a tile of rows, one row; storages, and blocks of zeros."""
    yield network(FP32, "any", hidden=80, width=80, rows=18)
    yield network(BF16, "exact", hidden=64, width=16, rows=9)
    yield network(FP32, "zeros", hidden=32, width=32, rows=2)


def network(numerics: Numerics, kind: str, *, hidden: int, width: int, rows: int) -> Case:
    """As gemm_strategies.expert_ffn draws them, of a given size; the first expert has no rows."""
    rng, experts = np.random.default_rng(rows), 3
    case: Case = {"numerics": numerics, "offsets": np.array([0, 0, rows - 1, rows], np.int64)}
    case["x_codes"], case["x_scales"] = stored(rng, "nvfp4", kind, (rows, hidden // 16))
    for name, shape in (
        ("gate_up", (experts, 2 * width, hidden // 16)),
        ("down", (experts, 24, width // 16)),
    ):
        case[f"{name}_codes"], case[f"{name}_scales"] = stored(rng, "nvfp4", kind, shape)
    case["gate_up_alphas"] = spread(1e-4 if kind == "any" else 2.0**-6, experts)
    case["hidden_scales"] = spread(20.0, experts)
    case["down_alphas"] = spread(2.0**-5, experts)
    return case


def spread(first: float, experts: int) -> Array:
    """Each expert another scale: a kernel that takes a neighbour's is seen."""
    return (np.float32(first) * 2.0 ** np.arange(experts)).astype(np.float32)
