"""The checks of the ops that carry a state can fail: wrong outputs and states that they must see.

Each spoiled result is the smallest form of a mistake that a kernel for linear attention invites.
"""

from __future__ import annotations

import numpy as np
import pytest

from tinymoe.core import NUMERICS
from tinymoe.kernels.contracts import contract
from tinymoe.model.precision import store

pytestmark = pytest.mark.properties
FP32 = NUMERICS["fp32"]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


DELTA = {
    "q": normal(3, 2, 8),
    "k": normal(3, 2, 8, seed=1),
    "v": normal(3, 4, 5, seed=2),
    "log_decay": -np.abs(normal(3, 4, seed=3)),
    "beta": np.full((3, 4), 0.75, np.float32),
    "state": normal(4, 5, 8, seed=4),
    "eps": 1e-6,
    "numerics": FP32,
}
LIGHTNING = {
    "q": normal(3, 2, 6),
    "k": normal(3, 2, 6, seed=1),
    "v": normal(3, 2, 6, seed=2),
    "keep": np.array([0.5, 0.9], np.float32),
    "state": normal(2, 6, 6, seed=3),
    "numerics": FP32,
}
CONV = {
    "x": normal(5, 3),
    "weight": normal(3, 4, seed=1),
    "before": normal(3, 3, seed=2),
    "numerics": FP32,
}
CASES = {"causal_conv": CONV, "gated_delta": DELTA, "lightning": LIGHTNING}


def definition(op, **changes):
    return contract(op).definition(**{**CASES[op], **changes})


def changed(op, **changes):
    """An implementation that reads an argument wrongly."""
    return lambda: definition(op, **changes)


def off(op, part, by=1e-4):
    """The largest value of the output (0) or the state (1) off by a relative 1e-4."""

    def spoil():
        pair = [array.copy() for array in definition(op)]
        pair[part].reshape(-1)[np.abs(pair[part]).argmax()] *= 1 + by
        return tuple(pair)

    return spoil


SPOILED = {
    "causal_conv: one value": off("causal_conv", 0),
    "causal_conv: one carried input": off("causal_conv", 1, by=1e-6),
    "causal_conv: taps reversed": changed("causal_conv", weight=CONV["weight"][:, ::-1]),
    "causal_conv: what came before is not read": changed(
        "causal_conv", before=np.zeros_like(CONV["before"])
    ),
    "causal_conv: the state is a token late": lambda: (
        definition("causal_conv").out, CONV["x"][1:4]
    ),
    "causal_conv: the state is reversed": lambda: (
        definition("causal_conv").out, definition("causal_conv").state[::-1]
    ),
    "causal_conv: no state": lambda: definition("causal_conv").out,
    "gated_delta: one value": off("gated_delta", 0),
    "gated_delta: one value of the state": off("gated_delta", 1),
    "gated_delta: decay lost": changed("gated_delta", log_decay=np.zeros((3, 4), np.float32)),
    "gated_delta: beta lost": changed("gated_delta", beta=np.ones((3, 4), np.float32)),
    "gated_delta: the state it began with": lambda: (
        definition("gated_delta").out, DELTA["state"]
    ),
    "gated_delta: begins from zeros": changed("gated_delta", state=np.zeros((4, 5, 8), np.float32)),
    "gated_delta: state transposed": changed(
        "gated_delta", state=DELTA["state"].reshape(4, 8, 5).transpose(0, 2, 1)
    ),
    "gated_delta: eps 1e-2 for 1e-6": changed("gated_delta", eps=1e-2),
    "gated_delta: not over sqrt(Dk)": lambda: (
        definition("gated_delta").out * np.float32(8**0.5), definition("gated_delta").state
    ),
    "gated_delta: key heads taken in turn": changed(  # 0 1 0 1 where it is 0 0 1 1
        "gated_delta", q=np.tile(DELTA["q"], (1, 2, 1)), k=np.tile(DELTA["k"], (1, 2, 1))
    ),
    "gated_delta: the state rounded to BF16": lambda: (
        definition("gated_delta").out,
        store(definition("gated_delta").state, "bfloat16"),
    ),
    "gated_delta: a gate for each token in the wrong order": changed(
        "gated_delta", log_decay=DELTA["log_decay"][::-1]
    ),
    "lightning: one value": off("lightning", 0),
    "lightning: one value of the state": off("lightning", 1),
    "lightning: decays of the heads exchanged": changed("lightning", keep=LIGHTNING["keep"][::-1]),
    "lightning: decay lost": changed("lightning", keep=np.ones(2, np.float32)),
    "lightning: the own key fades, too": changed(
        "lightning", k=LIGHTNING["k"] * LIGHTNING["keep"][:, None]
    ),
    "lightning: begins from zeros": changed("lightning", state=np.zeros((2, 6, 6), np.float32)),
    "lightning: scaled as softmax attention is": changed(
        "lightning", q=LIGHTNING["q"] * np.float32(6**-0.5)
    ),
    "lightning: state transposed": lambda: (
        definition("lightning").out, definition("lightning").state.transpose(0, 2, 1)
    ),
    "lightning: keys for values": changed(
        "lightning", k=LIGHTNING["v"], v=LIGHTNING["k"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILED)
def test_check_can_fail(name):
    op = name.partition(":")[0]
    contract(op).judge(contract(op).definition, CASES[op])  # the right output passes
    with pytest.raises(AssertionError, match=f"^{op}"):
        contract(op).judge(lambda **case: SPOILED[name](), CASES[op])


@pytest.mark.parametrize("preset", ["exact", "fp32", "bf16"])
@pytest.mark.parametrize("op", CASES)
@pytest.mark.parametrize("cut", [1, 2])
def test_a_sequence_may_be_split_anywhere(op, cut, preset):
    # vllm#26042: what is right for a whole prompt was wrong for its pieces; here no bit differs
    numerics = NUMERICS[preset]
    case = {
        name: value.astype(numerics.dtype) if isinstance(value, np.ndarray) else value
        for name, value in CASES[op].items()
    } | {"numerics": numerics}
    start = "before" if op == "causal_conv" else "state"
    by_token = [n for n, v in case.items() if n not in (start, "weight", "keep", "eps", "numerics")]
    whole, state, rows = contract(op).definition(**case), case[start], []
    for piece in (slice(0, cut), slice(cut, None)):
        part = {name: case[name][piece] for name in by_token}
        out, state = contract(op).definition(**{**case, **part, start: state})
        rows.append(out)
    np.testing.assert_array_equal(np.concatenate(rows), whole.out)
    np.testing.assert_array_equal(state, whole.state)
