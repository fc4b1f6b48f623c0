"""Vectors as calls of the op table: what `conform` runs a foreign function on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np

from tinymoe.core import NUMERICS, QuantTensor
from tinymoe.formats.gemm import alpha
from tinymoe.kernels.checks import Case
from tinymoe.oracle.conform.looks_like import POSITIONAL
from tinymoe.oracle.mutants import decode
from tinymoe.oracle.vectors.answers import case_of, fields
from tinymoe.oracle.vectors.vector import Vector, wrong

FP32 = NUMERICS["fp32"]
ALONE = ("sample", "causal_conv", "gated_delta", "lightning")  # no mutant changes them in a model
Pieces = Iterator[tuple[str, str, Case, tuple[str, ...]]]  # op, label, case, its expected fields


def of_op(op: str, vectors: Iterable[Vector]) -> list[Vector]:
    """Each vector as calls of that op; most give none or one."""
    return [piece for vector in vectors for piece in as_ops(vector) if piece.op == op]


def as_ops(vector: Vector) -> Iterator[Vector]:
    """The vector in the words of the op table: given are an op's arguments by name."""
    if vector.op in POSITIONAL or vector.op in ALONE:
        names = {"rope": ("out",)}.get(vector.op, tuple(vector.expected))
        yield _piece(vector, vector.op, "", case_of(vector), names)
    for op, label, case, names in _PIECES.get(vector.op, _none)(vector):
        yield _piece(vector, op, label, case, names)


def run(vector: Vector, function: Callable[..., Any]) -> str | None:
    """Why a function's answer to one of `as_ops` is wrong, or None. It gets copies."""
    result = function(**deepcopy(dict(vector.given)))
    return wrong(vector, fields(vector.op, result))


def _piece(vector: Vector, op: str, label: str, case: Case, names: tuple[str, ...]) -> Vector:
    """Expected fields lose what stands before their last dot: convention, number of a tensor."""
    short = {name: name.rpartition(".")[2] for name in names}
    alone = dict.fromkeys(("values", "y", "tiles_128x4", "rows"), "out")
    expected = {
        alone.get(name.partition(".")[0], field): vector.expected[name]
        for name, field in short.items()
    }
    tolerance = {n: t for n, t in vector.tolerance.items() if n in expected}
    return replace(
        vector,
        op=op,
        name=vector.name + (f" {label}" if label else ""),
        given=case,
        expected=expected,
        tolerance=tolerance,
    )


def _none(vector: Vector) -> Pieces:
    yield from ()


def _scale(q: QuantTensor) -> float | None:
    return None if q.tensor_scale is None else float(q.tensor_scale)


def _dequantize(vector: Vector) -> Pieces:
    for i, q in enumerate(vector.given["stored"]):
        case: Case = {"codes": q.codes, "scales": q.scales}
        if q.format == "fp8":
            case["block"] = q.block
        else:
            case["convention"] = q.convention
        if q.format == "nvfp4":
            case["tensor_scale"] = _scale(q)
        yield f"dequantize_{q.format}", f"tensor {i}", case, (f"values.{i}",)


def _gemm(vector: Vector) -> Pieces:
    """Both kinds of product; of several matrices, all at once, as y has them side by side."""
    x, weights = vector.given["x"], vector.given["weights"]
    if len(weights) > 1:  # each has a tensor scale of its own: no single call
        return
    w = weights[0]
    case: Case = {"weight_codes": w.codes, "weight_scales": w.scales, "numerics": FP32}
    both = {**case, "x_codes": x.codes, "x_scales": x.scales}
    one: Case = {**case, "x": decode(x), "convention": w.convention}
    if w.format == "nvfp4":
        both["alpha"], one["tensor_scale"] = float(alpha(x, w)), _scale(w)
    yield f"gemm_{w.format}_w4a4", "", both, ("y",)
    yield f"gemm_{w.format}", "", one, ("y",)


def _grouped(vector: Vector) -> Pieces:
    """Rows in expert order, each expert's matrix with a tensor scale of its own."""
    x, weights = vector.given["x"], vector.given["weights"]
    case: Case = {
        "weight_codes": np.stack([w.codes for w in weights]),
        "weight_scales": np.stack([w.scales for w in weights]),
        "offsets": vector.given["offsets"],
        "numerics": FP32,
    }
    both = {**case, "x_codes": x.codes, "x_scales": x.scales}
    one: Case = {**case, "x": decode(x), "convention": weights[0].convention}
    if x.format == "nvfp4":
        both["alphas"] = np.array([alpha(x, w) for w in weights], np.float32)
        one["tensor_scales"] = np.array([w.tensor_scale for w in weights], np.float32)
    yield f"grouped_gemm_{x.format}_w4a4", "", both, ("y",)
    yield f"grouped_gemm_{x.format}", "", one, ("y",)


def _tiles(vector: Vector) -> Pieces:
    scales = vector.given["scales"]
    yield "swizzle_scales", "", {"scales": scales}, ("tiles_128x4",)
    case: Case = {"flat": vector.expected["tiles_128x4"]}
    case |= {"rows": scales.shape[0], "columns": scales.shape[1]}
    yield "unswizzle_scales", "", case, ("rows",)


def _quantize(op: str) -> Callable[[Vector], Pieces]:
    def pieces(vector: Vector) -> Pieces:
        made = [n.removesuffix(".codes") for n in vector.expected if n.endswith(".codes")]
        for name in made:
            case: Case = {"x": vector.given["x"], "convention": name}
            if op == "quantize_fp8":
                convention, _, granularity = name.rpartition("-")
                case |= {"convention": convention, "granularity": granularity}
                case |= {"source": "float32", "power_of_two": "no"}
            if op == "quantize_nvfp4":
                scale = vector.expected.get(f"{name}.tensor_scale")
                case["tensor_scale"] = None if scale is None else float(scale)
                if "input_scale" in vector.given:  # kernels take the divisor
                    case["tensor_scale"] = float(np.float32(1) / vector.given["input_scale"])
                case["source"] = "float32"
            yield op, name, case, (f"{name}.codes", f"{name}.scales")

    return pieces


_PIECES: dict[str, Callable[[Vector], Pieces]] = {
    "dequantize": _dequantize,
    "gemm": _gemm,
    "grouped_gemm": _grouped,
    "scale_layout": _tiles,
    "encode_nvfp4": _quantize("quantize_nvfp4"),
    "encode_nvfp4_activations": _quantize("quantize_nvfp4"),
    "encode_mxfp4": _quantize("quantize_mxfp4"),
    "encode_fp8": _quantize("quantize_fp8"),
}
