"""The model in the form that trains fastest on a CPU.

Weights of all layers are stacked, so that the optimiser handles a dozen tensors in place of
several hundred, and GEMMs with the same input are fused: q, k, v in one, gate and up in one. The
arithmetic is that of the hub's Qwen3-MoE; `export.py` takes the stacks apart into its names.

Parameters are held in the arithmetic's own type (bfloat16 in training; the optimiser keeps the
float32 originals), the residual stream, norms, softmaxes and router in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from weights.recipe.attention import CausalAttention
from weights.recipe.attention import Kernels as AttentionKernels
from weights.recipe.grouped import (
    Combine,
    Dispatch,
    GroupedLinear,
    Sorting,
    apply,
    sort_by_expert,
)
from weights.recipe.grouped import Kernels as ExpertKernels
from weights.recipe.loss import Fused, head_loss
from weights.recipe.shape import Shape


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis, in float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding, halves convention; x [batch, time, heads, head_dim]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def rotary_tables(length: int, shape: Shape) -> tuple[Tensor, Tensor]:
    """cos and sin of every position, [length, 1, head_dim]."""
    powers = torch.arange(0, shape.head_dim, 2, dtype=torch.float64) / shape.head_dim
    angles = torch.arange(length, dtype=torch.float64)[:, None] * shape.rope_theta**-powers
    angles = torch.cat((angles, angles), dim=-1)[:, None, :]
    return angles.cos().float(), angles.sin().float()


@dataclass(frozen=True)
class LayerWeights:
    """Views of one layer's weights in the stacks."""

    attention_norm: Tensor
    qkv: Tensor  # [groups, rows, hidden]; see `MoeNetwork`
    q_norm: Tensor
    k_norm: Tensor
    o: Tensor  # [hidden, heads * head_dim]
    ffn_norm: Tensor
    router: Tensor  # [experts, hidden]
    gate_up: Tensor  # [experts, 2, ffn, hidden]
    down: Tensor  # [experts, hidden, ffn]


