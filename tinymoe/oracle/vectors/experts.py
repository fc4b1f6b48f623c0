"""Vectors of permute, expert_ffn, combine and linear: exact where float32 can be, else bounded.

Exact: small whole numbers, gates of at least 18 or at most -104 (there silu is the gate itself or
0 in float32), and sums below 2^24 of their common step: every order of sums gives the same bits.
All is unlike its neighbour: gate from up, expert from expert, row from row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tinymoe.cards import PLAIN_SWIGLU, ExpertCard
from tinymoe.core import NUMERICS, Array
from tinymoe.kernels.bounds import sums_exactly
from tinymoe.kernels.checks import exact_ffn, ffn_bound
from tinymoe.oracle.vectors.vector import Vector

FP32 = NUMERICS["fp32"]
CLAMPED = replace(
    PLAIN_SWIGLU, activation="swiglu_clamped", clamp_limit=7.0, clamp_alpha=1.702, biases=True
)
EXACT = (
    "Whole numbers: gates are at least 18 or at most -104, where silu in float32 is the gate "
    "itself or 0, and every sum stays below 2^24 steps of its grid. So there is no tolerance, "
    "whatever the order of sums, in float32 or wider from one end to the other."
)
BOUND = (
    "The formula in float64. Tolerance: float32 sums in any order, gamma(n) = n u / (1 - n u) with "
    "u = 2^-24, through both products and the activation, whose slope is at most 1.1 "
    "(kernels/checks.py, ffn_bound)."
)
OFFSETS = np.array([0, 2, 2, 5, 6, 7], np.int64)  # expert 1 has no row


def expert_vectors() -> Iterator[Vector]:
    """All of them."""
    yield _permute()
    yield _combine()
    yield _linear()
    yield _exact()
    yield _smooth()
    yield _beyond_clamps(
        "beyond-clamps",
        7.0,
        "gpt-oss: gate and up far beyond the limit of 7 on both sides (transformers#40197), alpha "
        "1.702, up + 1, biases on both products.",
    )
    yield _beyond_clamps(
        "narrow-clamps",
        1.0,
        "The same with a limit of 1, so that a gate that is cut from below as well shows.",
    )


def _permute() -> Vector:
    ids = np.array([[7, 0, 3], [3, 7, 5], [0, 5, 7], [7, 5, 0], [5, 9, 7]], np.int64)
    slots = sorted(range(ids.size), key=lambda slot: (int(ids.flat[slot]), slot))
    counts = [int((ids == e).sum()) for e in range(11)]
    offsets = np.array([sum(counts[:e]) for e in range(12)], np.int64)
    return Vector(
        name="experts/permute",
        op="permute",
        holds="Five tokens, three of 11 experts each; six experts have none, the last among them.",
        given={"ids": ids, "experts": 11},
        expected={"order": np.array(slots, np.int64), "offsets": offsets},
        derivation="Sorted in Python by (expert, slot), slot = t K + k; counts summed up.",
        ties="slots of one expert: by token, then by choice",
    )


def _combine() -> Vector:
    rng = np.random.default_rng(0)
    out = rng.integers(-2000, 2001, (4, 3, 8)).astype(np.float32)
    weights = np.array([[5, 2, 1], [4, 3, 1], [7, 6, 2], [6, 5, 3]], np.float32) / 8
    assert sums_exactly(out, weights, 2000 * 15 / 8, FP32)
    total = np.zeros((4, 8))
    for t, k in np.ndindex(4, 3):
        total[t] += float(weights[t, k]) * out[t, k].astype(np.float64)
    return Vector(
        name="experts/combine",
        op="combine",
        holds="Outputs of up to 11 bits times eighths: partial sums in bf16 lose the last ones "
        "(vllm#15045). No two weights of a row are equal, no two rows.",
        given={"expert_out": out, "weights": weights, "numerics": FP32},
        expected={"out": total},
        derivation="Whole eighths, summed in float64 without a rounding; no tolerance.",
    )


def _linear() -> Vector:
    rng = np.random.default_rng(1)
    x, weight, bias = (rng.integers(-9, 10, s).astype(np.float32) for s in ((3, 12), (7, 12), 7))
    want = np.zeros((3, 7))
    for t, o in np.ndindex(3, 7):
        terms = (int(a) * int(b) for a, b in zip(x[t], weight[o], strict=True))
        want[t, o] = int(bias[o]) + sum(terms)
    return Vector(
        name="experts/linear",
        op="linear",
        holds="Whole numbers and a bias.",
        given={"x": x, "weight": weight, "bias": bias, "numerics": FP32},
        expected={"out": want},
        derivation="Summed in Python's integers; no tolerance.",
    )


def exact_weights(
    rng: np.random.Generator, experts: int, hidden: int, width: int
) -> tuple[Array, Array, Array]:
    """gate (E, I, H), up (E, I, H), down (E, H, I): small whole numbers on which silu is exact.

    The last number of an input must be 1: what it meets decides whether a gate is open.
    """
    gate = rng.integers(-1, 2, (experts, width, hidden)).astype(np.float64)
    gate[..., -1] = rng.choice([-160.0, 48.0, 64.0, 80.0], (experts, width))
    up = rng.integers(-3, 4, (experts, width, hidden)).astype(np.float64)
    down = rng.choice([-1.0, -0.5, 0.5, 1.0, 2.0], (experts, hidden, width))
    return gate, up, down


def exact_inputs(rng: np.random.Generator, rows: int, hidden: int) -> Array:
    """Inputs (rows, H): whole numbers up to 2, many of them 0, the last 1."""
    x = rng.choice([-2.0, -1.0, 0.0, 0.0, 1.0, 2.0], (rows, hidden))
    x[:, -1] = 1
    return x


def exact_expert(x: Array, gate: Array, up: Array, down: Array) -> Array:
    """One row x (H,) through one expert in float64 without a rounding: (H,)."""
    opened, other = gate @ x, up @ x  # (I,)
    assert ((opened >= 18) | (opened <= -104)).all()
    return down @ (np.maximum(opened, 0) * other)


def _exact() -> Vector:
    rng = np.random.default_rng(2)
    gate, up, down = exact_weights(rng, 5, 12, 10)
    x = exact_inputs(rng, 7, 12)
    owner = np.repeat(np.arange(5), np.diff(OFFSETS))
    pairs = zip(x, owner, strict=True)
    out = np.stack([exact_expert(row, gate[e], up[e], down[e]) for row, e in pairs])
    gate_up = np.concatenate([gate, up], axis=1)
    given: dict[str, Any] = {"x": x, "gate_up": gate_up, "down": down}
    given = {name: value.astype(np.float32) for name, value in given.items()}
    for row, e in zip(given["x"], owner, strict=True):
        assert exact_ffn(row[None], given["gate_up"][e], given["down"][e], FP32)
    return Vector(
        name="experts/exact",
        op="expert_ffn",
        holds="Five experts, one without rows; gate and up, neighbouring experts and rows differ.",
        given={**given, "offsets": OFFSETS, "numerics": FP32},
        expected={"out": out},
        derivation=EXACT,
    )


def _bounded(name: str, holds: str, case: dict[str, Any], card: ExpertCard) -> Vector:
    """The expected rows and their tolerance, expert by expert."""
    experts, hidden = case["down"].shape[:2]
    width = case["down"].shape[2]
    zeros = {"gate_up": np.zeros((experts, 2 * width)), "down": np.zeros((experts, hidden))}
    wants, bounds = [], []
    for e in range(experts):
        biases = [
            case.get(f"{part}_bias", zero)[e].astype(np.float64) for part, zero in zeros.items()
        ]
        rows = case["x"][OFFSETS[e] : OFFSETS[e + 1]]
        want, bound = ffn_bound(rows, case["gate_up"][e], case["down"][e], biases, card, FP32)
        wants.append(want)
        bounds.append(bound)
    return Vector(
        name=name,
        op="expert_ffn",
        holds=holds,
        given={**case, "offsets": OFFSETS, "numerics": FP32},
        expected={"out": np.concatenate(wants)},
        tolerance={"out": np.concatenate(bounds)},
        derivation=BOUND,
    )


def _drawn(rng: np.random.Generator, size: float) -> dict[str, Any]:
    shapes = {"x": (7, 12), "gate_up": (5, 16, 12), "down": (5, 12, 8)}
    case = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    case["x"] *= np.float32(size)
    return case


def _smooth() -> Vector:
    holds = (
        "Gates from -5 to 5, where silu is neither the gate nor 0: the activation itself, that of "
        "another family (sglang#22928) or none."
    )
    return _bounded("experts/silu", holds, _drawn(np.random.default_rng(3), 0.7), PLAIN_SWIGLU)


def _beyond_clamps(name: str, limit: float, holds: str) -> Vector:
    rng, card = np.random.default_rng(4), replace(CLAMPED, clamp_limit=limit)
    case = _drawn(rng, 2.5)
    case["gate_up_bias"] = rng.normal(size=(5, 16)).astype(np.float32)
    case["down_bias"] = rng.normal(size=(5, 12)).astype(np.float32)
    case["card"] = card
    return _bounded(f"experts/{name}", holds, case, card)
