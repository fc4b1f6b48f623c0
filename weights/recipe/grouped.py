"""The differentiable steps of the expert layer, written by hand for speed.

A token goes to `top_k` experts; a (token, expert) pair is a *slot*, and slot `s` belongs to token
`s // top_k`. Sorting the slots by expert makes each expert's rows one slice:

    slots[i]    slot that stands in row i, or the number of slots where row i is padding
    tokens[i]   token whose state row i holds (any token in padding)
    inverse[s]  row of slot s

Every expert's slice is padded to a multiple of `PAD` rows: matrix libraries build a kernel for
each new shape, and unpadded row counts are new in every step. Padding rows are computed and
never read; their routing weight, and so every gradient through them, is zero.

Because every token has exactly `top_k` slots, both scatters (the forward combine and the backward
of the gather) are written as gathers through `inverse`, which need no atomic additions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

PAD = 64


def sum_slots(rows: Tensor, inverse: Tensor, top_k: int) -> Tensor:
    """For each token the sum of its slots' sorted rows: [tokens, width]."""
    by_token = rows[inverse].view(-1, top_k, rows.shape[-1])
    return by_token.float().sum(1).to(rows.dtype)


def weighted_sum_slots(rows: Tensor, weights: Tensor, inverse: Tensor) -> Tensor:
    """The same sum, each slot times its routing weight `weights` [tokens, top_k]."""
    by_token = rows[inverse].view(*weights.shape, rows.shape[-1])
    return (by_token.float() * weights.unsqueeze(-1)).sum(1).to(rows.dtype)


def weighted_sum_backward(
    grad: Tensor,
    rows: Tensor,
    weights: Tensor,
    slots: Tensor,
    tokens: Tensor,
    inverse: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of `weighted_sum_slots` to its rows and to its weights."""
    per_row = torch.cat((weights.flatten(), weights.new_zeros(1)))[slots].unsqueeze(-1)
    grad_rows = (grad[tokens].float() * per_row).to(rows.dtype)
    by_token = rows[inverse].view(*weights.shape, rows.shape[-1])
    return grad_rows, (by_token.float() * grad.float().unsqueeze(1)).sum(-1)


def apply(function: type[Function], *inputs: Any) -> Tensor:
    """`function.apply`, which its library leaves without types."""
    return function.apply(*inputs)  # type: ignore[no-untyped-call]


class Kernels:
    """The three loops above, compiled or plain; chosen once for a process."""

    sum_slots: Any = staticmethod(sum_slots)
    weighted_sum: Any = staticmethod(weighted_sum_slots)
    weighted_sum_backward: Any = staticmethod(weighted_sum_backward)

    @classmethod
    def compile(cls) -> None:
        """Fuse each loop; shapes are fixed, so no dynamic ones are wanted."""
        cls.sum_slots = staticmethod(torch.compile(sum_slots, dynamic=False))
        cls.weighted_sum = staticmethod(torch.compile(weighted_sum_slots, dynamic=False))
        cls.weighted_sum_backward = staticmethod(
            torch.compile(weighted_sum_backward, dynamic=False)
        )


class Dispatch(Function):
    """Copy each token's row to its slots, sorted by expert: [tokens, d] to [rows, d]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tokens: Tensor, inverse: Tensor, top_k: int) -> Tensor:
        """Gather by token."""
        ctx.save_for_backward(inverse)
        ctx.top_k = top_k
        return x.index_select(0, tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """Add up each token's slots."""
        (inverse,) = ctx.saved_tensors
        return Kernels.sum_slots(grad, inverse, ctx.top_k), None, None, None


class GroupedLinear(Function):
    """`rows @ weight[e].T` for every expert e on its own slice of rows.

    One weight gradient is allocated for all experts and filled slice by slice; indexing the
    stack with autograd would add a stack-sized tensor of zeros for each expert.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, counts: list[int]) -> Tensor:
        """[rows, in] by [experts, out, in] to [rows, out]; rows after the last are undefined."""
        ctx.save_for_backward(rows, weight)
        ctx.counts = counts
        out = rows.new_empty(rows.shape[0], weight.shape[1])
        start = 0
        for expert, count in enumerate(counts):
            end = start + count
            torch.mm(rows[start:end], weight[expert].t(), out=out[start:end])
            start = end
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Slice by slice, an expert without rows getting a zero gradient."""
        rows, weight = ctx.saved_tensors
        grad_rows, grad_weight = torch.empty_like(rows), torch.empty_like(weight)
        start = 0
        for expert, count in enumerate(ctx.counts):
            end = start + count
            if count:
                torch.mm(grad[start:end], weight[expert], out=grad_rows[start:end])
                torch.mm(grad[start:end].t(), rows[start:end], out=grad_weight[expert])
            else:
                grad_weight[expert].zero_()
            start = end
        return grad_rows, grad_weight, None


class Combine(Function):
    """Weighted sum of each token's slots: [rows, d] and [tokens, top_k] to [tokens, d]."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weights: Tensor, slots: Tensor, tokens: Tensor, inverse: Tensor
    ) -> Tensor:
        """Gather through `inverse`, multiply, add."""
        ctx.save_for_backward(rows, weights, slots, tokens, inverse)
        result: Tensor = Kernels.weighted_sum(rows, weights, inverse)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """To the rows and to the routing weights."""
        to_rows, to_weights = Kernels.weighted_sum_backward(grad, *ctx.saved_tensors)
        return to_rows, to_weights, None, None, None


@dataclass(frozen=True)
class Sorting:
    """Where every slot's row lies; see the head of this file."""

    slots: Tensor
    tokens: Tensor
    inverse: Tensor
    counts: list[int]  # rows of each expert, padding included


def sort_by_expert(experts: Tensor, count: int) -> tuple[Sorting, Tensor]:
    """The sorting for the chosen `experts` [tokens, top_k], and each expert's share of slots."""
    flat = experts.flatten()
    total = len(flat)
    used = torch.bincount(flat, minlength=count)
    padded = (used + PAD - 1) // PAD * PAD
    shift = (padded.cumsum(0) - padded) - (used.cumsum(0) - used)
    order = torch.argsort(flat, stable=True)
    rows = torch.arange(total) + shift[flat[order]]
    inverse = torch.empty_like(order)
    inverse[order] = rows
    # As many rows as any choice of experts can need, so that this shape never changes.
    slots = torch.full((total + count * PAD,), total)
    slots[rows] = order
    tokens = torch.where(slots < total, slots // experts.shape[1], 0)
    return Sorting(slots, tokens, inverse, padded.tolist()), used.float() / total
