"""The op table: what a model is made of, what each op owes, and who implements it.

An op is a name, a signature, a definition that every implementation must equal, an exactness
class that says how closely, inputs to try (hard ones included), and a check. A new
implementation is one line, and the property tests then run it:

    register("route", "mine", my_route)

"cuda" is on the current GPU; its kernels, on any device, are in `cuda/table.py`. The recurrences of
linear attention have none yet.

Exactness classes. "exact": whole numbers and bytes are equal, in order. "exact on the exact grid":
where inputs are small multiples of a power of two, every order of sums gives the same bits and
the check demands them; elsewhere a derived bound. "derived bound": see `bounds.py`.

All ops are called by keyword, with the names of the definition, and must leave their inputs as
they are. Arguments in [brackets] are given only where a model has them: an implementation without
one of them fails on such a model and never leaves it out. `numerics.dtype` is the dtype of every
array of numbers, in and out; ids are int64. The rows of low precision are in `rows_formats.py`.
"""

from __future__ import annotations

from typing import Any

from tinymoe import sampler
from tinymoe.core import TinymoeError
from tinymoe.kernels import check_linear_attention, checks, linear_naive, naive, rows_formats
from tinymoe.kernels.check_route import check_route
from tinymoe.kernels.check_sample import Drawn, check_sample
from tinymoe.kernels.contract import Contract, Implementation
from tinymoe.kernels.cuda.table import implementation as cuda
from tinymoe.model.ops import DEFINITION

__all__ = ["CONTRACTS", "Contract", "contract", "register"]


def sample_definition(**case: Any) -> Drawn:
    """The sampler's two answers to one row of logits: the probabilities, and the draw."""
    token = sampler.sample(**case).token_id
    return Drawn(sampler.masked_probabilities(**case), token)


