"""The low-precision ops asked twice: a block's bytes depend on the block, a tile's on the tile.

An engine that quantises a batch of 8 otherwise than a batch of 64 (flashinfer#3398: zero scales at
some row counts) gives the same token other experts. See `metamorphic.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from tinymoe.core import Array
from tinymoe.formats.scale_layout import swizzle_128x4
from tinymoe.oracle.conform.metamorphic import Case, Related, Variant, row_variants, take

ALONE, TURNED = "a batch of one is a row of a batch", "rows in another order"
Apart = Callable[[Case], bool]


def rows_of(names: Sequence[str], last: bool, apart: Apart) -> Variant:
    """The last row alone, or all in reverse; only where `apart`: no two rows share a scale."""

    def make(case: Case) -> Related | None:
        count = len(case[names[0]])
        if count < 2 or not apart(case):
            return None
        rows = [count - 1] if last else list(range(count))[::-1]
        changed = {name: case[name][rows] for name in names}
        return Related({**case, **changed}, lambda answer: take(answer, rows))

    return make


def rows_apart(names: Sequence[str], apart: Apart) -> dict[str, Variant]:
    """Both variants of rows."""
    return {ALONE: rows_of(names, True, apart), TURNED: rows_of(names, False, apart)}


def blocks_turned(size: int, names: Sequence[str], case: Case) -> Related | None:
    """Blocks along K in reverse order: each keeps its scale and its codes."""
    count = case["x"].shape[-1] // size if "x" in case else case["scales"].shape[-1]
    if count < 2:
        return None

    def turn(values: Any) -> Any:
        if isinstance(values, tuple):
            return type(values)(*map(turn, values))
        blocks = values.reshape(*values.shape[:-1], count, -1)[..., ::-1, :]
        return np.ascontiguousarray(blocks).reshape(values.shape)

    return Related({**case, **{name: turn(case[name]) for name in names}}, turn)


def first_tiles(case: Case) -> Related | None:
    """The first 128 rows alone fill the first tiles."""
    scales = case["scales"]
    if len(scales) <= 128:
        return None
    size = 128 * (scales.shape[1] + -scales.shape[1] % 4)
    return Related({"scales": scales[:128]}, lambda answer: answer[:size])


def other_padding(case: Case) -> Related | None:
    """Other bytes where no scale is."""
    inside = swizzle_128x4(np.ones((case["rows"], case["columns"]), np.uint8))
    flat = np.where(inside == 1, case["flat"], ~case["flat"])
    return None if inside.all() else Related({**case, "flat": flat}, lambda answer: answer)


def outputs_turned(case: Case) -> Related | None:
    """The weight's rows in reverse: the outputs in reverse."""
    names = ("weight_codes", "weight_scales")
    if case["weight_codes"].shape[-2] < 2:
        return None
    changed = {name: np.ascontiguousarray(case[name][..., ::-1, :]) for name in names}
    return Related({**case, **changed}, lambda answer: answer[..., ::-1])


def _rows(case: Case, rows: Sequence[int]) -> Case:
    return {name: case[name][rows] for name in ("x", "x_codes", "x_scales") if name in case}


def row_alone(case: Case) -> Related | None:
    """The last row and its expert, the other experts without rows."""
    count = int(case["offsets"][-1])
    if count < 2:
        return None
    offsets = (case["offsets"] >= count).astype(case["offsets"].dtype)
    changed = {**_rows(case, [count - 1]), "offsets": offsets}
    return Related({**case, **changed}, lambda answer: answer[[count - 1]])


def experts_renumbered(case: Case) -> Related | None:
    """Experts in reverse order, their rows with them."""
    groups = [range(start, stop) for start, stop in pairwise(case["offsets"].tolist())][::-1]
    if len(groups) < 2:
        return None
    rows = [row for group in groups for row in group]
    offsets: Array = np.cumsum([0, *map(len, groups)]).astype(case["offsets"].dtype)
    changed = {**_rows(case, rows), "offsets": offsets}
    for name, value in case.items():
        if isinstance(value, np.ndarray) and name not in changed:
            changed[name] = np.ascontiguousarray(value[::-1])
    return Related({**case, **changed}, lambda answer: answer[rows])


def _of_format(form: str, size: int) -> dict[str, Mapping[str, Variant]]:
    """The variants of one four-bit format's ops."""
    outputs = {"outputs in another order": outputs_turned}
    grouped = {**GROUPED, **outputs}
    return {
        f"quantize_{form}": {
            **rows_apart(["x"], lambda case: case["convention"] != "te_2d"),
            "blocks in another order": partial(blocks_turned, size, ["x"]),
        },
        f"dequantize_{form}": {
            **row_variants(f"dequantize_{form}"),
            "blocks in another order": partial(blocks_turned, size, ["codes", "scales"]),
        },
        f"gemm_{form}": {**row_variants(f"gemm_{form}"), **outputs},
        f"gemm_{form}_w4a4": {**row_variants(f"gemm_{form}_w4a4"), **outputs},
        f"grouped_gemm_{form}": grouped,
        f"grouped_gemm_{form}_w4a4": grouped,
    }


GROUPED: Mapping[str, Variant] = {
    "a row alone, other experts empty": row_alone,
    "experts under other numbers": experts_renumbered,
}
FORMAT_VARIANTS: Mapping[str, Mapping[str, Variant]] = {
    "expert_ffn_nvfp4_w4a4": GROUPED,
    **_of_format("nvfp4", 16),
    **_of_format("mxfp4", 32),
    "quantize_fp8": rows_apart(["x"], lambda case: case["granularity"] in ("channel", "group")),
    "dequantize_fp8": rows_apart(
        ["codes", "scales"],
        lambda case: case["block"][0] == 1 and len(case["scales"]) == len(case["codes"]),
    ),
    "swizzle_scales": {"the first 128 rows alone": first_tiles},
    "unswizzle_scales": {"other bytes in the padding": other_padding},
}
