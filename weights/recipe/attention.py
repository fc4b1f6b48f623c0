"""Causal attention by blocks of queries, with a backward written by hand.

Plain batched products stand in for the fused attention operator, whose backward is slow on CPUs at
these lengths. A block of queries meets only the keys up to its own end, so of the square of scores
little more than the triangle is computed. Query heads that share a key head are stacked along
time: no key is copied.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

BLOCK = 128


def causal_softmax(scores: Tensor) -> Tensor:
    """Softmax of [n, group, queries, keys], whose last query stands at the last key."""
    queries, keys = scores.shape[-2:]
    past = torch.arange(keys) <= torch.arange(keys - queries, keys).unsqueeze(-1)
    masked = torch.where(past, scores.float(), float("-inf"))
    return torch.softmax(masked, dim=-1).to(scores.dtype)


def softmax_backward(share: Tensor, grad: Tensor) -> Tensor:
    """Gradient to the scores; masked ones have share 0, so they get 0."""
    wide = share.float()
    product = wide * grad.float()
    return (product - wide * product.sum(-1, keepdim=True)).to(share.dtype)


class Kernels:
    """The two loops above, plain or compiled; chosen once for a process."""

    softmax: Any = staticmethod(causal_softmax)
    backward: Any = staticmethod(softmax_backward)

    @classmethod
    def compile(cls) -> None:
        """Fuse each loop, once for every shape."""
        cls.softmax = staticmethod(torch.compile(causal_softmax, dynamic=False))
        cls.backward = staticmethod(torch.compile(softmax_backward, dynamic=False))


def blocks(time: int) -> list[tuple[int, int]]:
    """First and end position of every block of queries."""
    return [(start, min(start + BLOCK, time)) for start in range(0, time, BLOCK)]


class CausalAttention(Function):
    """softmax(q k^T) v; q [n, group, time, d] is scaled already, k and v [n, time, d]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Returns [n, group, time, d]."""
        n, group, time, d = q.shape
        out = torch.empty_like(q)
        shares = []
        for start, end in blocks(time):
            rows = q[:, :, start:end].reshape(n, -1, d)
            scores = torch.bmm(rows, k[:, :end].transpose(1, 2))
            share = Kernels.softmax(scores.view(n, group, end - start, end))
            mixed = torch.bmm(share.view(n, -1, end), v[:, :end])
            out[:, :, start:end] = mixed.view(n, group, -1, d)
            shares.append(share)
        ctx.save_for_backward(q, k, v, *shares)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """To q, k and v; what several blocks add to one key is summed in float32."""
        q, k, v, *shares = ctx.saved_tensors
        n, _, time, d = q.shape
        to_q = torch.empty_like(q)
        to_k = torch.zeros(k.shape)
        to_v = torch.zeros(v.shape)
        for (start, end), share in zip(blocks(time), shares, strict=True):
            out = grad[:, :, start:end].reshape(n, -1, d)
            to_share = torch.bmm(out, v[:, :end].transpose(1, 2))
            to_scores = Kernels.backward(share, to_share.view_as(share)).view(n, -1, end)
            flat = share.view(n, -1, end)
            to_v[:, :end] += torch.bmm(flat.transpose(1, 2), out)
            rows = q[:, :, start:end].reshape(n, -1, d)
            to_k[:, :end] += torch.bmm(to_scores.transpose(1, 2), rows)
            to_q[:, :, start:end] = torch.bmm(to_scores, k[:, :end]).view(n, -1, end - start, d)
        return to_q, to_k.to(k.dtype), to_v.to(v.dtype)
