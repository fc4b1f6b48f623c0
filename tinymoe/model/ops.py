"""The ops a model is made of, as a value: `forward(..., ops=DEFINITION)`.

A backend is the same value with members replaced. `kernels/contracts.py` states what each
member must equal, and how closely.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tinymoe.core import Array, Permutation, Routing
from tinymoe.model import attention, experts, linear_attention, norm, precision, rope, router
from tinymoe.model.linear_attention import Carried


@dataclass(frozen=True, slots=True, kw_only=True)
class Ops:
    """One implementation of every op. Signatures: those of the definition."""

    linear: Callable[..., Array]
    rmsnorm: Callable[..., Array]
    rope: Callable[..., Array]
    attention_prefill: Callable[..., Array]
    attention_decode: Callable[..., Array]
    causal_conv: Callable[..., Carried]
    gated_delta: Callable[..., Carried]
    lightning: Callable[..., Carried]
    route: Callable[..., Routing]
    permute: Callable[..., Permutation]
    expert_ffn: Callable[..., Array]
    combine: Callable[..., Array]
    # all layers at once, `step(params, config, batch, cache, numerics, tap) -> logits`, where an
    # implementation has them compiled into one; None: `forward` walks through the layers
    step: Callable[..., Array] | None = None


DEFINITION = Ops(
    linear=precision.linear,
    rmsnorm=norm.rmsnorm,
    rope=rope.rope,
    attention_prefill=attention.attention_prefill,
    attention_decode=attention.attention_decode,
    causal_conv=linear_attention.causal_conv,
    gated_delta=linear_attention.gated_delta,
    lightning=linear_attention.lightning,
    route=router.route,
    permute=experts.permute,
    expert_ffn=experts.expert_ffn,
    combine=experts.combine,
)
