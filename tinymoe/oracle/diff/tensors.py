"""How far one tensor is from another, and how far it may be.

The bound is not a number that someone chose. Three runs in the stated numerics, which differ in
the order of their sums alone, are compared with the exact (float64) run of the same model and
tokens: what they are off by is the error that the format itself makes, at this tensor, in this
model. An engine in that format may be off by `MULTIPLE` times as much:

    |engine - exact|, of a row, in L2:        at most MULTIPLE * r * |exact row|
    |engine - exact|, of an entry:            at most MULTIPLE * e * max |exact row|

r and e are the largest ratios error / size of any row of any of the three runs, and at least one
rounding of the storage type; a tensor that all of them give exactly must be exact. Errors are taken
in relation to their row, as some tokens' activations are a hundred times as large as others'.

Why a multiple, and why 8. The engine's error is another draw from the same distribution: same
roundings, other signs. The largest of many entries varies little from draw to draw, but rows are
few and one early rounding is carried through all layers, so draws differ. Measured over 200 seeds,
nine kinds of models with H 24 (the fewer numbers, the more it varies), fp32 and bf16, sums in a
random order: the largest ratio of any tensor was 4.1, the median of the largest 1.5. 8 is twice the
former; `tests/definition/test_diff_alarms.py` repeats it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from tinymoe.core import Array, Numerics, Storage

MULTIPLE = 8.0
# Where activations are quantised, their quantisation is nearly all of the error, and right engines
# take the same codes but for close calls: measured, an engine with another order of sums is 1.0
# times as far off (12 seeds, three models). 8 would let a lost scale pass.
QUANTISED_MULTIPLE = 2.0
ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-9}  # half an ulp of 1

Status = Literal["agrees", "differs", "shape"]


class Bound(NamedTuple):
    """What an error may be: times the L2 size of its row, times the largest entry of its row."""

    rows: float
    entries: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorDiff:
    """One tensor of the engine against the exact one (or against another trace)."""

    name: str
    status: Status
    shape: tuple[int, ...]
    max_abs: float  # largest |engine - reference|; inf where a number meets NaN or infinity
    relative_l2: float
    cosine: float  # nan where either is all zero or not finite
    worst: tuple[int, ...]  # index of the entry that is furthest beyond its bound
    reference: float  # its two values
    engine: float
    limit: float  # the most that entry may be off
    outside: float  # share of the entries beyond their bounds
    excess: float  # largest error / bound; above 1 the tensor differs
    row_errors: tuple[float, ...]  # relative L2 error of each token
    column_errors: tuple[float, ...] = ()  # mean error of each column, of the first 4096
    note: str = ""


def rows_of(name: str, values: Array) -> Array:
    """(rows, entries): tokens, but slots for the experts' outputs, and one row for a vector."""
    if values.ndim == 1:
        return values[None]
    lead = 2 if name.endswith("expert_out") else 1
    return values.reshape(int(np.prod(values.shape[:lead])), -1)


def multiple_of(numerics: Numerics) -> float:
    """How many times the stated numerics' own error an engine may be off."""
    return QUANTISED_MULTIPLE if numerics.activations == "checkpoint" else MULTIPLE


def bound_of(
    name: str, exact: Array, emulated: Sequence[Array], storage: Storage, multiple: float = MULTIPLE
) -> Bound:
    """From the exact tensor and the same one in the stated numerics, all of one shape."""
    reference = rows_of(name, exact.astype(np.float64))
    errors = [rows_of(name, run.astype(np.float64)) - reference for run in emulated]
    if not any(error.any() for error in errors):
        return Bound(0.0, 0.0)
    u, (sizes, tops) = ROUNDOFF[storage], row_sizes(reference)
    rows = max(float((np.sqrt((e**2).sum(-1)) / sizes).max()) for e in errors)
    entries = max(float((np.abs(e).max(-1) / tops).max()) for e in errors)
    return Bound(multiple * max(rows, u), multiple * max(entries, u))


def row_sizes(rows: Array) -> tuple[Array, Array]:
    """L2 sizes and largest entries of rows (R, N), each (R,): never 0, unless all of them are."""
    finite = np.where(np.isfinite(rows), rows, 0)
    sizes, tops = np.sqrt((finite**2).sum(-1)), np.abs(finite).max(-1)
    floor = 2.0**-24  # of the largest row: a row of zeros has no size to compare errors with
    least = np.finfo(np.float64).tiny
    return (
        np.maximum(sizes, max(floor * sizes.max(), least)),
        np.maximum(tops, max(floor * tops.max(), least)),
    )


