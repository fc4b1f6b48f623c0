"""Every check of the op table can fail: wrong outputs that it must see.

Of 14 wrong kernels, the tolerance of one public test suite passed 13: a check that accepts 0.1
accepts zeros. Each spoiled output here is the smallest form of a bug that has shipped.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.properties.test_linear_op_checks import SPOILED as OF_LINEAR_ATTENTION
from tests.tiny import tiny_card
from tinymoe.core import NUMERICS, RopeCard, Sampling
from tinymoe.kernels.contracts import CONTRACTS, contract
from tinymoe.kernels.rows_formats import ROWS as ROWS_OF_FORMATS
from tinymoe.model.ops import DEFINITION
from tinymoe.model.rope import rope_tables
from tinymoe.random_draw import draw

pytestmark = pytest.mark.properties
FP32 = NUMERICS["fp32"]

CARD = tiny_card(experts=8, top_k=3, selection_bias=True, scale=2.5)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def attention_case():
    """Two pages of 4, six keys, 2 query heads a key head; unused slots are NaN."""
    pages = normal(2, 3, 4, 1, 4, seed=1)
    pages[:, 0, 2:] = pages[:, 1] = np.nan
    return {"key_pages": pages[0], "value_pages": pages[1], "scale": 0.5, "numerics": FP32}


TABLE = np.array([2, 0], np.int64)
CASES = {
    "linear": {"x": normal(3, 20), "weight": normal(5, 20, seed=1), "numerics": FP32},
    "rmsnorm": {
        "x": normal(3, 32),
        "weight": normal(32, seed=1),
        "eps": 1e-6,
        "numerics": FP32,
        "rounds_before_weight": False,
    },
    "rope": {
        "x": normal(2, 2, 8),
        "tables": rope_tables(
            np.array([3, 70]), RopeCard(theta=1e4, rotary_dim=4, pairing="half", scaling=None), FP32
        ),
        "card": RopeCard(theta=1e4, rotary_dim=4, pairing="half", scaling=None),
        "numerics": FP32,
    },
    "attention_prefill": {
        "q": normal(3, 2, 4), **attention_case(), "block_table": TABLE, "start": 3,
    },
    "attention_decode": {
        "q": normal(1, 2, 4), **attention_case(), "block_tables": [TABLE], "lengths": [6],
    },
    "route": {
        "x": np.array([[3, 1, 1, 2, 1, 0, 0, 0], [0, 5, 0, 4, 0, 3, 0, 2]], np.float32),
        "weight": np.eye(8, dtype=np.float32),
        "bias": np.zeros(8, np.float32),
        "card": CARD,
        "numerics": FP32,
    },
    "permute": {"ids": np.array([[0, 2], [2, 3], [0, 3]], np.int64), "experts": 5},
    "expert_ffn": {
        "x": normal(4, 6),
        "gate_up": normal(3, 10, 6, seed=1),
        "down": normal(3, 6, 5, seed=2),
        "offsets": np.array([0, 1, 1, 4], np.int64),
        "numerics": FP32,
    },
    "combine": {"expert_out": normal(2, 3, 5), "weights": normal(2, 3, seed=1), "numerics": FP32},
    "sample": {
        "logits": normal(12),
        "sampling": Sampling(temperature=0.7, top_k=8, top_p=0.9, seed=3),
        "prompt_ids": [1],
        "output_ids": [2],
        "end_ids": (),
    },
}  # fmt: skip


def definition(op, **changes):
    return contract(op).definition(**{**CASES[op], **changes})


def other_input(op, **changes):
    """An implementation that reads an argument wrongly."""
    return lambda: definition(op, **changes)


def other_value(op, at=None, by=1e-5):
    """One value (the largest, unless told) off by a relative 1e-5."""

    def spoil():
        out = definition(op).copy()
        out.reshape(-1)[np.abs(out).argmax() if at is None else at] *= 1 + by
        return out

    return spoil


def other_routing(**fields):
    """The definition's routing with fields replaced."""

    def spoil():
        routing = definition("route")
        return routing._replace(**{name: change(routing) for name, change in fields.items()})

    return spoil


def put(array, index, value):
    array = array.copy()
    array[index] = value
    return array


def drawn(change):
    """The sampler's output with the probabilities changed, and the token drawn from those."""

    def spoil():
        p = change(definition("sample").probabilities.copy())
        return p, draw(p, CASES["sample"]["sampling"].seed, 1)

    return spoil


