"""Which wrong reading of stored bytes gives the wrong answer of a low-precision op.

The mutants read one stored tensor wrongly. A dequantiser's answer is compared with what they read;
a product's with the product of that; a quantiser's bytes, read rightly, with the right bytes read
wrongly; tiles with tiles read wrongly.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from tinymoe.core import Array, QuantTensor
from tinymoe.formats.scale_layout import unswizzle_128x4
from tinymoe.kernels.check_formats import inputs_of, weight_of
from tinymoe.kernels.contracts import contract
from tinymoe.kernels.formats_ops import mxfp4_tensor, nvfp4_tensor, quantize_nvfp4
from tinymoe.kernels.rows_formats import ROWS
from tinymoe.model.experts import swiglu
from tinymoe.model.precision import store
from tinymoe.oracle.conform.metamorphic import Case
from tinymoe.oracle.mutants import FORMAT_MUTANTS
from tinymoe.oracle.mutants.mutant import FormatMutant
from tinymoe.oracle.mutants.stored import decode

OPS = frozenset(row.name for row in ROWS)
SIDES = {"w4a16": ("weight",), "w4a4": ("weight", "x"), "ffn": ("gate_up", "down")}
ONES = 0x22  # two E2M1 codes of 1: what is left of a value is its scale


def numbers(op: str, case: Case, answer: Any) -> Array:
    """One array of what is compared."""
    if op.startswith("quantize"):
        return decode(_stored(op, case, *answer)).astype(np.float64)
    if op == "swizzle_scales":
        return unswizzle_128x4(answer, *case["scales"].shape).astype(np.float64)
    return np.asarray(answer, np.float64)


def wrong_answers(op: str, case: Case) -> list[tuple[str, Array]]:
    """Every mutant's answer to the case, where it means something there."""
    answers = []
    for mutant in FORMAT_MUTANTS:
        sides = SIDES["ffn" if "ffn" in op else "w4a4" if op.endswith("w4a4") else "w4a16"]
        for side in sides:
            try:
                with np.errstate(all="ignore"):
                    answer = _answer(op, case, mutant, side)
            except Exception:  # it reads bytes that this case does not have
                continue
            if answer is not None:
                answers.append((mutant.name, answer))
    return answers


def _answer(op: str, case: Case, mutant: FormatMutant, side: str) -> Array | None:
    if "gemm" in op:
        return _product(case, mutant, side)
    if "ffn" in op:
        return _network(case, mutant, side)
    if "swizzle" in op:
        return _tiles(op, case, mutant) if mutant.step == "layout" else None
    if op.startswith("quantize"):
        q = _stored(op, case, *contract(op).definition(**case))
    else:
        q = _stored(op, case, case["codes"], case["scales"])
    if mutant.why_not((q,)) is not None:
        return None
    return np.asarray(mutant.apply((q,))[0], np.float64)


def _stored(op: str, case: Case, codes: Array, scales: Array) -> QuantTensor:
    """Codes and scales with what the case says of them."""
    if op.endswith("nvfp4"):
        return nvfp4_tensor(codes, scales, case["tensor_scale"], case["convention"])
    if op.endswith("mxfp4"):
        return mxfp4_tensor(codes, scales, case["convention"])
    rows, columns = codes.shape
    blocks = {
        "tensor": (rows, columns),
        "channel": (1, columns),
        "block": (128, 128),
        "group": (1, 128),
    }
    return QuantTensor(
        format="fp8",
        convention="div32",
        codes=codes,
        scales=scales,
        block=case["block"] if "block" in case else blocks[case["granularity"]],
        tensor_scale=None,
        tensor_scale_is="none",
    )


def _tiles(op: str, case: Case, mutant: FormatMutant) -> Array | None:
    """The scale bytes as a layout mutant reads them, found again as powers of two."""
    scales = case["scales"] if op == "swizzle_scales" else contract(op).definition(**case)
    codes = np.full((len(scales), scales.shape[1] * 16), ONES, np.uint8)
    q = mxfp4_tensor(codes, scales, "ct")  # every byte a power of two, 255 infinite
    if mutant.why_not((q,)) is not None:
        return None
    powers = np.asarray(mutant.apply((q,))[0], np.float64)[:, ::32]
    found: Array = np.minimum(np.log2(powers) + 127, 255)
    return found


def _product(case: Case, mutant: FormatMutant, side: str) -> Array | None:
    """The product with one side read wrongly, where that means something to an expert's bytes."""
    grouped, applied, parts = "offsets" in case, False, []
    count = len(case["x"] if "x" in case else case["x_codes"])
    bounds = case["offsets"].tolist() if grouped else [0, count]
    for e, (start, stop) in enumerate(pairwise(bounds)):
        if start == stop:
            continue
        rows, given = slice(start, stop), {}
        given["weight"] = weight_of(case, e if grouped else None)
        if "x_codes" in case:
            given["x"] = inputs_of(case, rows)
        values = {name: decode(q).astype(np.float64) for name, q in given.items()}
        if mutant.why_not((given[side],)) is None:
            applied = True
            values[side] = np.asarray(mutant.apply((given[side],))[0], np.float64)
        x = values["x"] if "x" in values else case["x"][rows].astype(np.float64)
        parts.append(x @ values["weight"].T)
    return np.concatenate(parts) if applied else None


def _network(case: Case, mutant: FormatMutant, side: str) -> Array | None:
    """The experts' network with one of its weights read wrongly."""
    parts = []
    for e, (start, stop) in enumerate(pairwise(case["offsets"].tolist())):
        if start == stop:
            continue
        rows, values = slice(start, stop), {}
        for name in SIDES["ffn"]:
            q = nvfp4_tensor(
                case[f"{name}_codes"][e],
                case[f"{name}_scales"][e],
                float(case[f"{name}_alphas"][e]),
                "modelopt",
            )
            wrong = name == side and mutant.why_not((q,)) is None
            values[name] = mutant.apply((q,))[0] if wrong else decode(q)
        x = nvfp4_tensor(case["x_codes"][rows], case["x_scales"][rows], 1.0, "modelopt")
        hidden = swiglu(
            store(decode(x) @ values["gate_up"].T, case["numerics"].storage), case["numerics"]
        )
        packed = quantize_nvfp4(hidden, float(case["hidden_scales"][e]), "kernel", "float32")
        again = decode(nvfp4_tensor(packed.codes, packed.scales, 1.0, "modelopt"))
        parts.append((again @ values["down"].T).astype(np.float64))
    return np.concatenate(parts)
