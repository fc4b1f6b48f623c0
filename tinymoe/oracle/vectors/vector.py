"""One golden vector: what a step is given, what must come out, and how closely.

What is given are arrays, numbers and cards, as the definition takes them. What must come out are
arrays, each with an absolute tolerance for every number: without one it is equal. NaN equals NaN,
-0 equals 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinymoe.core import Array

SCHEMA = "tinymoe-vectors/1"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Vector:
    """A step's inputs, its outputs, and the mutants that they tell from the right function."""

    name: str  # folder/name, where its two files are
    op: str  # a row of the op table, or "moe", "model", "gemm", "dequantize", "encode", ...
    holds: str  # what is in it, in a sentence
    given: Mapping[str, Any]  # arguments by name
    expected: Mapping[str, Array]
    tolerance: Mapping[str, Array] = field(default_factory=dict)  # of the shape of the expected
    derivation: str  # where the expected numbers and the tolerance come from
    ties: str = "there are none"  # what decides among equals
    kills: tuple[str, ...] = ()  # names of mutants whose answer is outside the tolerance


def wrong(vector: Vector, answer: Mapping[str, Any], *, partly: bool = False) -> str | None:
    """Why the answer is not the vector's, or None. `partly`: fields may be missing."""
    for name, want in vector.expected.items():
        if name not in answer:
            if partly:
                continue
            return f"{name} is missing"
        got = np.asarray(answer[name])
        if got.shape != want.shape:
            return f"{name} has shape {got.shape}, expected {want.shape}"
        off = outside(got, want, vector.tolerance.get(name, np.float64(0)))
        if off.any():
            at = tuple(int(i) for i in np.argwhere(off)[0])
            return (
                f"{name}{list(at)}: got {got[at]}, expected {want[at]}; "
                f"{int(off.sum())} of {off.size} values are off"
            )
    return None


def outside(got: Array, want: Array, allowed: Any) -> Array:
    """Where two arrays of one shape differ by more than is allowed; the same shape, of bool."""
    with np.errstate(invalid="ignore"):  # inf - inf
        near = np.abs(got.astype(np.float64) - want.astype(np.float64)) <= allowed
        same = (got == want) | (np.isnan(got) & np.isnan(want))
    away: Array = ~(near | same)
    return away