def move_mass(p):
    least = np.flatnonzero(p)[p[p > 0].argmin()]
    p[p.argmax()] += p[least]
    p[least] = 0  # top_p cut one token too early
    return p


gate_up, expert_out, weights = (
    CASES["expert_ffn"]["gate_up"], CASES["combine"]["expert_out"], CASES["combine"]["weights"],
)  # fmt: skip
half_card = CASES["rope"]["card"]
shifted = rope_tables(np.array([4, 71]), half_card, FP32)
SPOILED = {
    "linear: one value": other_value("linear"),
    "linear: the last column of x is not read": other_input(
        "linear", x=put(CASES["linear"]["x"], (slice(None), -1), 0)
    ),
    "linear: float64 for float32": lambda: definition("linear").astype(np.float64),
    "linear: an output is missing": lambda: definition("linear")[:, :-1],
    "rmsnorm: one value": other_value("rmsnorm"),
    "rmsnorm: no weight": other_input("rmsnorm", weight=np.ones(32, np.float32)),
    "rmsnorm: eps 1e-3 for 1e-6": other_input("rmsnorm", eps=1e-3),
    "rope: one value": other_value("rope"),
    "rope: the other pairing": other_input("rope", card=replace(half_card, pairing="interleaved")),
    "rope: one position late": other_input("rope", tables=shifted),
    "rope: a dimension past rotary_dim": other_value("rope", at=7, by=1e-7),
    "prefill: one value": other_value("attention_prefill"),
    "prefill: one position late": other_input("attention_prefill", start=2),
    "prefill: not scaled": other_input("attention_prefill", scale=1.0),
    "prefill: pages in the wrong order": other_input("attention_prefill", block_table=TABLE[::-1]),
    "decode: one value": other_value("attention_decode"),
    "decode: one key too few": other_input("attention_decode", lengths=[5]),
    "decode: an unused slot leaks": other_input("attention_decode", lengths=[7]),
    "decode: heads swapped": lambda: definition("attention_decode")[:, ::-1],
    "route: two ids swapped": other_routing(ids=lambda r: r.ids[:, [1, 0, 2]]),
    "route: the higher id of a tie": other_routing(ids=lambda r: put(r.ids, (0, 2), 2)),
    "route: an id twice": other_routing(ids=lambda r: put(r.ids, (0, 2), r.ids[0, 1])),
    "route: an id out of range": other_routing(ids=lambda r: put(r.ids, (0, 2), 8)),
    "route: weights not renormalised": other_input("route", card=replace(CARD, renormalise=False)),
    "route: scale lost": other_input("route", card=replace(CARD, scale=1.0)),
    "route: sigmoid for softmax": other_input("route", card=replace(CARD, score="sigmoid")),
    "route: one weight": other_routing(weights=lambda r: r.weights * np.float32(1 - 1e-5)),
    "route: one logit": other_routing(logits=lambda r: put(r.logits, (0, 7), 1e-7)),
    "route: margin": other_routing(margin=lambda r: r.margin + np.float32(1e-5)),
    "route: bias read twice": other_input("route", bias=np.arange(8, dtype=np.float32)),
    "permute: slots of one expert swapped": lambda: (
        put(definition("permute").order, [0, 1], [4, 0]), definition("permute").offsets
    ),
    "permute: an empty expert left out": lambda: (
        definition("permute").order, definition("permute").offsets[:-1]
    ),
    "permute: offsets by one": lambda: (
        definition("permute").order, put(definition("permute").offsets, 1, 1)
    ),
    "expert_ffn: one value": other_value("expert_ffn", by=1e-3),
    "expert_ffn: gate and up swapped": other_input(
        "expert_ffn", gate_up=np.concatenate([gate_up[:, 5:], gate_up[:, :5]], axis=1)
    ),
    "expert_ffn: the neighbour's weights": other_input("expert_ffn", down=np.roll(
        CASES["expert_ffn"]["down"], 1, axis=0)),
    "expert_ffn: a row to the wrong expert": other_input(
        "expert_ffn", offsets=np.array([0, 2, 2, 4], np.int64)
    ),
    "combine: one value": other_value("combine"),
    "combine: the last expert dropped": other_input("combine", weights=put(weights, (0, 2), 0)),
    "combine: scaled by 1.01": lambda: definition("combine") * np.float32(1.01),
    "combine: weights of two choices swapped": other_input("combine", weights=weights[:, ::-1]),
    "sample: temperature forgotten": other_input("sample", sampling=replace(
        CASES["sample"]["sampling"], temperature=1.0)),
    "sample: top_k off by one": other_input("sample", sampling=replace(
        CASES["sample"]["sampling"], top_k=3)),
    "sample: top_p drops one more": drawn(move_mass),
    "sample: masked, not renormalised": drawn(lambda p: p * 0.999),
    "sample: another token": lambda: definition("sample")._replace(
        token_id=(definition("sample").token_id + 1) % 12
    ),
}  # fmt: skip
OP_OF = {"prefill": "attention_prefill", "decode": "attention_decode"}


