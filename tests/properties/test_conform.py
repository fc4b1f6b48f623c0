"""`conform`: right functions pass, and the bugs that published kernel tests let through are caught.

bugs.md-style list: with the tolerances of two public suites, all-zero output and nine of fourteen
mutants of an MoE layer pass. Those that are bugs of one op must all fail here.
"""

from __future__ import annotations

import sys
import types
from dataclasses import replace

import numpy as np
import pytest

from tinymoe.core import TinymoeError
from tinymoe.kernels.contracts import CONTRACTS, contract
from tinymoe.model import experts, router
from tinymoe.model.ops import DEFINITION
from tinymoe.oracle.conform.foreign import Foreign, resolve, to_numpy
from tinymoe.oracle.conform.run import conform

pytestmark = pytest.mark.properties
FIRST = "the definition's answer"


def verdicts(op, function, *, cases=25, only=FIRST):
    row = contract(op)
    found = conform(row, Foreign(function, row), cases=cases, shrink=False, only=only)
    return {result.name: result for result in found}


def verdict(op, function, only=FIRST, cases=25):
    return verdicts(op, function, cases=cases, only=only)[only]


@pytest.mark.parametrize("op", CONTRACTS)
def test_the_definition_conforms_bit_for_bit(op):
    for name, result in verdicts(op, contract(op).definition, only=None).items():
        # A softmax over experts in another order is another order of sums.
        allowed = {"pass", "bits"} if name == "experts under other numbers" else {"pass"}
        assert result.verdict in allowed, (name, result.says)


@pytest.mark.parametrize("op", CONTRACTS)
def test_all_zero_is_caught(op):
    """A published FP4 MoE test passes on zeros at 10 of its 16 shapes."""

    def zeros(**case):
        def clear(value):
            if isinstance(value, tuple):
                parts = [clear(part) for part in value]
                return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
            return value * 0

        return clear(contract(op).definition(**case))

    result = verdict(op, zeros)
    assert result.verdict == "FAIL"
    assert result.example is not None


# ------------------------------------------------------------------------ one bug at a time


def route_with(**changes):
    def route(x, weight, bias, card, numerics, **named):
        wrong = {
            name: change(card) if callable(change) else change for name, change in changes.items()
        }
        return router.route(x, weight, bias, replace(card, **wrong), numerics, **named)

    return route


def ids_off_by_one(x, weight, bias, card, numerics, **named):
    right = router.route(x, weight, bias, card, numerics, **named)
    return (right.ids + 1) % card.experts, right.weights


def ffn_with(change):
    def ffn(x, gate_up, down, offsets, numerics, **named):
        half = gate_up.shape[1] // 2
        gate, up = change(gate_up[:, :half], gate_up[:, half:])
        whole = np.concatenate([gate, up], axis=1)
        return DEFINITION.expert_ffn(x, whole, down, offsets, numerics, **named)

    return ffn


def ffn_activated(activate):
    """The three steps with another activation; unclamped cards only, others as they are."""

    def ffn(x, gate_up, down, offsets, numerics, **named):
        if named:
            return DEFINITION.expert_ffn(x, gate_up, down, offsets, numerics, **named)
        first = experts.grouped_linear(x, gate_up, offsets, numerics)
        half = first.shape[1] // 2
        with np.errstate(over="ignore"):
            hidden = (activate(first[:, :half]) * first[:, half:]).astype(x.dtype)
        return experts.grouped_linear(hidden, down, offsets, numerics)

    return ffn


def without_choice(k):
    def combine(expert_out, weights, numerics):
        weights = weights.copy()
        weights[:, k] = 0
        return experts.combine(expert_out, weights, numerics)

    return combine


