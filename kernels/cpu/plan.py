"""A model as a program: the steps of `model/transformer.py`, each a kernel with its arguments.

The order and the meaning of every step are the definition's; a test holds each activation to it,
layer by layer, for each family. `Plan.taps` says where the activations lie after a step.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cached_property

import numpy as np

from tinymoe.cache import PagedCache
from tinymoe.core import (
    Array,
    AttentionCard,
    ModelConfig,
    Numerics,
    PagedKeysValues,
    RopeCard,
    TinymoeError,
)
from tinymoe.kernels.cpu import batch as header
from tinymoe.kernels.cpu import linear as product
from tinymoe.kernels.cpu import routing, top1
from tinymoe.kernels.cpu.batch import Header
from tinymoe.kernels.cpu.buffers import Buffers
from tinymoe.kernels.cpu.inputs import between, given
from tinymoe.kernels.cpu.multiply import UNSCALED, multiply
from tinymoe.kernels.cpu.norm import rmsnorm
from tinymoe.kernels.cpu.pack import Packed
from tinymoe.kernels.cpu.pages import tiles
from tinymoe.kernels.cpu.plan_attention import Turns, own_words, plan_attention
from tinymoe.kernels.cpu.plan_latent import plan_latent
from tinymoe.kernels.cpu.plan_moe import plan_moe
from tinymoe.kernels.cpu.program import Program
from tinymoe.kernels.cpu.residual import embed
from tinymoe.kernels.cpu.simd import LANES
from tinymoe.kernels.cpu.weights import Attention, Dense, Latent, Moe, Weights

View = Callable[[int], Array]  # of so many tokens: the activation


class Plan:
    """The program of one model, for one cache and up to `tokens` tokens a step."""

    def __init__(
        self,
        weights: Weights,
        config: ModelConfig,
        numerics: Numerics,
        cache: PagedKeysValues,
        tokens: int,
        *,
        threads: int,
        traced: bool,
    ) -> None:
        """`traced`: every activation gets an array of its own.

        Of the cache its pages alone are held: it can go, and the plan with it (`Step._plan`).
        """
        self.config, self.numerics, self.threads = config, numerics, threads
        self._cache, self.page_size = weakref.ref(cache), cache.page_size
        self.header: Header | None = None  # of the batch that it was last run for
        self.program, self.buffers = Program(), Buffers(tokens, traced)
        self.rounding = int(numerics.storage == "bfloat16")
        self.taps: list[tuple[str, View]] = []
        self.turns: dict[RopeCard, Turns] = {}
        self.width = config.hidden_size
        self._build(weights)

    @cached_property
    def own_words(self) -> int:
        """What the hungriest kernel needs of each thread's memory, in 8 bytes each."""
        router = self.config.router
        return max(
            top1.WORDS,
            routing.own_words(router.experts, router.top_k),
            own_words(self.config),
        )

    def fits(
        self, config: ModelConfig, numerics: Numerics, cache: PagedKeysValues, tokens: int
    ) -> bool:
        """It is of this model and cache, and has room for so many tokens."""
        return (
            self._cache() is cache
            and self.config is config
            and self.numerics is numerics
            and self.buffers.tokens >= tokens
        )

    def pages(self, layer: int) -> tuple[Array, Array]:
        """Key and value pages of a layer, as kernels read them."""
        cache = self._cache()
        if not isinstance(cache, PagedCache):
            raise TinymoeError(
                "the compiled step lays out a cache's pages for itself: expected a PagedCache, got "
                f"a {type(cache).__name__}"
            )
        return cache.laid_out(layer, tiles)

    def _build(self, weights: Weights) -> None:
        config, width = self.config, self.width
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
            x = self.attention(x, attention, layer)
            x = plan_moe(self, x, ffn, layer) if isinstance(ffn, Moe) else self.dense(x, ffn, layer)
        normed = self.norm(x, weights.final_norm, "final_norm")
        self.tap("final_norm", normed, width)
        self._head_bias = weights.head_bias
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

    @cached_property
    def greedy(self) -> Program:
        """The program whose head leaves `ids` alone: compiled when it is first wanted."""
        bias, room = self._head_bias, self.buffers.tokens
        found = header.aligned(top1.FOUND // 8 * room * self.threads, np.int64)
        self.ids = header.aligned(room, np.int64)
        program = self.program.without_last()
        program.add(
            top1.head,
            **self._head,
            bias=bias,
            divisor=float(np.float32(self.config.multipliers.logits_divisor)),
            vocabulary=self.config.vocab_size,
            found=found,
            room=room,
        )
        program.add(top1.choose_best, found=found, room=room, ids=self.ids)
        return program

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

    def norm(self, x: Array, weight: Array, name: str) -> Array:
        """RMSNorm of all rows: (T, H)."""
        out = self.buffers.rows(f"{name}/normed", self.width)
        self.program.add(
            rmsnorm,
            x=x,
            x_stride=x.shape[1],
            width=self.width,
            weight=weight,
            eps=self.config.rms_norm_eps,
            out=out,
            out_stride=out.shape[1],
            rounding=self.rounding,
            parts=1,
            part_stride=0,
            weight_stride=0,
            out_part_stride=0,
            rounds_before_weight=self.config.norm_rounds_before_weight,
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
        by_token: bool = False,
        ready: bool = False,
    ) -> None:
        """out = x times a matrix; with `residual`, that plus so much times the residual factor.

        by_token: threads share tokens rather than the matrix. ready: see `inputs.given`.
        """
        entering = given(self, x, weight, count=count, rows=rows, ready=ready)
        if by_token and weight.rows <= LANES and weight.form.name in UNSCALED:
            entering["multiply"] = multiply(weight.form.name, narrow=True)
        self._head = entering  # of the last product
        self.program.add(
            product.linear_by_token if by_token else product.linear,
            **self._head,
            count=count,
            rows=rows,
            bias=bias,
            out=out,
            out_stride=out.shape[1],
            residual=residual,
            part=part,
            factor=self.config.multipliers.residual,
            kind=kind,
            rounding=self.rounding if rounding is None else rounding,
        )

    def attention(self, x: Array, params: Attention | Latent, layer: int) -> Array:
        """The attention half of a layer, of either kind: x (T, H) -> (T, H)."""
        card = self.attention_card(layer)
        if isinstance(params, Attention):
            return plan_attention(self, x, params, layer)
        assert card.latent is not None  # the weights were packed by it
        return plan_latent(self, x, params, card, card.latent, layer)

    def dense(self, x: Array, params: Dense, layer: int) -> Array:
        """A layer's feed-forward part without experts: x (T, H) -> (T, H)."""
        name, width = f"layers.{layer}", self.width
        normed = self.norm(x, params.norm, f"{name}.mlp.norm")
        self.tap(f"{name}.mlp.norm", normed, width)
        hidden, flag, ready = between(self, params.gate_up, params.down)
        out, part = self.sum_of(name, "out"), self.part_of(f"{name}.mlp.out")
        self.product(normed, params.gate_up, hidden, kind=product.SWIGLU | flag)
        self.product(hidden, params.down, out, residual=x, part=part, ready=ready)
        if part is not None:
            self.tap(f"{name}.mlp.out", part, width)
        self.tap(f"{name}.out", out, width)
        return out

    # ------------------------------------------------------------------------ buffers

    def sum_of(self, layer: str, place: str) -> Array:
        """Where the residual goes on: in place, or, traced, its own array."""
        return self.buffers.rows(f"{layer}.{place}/x", self.width)

    def part_of(self, name: str) -> Array | None:
        """A traced part's own array; None when nobody looks."""
        return self.buffers.rows(f"{name}/part", self.width) if self.buffers.traced else None

    def turns_of(self, card: RopeCard) -> Turns:
        """The card's cosines and sines, one for all layers that share it."""
        if card not in self.turns:
            self.turns[card] = Turns(card, self.numerics)
        return self.turns[card]

    def attention_card(self, layer: int) -> AttentionCard:
        """Of a layer that looks back."""
        card = self.config.attention[layer]
        assert isinstance(card, AttentionCard)
        return card
