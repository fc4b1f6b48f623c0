"""The op table's products, router and sums as compiled kernels, one call each.

They hold the kernels of the whole step to the table's contracts. Weights are packed at every call,
which costs more than it saves: a model runs through `step.py`. What kernels do not compute
(float64, scales that are NaN, Phi's sparsemixer) is the definition's own work.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinymoe.cards import PLAIN_SWIGLU, ExpertCard
from tinymoe.core import (
    Array,
    Numerics,
    Permutation,
    QuantTensor,
    RouterCard,
    Routing,
    TinymoeError,
)
from tinymoe.kernels import formats_ops
from tinymoe.kernels.cpu import linear as product
from tinymoe.kernels.cpu import routing
from tinymoe.kernels.cpu.batch import TOKENS, Header, aligned
from tinymoe.kernels.cpu.buffers import stride_of
from tinymoe.kernels.cpu.ops import CpuOps, tokens_alone
from tinymoe.kernels.cpu.pack import Packed, pack, pack_quantised
from tinymoe.kernels.cpu.plan_moe import SCORES, SOURCES, route_arguments
from tinymoe.kernels.cpu.program import Program
from tinymoe.kernels.cpu.residual import combine as combine_kernel
from tinymoe.kernels.cpu.weights import bias_of, vector
from tinymoe.model.ops import DEFINITION


class CpuProducts(CpuOps):
    """More members of an `Ops`, and products of low precision as the op table calls them."""

    def linear(
        self, x: Array, weight: Array, numerics: Numerics, *, bias: Array | None = None
    ) -> Array:
        """`model.precision.linear`: x (T, in), weight (out, in) -> (T, out)."""
        if numerics.accumulate == "float64" or not len(x):
            return DEFINITION.linear(x, weight, numerics, bias=bias)
        return self.times(x, pack(weight), numerics, bias_of(bias))

    def times(
        self, x: Array, weight: Packed, numerics: Numerics, bias: Array | None = None
    ) -> Array:
        """x (T, K) times packed tiles (N, K) -> (T, N)."""
        rows = padded(x)
        out = np.zeros((len(x), weight.pairs * 32), np.float32)
        self._step(
            len(x), product.linear, x=rows, x_stride=rows.shape[1], count=TOKENS, rows=0,
            **product.tiles_of(weight), bias=bias, out=out, out_stride=out.shape[1], residual=None,
            part=None, factor=1.0, kind=product.PLAIN, rounding=_rounding(numerics),
        )  # fmt: skip
        return out[:, : weight.rows].copy()

    def gemm_nvfp4(
        self,
        x: Array,
        weight_codes: Array,
        weight_scales: Array,
        tensor_scale: float,
        convention: str,
        numerics: Numerics,
    ) -> Array:
        """`formats_ops.gemm_nvfp4`: x (T, K) as it is times a weight (N, K) in NVFP4."""
        tensor = formats_ops.nvfp4_tensor(weight_codes, weight_scales, tensor_scale, convention)
        packed = self._packed(tensor, numerics)
        if packed is None or not len(x):
            return formats_ops.gemm_nvfp4(
                x, weight_codes, weight_scales, tensor_scale, convention, numerics
            )
        return self.times(x, packed, numerics)

    def gemm_mxfp4(
        self,
        x: Array,
        weight_codes: Array,
        weight_scales: Array,
        convention: str,
        numerics: Numerics,
    ) -> Array:
        """`formats_ops.gemm_mxfp4`: x (T, K) as it is times a weight (N, K) in MXFP4."""
        tensor = formats_ops.mxfp4_tensor(weight_codes, weight_scales, convention)
        packed = self._packed(tensor, numerics)
        if packed is None or not len(x):
            return formats_ops.gemm_mxfp4(x, weight_codes, weight_scales, convention, numerics)
        return self.times(x, packed, numerics)

    def expert_ffn(
        self,
        x: Array,
        gate_up: Array,
        down: Array,
        offsets: Array,
        numerics: Numerics,
        *,
        card: ExpertCard = PLAIN_SWIGLU,
        gate_up_bias: Array | None = None,
        down_bias: Array | None = None,
    ) -> Array:
        """`model.experts.expert_ffn`: rows x (S, H) in expert order -> (S, H)."""
        if numerics.accumulate == "float64" or not len(x):
            return DEFINITION.expert_ffn(
                x, gate_up, down, offsets, numerics,
                card=card, gate_up_bias=gate_up_bias, down_bias=down_bias,
            )  # fmt: skip
        rows, wide, narrow = padded(x), pack(gate_up, gate_up=True), pack(down)
        hidden = np.zeros((len(x), stride_of(narrow.columns)), np.float32)
        out = np.zeros((len(x), narrow.pairs * 32), np.float32)
        common = {
            "order": np.arange(len(x)), "offsets": np.ascontiguousarray(offsets, np.int64),
            "experts": wide.experts, "top_k": 0, "limit": float(card.clamp_limit or 0),
            "alpha": float(card.clamp_alpha or 0), "rounding": _rounding(numerics),
        }  # fmt: skip
        kind = product.SWIGLU if card.activation == "swiglu" else product.CLAMPED
        self._step(
            len(x), product.experts, x=rows, x_stride=rows.shape[1], **product.tiles_of(wide),
            bias=bias_of(gate_up_bias, gate_up=True), out=hidden, out_stride=hidden.shape[1],
            kind=kind, **common,
        )  # fmt: skip
        self._step(
            len(x), product.experts, x=hidden, x_stride=hidden.shape[1],
            **product.tiles_of(narrow), bias=bias_of(down_bias), out=out,
            out_stride=out.shape[1], kind=product.PLAIN, **common,
        )  # fmt: skip
        return out[:, : narrow.rows].copy()

    def route(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        card: RouterCard,
        numerics: Numerics,
        *,
        logit_bias: Array | None = None,
    ) -> Routing:
        """`model.router.route`: x (T, H), weight (E, H) -> `Routing`."""
        known = card.score in SCORES and card.weight_from in SOURCES
        if numerics.accumulate == "float64" or not len(x) or not known:
            return DEFINITION.route(x, weight, bias, card, numerics, logit_bias=logit_bias)
        tokens, experts, top_k = len(x), card.experts, card.top_k
        kept = numerics.router_logits
        if kept == "card":
            kept = numerics.storage if card.logits_dtype == "model" else "float32"
        rows, packed = padded(x), pack(weight)
        logits, scores = (np.zeros((tokens, stride_of(experts)), np.float32) for _ in range(2))
        self._step(
            tokens, product.linear, x=rows, x_stride=rows.shape[1], count=TOKENS, rows=0,
            **product.tiles_of(packed), bias=bias_of(logit_bias), out=logits,
            out_stride=logits.shape[1], residual=None, part=None, factor=1.0, kind=product.PLAIN,
            rounding=int(kept == "bfloat16"),
        )  # fmt: skip
        ids = np.zeros((tokens, top_k), np.int64)
        weights, margins = np.zeros((tokens, top_k), np.float32), np.zeros(tokens, np.float32)
        self._step(
            tokens, routing.route, logits=logits, stride=logits.shape[1], bias=vector(bias),
            **route_arguments(card), scores=scores, ids=ids, weights=weights, margins=margins,
            order=np.zeros(tokens * top_k, np.int64), offsets=np.zeros(experts + 1, np.int64),
        )  # fmt: skip
        cut = slice(experts)
        return Routing(logits[:, cut].copy(), scores[:, cut].copy(), ids, weights, margins)

    def permute(self, ids: Array, experts: int) -> Permutation:
        """`model.experts.permute`: ids (T, K) -> order (T*K,), offsets (E + 1,)."""
        order, offsets = np.zeros(ids.size, np.int64), np.zeros(experts + 1, np.int64)
        self._step(
            len(ids), routing.permute, ids=np.ascontiguousarray(ids, np.int64), experts=experts,
            top_k=ids.shape[1], above=0, order=order, offsets=offsets,
        )  # fmt: skip
        return Permutation(order, offsets)

    def combine(self, expert_out: Array, weights: Array, numerics: Numerics) -> Array:
        """`model.experts.combine`: expert_out (T, K, H), weights (T, K) -> (T, H)."""
        if numerics.accumulate == "float64" or not len(expert_out):
            return DEFINITION.combine(expert_out, weights, numerics)
        tokens, top_k, width = expert_out.shape
        rows = padded(expert_out.reshape(-1, width))
        out, nothing = (np.zeros((tokens, stride_of(width)), np.float32) for _ in range(2))
        self._step(
            tokens, combine_kernel, rows=rows, stride=rows.shape[1],
            weights=np.ascontiguousarray(weights, np.float32), top_k=top_k, shared=None,
            shared_stride=0, gate=None, gate_stride=0, width=width, factor=1.0,
            rounding=_rounding(numerics), residual=nothing, routed=out, part=None,
            out=np.zeros_like(nothing), x_stride=out.shape[1],
        )  # fmt: skip
        return out[:, :width].copy()

    def _packed(self, tensor: QuantTensor, numerics: Numerics) -> Packed | None:
        """Tiles of a quantised matrix; None where the definition has to compute."""
        if numerics.accumulate == "float64":
            return None
        try:
            return pack_quantised(tensor)
        except TinymoeError:  # a scale that tiles do not hold
            return None

    def _step(self, tokens: int, instruction: Any, **named: Any) -> None:
        """One instruction for so many tokens."""
        words = product.OWN_WORDS + routing.own_words(1024, 64)
        memory = aligned(words * self.team.threads, np.int64)
        header = Header(tokens_alone(tokens), 1, 1, memory, self.team.threads)
        program = Program()
        program.add(instruction, **named)
        self.team.run(program.code, header.address)


def padded(x: Array) -> Array:
    """Rows as the products read them: float32, zeros behind their end."""
    out = np.zeros((len(x), stride_of(x.shape[1])), np.float32)
    out[:, : x.shape[1]] = x
    return out


def _rounding(numerics: Numerics) -> int:
    return int(numerics.storage == "bfloat16")
