"""What a step must read and compute, counted from the model: the bytes and the operations.

A decode step of B tokens reads every matrix once, however many tokens share it: that is why a
batch is cheap. Of the experts it reads those that some token chose. Operations are counted for
every token: a multiplication and an addition for each value of a matrix it meets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from tinymoe.core import Array, ModelConfig
from tinymoe.formats.inputs import InputFormat
from tinymoe.measure.stored import BYTES, MATRICES
from tinymoe.model.params import MoeParams, Params, SharedParams
from tinymoe.model.weights import plain

FLOAT32 = 4  # bytes of a cached number, where a backend does not hold it in fewer


class Work(NamedTuple):
    """Of one step."""

    bytes: float  # to read, at least
    flops: float  # additions and multiplications of matrices, attention and router

    def seconds(self, bandwidth: float, peak: float) -> float:
        """The least it can take: the longer of reading (bytes/s) and computing (flop/s)."""
        return max(self.bytes / bandwidth, self.flops / peak)


class Counts(NamedTuple):
    """Sizes of a model's weights, in values, taken before a backend lays them out anew."""

    matrices: int  # that every token meets: attention, dense and shared parts, head
    experts: tuple[int, ...]  # of one expert, by layer with a mixture
    routers: int
    small: int  # norms and biases
    row: int  # of the embedding
    embedding: int  # all of it; 0 where it is the head

    @classmethod
    def of(cls, params: Params) -> Counts:
        """Of a whole model."""
        experts, routers, matrices, small = [], 0, plain(params.head).size, params.final_norm.size
        for layer in params.layers:
            parts = [*_named(layer.attention), *_named(layer.ffn)]
            if isinstance(layer.ffn, MoeParams):
                stacks = (plain(layer.ffn.gate_up), plain(layer.ffn.down))
                experts.append(sum(stack.size // len(stack) for stack in stacks))
                routers += layer.ffn.router.size
                parts = [part for part in parts if not any(part[1] is stack for stack in stacks)]
            for name, array in parts:
                if name in MATRICES:
                    matrices += array.size
                elif name != "router":
                    small += array.size
        tied = params.head is params.embed
        H = params.embed.shape[1]
        return cls(matrices, tuple(experts), routers, small, H, 0 if tied else params.embed.size)

    def weight_bytes(self, form: str, config: ModelConfig) -> float:
        """Of the whole model in a format."""
        all_experts = config.router.experts * sum(self.experts)
        row = 4 if form == "fp32" else 2
        stored = BYTES[form] * (self.matrices + all_experts)
        return stored + 4 * (self.routers + self.small) + row * self.embedding


def experts_met(config: ModelConfig, tokens: int) -> float:
    """Distinct experts of a layer that T tokens choose, all chosen alike: E (1 - (1 - K/E)^T).

    >>> from tinymoe.measure.shapes import SHAPES
    >>> experts_met(SHAPES["small"], 1)
    2.0
    """
    E, K = config.router.experts, config.router.top_k
    return float(round(E * (1 - (1 - K / E) ** tokens), 9))


def decode_work(
    counts: Counts,
    config: ModelConfig,
    form: str,
    batch: int,
    context: float,
    met: Sequence[float] | None = None,
    cached: int = FLOAT32,
) -> Work:
    """A step that gives each of `batch` sequences one token, which sees `context` keys.

    `met`: distinct experts by layer with a mixture, as counted; None: expected of even routing.
    `cached`: bytes of a number in the cache's pages, see `PagedCache.itemsize`.
    """
    touched = met or [experts_met(config, batch)] * len(counts.experts)
    experts = sum(n * one for n, one in zip(touched, counts.experts, strict=True))
    read = BYTES[form] * (counts.matrices + experts) + 4 * (counts.routers + counts.small)
    read += batch * counts.row * (4 if form == "fp32" else 2)
    values, products = cache_work(config, context)
    active = counts.matrices + config.router.top_k * sum(counts.experts) + counts.routers
    return Work(read + batch * values * cached, batch * (2 * active + products))


def prefill_work(counts: Counts, config: ModelConfig, form: str, tokens: int) -> Work:
    """A step that takes in a prompt of so many tokens; logits of the last one alone."""
    one = decode_work(counts, config, form, tokens, 0)
    head = config.vocab_size * config.hidden_size
    _, products = cache_work(config, (tokens + 1) / 2)  # the mean of 1 .. T keys
    flops = one.flops - 2 * head * (tokens - 1) + tokens * products
    return Work(one.bytes, flops)


def cache_work(config: ModelConfig, context: float) -> tuple[float, float]:
    """(values read, operations) of all layers for one token that sees `context` keys."""
    values = products = 0.0
    for layer in range(config.num_layers):
        group = config.cache_groups[config.group_of(layer)]
        if group.kind == "state":
            continue
        seen = context if group.kind == "all" else min(context, group.span)
        keys, held = config.cached(layer)
        values += seen * (keys[0] * keys[1] + (0 if held is None else held[0] * held[1]))
        products += 2 * seen * config.heads * (keys[1] + config.value_dim(layer))
    return values, products


def _named(part: Any) -> Iterator[tuple[str, Array]]:
    """Arrays of a part of a layer by field, a shared expert's among them."""
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, SharedParams):
            yield from _named(value)
        elif value is not None and not isinstance(value, InputFormat):
            yield field.name, plain(value)
