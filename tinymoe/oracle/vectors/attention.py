"""Vectors of attention, norm and rope."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinymoe.cards import LinearScaling, Llama3Scaling, LongRopeScaling, RopeCard, YarnScaling
from tinymoe.core import NUMERICS, Array
from tinymoe.kernels.bounds import gamma, tiny, unit
from tinymoe.kernels.checks import attend_bound
from tinymoe.model.rope import magnitude, rope, rope_tables
from tinymoe.oracle.vectors.vector import Vector

FP32, EXACT = NUMERICS["fp32"], NUMERICS["exact"]
P, D = 4, 8  # positions in a page, numbers in a head
POSITIONS = np.array([0, 1, 2, 17, 1000, 4095, 131071], np.int64)
U = unit(FP32)


def attention_vectors() -> Iterator[Vector]:
    """All of them."""
    for name, named in (
        ("full", {}),
        ("window", {"window": 5}),
        ("chunk", {"chunk": 4}),
        ("sinks", {"window": 6, "sinks": np.array([-1.0, 0.5, 2.0, 3.5], np.float32)}),
    ):
        yield _prefill(name, named)
        yield _decode(name, named)
    yield _one_winner()
    yield _rmsnorm()
    yield from _ropes()


def _pages(rng: np.random.Generator, lengths: list[int]) -> dict[str, Any]:
    """Pages out of order, NaN in every slot that no token has."""
    needed = [-(-length // P) for length in lengths]
    order = rng.permutation(sum(needed) + 2)
    keys = np.full((len(order), P, 2, D), np.nan, np.float32)
    values = keys.copy()
    tables, taken = [], 0
    for length, count in zip(lengths, needed, strict=True):
        table = order[taken : taken + count].astype(np.int64)
        taken += count
        for i in range(length):
            at = table[i // P], i % P
            keys[at], values[at] = rng.normal(size=(2, 2, D))
        tables.append(table)
    return {"key_pages": keys, "value_pages": values, "tables": tables}


def _row(case: dict[str, Any], row: int, table: Array, position: int) -> tuple[Array, Array]:
    """One token's answer and tolerance, its keys picked one by one."""
    window, chunk = case.get("window"), case.get("chunk")
    seen = [
        j
        for j in range(position + 1)
        if (window is None or position - j < window)
        and (chunk is None or j // chunk == position // chunk)
    ]
    k, v = (
        np.stack([case[f"{name}_pages"][table[j // P], j % P] for j in seen]).astype(np.float64)
        for name in ("key", "value")
    )
    sinks = case.get("sinks")
    wide = None if sinks is None else sinks.astype(np.float64)
    return attend_bound(case["q"][row].astype(np.float64), k, v, case["scale"], FP32, wide)


def _vector(name: str, op: str, holds: str, case: dict[str, Any], rows: list[Any]) -> Vector:
    wants, bounds = zip(*rows, strict=True)
    return Vector(
        name=f"attention/{name}",
        op=op,
        holds=holds,
        given={**case, "numerics": FP32},
        expected={"out": np.stack(wants)},
        tolerance={"out": np.stack(bounds)},
        derivation="Softmax and sum in float64 over the keys that the token sees, picked one by "
        "one. Tolerance: float32 dot products, exp to 3 units in the last place, sums in any order "
        "(kernels/checks.py, attend_bound).",
    )


def _prefill(name: str, named: dict[str, Any]) -> Vector:
    rng = np.random.default_rng(len(name))
    pages, start, tokens = _pages(rng, [11]), 3, 8
    case = {
        "q": (rng.normal(size=(tokens, 4, D)) * 2).astype(np.float32),
        **{key: pages[key] for key in ("key_pages", "value_pages")},
        **{"block_table": pages["tables"][0], "start": start, "scale": D**-0.5},
        **named,
    }
    rows = [_row(case, t, case["block_table"], start + t) for t in range(tokens)]
    holds = f"Eight tokens from position 3 on, pages out of order, NaN in unused slots; {name}."
    return _vector(f"prefill-{name}", "attention_prefill", holds, case, rows)


def _decode(name: str, named: dict[str, Any]) -> Vector:
    rng = np.random.default_rng(10 + len(name))
    lengths = [1, 4, 5, 14]
    pages = _pages(rng, lengths)
    case = {
        "q": (rng.normal(size=(4, 4, D)) * 2).astype(np.float32),
        **{key: pages[key] for key in ("key_pages", "value_pages")},
        **{"block_tables": pages["tables"], "lengths": lengths, "scale": D**-0.5},
        **named,
    }
    rows = [_row(case, r, pages["tables"][r], n - 1) for r, n in enumerate(lengths)]
    holds = f"Four sequences of 1, 4, 5 and 14 keys, pages of 4, NaN in unused slots; {name}."
    return _vector(f"decode-{name}", "attention_decode", holds, case, rows)


def _one_winner() -> Vector:
    """Scores 128 apart: e^-128 is 0 in float32, so the answer is one key's value, exactly."""
    rng = np.random.default_rng(20)
    pages = _pages(rng, [6])
    q = np.zeros((6, 4, D), np.float32)
    for j in range(6):
        at = pages["tables"][0][j // P], j % P
        pages["key_pages"][at] = 0
        pages["key_pages"][at][:, j] = 1
        pages["value_pages"][at] = rng.integers(-99, 100, (2, D))
        for h in range(4):
            q[j, h, (j * 5 + h) % (j + 1)] = 256  # whose key this head wants
    case = {
        "q": q,
        **{key: pages[key] for key in ("key_pages", "value_pages")},
        **{"block_table": pages["tables"][0], "start": 0, "scale": 0.5},
    }
    want = np.zeros((6, 4, D))
    for j, h in np.ndindex(6, 4):
        best = (j * 5 + h) % (j + 1)
        want[j, h] = pages["value_pages"][pages["tables"][0][best // P], best % P, h // 2]
    return Vector(
        name="attention/one-winner",
        op="attention_prefill",
        holds="Scores of 128 for one key and 0 for all others: each head copies one value.",
        given={**case, "numerics": FP32},
        expected={"out": want},
        derivation="e^-128 is below half of float32's smallest number, so one weight is 1 and the "
        "others are 0 or vanish in the sum: whole numbers, no tolerance.",
    )


def _rmsnorm() -> Vector:
    rng = np.random.default_rng(21)
    x = (rng.normal(size=(5, 16)) * [[1.0], [30.0], [0.01], [1e-4], [3.0]]).astype(np.float32)
    x[4] += 4  # whose mean is far from 0
    weight, eps = rng.uniform(0.5, 2, 16).astype(np.float32), 1e-5
    want = np.zeros(x.shape)
    for t, row in enumerate(x.astype(np.float64)):
        want[t] = row / math.sqrt(math.fsum(row * row) / 16 + eps) * weight
    return Vector(
        name="attention/rmsnorm",
        op="rmsnorm",
        holds="Rows from loud to so quiet that eps rules, one with a mean far from 0.",
        given={
            **{"x": x, "weight": weight, "eps": eps, "numerics": FP32},
            "rounds_before_weight": False,
        },
        expected={"out": want},
        tolerance={"out": gamma((16 + 3) / 2 + 6, U) * np.abs(want) + tiny(FP32)},
        derivation="float64. Tolerance: a sum of 16 squares, of which the root halves the error, "
        "and six roundings, float32.",
    )


# -------------------------------------------------------------------------------------- rope


def rope_cards() -> dict[str, RopeCard]:
    """One of each kind; D is 16."""

    def card(theta: float, scaling: Any = None, **changes: Any) -> RopeCard:
        fields = {"rotary_dim": 16, "pairing": "half", **changes}
        return RopeCard(theta=theta, scaling=scaling, **fields)

    def yarn(factor: float, original: int, truncate: bool, size: float) -> YarnScaling:
        return YarnScaling(
            factor=factor,
            original_positions=original,
            beta_fast=32.0,
            beta_slow=1.0,
            truncate=truncate,
            attention_factor=size,
        )

    def mscale(factor: float, m: float) -> float:
        return 0.1 * m * math.log(factor) + 1

    llama3 = Llama3Scaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_positions=8192
    )
    return {
        "default": card(1e6),
        "partial": card(5e5, rotary_dim=8),
        "interleaved": card(5e5, pairing="interleaved"),
        "linear": card(2e4, LinearScaling(factor=4.0)),
        "llama3": card(5e5, llama3),
        "yarn": card(1e6, yarn(4.0, 32768, True, mscale(4, 1))),
        "yarn-not-truncated": card(1.5e5, yarn(32.0, 4096, False, mscale(32, 1))),
        # DeepSeek: mscale over mscale_all_dim; V2's 0.707 over 0.5 leaves a factor
        "yarn-mscale": card(
            2e4, yarn(40.0, 4096, True, mscale(40, 0.707) / mscale(40, 0.5)), pairing="interleaved"
        ),
        "longrope": card(
            *(
                2e4,
                LongRopeScaling(
                    factors=(1.0, 1.05, 1.2, 1.6, 2.5, 4, 7, 11), attention_factor=1.19
                ),
            ),
        ),
        # Hunyuan: theta alpha^(d / (d - 2)), alpha 1000
        "dynamic-alpha": card(1e4 * 1000 ** (16 / 14)),
    }


def _ropes() -> Iterator[Vector]:
    for name, card in rope_cards().items():
        yield _rope(name, card)


def _rope(name: str, card: RopeCard) -> Vector:
    """Angles are at most 2^17 radians, with 5 float64 roundings: 2^17 * 5 * 2^-53 < 2^-33."""
    rng = np.random.default_rng(22)
    x = rng.normal(size=(len(POSITIONS), 6, 16)).astype(np.float32)
    tables = rope_tables(POSITIONS, card, EXACT)
    off = [U * np.abs(table) + 2.0**-33 * magnitude(card) for table in tables]
    size = [np.abs(table) + more for table, more in zip(tables, off, strict=True)]
    out = rope(x.astype(np.float64), tables, card, EXACT)
    wide = np.abs(x).astype(np.float64)
    bound = np.zeros(out.shape)
    for factor, (c, s) in ((1.0, off), (gamma(3, U), size)):
        first, second = rope(wide, (c, -s), card, EXACT), rope(wide, (c, s), card, EXACT)
        bound += factor * np.maximum(first, second)
    bound[..., card.rotary_dim :] = 0
    return Vector(
        name=f"rope/{name}",
        op="rope",
        holds=f"Cosines and sines at positions 0 to 131,071, and six heads turned by them; {name}.",
        given={"x": x, "positions": POSITIONS, "card": card, "numerics": FP32},
        expected={"cos": tables[0], "sin": tables[1], "out": out},
        tolerance={"cos": off[0], "sin": off[1], "out": bound},
        derivation="Frequencies, angles, cosines and sines in float64, rounded once to float32: "
        "2^-24 of the value, and 2^-33 for the float64 angle of up to 2^17. Angles in float32 are "
        "off by 4e-3 at the last position, and are not within it. Turned: three more roundings.",
    )
