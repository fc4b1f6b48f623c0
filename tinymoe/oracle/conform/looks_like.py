"""Which mutants give the wrong answer that somebody's function gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tinymoe.core import Array
from tinymoe.kernels.contracts import Contract
from tinymoe.model.params import AttentionParams, MoeParams
from tinymoe.oracle.conform import looks_like_formats as formats
from tinymoe.oracle.conform.metamorphic import Case
from tinymoe.oracle.mutants import MODEL_MUTANTS, SAMPLER_MUTANTS, Row, Setup
from tinymoe.oracle.mutants.mutant import looking_back
from tinymoe.oracle.mutants.specimen_params import specimen

# A mutant is named where what is left unexplained is at most this share of the error:
# in bf16 two forms of one wrong function still round apart.
EXPLAINED = 0.1
BASE = "ties"  # the specimen around the op

# How the model calls an op: some mutants stand in its place and take arguments by position.
POSITIONAL = {
    "linear": ("x", "weight", "numerics"),
    "rmsnorm": ("x", "weight", "eps", "numerics"),
    "rope": ("x", "tables", "card", "numerics"),
    "attention_prefill": (
        "q", "key_pages", "value_pages", "block_table", "start", "scale", "numerics",
    ),
    "attention_decode": (
        "q", "key_pages", "value_pages", "block_tables", "lengths", "scale", "numerics",
    ),
    "route": ("x", "weight", "bias", "card", "numerics"),
    "permute": ("ids", "experts"),
    "expert_ffn": ("x", "gate_up", "down", "offsets", "numerics"),
    "combine": ("expert_out", "weights", "numerics"),
}  # fmt: skip


def looks_like(
    row: Contract, implementation: Callable[..., Any], case: Case | None
) -> tuple[str, ...]:
    """Names, the best first; none where no mutant of this op explains the answer."""
    if case is None:
        return ()
    try:
        got, right = (
            formats.numbers(row.name, case, answer) if row.name in formats.OPS else _numbers(answer)
            for answer in (implementation(**case), row.definition(**case))
        )
    except Exception:
        return ()
    if got.shape != right.shape:
        return ()
    error = _distance(got, right)
    # all zero is like nothing; the report shows it
    if not error or (got.size > 1 and not got.any()):
        return ()
    found = []
    for name, answer in _wrong_answers(row.name, case):
        left = _distance(got, answer) if answer.shape == got.shape else np.inf
        if left <= EXPLAINED * error:
            found.append((left, name))
    return tuple(name for _, name in sorted(found))


def _numbers(answer: Any) -> Array:
    """One flat array of what is compared: of a routing, expert by expert the weight."""
    if hasattr(answer, "ids"):
        dense = np.zeros_like(answer.scores, dtype=np.float64)
        np.put_along_axis(dense, answer.ids, answer.weights, axis=-1)
        return dense
    if hasattr(answer, "probabilities"):
        return np.asarray(answer.probabilities, np.float64)
    if isinstance(answer, tuple):
        return np.concatenate([np.ravel(part).astype(np.float64) for part in answer])
    return np.asarray(answer, np.float64)


def _distance(a: Array, b: Array) -> float:
    finite = np.isfinite(a) & np.isfinite(b)
    if (np.isfinite(a) != np.isfinite(b)).any():
        return float("inf")
    return float(np.linalg.norm(a[finite] - b[finite]))


def _wrong_answers(op: str, case: Case) -> list[tuple[str, Array]]:
    """Every mutant's answer to the case, where it means something there."""
    if op in formats.OPS:
        return formats.wrong_answers(op, case)
    answers = []
    if op == "sample":
        row = Row(**{name: case[name] for name in Row._fields if name in case})
        for mutant in SAMPLER_MUTANTS:
            if mutant.why_not(row) is None:
                answers.append((mutant.name, _numbers(mutant.apply(row))))
        return answers
    setup = setup_of(op, case)
    for model_mutant in MODEL_MUTANTS:
        try:
            if model_mutant.equivalent or model_mutant.why_not(setup) is not None:
                continue
            with np.errstate(all="ignore"):
                answer = call(op, model_mutant.apply(setup), case)
            answers.append((model_mutant.name, _numbers(answer)))
        except Exception:  # a mutant of another op, whose weights this case does not have
            continue
    return answers


def setup_of(op: str, case: Case) -> Setup:
    """A model around one op: its card and weights are the case's, the rest a specimen's."""
    config, base, _ = specimen(BASE)
    moe = next(x.ffn for x in base.layers if isinstance(x.ffn, MoeParams))
    layer = next(x for x in base.layers if isinstance(x.attention, AttentionParams))
    attention: Any = layer.attention
    card = looking_back(config)[0]
    if op == "route":
        config = replace(config, router=case["card"])
        moe = replace(
            moe,
            router=case["weight"],
            selection_bias=case["bias"],
            router_bias=case.get("logit_bias"),
        )
    if op == "expert_ffn":
        router = replace(config.router, experts=len(case["gate_up"]), top_k=1)
        config = replace(
            config, router=router, experts=case.get("card", replace(config.experts, biases=False))
        )
        moe = replace(
            moe,
            gate_up=case["gate_up"],
            down=case["down"],
            gate_up_bias=case.get("gate_up_bias"),
            down_bias=case.get("down_bias"),
        )
    if op == "rope":
        card = replace(card, rope=case["card"])
    if op.startswith("attention"):
        named: dict[str, Any] = {name: case.get(name) for name in ("window", "chunk")}
        card = replace(card, scale=case["scale"], sinks="sinks" in case, **named)
        attention = replace(attention, sinks=case.get("sinks"))
        config = replace(
            config,
            heads=case["q"].shape[1],
            kv_heads=case["key_pages"].shape[2],
            head_dim=case["q"].shape[2],
        )
    config = replace(config, attention=(card,), layers=("moe",))
    layers = (replace(layer, attention=attention, ffn=moe),)
    return Setup(config, replace(base, layers=layers))


def call(op: str, setup: Setup, case: Case) -> Any:
    """The op as the changed setup would call it."""
    config, params, ops = setup
    moe: Any = params.layers[0].ffn
    card = looking_back(config)[0]
    given = dict(case)
    if op == "route":
        given |= {"weight": moe.router, "bias": moe.selection_bias, "card": config.router}
        given.pop("logit_bias", None)
        if moe.router_bias is not None:
            given["logit_bias"] = moe.router_bias
    if op == "expert_ffn":
        given |= {"gate_up": moe.gate_up, "down": moe.down}
        if "card" in case:
            given["card"] = config.experts
        for name in ("gate_up_bias", "down_bias"):
            given.pop(name, None)
            if getattr(moe, name) is not None:
                given[name] = getattr(moe, name)
    if op == "rope":
        given["card"] = card.rope
    if op.startswith("attention"):
        sinks = getattr(params.layers[0].attention, "sinks", None)
        special = {"window": card.window, "chunk": card.chunk, "sinks": sinks}
        for name, value in special.items():
            given.pop(name, None)
            if value is not None:
                given[name] = value
        given["scale"] = card.scale
    first = [given.pop(name) for name in POSITIONAL[op]]
    return getattr(ops, op)(*first, **given)
