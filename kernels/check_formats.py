"""The checks of the low-precision rows: bytes bit for bit, products by the exact integer sum.

A product's bound: each value is E2M1 times a block scale times a tensor scale, at most three
roundings (a divisor's reciprocal, its product with the block scale, that with the code), one more
where the tensor scale is an amax (1/2688 is rounded), and one of the product with the other side;
then a sum of K terms in any order. So gamma(K + 5) sum |x||w| against values without rounding,
whichever factor a kernel applies where. On the exact grid nothing is rounded at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from tinymoe.core import Array, Numerics, QuantTensor
from tinymoe.formats import gemm, mxfp4, nvfp4
from tinymoe.kernels import formats_ops
from tinymoe.kernels.bounds import (
    compare,
    expect_array,
    gamma,
    settle,
    sums_exactly,
    tiny,
    unit,
    wide,
)
from tinymoe.kernels.contract import Case
from tinymoe.model.precision import linear_unrounded

Check = Callable[[Case, Any], None]


def bit_for_bit(op: str, definition: Callable[..., Any]) -> Check:
    """The definition's own bytes; of values, NaN for NaN, and the sign of zero is free."""

    def check(case: Case, got: Any) -> None:
        want = definition(**case)
        if isinstance(want, formats_ops.Packed):
            if not isinstance(got, tuple) or len(got) != len(want):
                raise AssertionError(f"{op}: got {type(got).__name__}, expected codes and scales")
            for field, a, b in zip(want._fields, got, want, strict=True):
                compare(f"{op}: {field}", a, b, 0, b.dtype)
        else:
            compare(f"{op}: out", got, want, 0, want.dtype)

    return check


def w4a16(op: str) -> Check:
    """x as it is, times the weight's exact values."""

    def check(case: Case, got: Any) -> None:
        weight = wide_values(weight_of(case, None))
        want, allowed = product_bound(wide(case["x"]), weight, None, case["numerics"])
        compare(f"{op}: out", got, want, allowed, case["numerics"].dtype)

    return check


def w4a4(op: str) -> Check:
    """Codes on both sides: the exact integer product is the judge."""

    def check(case: Case, got: Any) -> None:
        want, allowed = _code_product(case, slice(None), None)
        compare(f"{op}: out", got, want, allowed, case["numerics"].dtype)

    return check


def grouped_w4a16(op: str) -> Check:
    """`w4a16` of each expert over its own rows."""

    def check(case: Case, got: Any) -> None:
        for e, rows, what in _experts(op, case, got, len(case["x"])):
            weight = wide_values(weight_of(case, e))
            want, allowed = product_bound(wide(case["x"][rows]), weight, None, case["numerics"])
            compare(what, got[rows], want, allowed, case["numerics"].dtype)

    return check


def grouped_w4a4(op: str) -> Check:
    """`w4a4` of each expert over its own rows."""

    def check(case: Case, got: Any) -> None:
        for e, rows, what in _experts(op, case, got, len(case["x_codes"])):
            want, allowed = _code_product(case, rows, e)
            compare(what, got[rows], want, allowed, case["numerics"].dtype)

    return check


def _experts(op: str, case: Case, got: Any, count: int) -> Iterator[tuple[int, slice, str]]:
    """Each expert that has rows, those rows, and what to call them."""
    shape = (count, case["weight_codes"].shape[1])
    expect_array(f"{op}: out", got, shape, case["numerics"].dtype)
    for e, (start, stop) in enumerate(pairwise(case["offsets"].tolist())):
        if start < stop:
            yield e, slice(start, stop), f"{op}: out[{start}:{stop}] (expert {e})"


def weight_of(case: Case, expert: int | None) -> QuantTensor:
    """The weight of a product's case: the one, or an expert's; alpha as its tensor scale."""
    codes, scales = case["weight_codes"], case["weight_scales"]
    several = next((case[n] for n in ("tensor_scales", "alphas") if n in case), None)
    scale = next((case[n] for n in ("tensor_scale", "alpha") if n in case), None)
    if expert is not None:
        codes, scales = codes[expert], scales[expert]
        scale = None if several is None else float(several[expert])
    if scale is None:
        return formats_ops.mxfp4_tensor(codes, scales, case.get("convention", formats_ops.MX_PLAIN))
    return formats_ops.nvfp4_tensor(codes, scales, scale, case.get("convention", "modelopt"))


def inputs_of(case: Case, rows: slice) -> QuantTensor:
    """The quantised activations of a W4A4 case."""
    codes, scales = case["x_codes"][rows], case["x_scales"][rows]
    if "alpha" in case or "alphas" in case:
        return formats_ops.nvfp4_tensor(codes, scales, 1.0, "modelopt")
    return formats_ops.mxfp4_tensor(codes, scales)


def wide_values(q: QuantTensor) -> Array:
    """The values in float64, without rounding where the tensor scale multiplies."""
    if q.format == "nvfp4":
        return nvfp4.decode(q, dtype=np.float64)
    return wide(mxfp4.decode(q))


def _code_product(case: Case, rows: slice, expert: int | None) -> tuple[Array, Array]:
    x, weight = inputs_of(case, rows), weight_of(case, expert)
    exact = float(gemm.alpha(x, weight)) * gemm.exact(x, weight).as_float64()
    return product_bound(wide_values(x), wide_values(weight), exact, case["numerics"])


def product_bound(
    x: Array, weight: Array, exact: Array | None, numerics: Numerics
) -> tuple[Array, Array]:
    """What x (T, K) times weight (N, K) must be, and how closely: zero on the exact grid."""
    size = linear_unrounded(np.abs(x), np.abs(weight))  # (T, N)
    is_exact = sums_exactly(x, weight, size.max(initial=0), numerics)
    bound = gamma(x.shape[1] + 5, unit(numerics)) * size + tiny(numerics)
    want = linear_unrounded(x, weight) if exact is None else exact
    return settle(want, bound, is_exact, numerics)
