"""What one wrong tensor looks like beside the right one: a factor, a shift, a permutation, a block.

No model is needed. Every signature says what the engine's tensor should then be, and fits if it is
that, within the error that is usual there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from tinymoe.core import Array, AttentionCard, ModelConfig
from tinymoe.formats.bf16 import round_to_bf16
from tinymoe.oracle.diagnose.permutations import permuted

BLOCKS = (128, 32, 16)  # values that share a scale: FP8, MXFP4, NVFP4; the widest that fits
BETTER = 0.25  # of the plain error: a signature that explains less than that explains nothing
RANKS = (2, 3, 4, 8, 16)
PLACES = ("rows", "columns")  # say where it is wrong, and not how
VARIES = 1e-3  # of factors: less is one factor
OF_BF16 = 2.0**-9  # half of its last bit


class Hints(NamedTuple):
    """What is known of where a tensor comes from."""

    factors: Mapping[str, float]  # what a factor may be
    added: Mapping[str, Array]  # tensors that may have been added too often, or not at all


class Mark(NamedTuple):
    """One signature: how far the engine's tensor is from what it predicts."""

    name: str
    says: str
    error: float  # relative L2, of the entries that it speaks of
    fits: bool


def hints_of(name: str, taps: Mapping[str, Array], config: ModelConfig | None) -> Hints:
    """The factors that a known bug could leave in this tensor, and what is added to it."""
    factors = {"448 x 6, the range of an NVFP4 tensor": 2688.0, "the largest E4M3 value": 448.0}
    factors |= {"the largest E2M1 value": 6.0, "the sign": -1.0}
    if config is not None:
        factors["the routed scaling factor"] = config.router.scale
        factors["the root of H"] = config.hidden_size**0.5
        factors["the root of the head size"] = config.head_dim**0.5
        cards = [card for card in config.attention if isinstance(card, AttentionCard)]
        factors |= {"the scale of the scores": cards[0].scale} if cards else {}
        for field in ("embedding", "residual", "logits_divisor"):
            factors[f"the family's constant {field}"] = getattr(config.multipliers, field)
        factors["the number of experts per token"] = config.router.top_k
    factors |= {f"{n} ranks": float(n) for n in RANKS}
    layer = ".".join(name.split(".")[:2])
    parts = {
        f"{layer}.moe.out": [f"{layer}.moe.shared"],
        f"{layer}.out": [f"{layer}.moe.shared", f"{layer}.mid", f"{layer}.moe.out"],
        f"{layer}.mid": [f"{layer}.attn.out"],
    }.get(name, [])
    return Hints(factors, {part: taps[part] for part in parts if part in taps})


def signatures(reference: Array, engine: Array, limit: float, hints: Hints) -> list[Mark]:
    """All that say something, nearest first. `limit`: the usual relative L2 error of a row."""
    if engine.shape != reference.shape:
        return list(_other_shape(reference, engine, limit))
    a = reference.astype(np.float64)
    b = np.ma.filled(engine.astype(np.float64), 0) if np.ma.isMaskedArray(engine) else engine
    b = np.where(np.ma.getmaskarray(engine), a, b).astype(np.float64)
    if np.isfinite(a).all() and not np.isfinite(b).all():
        return [_not_finite(a, b, limit)]
    if not np.isfinite(a).all() or not a.any():
        return []
    plain, numbers = distance(a, b), reference.dtype.kind == "f"
    if not numbers:  # experts, as sets
        a, b = np.sort(a), np.sort(b)
        return [mark for mark in _rows(a, b, 0.0) if mark.name == "rows"]
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)  # (T, N)
    found: list[Mark] = []
    for marks in (_whole(a, b, limit), _factor(a, b, hints), _added(a, b, hints)):
        found += marks
    for marks in (_rows(a, b, limit), _columns(a, b, limit), _blocks(a, b)):
        found += marks
    found += [Mark(*moved, fits=True) for moved in permuted(a, b, reference.shape)]
    said = [mark._replace(fits=mark.fits and mark.error <= limit) for mark in found]
    return sorted(
        (m for m in said if m.error <= BETTER * plain), key=lambda m: (not m.fits, m.name in PLACES)
    )


def distance(predicted: Array, engine: Array) -> float:
    """Relative L2, of what is predicted."""
    size = np.linalg.norm(engine)
    return float(np.linalg.norm(predicted - engine) / size) if size else float(predicted.any())


def _whole(a: Array, b: Array, limit: float) -> Iterator[Mark]:
    if not b.any():
        yield Mark("zero", "all entries are 0", 0.0, True)
    rounded = round_to_bf16(b.astype(np.float32))
    if limit < OF_BF16 and (rounded == b).all() and (round_to_bf16(_narrow(a)) != a).any():
        error = distance(round_to_bf16(_narrow(a)).astype(np.float64), b)
        yield Mark("bf16", "every entry is rounded to bf16", error, True)
    if (b >= 0).all() and (a < 0).any():
        yield Mark(
            "absolute", "the sign is lost: these are absolute values", distance(abs(a), b), True
        )


def _narrow(a: Array) -> Array:
    return a.astype(np.float32)