BUGS = {
    "renorm inverted": (
        "route", route_with(renormalise=lambda card: not card.renormalise), "router.renorm-inverted"
    ),
    "routed scale twice": ("route", route_with(scale=lambda card: card.scale**2), "scaling.twice"),
    "routed scale lost": ("route", route_with(scale=1.0), "scaling.lost"),
    "expert ids off by one": ("route", ids_off_by_one, None),
    "first expert dropped": ("combine", without_choice(0), None),
    "last expert dropped": ("combine", without_choice(-1), None),
    "gate and up swapped": (
        "expert_ffn", ffn_with(lambda gate, up: (up, gate)), "experts.gate-up-swapped"
    ),
    "up half x0.5": ("expert_ffn", ffn_with(lambda gate, up: (gate, up / 2)), None),
    "up half x2": ("expert_ffn", ffn_with(lambda gate, up: (gate, up + up)), None),
    "relu for silu": ("expert_ffn", ffn_activated(lambda z: np.maximum(z, 0)), "activation.relu"),
    "gelu for silu": ("expert_ffn", ffn_activated(lambda z: z / (1 + np.exp(-1.702 * z))), None),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_the_bugs_that_loose_tolerances_let_through(bug):
    op, function, name = BUGS[bug]
    result = verdict(op, function, cases=150)
    assert result.verdict == "FAIL"
    if name is not None:
        assert result.resembles[0] == name


# ------------------------------------------------------------------------ metamorphic pairs


def test_an_answer_that_depends_on_the_batch_is_caught():
    """flashinfer#3559: the same tokens in a batch of 8 and of 64, error 0.05 and 0.33."""

    def combine(expert_out, weights, numerics):
        out = experts.combine(expert_out, weights, numerics)
        return out if len(out) < 3 else out * out.dtype.type(1.5)

    assert verdict("combine", combine, "a batch of one is a row of a batch").verdict == "FAIL"


def test_other_last_bits_in_other_company_are_told_but_are_no_failure():
    def linear(x, weight, numerics, *, bias=None):
        product = np.einsum("ti,oi->to", x, weight)[: len(x)] if len(x) == 1 else x @ weight.T
        product = product.astype(x.dtype)
        return DEFINITION.linear(
            product if bias is None else product + bias,
            np.eye(len(weight), dtype=x.dtype),
            numerics,
        )

    found = verdicts("linear", linear, cases=200, only="a batch of one is a row of a batch")
    assert [result.verdict for result in found.values()] == ["pass", "bits"]


def test_nan_that_leaks_from_padding_is_caught():
    """vllm#39288: NaN logits of padding rows."""

    def rmsnorm(x, weight, eps, numerics, *, rounds_before_weight):
        out = DEFINITION.rmsnorm(
            x, weight, eps, numerics, rounds_before_weight=rounds_before_weight
        )
        return out + np.where(np.isnan(x).any(), np.nan, 0).astype(x.dtype)

    assert verdict("rmsnorm", rmsnorm, "a row of NaN beside the others").verdict == "FAIL"


def test_a_prompt_cut_in_two_is_tried():
    """vllm#26042: chunked prefill."""

    def prefill(q, key_pages, value_pages, block_table, start, scale, numerics, **named):
        scale = scale * (2 if start else 1)
        return DEFINITION.attention_prefill(
            q, key_pages, value_pages, block_table, start, scale, numerics, **named
        )

    only = "a prompt cut in two: its second part"
    assert verdict("attention_prefill", prefill, only, cases=100).verdict == "FAIL"


def test_a_recurrence_that_forgets_where_it_began_is_caught():
    """Right for a whole prompt, which begins from zeros; wrong for its second chunk."""

    def lightning(state, **case):
        return DEFINITION.lightning(state=state * 0, **case)

    only = "a prompt cut in two: its second part"
    assert verdict("lightning", lightning, only).verdict == "FAIL"


def test_an_input_that_is_never_read_is_caught():
    """flashinfer#3423: a bias that was accepted and never used."""

    def linear(x, weight, numerics, *, bias=None):
        return DEFINITION.linear(x, weight, numerics)

    result = verdict("linear", linear, "every input matters")
    assert result.verdict == "FAIL"
    assert "'bias'" in result.says


def test_experts_under_other_numbers():
    """An expert's answer that depends on its number: one tile wrong (vLLM-metax#270)."""

    def ffn(x, gate_up, down, offsets, numerics, **named):
        out = DEFINITION.expert_ffn(x, gate_up, down, offsets, numerics, **named).copy()
        out[: offsets[1]] *= 2
        return out

    assert verdict("expert_ffn", ffn, "experts under other numbers").verdict == "FAIL"


# ------------------------------------------------------------------------ foreign functions


class Speaks:
    """An array of somebody else's that passes by DLPack alone."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **named):
        return self._array.__dlpack__(**named)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def test_answers_pass_by_dlpack():
    def combine(**case):
        return Speaks(experts.combine(**case))

    assert verdict("combine", combine).verdict == "pass"
    with pytest.raises(AssertionError, match="expected an array"):
        to_numpy("text")


@pytest.mark.parametrize("shape", ["two", "all", "names", "object"])
def test_a_router_may_answer_in_several_ways(shape):
    def route(**case):
        full = router.route(**case)
        few = {"ids": full.ids, "weights": full.weights}
        return {"two": (full.ids, full.weights), "all": tuple(full), "names": few, "object": full}[
            shape
        ]

    assert verdict("route", route).verdict == "pass"


def test_an_answer_of_another_kind_and_a_crash_are_failures():
    result = verdict("route", lambda **case: (1, 2, 3))
    assert (result.verdict, "expected (logits" in result.says) == ("FAIL", True)
    result = verdict("combine", lambda **case: 1 / 0)
    assert "ZeroDivisionError" in result.says


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("nothing", "MODULE:FUNCTION"),
        ("no.such:thing", "cannot be imported"),
        ("a_module:nothing", "has no"),
        ("a_module:number", "no function but a int"),
    ],
)
def test_names_that_lead_nowhere(monkeypatch, spec, says):
    module = types.ModuleType("a_module")
    module.number = 5
    monkeypatch.setitem(sys.modules, "a_module", module)
    with pytest.raises(TinymoeError, match=says):
        resolve(spec)
