"""The output head with its loss, in one step that never keeps float32 logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from weights.recipe.grouped import apply

CHUNK = 1024  # rows of logits at once: few enough to stay in the cache


def nll_and_gradient(logits: Tensor, targets: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """These rows' part of the mean loss over `total`, and its gradient to the logits."""
    wide = logits.float()
    log_total = torch.logsumexp(wide, dim=-1, keepdim=True)
    hit = torch.arange(logits.shape[-1]) == targets.unsqueeze(-1)
    picked = wide.gather(-1, targets.unsqueeze(-1))
    gradient = (torch.exp(wide - log_total) - hit.float()) / total
    return (log_total - picked).sum() / total, gradient.to(logits.dtype)


class Fused:
    """`nll_and_gradient`, plain or compiled; chosen once for a process."""

    function: Any = staticmethod(nll_and_gradient)

    @classmethod
    def compile(cls) -> None:
        """Fuse softmax, target and scaling into two passes over the logits."""
        cls.function = staticmethod(torch.compile(nll_and_gradient, dynamic=False))


class HeadLoss(Function):
    """Tied output head and cross entropy; gradients are made in the forward pass."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, embedding: Tensor, targets: Tensor) -> Tensor:
        """states [tokens, hidden], embedding [vocab, hidden], targets [tokens]."""
        to_states = torch.empty_like(states)
        to_embedding = torch.zeros(embedding.shape)
        loss = torch.zeros(())
        for start in range(0, len(states), CHUNK):
            rows, wanted = states[start : start + CHUNK], targets[start : start + CHUNK]
            part, gradient = Fused.function(torch.mm(rows, embedding.t()), wanted, len(states))
            torch.mm(gradient, embedding, out=to_states[start : start + CHUNK])
            to_embedding += torch.mm(gradient.t(), rows)
            loss += part
        ctx.save_for_backward(to_states, to_embedding.to(embedding.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Scale what the forward pass made."""
        to_states, to_embedding = ctx.saved_tensors
        return to_states * grad, to_embedding * grad, None


def head_loss(states: Tensor, embedding: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of the tied head."""
    return apply(HeadLoss, states, embedding, targets)
