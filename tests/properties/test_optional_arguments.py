"""Arguments of an op that only some models have: each must reach the result."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.properties.test_op_checks import CASES, normal
from tinymoe.cards import PLAIN_SWIGLU
from tinymoe.kernels.contracts import contract

pytestmark = pytest.mark.properties


def plus(op, **more):
    return {**CASES[op], **more}


CLAMPED = replace(
    PLAIN_SWIGLU, activation="swiglu_clamped", clamp_limit=0.5, clamp_alpha=1.702, biases=True
)
# cases with each argument that only some models have -> what stands in its place when it is lost
OPTIONAL = {
    "linear: bias": (plus("linear", bias=normal(5, seed=2)), None),
    "attention_prefill: window": (plus("attention_prefill", window=3), None),
    "attention_prefill: window by one": (plus("attention_prefill", window=3), 4),
    "attention_prefill: chunk": (plus("attention_prefill", chunk=4), None),
    "attention_prefill: sinks": (plus("attention_prefill", sinks=normal(2)), None),
    "attention_decode: window": (plus("attention_decode", window=5), None),
    "attention_decode: window by one": (plus("attention_decode", window=5), 4),
    "attention_decode: chunk": (plus("attention_decode", chunk=4), None),
    "attention_decode: sinks": (plus("attention_decode", sinks=normal(2)), None),
    "route: logit_bias": (plus("route", logit_bias=normal(8)), None),
    "expert_ffn: gate_up_bias": (plus("expert_ffn", gate_up_bias=normal(3, 10)), None),
    "expert_ffn: down_bias": (plus("expert_ffn", down_bias=normal(3, 6)), None),
    "expert_ffn: card": (plus("expert_ffn", card=CLAMPED), PLAIN_SWIGLU),
    "expert_ffn: card's limit": (
        plus("expert_ffn", card=CLAMPED),
        replace(CLAMPED, clamp_limit=7.0),
    ),
    "expert_ffn: card's alpha": (
        plus("expert_ffn", card=CLAMPED),
        replace(CLAMPED, clamp_alpha=1.0),
    ),
}


@pytest.mark.parametrize("name", OPTIONAL)
def test_an_argument_that_is_taken_and_not_used_is_seen(name):
    # flashinfer#3423: a bias was accepted, and never stored; transformers#40197: the clamp's limit
    # was not passed on
    op, argument = name.partition(":")[0], name.partition(": ")[2].split("'")[0].split(" ")[0]
    case, lost = OPTIONAL[name]
    contract(op).judge(contract(op).definition, case)
    with pytest.raises(AssertionError, match=f"^{op}"):
        contract(op).judge(lambda **c: contract(op).definition(**{**c, argument: lost}), case)
