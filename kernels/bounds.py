"""How close is close enough: rounding bounds, when a sum is exact, and a comparison that explains.

An implementation is compared with the definition in float64 on the very same inputs. A bound
is what the stated arithmetic may do to a correct implementation, whatever its order of sums:
gamma(n) = n u / (1 - n u) for n roundings in a row (Higham, "Accuracy and Stability of Numerical
Algorithms", section 3.1). No bound here was chosen by looking at a difference.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinymoe.core import Array, Numerics
from tinymoe.model.precision import store

UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8}  # half a last place
# exp to within 3 units in the last place: NumPy's vectorised float32 exp states 2.52, CUDA's
# expf 2. In units of u.
EXP = 6
# What a flush to zero or an overflow of e^-x can cost: x e^x where e^-x is past the largest
# number, x = -88.8 in float32 (2^-121.6), -709.8 in float64 (2^-1014.5).
TINY = {"float64": 2.0**-1010, "float32": 2.0**-120}


def unit(numerics: Numerics) -> float:
    """u, the relative error of one rounding in `numerics.accumulate`."""
    return UNIT[numerics.accumulate]


def tiny(numerics: Numerics) -> float:
    """The absolute error of an underflow in `numerics.accumulate`."""
    return TINY[numerics.accumulate]


def gamma(roundings: float, u: float) -> float:
    """The most that so many roundings in a row change a value, relative to it."""
    return roundings * u / (1 - roundings * u)


def stored(value: Array, error: Array, storage: str, numerics: Numerics) -> Array:
    """The error after one rounding to `storage` of a value known to within `error`."""
    if storage == numerics.accumulate:
        return error
    rounded: Array = error + UNIT[storage] * (np.abs(value) + error)
    return rounded


def with_reference(bound: Array, numerics: Numerics) -> Array:
    """A bound of the implementation's error, plus that of the float64 reference.

    Every bound here is proportional to u, so the reference adds its share 2^-53 / u: nothing for
    float32, as much again for float64.
    """
    doubled: Array = bound * (1 + UNIT["float64"] / unit(numerics))
    return doubled


def wide(array: Array) -> Array:
    """The same values in float64."""
    return np.asarray(array, np.float64)


def grid_step(values: Array) -> float:
    """The largest power of two that divides every value; 0 if one is not finite.

    >>> grid_step(np.array([0.75, -2.0, 0.0]))
    0.25
    """
    values = wide(values)
    if not np.isfinite(values).all():
        return 0.0
    mantissas, exponents = np.frexp(values[values != 0])
    if not mantissas.size:
        return 1.0
    whole = (mantissas * 2.0**53).astype(np.int64)
    lowest = np.log2((whole & -whole).astype(np.float64))
    return float(2.0 ** (exponents - 53 + lowest).min())


def sums_exactly(
    a: Array, b: Array, largest: float, numerics: Numerics, bias: Array | None = None
) -> bool:
    """Whether sums of products a * b, plus a bias, have the same bits in every order.

    Each product is a multiple of step(a) * step(b); while the sum of absolute products
    (`largest`, over all sums) is at most 2^24 of these steps (2^53 in float64), no partial sum
    is ever rounded. A bias must be a multiple of the step as well.
    """
    step = grid_step(a) * grid_step(b)
    if bias is not None and bias.any() and grid_step(bias) < step:
        return False
    return step > tiny(numerics) and largest <= step / unit(numerics)


def settle(exact: Array, bound: Array, is_exact: bool, numerics: Numerics) -> tuple[Array, Array]:
    """What to compare with, and how closely, once storage has rounded the op's result.

    Exact sums: the correctly rounded value, bound 0. Else the float64 value and the bound.
    """
    if is_exact:
        return store(exact.astype(numerics.dtype), numerics.storage), np.zeros_like(exact)
    return exact, with_reference(stored(exact, bound, numerics.storage, numerics), numerics)


def compare(what: str, got: Any, want: Array, bound: Array | float, dtype: Any = None) -> None:
    """AssertionError unless |got - want| <= bound everywhere, NaN for NaN, inf for inf.

    `dtype`: what `got` must have, exactly. `what` names op and field in the message.
    """
    expect_array(what, got, want.shape, dtype)
    with np.errstate(invalid="ignore"):  # inf - inf
        difference = np.abs(wide(got) - wide(want))
        good = (difference <= bound) | (got == want) | (np.isnan(got) & np.isnan(want))
    if good.all():
        return
    at = tuple(int(i) for i in np.argwhere(~good)[0])
    allowed = np.broadcast_to(bound, want.shape)[at]
    raise AssertionError(
        f"{what}{list(at)}: got {got[at]}, expected {want[at]}; difference {difference[at]:.6g}, "
        f"allowed {allowed:.6g}; {int((~good).sum())} of {got.size} values are off"
    )


def expect_array(what: str, got: Any, shape: tuple[int, ...], dtype: Any = None) -> None:
    """AssertionError unless `got` is a NumPy array of this shape (and dtype, if given)."""
    if not isinstance(got, np.ndarray):
        raise AssertionError(f"{what}: got {type(got).__name__}, expected an array {shape}")
    if got.shape != shape or (dtype is not None and got.dtype != dtype):
        raise AssertionError(
            f"{what}: got shape {got.shape} of {got.dtype}, expected {shape}"
            + (f" of {np.dtype(dtype)}" if dtype is not None else "")
        )