def _factor(a: Array, b: Array, hints: Hints) -> Iterator[Mark]:
    """One number for all entries; or one for each row."""
    ratio = float((a * b).sum() / (a * a).sum())
    if ratio == 0:
        return
    names = [name for name, value in hints.factors.items() if _equal(ratio, value)]
    names += [
        f"1 / {n}" for n, value in hints.factors.items() if value and _equal(ratio, 1 / value)
    ]
    names += [
        f"{n}, squared"
        for n, value in hints.factors.items()
        if value > 0 and _equal(ratio, value**2)
    ]
    which = f", which is {' or '.join(dict.fromkeys(names))}" if names else ""
    yield Mark(
        "ratio", f"it is {ratio:.6g} times the reference{which}", distance(ratio * a, b), True
    )


def _equal(ratio: float, value: float) -> bool:
    return value != 1 and abs(ratio - value) <= 1e-3 * abs(value)


def _added(a: Array, b: Array, hints: Hints) -> Iterator[Mark]:
    """Another tensor added n times too often."""
    for name, value in hints.added.items():
        other = value.reshape(a.shape).astype(np.float64)
        if value.size == a.size and (size := (other * other).sum()):
            often = float(((b - a) * other).sum() / size)
            times = "is missing" if abs(often + 1) < 1e-2 else f"is in it {1 + often:.4g} times"
            yield Mark("added", f"{name} {times}", distance(a + often * other, b), True)


def _rows(a: Array, b: Array, limit: float) -> Iterator[Mark]:
    """Tokens: moved by one, or one in n."""
    if len(a) < 2:
        return
    yield Mark(
        "shifted", "each token has the values of the token before", distance(a[:-1], b[1:]), True
    )
    yield Mark(
        "shifted", "each token has the values of the token after", distance(a[1:], b[:-1]), True
    )
    sizes = np.maximum(np.linalg.norm(a, axis=1), 1e-6 * np.linalg.norm(a) / len(a) ** 0.5)
    bad = np.linalg.norm(b - a, axis=1) > limit * sizes  # (T,)
    if bad.any() and not bad.all():
        yield from _those("rows", bad, "token", distance(a[~bad], b[~bad]))


def _columns(a: Array, b: Array, limit: float) -> Iterator[Mark]:
    """Columns that are wrong: a period."""
    sizes = np.maximum(np.linalg.norm(a, axis=0), 1e-3 * np.linalg.norm(a) / a.shape[1] ** 0.5)
    bad = np.linalg.norm(b - a, axis=0) > 4 * limit * sizes  # (N,)
    if bad.any() and not bad.all():
        yield from _those("columns", bad, "column", distance(a[:, ~bad], b[:, ~bad]))


def _those(name: str, bad: Array, what: str, error: float) -> Iterator[Mark]:
    """Which of many are wrong: one, one in n from k on, or (which explains little) a range."""
    places = np.flatnonzero(bad)
    rest = "wrong, the others are right"
    if len(places) == 1:
        yield Mark(name, f"{what} {places[0]} alone is {rest}", error, True)
        return
    for n in (*range(2, 33), 64, 128):
        phases = np.unique(places % n)
        if 1 < len(phases) > n // 4:  # most are wrong: that says little
            continue
        if (
            len(phases) < n
            and n <= len(bad) // 2
            and len(places) == sum(len(range(p, len(bad), n)) for p in phases)
        ):
            which = ", ".join(map(str, phases[:8])) + (", ..." if len(phases) > 8 else "")
            yield Mark(name, f"period {n}: {what}s {which} of every {n} are {rest}", error, True)
            return
    if places[-1] - places[0] == len(places) - 1:
        says = f"{what}s {places[0]} to {places[-1]} alone are {rest}"
        yield Mark(name, says, error, False)


def _blocks(a: Array, b: Array) -> Iterator[Mark]:
    """Each block of a row has a factor of its own: block scales."""
    for width in BLOCKS:
        if a.shape[1] % width or a.shape[1] < 2 * width:
            continue
        x, y = (v.reshape(len(a), -1, width) for v in (a, b))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = (x * y).sum(-1, keepdims=True) / (x * x).sum(-1, keepdims=True)
        ratios = np.nan_to_num(ratios)
        if (ratios.max(1) - ratios.min(1)).max() <= VARIES:  # one factor for each row
            return
        says = f"every {width} columns have a factor of their own, as with wrong block scales"
        yield Mark(f"blocks-{width}", says, distance(ratios * x, y), True)


def _not_finite(a: Array, b: Array, limit: float) -> Mark:
    """NaN or infinity: where, and whether the rest is right."""
    bad = np.argwhere(~np.isfinite(b))
    spans = [f"{lo} to {hi}" for lo, hi in zip(bad.min(0), bad.max(0), strict=True)]
    good = np.isfinite(b)
    error = distance(a[good], b[good]) if good.any() else 0.0
    rest = "the others are right" if error <= limit else "and the others are not right"
    kind = "NaN" if np.isnan(b).any() else "infinite"
    where = f"{len(bad)} of {b.size} entries are {kind}, within [{', '.join(spans)}]"
    return Mark("nan", f"{where}; {rest}", error, error <= limit)


def _other_shape(a: Array, b: Array, limit: float) -> Iterator[Mark]:
    """The same numbers in another shape."""
    if a.size == b.size and np.isfinite(b).all():
        for says, value in (
            ("the same values in another shape", a.reshape(b.shape)),
            ("transposed", a.T.reshape(b.shape)),
        ):
            error = distance(value.astype(np.float64), b.astype(np.float64))
            if error <= limit:
                yield Mark("shape", f"{says}: {b.shape} in place of {a.shape}", error, True)