def compare(
    name: str, reference: Array, engine: Array, bound: Bound, judged: Array | None = None
) -> TensorDiff:
    """Judge one tensor; `judged` (T,) says which tokens are looked at, None: all.

    A masked array is looked at where it is not masked. Equal infinities and NaNs are equal.
    """
    a, b = reference.astype(np.float64), np.ma.getdata(engine).astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(b - a))
    error[np.isnan(error)] = np.inf  # a number against NaN
    error[np.ma.getmaskarray(engine)] = 0
    if judged is not None:
        error[~judged] = 0
    rows, errors = rows_of(name, a), rows_of(name, error)  # (R, N)
    sizes, tops = row_sizes(rows)
    limits = np.broadcast_to((bound.entries * tops)[:, None], errors.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        beyond = np.where(errors == 0, 0.0, errors / limits)  # 0 / 0: equal
        lengths = np.sqrt((errors**2).sum(-1))  # (R,)
        by_row = np.where(lengths == 0, 0.0, lengths / (bound.rows * sizes))
    excess = max(float(beyond.max(initial=0)), float(by_row.max(initial=0)))
    place = int(beyond.argmax()) if beyond.any() else 0
    index = tuple(int(i) for i in np.unravel_index(place, a.shape))
    return TensorDiff(
        name=name,
        status="differs" if excess > 1 else "agrees",
        shape=a.shape,
        max_abs=float(error.max()),
        relative_l2=_ratio(float(np.sqrt((error**2).sum())), float(np.sqrt((sizes**2).sum()))),
        cosine=cosine(a, b),
        worst=index,
        reference=float(a[index]),
        engine=float(b[index]),
        limit=float(limits.flat[place]),
        outside=float((beyond > 1).mean()),
        excess=excess,
        row_errors=tuple(float(x) for x in token_errors(lengths, sizes, a.shape)),
        column_errors=column_errors(error),
        note=remark(a, b, error),
    )


def _ratio(a: float, b: float) -> float:
    return a / b if b else (0.0 if a == 0 else np.inf)


def token_errors(lengths: Array, sizes: Array, shape: tuple[int, ...]) -> Array:
    """Relative errors of tokens (T,): of slots, each token's largest."""
    ratios = lengths / sizes
    per_token = ratios.reshape(shape[0], -1) if len(shape) > 1 else ratios[None]
    return per_token.max(axis=-1)


def column_errors(error: Array) -> tuple[float, ...]:
    """Mean of |error| (T, ...) over tokens: a fault of one head or one half is a pattern here."""
    flat = error.reshape(len(error), -1)[:, :4096]
    return tuple(float(x) for x in flat.mean(axis=0)) if error.ndim > 1 else ()


def cosine(a: Array, b: Array) -> float:
    """Of the angle between two tensors; nan where there is none."""
    with np.errstate(all="ignore"):
        value = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
    return float(value)


def remark(a: Array, b: Array, error: Array) -> str:
    """What a look at the values says beyond their distance."""
    bad = np.argwhere(~np.isfinite(b) & np.isfinite(a) & (error > 0))
    if len(bad):
        first = tuple(int(i) for i in bad[0])
        return f"{len(bad)} of {b.size} entries are {b[first]} or the like, the first at {first}"
    square = a.ndim == 2 and a.shape[0] == a.shape[1] > 1
    if square and error.any() and np.abs(b.T - a).max() < error.max() / 1024:
        return "it is the reference transposed"
    if not b.any() and a.any():
        return "all entries are 0"
    return ""


def wrong_shape(name: str, reference: Array, engine: Array) -> TensorDiff:
    """A tensor that cannot be compared, and what its shape suggests."""
    want, got = reference.shape, engine.shape
    hint = "were both made from the same tokens?"
    if got == want[::-1]:
        hint = "it looks transposed: dump it as " + str(want)
    elif got == (1, *want):
        hint = "drop the batch axis"
    elif engine.size == reference.size:
        hint = f"the same number of entries: reshape it to {want}"
    elif len(got) == len(want) and got[1:] == want[1:]:
        hint = f"{got[0]} tokens in place of {want[0]}: dump the whole sequence in one pass"
    return TensorDiff(
        name=name,
        status="shape",
        shape=got,
        max_abs=np.inf,
        relative_l2=np.inf,
        cosine=np.nan,
        worst=(),
        reference=np.nan,
        engine=np.nan,
        limit=0.0,
        outside=1.0,
        excess=np.inf,
        row_errors=(),
        note=f"expected the shape {want}, got {got}: {hint}",
    )