def project(
    x: Tensor, w: LayerWeights, cos: Tensor, sin: Tensor, shape: Shape
) -> tuple[Tensor, Tensor, Tensor]:
    """Norm, q/k/v projection, head norms and rotation; x [batch, time, hidden].

    Returns q [batch * kv_heads, heads / kv_heads, time, head_dim], scaled, and k and v
    [batch * kv_heads, time, head_dim].
    """
    batch, time, _ = x.shape
    kv, d = shape.kv_heads, shape.head_dim
    kind = w.qkv.dtype
    qkv = functional.linear(rms_norm(x, w.attention_norm, shape.eps).to(kind), w.qkv.flatten(0, 1))
    q, k, v = torch.split(qkv.view(batch, time, -1, d), [shape.heads, kv, kv], dim=2)
    q = rotate(rms_norm(q, w.q_norm, shape.eps), cos, sin).to(kind) * d**-0.5
    k = rotate(rms_norm(k, w.k_norm, shape.eps), cos, sin).to(kind)
    q = q.transpose(1, 2).reshape(batch * kv, shape.heads // kv, time, d)
    k = k.transpose(1, 2).reshape(batch * kv, time, d)
    return q, k, v.transpose(1, 2).reshape(batch * kv, time, d)


def merge_and_route(
    x: Tensor, mixed: Tensor, w: LayerWeights, shape: Shape
) -> tuple[Tensor, Tensor, Tensor]:
    """Output projection and residual, then the expert layer's norm and router logits.

    Returns x, normed x and logits [batch, time, experts].
    """
    batch, time, _ = x.shape
    heads = mixed.view(batch, shape.heads, time, shape.head_dim).transpose(1, 2)
    x = x + functional.linear(heads.reshape(batch, time, -1), w.o).float()
    normed = rms_norm(x, w.ffn_norm, shape.eps)
    return x, normed.to(mixed.dtype), functional.linear(normed, w.router.float())


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, the two halves of the last axis."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (functional.silu(gate) * up).to(gate_up.dtype)


@dataclass
class RouterReport:
    """What one layer's router did: losses to be added, and how often each expert was chosen."""

    balance: Tensor
    z: Tensor
    load: Tensor  # [experts], sums to 1
    chosen: Tensor  # [tokens, top_k]


def route(logits: Tensor, shape: Shape) -> tuple[Tensor, RouterReport, Sorting]:
    """Routing weights [tokens, top_k], the report, and the slots' sorting.

    The balance loss is taken over the whole mixed batch, never per text: all experts together
    must be used evenly, while one domain may keep its favourites.
    """
    share = torch.softmax(logits, dim=-1)
    top, chosen = torch.topk(share, shape.top_k, dim=-1)
    sorting, load = sort_by_expert(chosen, shape.experts)
    balance = shape.experts * (load * share.mean(0)).sum()
    z = torch.logsumexp(logits, dim=-1).square().mean()
    weights = top / top.sum(-1, keepdim=True)
    return weights, RouterReport(balance, z, load, chosen), sorting


class MoeNetwork(nn.Module):
    """Qwen3-MoE with stacked layers.

    The q, k and v projections form one stack of equally tall blocks, [layers, groups, rows,
    hidden], one block for every `rows` = heads / kv_heads * head_dim outputs where that divides
    them: Muon works on each block, and all have the shape of an expert's gate or up matrix.
    """

    embedding: nn.Parameter
    final_norm: nn.Parameter
    shape: Shape

    def __init__(self, shape: Shape, dtype: torch.dtype = torch.float32) -> None:
        """Weights are left undefined; `initialise` or a checkpoint fills them."""
        super().__init__()
        self.shape = shape
        self._tables: dict[int, tuple[Tensor, Tensor]] = {}
        self._project: Any = project
        self._merge: Any = merge_and_route
        self._swiglu: Any = swiglu
        s, n, h = shape, shape.layers, shape.hidden
        rows = s.heads // s.kv_heads * s.head_dim
        outputs = (s.heads + 2 * s.kv_heads) * s.head_dim
        if outputs % rows:
            rows = s.head_dim
        sizes = {
            "qkv": (n, outputs // rows, rows, h),
            "o": (n, h, s.heads * s.head_dim),
            "gate_up": (n, s.experts, 2, s.ffn, h),
            "down": (n, s.experts, h, s.ffn),
            "router": (n, s.experts, h),
            "embedding": (s.vocab, h),
            "attention_norm": (n, h),
            "q_norm": (n, s.head_dim),
            "k_norm": (n, s.head_dim),
            "ffn_norm": (n, h),
            "final_norm": (h,),
        }
        for name, size in sizes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(size, dtype=dtype)))

    def initialise(self, seed: int) -> None:
        """Normal weights scaled by fan-in, outputs into the residual stream smaller."""
        generator = torch.Generator().manual_seed(seed)
        depth = (2 * self.shape.layers) ** -0.5
        for name, weight in self.named_parameters():
            with torch.no_grad():
                if name.endswith("norm"):
                    weight.fill_(1.0)
                    continue
                scale = {"embedding": 0.02, "router": 0.02}.get(
                    name, 0.5 * weight.shape[-1] ** -0.5
                )
                if name in ("o", "down"):
                    scale *= depth
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)

    def load_stacks(self, weights: Mapping[str, Tensor]) -> None:
        """Copy weights in; their q/k/v stacks may be blocked otherwise."""
        with torch.no_grad():
            for name, weight in self.named_parameters():
                weight.copy_(weights[name].view_as(weight))

    def compile(self, *_: Any, **__: Any) -> None:
        """Fuse the element-wise parts; the routing, whose shapes change, stays plain."""
        # One graph for each shape, with and without gradients; the usual limit is meant for
        # programs whose shapes change without end.
        torch._dynamo.config.recompile_limit = 64
        self._project = torch.compile(project, dynamic=False)
        self._merge = torch.compile(merge_and_route, dynamic=False)
        self._swiglu = torch.compile(swiglu, dynamic=False)
        ExpertKernels.compile()
        AttentionKernels.compile()
        Fused.compile()

    def layer(self, stacks: dict[str, tuple[Tensor, ...]], index: int) -> LayerWeights:
        """Layer `index` of stacks that were taken apart by `unbind`."""
        names = LayerWeights.__dataclass_fields__
        return LayerWeights(**{name: stacks[name][index] for name in names})

    def tables(self, length: int) -> tuple[Tensor, Tensor]:
        """Rotary tables of a length, made once."""
        if length not in self._tables:
            self._tables[length] = rotary_tables(length, self.shape)
        return self._tables[length]

    def hidden(self, tokens: Tensor) -> tuple[Tensor, list[RouterReport]]:
        """Final normed states [batch * time, hidden] and each layer's router report."""
        shape = self.shape
        # `unbind` has one backward that stacks; indexing would add whole stacks of zeros.
        stacks = {name: getattr(self, name).unbind(0) for name in LayerWeights.__dataclass_fields__}
        cos, sin = self.tables(tokens.shape[1])
        x = functional.embedding(tokens, self.embedding).float()
        reports = []
        for index in range(shape.layers):
            w = self.layer(stacks, index)
            mixed = apply(CausalAttention, *self._project(x, w, cos, sin, shape))
            x, normed, logits = self._merge(x, mixed, w, shape)
            weights, report, sorting = route(logits.flatten(0, 1), shape)
            reports.append(report)
            x = x + self.experts(normed.flatten(0, 1), w, weights, sorting).view_as(x)
        final = rms_norm(x, self.final_norm, shape.eps).to(self.embedding.dtype)
        return final.flatten(0, 1), reports

    def experts(self, x: Tensor, w: LayerWeights, weights: Tensor, at: Sorting) -> Tensor:
        """The routed feed-forward layer: no slot is dropped. x [tokens, hidden]."""
        rows = apply(Dispatch, x, at.tokens, at.inverse, self.shape.top_k)
        inner = self._swiglu(apply(GroupedLinear, rows, w.gate_up.flatten(1, 2), at.counts))
        rows = apply(GroupedLinear, inner, w.down, at.counts)
        return apply(Combine, rows, weights, at.slots, at.tokens, at.inverse)

    def loss(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, list[RouterReport]]:
        """Mean negative log-likelihood of `targets`, and the router reports."""
        final, reports = self.hidden(tokens)
        return head_loss(final, self.embedding, targets.flatten()), reports

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        """Next-token logits, [batch, time, vocab]."""
        final, _ = self.hidden(tokens)
        return functional.linear(final, self.embedding).float().view(*tokens.shape, -1)

    @torch.no_grad()
    def token_losses(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, list[RouterReport]]:
        """Negative log-likelihood of every target, [batch, time], and the router reports."""
        final, reports = self.hidden(tokens)
        logits = functional.linear(final, self.embedding).float()
        losses = functional.cross_entropy(logits, targets.flatten(), reduction="none")
        return losses.view_as(targets), reports
