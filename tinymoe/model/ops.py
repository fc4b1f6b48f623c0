"""The ops a model is made of, as a value: `forward(..., ops=DEFINITION)`.

A backend is the same value with members replaced. `kernels/contracts.py` states what each
member must equal, and how closely.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tinymoe.core import (
    Array,
    Batch,
    ModelConfig,
    Numerics,
    PagedKeysValues,
    Permutation,
    Routing,
    Tap,
)
from tinymoe.model import attention, experts, linear_attention, norm, precision, rope, router
from tinymoe.model.linear_attention import Carried

if TYPE_CHECKING:
    from tinymoe.model.params import Params


class Step(Protocol):
    """All layers at once, from an implementation that has them compiled into one."""

    def covers(self, config: ModelConfig, numerics: Numerics, params: Params | None = None) -> bool:
        """Whether all of a model is; if not, its layers run op by op.

        params: its matrices, read or not; None: as if no product's input were quantised.
        """
        ...

    def prepare(
        self,
        params: Params,
        config: ModelConfig,
        numerics: Numerics,
        report: Callable[[str, int, int], None] | None = None,
    ) -> None:
        """What it would otherwise do at the first call: its own form of the weights."""
        ...

    def __call__(
        self,
        params: Params,
        config: ModelConfig,
        batch: Batch,
        cache: PagedKeysValues,
        numerics: Numerics,
        tap: Tap,
    ) -> Array:
        """As `forward`: logits (R, V)."""
        ...

    def greedy(
        self,
        params: Params,
        config: ModelConfig,
        batch: Batch,
        cache: PagedKeysValues,
        numerics: Numerics,
    ) -> Array | None:
        """The same step for whoever wants no logits: ids (R,) of each row's largest.

        The lowest id among equals; -1 where the largest is not finite, of which the sampler has to
        speak. None: it has no such head, and nothing was done.
        """
        ...


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
    # `linear` where no op of the table is at work: dense layers, shared experts, the head
    outside: Callable[..., Array] = precision.linear
    step: Step | None = None  # None: `forward` walks through the layers


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
