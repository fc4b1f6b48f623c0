"""Muon for the matrices, AdamW for the rest, with the work divided between processes.

Muon (K. Jordan, 2024) replaces a matrix's momentum by the nearest matrix with all singular values
alike, found by a few Newton-Schulz steps; the scale 0.2 sqrt(max dim) gives the update the
root-mean-square size of an AdamW one (Moonlight, 2025).

All tensors lie in memory that the processes share. Each adds up and applies the gradients of its
own part of every tensor (split along the first axis), so nothing is sent: only barriers are needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MATRICES = ("qkv", "o", "gate_up", "down")
# Learning rates at full speed; `matrix` is Muon's, the others AdamW's.
RATES = {"matrix": 0.01, "router": 1e-3, "other": 3e-3}
MUON_MOMENTUM, WEIGHT_DECAY = 0.95, 0.1
BETAS, ADAM_EPS, CLIP = (0.9, 0.95), 1e-8, 1.0
# Quintic whose iteration drives singular values in (0, 1] quickly into about [0.7, 1.2].
NEWTON_SCHULZ, STEPS = (3.4445, -4.7750, 2.0315), 5


def orthogonalise(matrices: Tensor, steps: int = STEPS) -> Tensor:
    """Push all singular values of each of [n, rows, columns] towards 1, in bfloat16."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.to(torch.bfloat16)
    tall = x.shape[-2] > x.shape[-1]
    if tall:  # the Gram matrix of the shorter side is the cheaper one
        x = x.transpose(-2, -1)
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).to(torch.bfloat16)
    for _ in range(steps):
        gram = torch.bmm(x, x.transpose(-2, -1))
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(-2, -1) if tall else x


def shared(tensor: Tensor) -> Tensor:
    """Move a tensor to memory that other processes can be given."""
    return tensor.share_memory_()  # type: ignore[no-untyped-call]


@dataclass
class Slot:
    """One tensor with all that belongs to it; every field is shared by the processes."""

    working: Tensor  # what the network computes with
    master: Tensor  # the same in float32
    first: Tensor  # momentum
    second: Tensor | None  # AdamW's mean square; Muon has none
    grads: list[Tensor]  # one of each process


def make_slots(network: nn.Module, processes: int) -> dict[str, Slot]:
    """Master copies, moments and gradients of a network whose float32 weights are final."""
    slots = {}
    for name, weight in network.named_parameters():
        master = shared(weight.detach().float().clone())
        second = None if name in MATRICES else shared(torch.zeros_like(master))
        working = shared(weight.detach().to(torch.bfloat16))
        grads = [shared(torch.zeros_like(working)) for _ in range(processes)]
        slots[name] = Slot(working, master, shared(torch.zeros_like(master)), second, grads)
    return slots


class Optimiser:
    """One process's share of the update."""

    def __init__(
        self, slots: dict[str, Slot], rank: int, squares: Tensor, wait: Callable[[], None]
    ) -> None:
        """`squares` [processes, shared] takes partial gradient norms; `wait` is a barrier."""
        self.slots, self.rank, self.squares, self.wait = slots, rank, squares, wait
        self.processes = len(squares)

    def _mine(self, tensor: Tensor) -> Tensor:
        parts = tensor.chunk(self.processes)
        return parts[self.rank] if self.rank < len(parts) else tensor[:0]

    def step(self, speed: float, updates: int) -> float:
        """Apply all processes' gradients, which must be complete; returns their norm.

        `speed` scales every learning rate; `updates` counts from 1. A norm that is not finite
        leaves the weights alone: one bad batch must not end a long run.
        """
        self.wait()  # every process has finished its backward pass
        grads = {}
        for name, slot in self.slots.items():
            total = self._mine(slot.grads[0]).float()
            for other in slot.grads[1:]:
                total += self._mine(other).float()
            grads[name] = total / self.processes
        self.squares[self.rank] = sum(float(g.square().sum()) for g in grads.values())
        self.wait()  # every process has read all gradients and told its share of the norm
        norm = math.sqrt(float(self.squares.sum()))
        for slot in self.slots.values():
            slot.grads[self.rank].zero_()
        if math.isfinite(norm):
            for name, grad in grads.items():
                if grad.numel():
                    self._update(name, grad * min(1.0, CLIP / (norm + 1e-6)), speed, updates)
        self.wait()  # every process has written its weights
        return norm

    def _update(self, name: str, grad: Tensor, speed: float, updates: int) -> None:
        slot = self.slots[name]
        master, first = self._mine(slot.master), self._mine(slot.first)
        if slot.second is None:
            rate = speed * RATES["matrix"]
            master.mul_(1 - rate * WEIGHT_DECAY)
            master.add_(muon_direction(grad, first), alpha=-rate)
        else:
            rate = speed * RATES.get(name, RATES["other"])
            # Norm weights start at 1, their neutral value: decay would pull them off it.
            decay = 0.0 if name.endswith("norm") else rate * WEIGHT_DECAY
            master.mul_(1 - decay)
            second = self._mine(slot.second)
            master.add_(adam_direction(grad, first, second, updates), alpha=-rate)
        self._mine(slot.working).copy_(master)


def muon_direction(grad: Tensor, momentum: Tensor) -> Tensor:
    """Update the momentum in place; the scaled orthogonal direction, Nesterov style."""
    momentum.lerp_(grad, 1 - MUON_MOMENTUM)
    ahead = grad.lerp(momentum, MUON_MOMENTUM)
    flat = orthogonalise(ahead.flatten(0, -3) if ahead.dim() > 3 else ahead)
    scale = 0.2 * math.sqrt(max(grad.shape[-2:]))
    return flat.float().view_as(grad) * scale


def adam_direction(grad: Tensor, first: Tensor, second: Tensor, updates: int) -> Tensor:
    """Update both moments in place; AdamW's direction with bias correction."""
    first.lerp_(grad, 1 - BETAS[0])
    second.lerp_(grad.square(), 1 - BETAS[1])
    mean = first / (1 - BETAS[0] ** updates)
    spread = (second / (1 - BETAS[1] ** updates)).sqrt()
    return mean / (spread + ADAM_EPS)
