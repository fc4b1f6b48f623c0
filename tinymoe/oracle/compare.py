"""The first tensor in which two traces differ: every later difference may be its consequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tinymoe.core import Array, TinymoeError


class Difference(NamedTuple):
    """One tensor that is not the same, and where it is furthest off."""

    name: str  # of the tap
    max_abs_error: float  # largest |other - reference|; inf where a number meets NaN
    worst: tuple[int, ...]  # index of that entry; the first one among equals
    reference: float  # that entry's two values
    other: float


def first_difference(
    reference: Mapping[str, Array], other: Mapping[str, Array], bound: float = 0.0
) -> Difference | None:
    """Walk two traces of the same taps in the reference's order; None if no tensor differs.

    A tensor differs if some entry's |other - reference| is above `bound` (absolute, the same
    for every tensor; 0: values must be equal). The differences are taken in float64, where two
    unequal float32 or bf16 values never give 0. NaN equals NaN and nothing else; -0 equals 0.

    >>> right = {"embed": np.zeros(2), "logits": np.array([1.0, 2.0])}
    >>> wrong = {"embed": np.zeros(2), "logits": np.array([1.0, 2.5])}
    >>> first_difference(right, wrong).name
    'logits'
    """
    if not 0 <= bound < np.inf:
        raise TinymoeError(f"bound: expected a finite number of at least 0, got {bound}")
    _check_names(reference, other)
    for name, expected in reference.items():
        difference = _compare(name, np.asarray(expected), np.asarray(other[name]))
        if difference.max_abs_error > bound:
            return difference
    return None


def _compare(name: str, reference: Array, other: Array) -> Difference:
    """The entry that is furthest off, whether or not that is far."""
    if reference.shape != other.shape or reference.size == 0:
        raise TinymoeError(
            f"{name}: expected two arrays of one shape, not empty; the reference has "
            f"{reference.shape}, the other {other.shape}: were both made from the same tokens?"
        )
    a, b = reference.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf: the same value, or caught as NaN below
        error = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(b - a))
    error[np.isnan(error)] = np.inf  # a number against NaN
    index = tuple(int(i) for i in np.unravel_index(error.argmax(), error.shape))
    return Difference(name, float(error[index]), index, float(a[index]), float(b[index]))


def _check_names(reference: Mapping[str, Array], other: Mapping[str, Array]) -> None:
    """Both traces hold the same taps: one that is not compared would count as equal."""
    missing, extra = sorted(set(reference) - set(other)), sorted(set(other) - set(reference))
    if missing or extra or not reference:
        raise TinymoeError(
            f"expected two traces of the same taps; only in the reference: {missing[:5]}, only in "
            f"the other: {extra[:5]}, in both: {len(set(reference) & set(other))}. Compare a part "
            "by passing a part: {name: trace[name] for name in common}"
        )
