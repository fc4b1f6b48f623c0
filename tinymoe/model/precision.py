"""Where rounding happens: `store` between ops, `linear` inside one.

Batch invariance starts here. A token's numbers must not depend on its company: a matrix-matrix
product picks its order of sums by the number of rows (an OpenBLAS product of 2 rows differs in
its last bits from two products of 1 row), so here each number is a dot product of its own, always
of the same length. For one token this is also the fastest form that NumPy has: weights are read
as one stream, at twice the speed of the library's matrix-vector product where they come from
memory (20 against 10 GB/s, measured on matrices of 256 x 256).
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from tinymoe.core import Array, Numerics, Storage
from tinymoe.formats.bf16 import round_to_bf16
from tinymoe.model.on_demand import OnDemand
from tinymoe.model.weights import QuantisedInput, Weight


def array_module(array: Array) -> ModuleType:
    """The module that made `array`: cupy for a CuPy array, else numpy."""
    if isinstance(array, np.ndarray):
        return np
    import cupy  # only when the caller already holds a CuPy array

    module: ModuleType = cupy
    return module


def vecdot(a: Array, b: Array) -> Array:
    """Dot products over the last axis, the other axes broadcast: one BLAS dot product each."""
    if isinstance(a, np.ndarray):
        return np.vecdot(a, b)
    return (a[..., None, :] @ b[..., :, None])[..., 0, 0]  # CuPy 14 has no vecdot


def store(values: Array, storage: Storage) -> Array:
    """Round `values` to what is kept between two ops; the array's dtype does not change.

    Any shape. "bfloat16": to nearest, ties to even, held in float32. "float32" and "float64":
    unchanged, as the arrays already have that type.
    """
    if storage == "bfloat16":
        return round_to_bf16(values)
    return values


def linear(x: Array, weight: Weight, numerics: Numerics, *, bias: Array | None = None) -> Array:
    """`x` (T, in) times `weight` (out, in) transposed, plus `bias` (out,) if any: (T, out).

    A weight whose checkpoint quantises its input (`QuantisedInput`) meets the quantised one.

    Products and sums in `numerics.accumulate`, each output in the order of the BLAS dot product
    of `in` terms; the bias comes last; then one rounding to storage.
    """
    return store(linear_unrounded(x, weight, bias), numerics.storage)


def linear_unrounded(x: Array, weight: Weight, bias: Array | None = None) -> Array:
    """`linear` without the last rounding. x (T, in), weight (out, in) -> (T, out)."""
    if isinstance(weight, np.ndarray):  # nearly always: the shortest way first
        product = np.vecdot(x[:, None, :], weight)  # (T, 1, in) with (out, in): (T, out)
    else:
        product = _product(x, weight)
    return product if bias is None else product + bias


def _product(x: Array, weight: Weight | OnDemand) -> Array:
    """Of weights that are more, or elsewhere, than an array in memory."""
    if isinstance(weight, QuantisedInput):
        x, weight = weight.quantise(x), weight.values
    return _by_blocks(x, weight) if isinstance(weight, OnDemand) else vecdot(x[:, None, :], weight)


def _by_blocks(x: Array, weight: OnDemand) -> Array:
    """(T, in) with (out, in) -> (T, out). Each output is a sum of its own: blocks change no bit."""
    xp = array_module(x)
    out = xp.empty((len(x), len(weight)), x.dtype)  # (T, out)
    start = 0
    for rows in weight.blocks() if len(x) else ():  # nothing is read for nobody
        out[:, start : start + len(rows)] = vecdot(x[:, None, :], rows)
        start += len(rows)
    return out
