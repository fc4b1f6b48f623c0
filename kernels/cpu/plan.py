"""A model as a program: the steps of `model/transformer.py`, each a kernel with its arguments.

The order and the meaning of every step are the definition's; a test holds each activation to it,
layer by layer, for each family. `Plan.taps` says where the activations lie after a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinymoe.core import Array, AttentionCard, ModelConfig, Numerics, RopeCard
from tinymoe.kernels.cpu import batch as header
from tinymoe.kernels.cpu import linear as product
from tinymoe.kernels.cpu import routing
from tinymoe.kernels.cpu.buffers import Buffers
from tinymoe.kernels.cpu.multiply import multiply
from tinymoe.kernels.cpu.norm import layernorm, rmsnorm
from tinymoe.kernels.cpu.pack import Packed
from tinymoe.kernels.cpu.plan_attention import Turns, plan_attention
from tinymoe.kernels.cpu.program import Program
from tinymoe.kernels.cpu.residual import combine, embed
from tinymoe.kernels.cpu.weights import Dense, Moe, Shared, Weights

View = Callable[[int], Array]  # of so many tokens: the activation
SCORES = {"softmax": routing.SOFTMAX, "sigmoid": routing.SIGMOID, "identity": routing.IDENTITY}
SOURCES = {
    "score": routing.FROM_SCORE,
    "softmax_of_chosen": routing.SOFTMAX_OF_CHOSEN,
    "sigmoid_of_chosen": routing.SIGMOID_OF_CHOSEN,
}


class Plan:
    """The program of one model, for one cache and up to `tokens` tokens a step."""

    def __init__(
        self,
        weights: Weights,
        config: ModelConfig,
        numerics: Numerics,
        pages: Callable[[int], tuple[Array, Array]],
        tokens: int,
        *,
        threads: int,
        traced: bool,
    ) -> None:
        """`pages`: key and value pages of a layer, as `PagedKeysValues.layer` gives them."""
        self.config, self.numerics, self.pages = config, numerics, pages
        self.threads = threads
        self.program, self.buffers = Program(), Buffers(tokens, traced)
        self.rounding = int(numerics.storage == "bfloat16")
        self.taps: list[tuple[str, View]] = []
        self.turns: dict[RopeCard, Turns] = {}  # written every step
        self._width = config.hidden_size
        self._build(weights)

    def _build(self, weights: Weights) -> None:
        config, width = self.config, self._width
        x = self.buffers.rows("embed/x", width)
        self.program.add(
            embed,
            table=weights.embed.data,
            pair_bytes=weights.embed.pair_bytes,
            bf16=weights.embed.form.name == "bf16",
            width=width,
            out=x,
            out_stride=x.shape[1],
            factor=config.multipliers.embedding,
            rounding=self.rounding,
        )
        self.tap("embed", x, width)
        for layer, (attention, ffn) in enumerate(weights.layers):
            x = plan_attention(self, x, attention, layer)
            part = self.moe if isinstance(ffn, Moe) else self.dense
            x = part(x, ffn, layer)
        normed = self.norm(x, weights.final_norm, weights.final_norm_bias, "final_norm")
        self.tap("final_norm", normed, width)
        self.logits = self.buffers.rows("logits", weights.head.pairs * 32)
        self.product(
            normed,
            weights.head,
            self.logits,
            bias=weights.head_bias,
            rounding=0,
            count=header.LOGITS,
            rows=header.LOGIT_ROWS,
        )

    # ------------------------------------------------------------------------ steps

    def tap(
        self, name: str, array: Array, width: int, shape: tuple[int, ...] | None = None
    ) -> None:
        """An activation: the first `width` numbers of each row, as (T, *shape)."""
        if self.buffers.traced:
            per_token = len(array) // self.buffers.tokens

            def view(tokens: int) -> Array:
                values = array[: tokens * per_token, :width]
                return values if shape is None else values.reshape(tokens, *shape)

            self.taps.append((name, view))

    def norm(self, x: Array, weight: Array, bias: Array | None, name: str) -> Array:
        """The norm of this model's family, of all rows: (T, H)."""
        out = self.buffers.rows(f"{name}/normed", self._width)
        common = {
            "x": x, "x_stride": x.shape[1], "count": header.TOKENS, "rows": 0,
            "width": self._width, "weight": weight, "eps": self.config.rms_norm_eps,
            "out": out, "out_stride": out.shape[1], "rounding": self.rounding,
        }  # fmt: skip
        if self.config.norm == "layer":
            self.program.add(layernorm, bias=bias, **common)
        else:
            self.program.add(
                rmsnorm,
                parts=1,
                part_stride=0,
                weight_stride=0,
                out_part_stride=0,
                rounds_before_weight=self.config.norm_rounds_before_weight,
                **common,
            )
        return out

    def product(
        self,
        x: Array,
        weight: Packed,
        out: Array,
        *,
        bias: Array | None = None,
        kind: int = product.PLAIN,
        residual: Array | None = None,
        part: Array | None = None,
        rounding: int | None = None,
        count: int = header.TOKENS,
        rows: int = 0,
    ) -> None:
        """out = x times a matrix; with `residual`, that plus so much times the residual factor."""
        self.program.add(
            product.linear,
            x=x,
            x_stride=x.shape[1],
            count=count,
            rows=rows,
            **tiles(weight),
            bias=bias,
            out=out,
            out_stride=out.shape[1],
            residual=residual,
            part=part,
            factor=self.config.multipliers.residual,
            kind=kind,
            rounding=self.rounding if rounding is None else rounding,
        )

    def dense(self, x: Array, params: Dense | Moe, layer: int) -> Array:
        """A layer's feed-forward part without experts: x (T, H) -> (T, H)."""
        assert isinstance(params, Dense)
        name, width = f"layers.{layer}", self._width
        normed = self.norm(x, params.norm, None, f"{name}.mlp.norm")
        self.tap(f"{name}.mlp.norm", normed, width)
        hidden = self.buffers.rows("hidden", params.down.columns)
        out, part = self.sum_of(name, "out"), self.part_of(f"{name}.mlp.out")
        self.product(normed, params.gate_up, hidden, kind=product.SWIGLU)
        self.product(hidden, params.down, out, residual=x, part=part)
        if part is not None:
            self.tap(f"{name}.mlp.out", part, width)
        self.tap(f"{name}.out", out, width)
        return out

    def moe(self, x: Array, params: Dense | Moe, layer: int) -> Array:
        """Norm, router, experts, shared expert, residual: x (T, H) -> (T, H)."""
        assert isinstance(params, Moe)
        name, width = f"layers.{layer}", self._width
        normed = self.norm(x, params.norm, params.norm_bias, f"{name}.moe.norm")
        self.tap(f"{name}.moe.norm", normed, width)
        weights, order, offsets = self.route(normed, params, name)
        rows = self.experts(normed, params, order, offsets, name)
        shared, gate = self.shared(normed, params.shared, name)
        out = self.sum_of(name, "out")
        routed, part = self.part_of(f"{name}.moe.routed"), self.part_of(f"{name}.moe.out")
        top_k = self.config.router.top_k
        self.program.add(
            combine,
            rows=rows,
            stride=rows.shape[1],
            weights=weights,
            top_k=top_k,
            shared=shared,
            shared_stride=0 if shared is None else shared.shape[1],
            gate=gate,
            gate_stride=0 if gate is None else gate.shape[1],
            width=width,
            factor=self.config.multipliers.residual,
            rounding=self.rounding,
            residual=x,
            routed=routed,
            part=part,
            out=out,
            x_stride=out.shape[1],
        )
        self.tap(f"{name}.moe.expert_out", rows, width, (top_k, width))
        if routed is not None and part is not None:
            self.tap(f"{name}.moe.routed", routed, width)
            if shared is not None:
                self.tap(f"{name}.moe.shared", shared, width)
            self.tap(f"{name}.moe.out", part, width)
        self.tap(f"{name}.out", out, width)
        return out

    def route(self, normed: Array, params: Moe, name: str) -> tuple[Array, Array, Array]:
        """Logits and the five steps: weights (T, K), and the slots in expert order."""
        card, buffers, tokens = self.config.router, self.buffers, self.buffers.tokens
        experts, top_k = card.experts, card.top_k
        logits = buffers.rows(f"{name}/logits", experts)
        scores = buffers.rows(f"{name}/scores", experts)
        kept = self.numerics.router_logits
        if kept == "card":
            kept = self.numerics.storage if card.logits_dtype == "model" else "float32"
        rounding = int(kept == "bfloat16")
        self.product(normed, params.router, logits, bias=params.router_bias, rounding=rounding)
        ids = buffers.numbers(f"{name}/ids", tokens * top_k)
        weights = buffers.numbers(f"{name}/weights", tokens * top_k, np.float32)
        margins = buffers.numbers(f"{name}/margins", tokens, np.float32)
        order = buffers.numbers("order", tokens * top_k)
        offsets = buffers.numbers("offsets", experts + 1)
        self.program.add(
            routing.route,
            logits=logits,
            stride=logits.shape[1],
            experts=experts,
            top_k=top_k,
            bias=params.selection_bias,
            score=SCORES[card.score],
            weight_from=SOURCES[card.weight_from],
            groups=card.groups,
            groups_kept=card.groups_kept,
            group_score=(
                routing.MAX_OF_GROUP if card.group_score == "max" else routing.TWO_OF_GROUP
            ),
            masked=-np.inf if card.dropped_group == "-inf" else 0.0,
            renormalise=card.renormalise,
            epsilon=float(card.renorm_epsilon),
            floor=float(card.renorm_floor),
            scale=float(card.scale),
            scores=scores,
            ids=ids,
            weights=weights,
            margins=margins,
            order=order,
            offsets=offsets,
        )
        self.program.add(
            routing.permute, ids=ids, experts=experts, top_k=top_k, order=order, offsets=offsets
        )
        self.tap(f"{name}.router.logits", logits, experts)
        self.tap(f"{name}.router.scores", scores, experts)
        for field, values in (("ids", ids), ("weights", weights)):
            self.tap(f"{name}.router.{field}", values.reshape(tokens, top_k), top_k)
        self.tap(f"{name}.router.margin", margins.reshape(tokens, 1), 1, ())
        return weights, order, offsets

    def experts(self, normed: Array, params: Moe, order: Array, offsets: Array, name: str) -> Array:
        """Each token's K experts: (T*K, H), by slot."""
        card, top_k = self.config.experts, self.config.router.top_k
        hidden = self.buffers.rows("experts_hidden", params.down.columns, top_k)
        rows = self.buffers.rows(f"{name}/expert_out", self._width, top_k)
        clamped = card.activation != "swiglu"
        common = {
            "order": order,
            "offsets": offsets,
            "experts": self.config.router.experts,
            "limit": float(card.clamp_limit or 0),
            "alpha": float(card.clamp_alpha or 0),
            "rounding": self.rounding,
        }
        self.program.add(
            product.experts,
            x=normed,
            x_stride=normed.shape[1],
            top_k=top_k,
            **tiles(params.gate_up),
            bias=params.gate_up_bias,
            out=hidden,
            out_stride=hidden.shape[1],
            kind=product.CLAMPED if clamped else product.SWIGLU,
            **common,
        )
        self.program.add(
            product.experts,
            x=hidden,
            x_stride=hidden.shape[1],
            top_k=0,
            **tiles(params.down),
            bias=params.down_bias,
            out=rows,
            out_stride=rows.shape[1],
            kind=product.PLAIN,
            **common,
        )
        return rows

    def shared(
        self, normed: Array, params: Shared | None, name: str
    ) -> tuple[Array | None, Array | None]:
        """The shared expert's output (T, H), and its gate's logit, (T, 1), where it has one."""
        if params is None:
            return None, None
        hidden = self.buffers.rows("hidden", params.down.columns)
        out = self.buffers.rows(f"{name}/shared", self._width)
        self.product(normed, params.gate_up, hidden, kind=product.SWIGLU)
        self.product(hidden, params.down, out)
        if params.gate is None:
            return out, None
        gate = self.buffers.rows(f"{name}/shared_gate", 1)
        self.product(normed, params.gate, gate)
        return out, gate

    # ------------------------------------------------------------------------ buffers

    def sum_of(self, layer: str, place: str) -> Array:
        """Where the residual goes on: in place, or, traced, its own array."""
        return self.buffers.rows(f"{layer}.{place}/x", self._width)

    def part_of(self, name: str) -> Array | None:
        """A traced part's own array; None when nobody looks."""
        return self.buffers.rows(f"{name}/part", self._width) if self.buffers.traced else None

    def turns_of(self, card: RopeCard) -> Turns:
        """The card's cosines and sines, one for all layers that share it."""
        if card not in self.turns:
            self.turns[card] = Turns(card, self.numerics, self.buffers.tokens)
        return self.turns[card]

    def attention_card(self, layer: int) -> AttentionCard:
        """Of a layer that looks back."""
        card = self.config.attention[layer]
        assert isinstance(card, AttentionCard)
        return card


def tiles(weight: Packed) -> dict[str, Any]:
    """The arguments that say where a weight lies."""
    return {
        "weight": weight.data,
        "pair_bytes": weight.pair_bytes,
        "pairs": weight.pairs,
        "columns": weight.padded,
        "scales": weight.row_scales,
        "multiply": multiply(weight.form.name),
    }
