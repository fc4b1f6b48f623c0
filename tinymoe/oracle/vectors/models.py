"""Vectors of whole small models: every activation, from the embedding to the logits.

The models are the mutants' specimens, each with the features of a kind of family. No closed bound
of a whole model is of use (norms of matrices multiply), so the tolerance is found by shaking: see
`shaken`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count, pairwise
from typing import Any

import numpy as np

from tinymoe.cards import PLAIN_SWIGLU
from tinymoe.core import NUMERICS, Array, ModelConfig, Routing
from tinymoe.kernels.bounds import gamma, unit
from tinymoe.kernels.checks import attend_bound, ffn_bound
from tinymoe.model.attention import first_seen, read_pages
from tinymoe.model.ops import DEFINITION, Ops
from tinymoe.model.precision import linear_unrounded
from tinymoe.model.router import route_logits
from tinymoe.oracle.mutants.specimen_params import random_params
from tinymoe.oracle.mutants.specimens import CONFIGS, IDS
from tinymoe.oracle.trace import trace
from tinymoe.oracle.vectors.vector import Vector

FP32, EXACT = NUMERICS["fp32"], NUMERICS["exact"]
U = unit(FP32)
TOKENS = IDS[:9]
PROBES, SIGMAS, OTHERS = 32, 6, 64
SKIPPED = ("tokens", "router.margin", "moe.expert_out")
DERIVATION = (
    f"float64. Tolerance: {PROBES} runs in float64 in which every op's output is moved by all that "
    "float32 may do to it (its bound in the op table), up or down at random; a value's tolerance "
    f"is {SIGMAS} standard deviations of its moves, and {OTHERS} roundings of the largest value of "
    "its row for what is no op (sums of the residual stream, LayerNorm, the head). In none of the "
    "runs does a router choose otherwise."
)
HOLDS = {
    "ties": "Qwen3's kind: normed queries and keys, a dense layer",
    "groups": "DeepSeek-V3's kind: latent attention, YaRN, groups, a shared expert",
    "sinks": "gpt-oss's kind: sinks, windows, biases, clamped SwiGLU, YaRN",
    "chunks": "Llama-4's kind: chunks, a layer without positions, weighted inputs",
    "input-pairs": "two experts per token, their inputs weighted",
    "mixer": "Phi-3.5-MoE's kind: LayerNorm, sparsemixer, longrope, a window",
    "clipped": "OLMoE's kind, with Granite's constants: heads normed as one, clipped",
    "band": "GLM-4.5's kind: partial rope, norm after rope, a gated shared expert",
    "mixed-bias": "Ernie's kind: softmax with a bias, interleaved rope",
}


def model_vectors() -> Iterator[Vector]:
    """All of them."""
    for name in CONFIGS:
        yield _model(name)


def _model(name: str) -> Vector:
    """The first seed at which no probe moves a choice."""
    config = CONFIGS[name]
    drawn_as = "" if name == "ties" else name  # its equal experts are the router vectors' business
    for seed in count():
        params = random_params(config, EXACT, seed, drawn_as)
        want = _taps(params, config, DEFINITION)
        moves = [
            _taps(params, config, shaken(np.random.default_rng(probe))) for probe in range(PROBES)
        ]
        chosen = [tap for tap in want if tap.endswith("router.ids")]
        if all((move[tap] == want[tap]).all() for move in moves for tap in chosen):
            break
    tolerance = {
        tap: _tolerance(value, [move[tap] for move in moves])
        for tap, value in want.items()
        if tap not in chosen
    }
    return Vector(
        name=f"model/{name}",
        op="model",
        holds=f"{HOLDS[name]}; nine tokens.",
        given={
            "config": config,
            "params": random_params(config, FP32, seed, drawn_as),
            "ids": np.array(TOKENS, np.int64),
            "numerics": FP32,
        },
        expected=want,
        tolerance=tolerance,
        derivation=DERIVATION,
        ties="no choice is within float32's reach of another",
    )


def _taps(params: Any, config: ModelConfig, ops: Ops) -> dict[str, Array]:
    found = trace(params, config, TOKENS, EXACT, ops=ops)
    return {tap: value for tap, value in found.items() if not tap.endswith(SKIPPED)}


def _tolerance(want: Array, moved: list[Array]) -> Array:
    spread = np.sqrt(np.mean([(m - want) ** 2 for m in moved], axis=0))
    others = gamma(OTHERS, U) * np.abs(want).max(axis=-1, keepdims=True)
    tolerance: Array = SIGMAS * spread + others
    return tolerance


def shaken(rng: np.random.Generator) -> Ops:
    """The definition in float64, every output moved by float32's error bound with a random sign.

    To first order a value's move is the sum of all these moves, each times what it counts for: a
    sum of many independent terms, whose standard deviation a few runs tell. A real float32's
    roundings are smaller than their bounds, and as good as independent.
    """
    moved = _Shaken(rng)
    return replace(
        DEFINITION,
        linear=moved.linear,
        rmsnorm=moved.rmsnorm,
        rope=moved.rope,
        attention_prefill=moved.attention_prefill,
        route=moved.route,
        expert_ffn=moved.expert_ffn,
        combine=moved.combine,
    )


class _Shaken:
    """The ops; signatures are the definition's."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def move(self, value: Array, bound: Array) -> Array:
        """Each number up or down by its bound."""
        return value + bound * self._rng.choice([-1.0, 1.0], value.shape)

    def linear(self, x: Array, weight: Array, numerics: Any, *, bias: Array | None = None) -> Array:
        size = linear_unrounded(np.abs(x), np.abs(weight), None if bias is None else np.abs(bias))
        return self.move(linear_unrounded(x, weight, bias), gamma(x.shape[-1] + 1, U) * size)

    def rmsnorm(self, x: Array, *rest: Any, **named: Any) -> Array:
        out = DEFINITION.rmsnorm(x, *rest, **named)
        return self.move(out, gamma(x.shape[-1] / 2 + 8, U) * np.abs(out))

    def rope(self, x: Array, tables: Any, card: Any, numerics: Any) -> Array:
        cosine, sine = (np.abs(table) for table in tables)
        sizes = [
            DEFINITION.rope(np.abs(x), (cosine, sign * sine), card, numerics) for sign in (-1, 1)
        ]
        bound = gamma(4, U) * np.maximum(*sizes)
        bound[..., card.rotary_dim :] = 0
        return self.move(DEFINITION.rope(x, tables, card, numerics), bound)

    def attention_prefill(
        self,
        q: Array,
        keys: Array,
        values: Array,
        table: Array,
        start: int,
        scale: float,
        numerics: Any,
        *,
        window: int | None = None,
        chunk: int | None = None,
        sinks: Array | None = None,
    ) -> Array:
        out = []
        for t, row in enumerate(q):
            first = first_seen(start + t, window, chunk)
            k, v = (read_pages(pages, table, start + t + 1, first) for pages in (keys, values))
            out.append(self.move(*attend_bound(row, k, v, scale, FP32, sinks)))
        return np.stack(out)

    def route(
        self, x: Array, weight: Array, bias: Array | None, card: Any, numerics: Any, **more: Any
    ) -> Routing:
        logits = self.linear(x, weight, numerics, bias=more.get("logit_bias"))
        found = route_logits(logits, bias, card)
        scores = self.move(found.scores, gamma(card.experts + 16, U) * np.abs(found.scores))
        roundings = 2 * card.experts + 32  # those of the scores, twice, and the steps after
        weights = self.move(found.weights, gamma(roundings, U) * np.abs(found.weights))
        return found._replace(scores=scores, weights=weights)

    def expert_ffn(
        self, x: Array, gate_up: Array, down: Array, offsets: Array, numerics: Any, **more: Any
    ) -> Array:
        out, card = np.empty_like(x), more.get("card", PLAIN_SWIGLU)
        for e, (start, stop) in enumerate(pairwise(offsets.tolist())):
            biases = [
                np.zeros(w.shape[1]) if (b := more.get(f"{part}_bias")) is None else b[e]
                for part, w in (("gate_up", gate_up), ("down", down))
            ]
            rows = x[start:stop]
            out[start:stop] = self.move(*ffn_bound(rows, gate_up[e], down[e], biases, card, FP32))
        return out

    def combine(self, out: Array, weights: Array, numerics: Any) -> Array:
        size = np.einsum("tkh,tk->th", np.abs(out), np.abs(weights))
        bound = gamma(weights.shape[1], U) * size
        return self.move(DEFINITION.combine(out, weights, numerics), bound)