@pytest.mark.parametrize("name", SPOILED)
def test_check_can_fail(name):
    short = name.partition(":")[0]
    op = OP_OF.get(short, short)
    contract(op).judge(contract(op).definition, CASES[op])  # the right output passes
    with pytest.raises(AssertionError, match=f"^{op}"):
        contract(op).judge(lambda **case: SPOILED[name](), CASES[op])


def test_every_row_has_a_spoiled_output():
    ops = {name.partition(":")[0] for name in [*SPOILED, *OF_LINEAR_ATTENTION]}
    spoiled = {OP_OF.get(op, op) for op in ops}
    assert spoiled == set(CONTRACTS) - {row.name for row in ROWS_OF_FORMATS}


def test_exact_grid_tolerates_nothing():
    # sums of small whole numbers are the same in every order, so the last bit counts
    grid = np.arange(1, 13, dtype=np.float32)
    case = {"expert_out": grid.reshape(2, 2, 3), "weights": grid[:4].reshape(2, 2) / 8}
    case["numerics"] = FP32
    row = contract("combine")
    row.judge(row.definition, case)
    with pytest.raises(AssertionError, match="allowed 0"):
        row.judge(lambda **c: np.nextafter(row.definition(**c), np.float32(np.inf)), case)
    exact = {
        "x": np.full((1, 2), 2, np.float32),
        "gate_up": np.array([[[16, 2], [-99, 1], [1, 2], [3, 4]]], np.float32),
        "down": np.array([[[1, 2], [3, 4]]], np.float32),
        "offsets": np.array([0, 1], np.int64),
        "numerics": FP32,
    }
    row = contract("expert_ffn")
    row.judge(row.definition, exact)  # gates 36 and -196: silu gives 36 and 0
    assert row.definition(**exact).tolist() == [[216.0, 648.0]]
    with pytest.raises(AssertionError, match="allowed 0"):
        row.judge(lambda **c: np.nextafter(row.definition(**c), np.float32(np.inf)), exact)


def near_tie(gap):
    """Two experts whose scores differ by `gap`, and a routing that takes the wrong one."""
    logits = np.array([[1.0, 1.0 + gap, -2.0, -3.0]], np.float32)
    card = replace(CARD, experts=4, top_k=1, selection_bias=False)
    case = {
        "x": logits, "weight": np.eye(4, dtype=np.float32), "bias": None, "card": card,
        "numerics": FP32,
    }  # fmt: skip
    right = DEFINITION.route(**case)
    wrong = 1 - int(right.ids[0, 0])
    return case, right._replace(ids=np.array([[wrong]], np.int64))


def test_margin_rule():
    # a choice that rounding can flip is no bug; a clear one and a true tie are
    case, wrong = near_tie(2.0**-22)
    contract("route").check(case, wrong)
    for gap in (0.0, 1e-4):
        case, wrong = near_tie(gap)
        with pytest.raises(AssertionError, match="rounding explains"):
            contract("route").check(case, wrong)


def test_nan_row_with_groups_stays_in_range_and_distinct():
    # vllm#39288: padding rows of NaN; a group mask must not make the dropped groups win
    card = replace(
        CARD, groups=4, groups_kept=2, group_score="top2_sum", dropped_group="-inf", top_k=3
    )
    x = np.full((1, 8), np.nan, np.float32)
    case = {**CASES["route"], "x": x, "card": card}
    routing = DEFINITION.route(**case)
    assert routing.ids.tolist() == [[0, 1, 2]]
    assert np.isnan(routing.weights).all()
    contract("route").judge(DEFINITION.route, case)


def test_implementation_must_not_change_its_inputs():
    # a kernel that works in place corrupts the next op's input, or the key/value cache
    def in_place(x, weight, numerics):
        out = DEFINITION.linear(x, weight, numerics)
        x[0, 0] += 1
        return out

    with pytest.raises(AssertionError, match="changed its input 'x'"):
        contract("linear").judge(in_place, CASES["linear"])