_TABLE = (
    Contract(
        name="linear",
        signature="x (T, in), weight (out, in), numerics, [bias (out,)] -> (T, out)",
        exactness="exact on the exact grid",
        promise="a dot product and a bias in any order, then one rounding to storage",
        check=checks.check_linear,
        implementations={"definition": DEFINITION.linear, "naive": naive.linear, **cuda("linear")},
    ),
    Contract(
        name="rmsnorm",
        signature="x (..., N), weight (N,), eps, numerics, rounds_before_weight -> (..., N)",
        exactness="derived bound",
        promise="weight * x / sqrt(mean(x^2) + eps)",
        check=checks.check_rmsnorm,
        implementations={
            "definition": DEFINITION.rmsnorm,
            "naive": naive.rmsnorm,
            **cuda("rmsnorm"),
        },
    ),
    Contract(
        name="rope",
        signature="x (T, N, D), tables: cos and sin (T, 1, d/2), card, numerics -> (T, N, D)",
        exactness="derived bound",
        promise="pairs turned by the given angles; dimensions past rotary_dim exactly as they were",
        check=checks.check_rope,
        implementations={"definition": DEFINITION.rope, "naive": naive.rope, **cuda("rope")},
    ),
    Contract(
        name="attention_prefill",
        signature="q (T, Nq, D), key_pages (pages, P, Nk, D), value_pages (pages, P, Nk, Dv), "
        "block_table (n,), start, scale, numerics, [window, chunk, sinks (Nq,)] -> (T, Nq, Dv)",
        exactness="derived bound",
        promise="token t over keys 0 .. start + t of its own sequence that window and chunk show; "
        "no other slot is read",
        check=checks.check_attention_prefill,
        implementations={
            "definition": DEFINITION.attention_prefill,
            "naive": naive.attention_prefill,
            **cuda("attention_prefill"),
        },
    ),
    Contract(
        name="attention_decode",
        signature="q (R, Nq, D), key_pages (pages, P, Nk, D), value_pages (pages, P, Nk, Dv), "
        "block_tables: R of (n,), lengths: R, scale, numerics, [window, chunk, sinks (Nq,)] -> "
        "(R, Nq, Dv)",
        exactness="derived bound",
        promise="each sequence's token over those of its `length` keys that window and chunk "
        "show; no other slot is read",
        check=checks.check_attention_decode,
        implementations={
            "definition": DEFINITION.attention_decode,
            "naive": naive.attention_decode,
            **cuda("attention_decode"),
        },
    ),
    Contract(
        name="causal_conv",
        signature="x (T, C), weight (C, kernel), before (kernel - 1, C), numerics -> "
        "out (T, C), state (kernel - 1, C)",
        exactness="derived bound",
        promise="silu of each channel's last `kernel` inputs times its taps, oldest first, rounded "
        "once; the state is the last inputs as they were",
        check=check_linear_attention.check_causal_conv,
        implementations={
            "definition": DEFINITION.causal_conv,
            "naive": linear_naive.causal_conv,
            **cuda("causal_conv"),
        },
    ),
    Contract(
        name="gated_delta",
        signature="q (T, Nk, Dk), k (T, Nk, Dk), v (T, Nv, Dv), log_decay (T, Nv), beta (T, Nv), "
        "state (Nv, Dv, Dk), eps, numerics -> out (T, Nv, Dv), state (Nv, Dv, Dk)",
        exactness="derived bound",
        promise="q and k made of unit length, q over sqrt(Dk); token by token the state fades, "
        "takes in beta (v - S k) k' and is read by q; the state is never rounded to storage",
        check=check_linear_attention.check_gated_delta,
        implementations={
            "definition": DEFINITION.gated_delta,
            "naive": linear_naive.gated_delta,
            **cuda("gated_delta"),
        },
    ),
    Contract(
        name="lightning",
        signature="q (T, Nq, Dk), k (T, Nq, Dk), v (T, Nq, Dv), keep (Nq,), state (Nq, Dv, Dk), "
        "numerics -> out (T, Nq, Dv), state (Nq, Dv, Dk)",
        exactness="derived bound",
        promise="token by token the state times `keep`, plus v k', is read by q; the state is "
        "never rounded to storage",
        check=check_linear_attention.check_lightning,
        implementations={
            "definition": DEFINITION.lightning,
            "naive": linear_naive.lightning,
            **cuda("lightning"),
        },
    ),
    Contract(
        name="route",
        signature="x (T, H), weight (E, H), bias (E,) or None, card, numerics, "
        "[logit_bias (E,)] -> Routing",
        exactness="exact",
        promise="ids and order exact, but for choices closer than rounding (true ties: lowest "
        "id); logits, scores and weights to a derived bound",
        check=check_route,
        implementations={"definition": DEFINITION.route, "naive": naive.route, **cuda("route")},
    ),
    Contract(
        name="permute",
        signature="ids (T, K) int64, experts -> Permutation: order (T*K,), offsets (E + 1,)",
        exactness="exact",
        promise="slots by expert, then token, then choice",
        check=checks.check_permute,
        implementations={
            "definition": DEFINITION.permute,
            "naive": naive.permute,
            **cuda("permute"),
        },
    ),
    Contract(
        name="expert_ffn",
        signature="x (S, H) in expert order, gate_up (E, 2I, H), down (E, H, I), offsets "
        "(E + 1,), numerics, [card, gate_up_bias (E, 2I), down_bias (E, H)] -> (S, H)",
        exactness="exact on the exact grid",
        promise="down @ (silu(gate @ x) * (up @ x)) of each row's expert; gate is the first half; "
        "the card may ask for the clamped form",
        check=checks.check_expert_ffn,
        implementations={
            "definition": DEFINITION.expert_ffn,
            "naive": naive.expert_ffn,
            **cuda("expert_ffn"),
        },
    ),
    Contract(
        name="combine",
        signature="expert_out (T, K, H), weights (T, K), numerics -> (T, H)",
        exactness="exact on the exact grid",
        promise="the weighted sum over K, then one rounding to storage",
        check=checks.check_combine,
        implementations={
            "definition": DEFINITION.combine,
            "naive": naive.combine,
            **cuda("combine"),
        },
    ),
    Contract(
        name="sample",
        signature="logits (V,), sampling, prompt_ids, output_ids, end_ids -> "
        "(probabilities (V,) float64, token_id)",
        exactness="derived bound",
        promise="the masked probabilities; the token exactly as (seed, step) draws it from them",
        check=check_sample,
        implementations={"definition": sample_definition, "naive": naive.sample, **cuda("sample")},
    ),
    *rows_formats.ROWS,
)

CONTRACTS: dict[str, Contract] = {row.name: row for row in _TABLE}


def contract(op: str) -> Contract:
    """The row of an op."""
    if op not in CONTRACTS:
        raise TinymoeError(f"unknown op {op!r}: expected one of {', '.join(CONTRACTS)}")
    return CONTRACTS[op]


def register(op: str, name: str, implementation: Implementation) -> None:
    """Add an implementation to an op's row. A name is taken once."""
    known = contract(op).implementations
    if name in known:
        raise TinymoeError(
            f"op {op!r} already has an implementation {name!r}: choose another name than "
            f"{', '.join(known)}"
        )
    known[name] = implementation
