"""Each fast form of the definition against its slow twin in the same file.

The twins are short loops in Python floats (float64), so a float32 result may differ from them by
float32's own rounding and by nothing else. u = 2^-24 is the most by which one float32 operation is
off, relative to its result; the bounds below count operations.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.tiny import tiny_card
from tinymoe.cache import PagedCache
from tinymoe.cards import NO_MULTIPLIERS, PLAIN_SWIGLU, full_attention
from tinymoe.core import (
    NUMERICS,
    Batch,
    ModelConfig,
    Numerics,
    RopeCard,
    RouterCard,
    Routing,
    Run,
)
from tinymoe.model.attention import (
    attend,
    attend_naive,
    attention_decode,
    attention_prefill,
    first_seen,
    slots_of,
    write_pages,
)
from tinymoe.model.experts import moe_naive, permute
from tinymoe.model.norm import layernorm, layernorm_naive, rmsnorm, rmsnorm_naive
from tinymoe.model.params import AttentionParams, LayerParams, MoeParams, Params
from tinymoe.model.precision import store
from tinymoe.model.router import route_logits, route_naive
from tinymoe.model.transformer import forward

pytestmark = pytest.mark.definition

FP32 = NUMERICS["fp32"]
U = 2.0**-24


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("size", [1, 7, 64, 300])
@pytest.mark.parametrize("magnitude", [1e-4, 1.0, 1e4])
def test_rmsnorm(size: int, magnitude: float) -> None:
    # at 1e-4 eps decides the result: outside the root, or missing, it shows
    x, weight = normal(3, size) * np.float32(magnitude), normal(size, seed=1)
    got = rmsnorm(x, weight, 1e-6, FP32, rounds_before_weight=True)
    wanted = np.array([rmsnorm_naive(row, weight, 1e-6) for row in x])
    # N squares and a sum of N positive terms: (N + 1) u at most; mean, eps and its addition: 3 u;
    # the root halves these; root, quotient and product: 3 u
    bound = ((size + 4) / 2 + 3) * U
    assert (np.abs(got - wanted) <= bound * np.abs(wanted)).all()


def test_first_seen() -> None:
    # worked out by hand. A window of 3 shows positions 3, 4, 5 to position 5: itself and two
    # before; taken as three before, the sum has a key too many. A chunk of 4 begins at 4.
    assert [first_seen(i, 3, None) for i in range(6)] == [0, 0, 0, 1, 2, 3]
    assert [first_seen(i, None, 4) for i in range(9)] == [0, 0, 0, 0, 4, 4, 4, 4, 8]
    assert [first_seen(i, 3, 4) for i in range(6)] == [0, 0, 0, 1, 4, 4]
    assert first_seen(5, None, None) == 0


@pytest.mark.parametrize("size", [2, 7, 64, 300])
@pytest.mark.parametrize("mean", [0.0, 10.0])
def test_layernorm(size: int, mean: float) -> None:
    # a mean that is not taken off, a bias that is scaled with the rest
    x, weight, bias = normal(3, size) + np.float32(mean), normal(size, seed=1), normal(size, seed=2)
    got = layernorm(x, weight, bias, 1e-6, FP32)
    wanted = np.array([layernorm_naive(row, weight, bias, 1e-6) for row in x])
    # the mean: N u of the mean size, and one rounding of the difference, a value of which enters
    # the squares twice; relative to the root, which is 1 here: (N + 1) u (|mean| + 4) and again
    # half of it through the root, at most; the squares' own sum, root, quotient, weight: (N + 8) u
    # of up to 4; the bias: u
    bound = (1.5 * (size + 1) * (mean + 4) + 4 * (size + 8)) * U
    assert np.abs(got - wanted).max() <= bound * np.abs(weight).max() + 2 * U * np.abs(bias).max()


@pytest.mark.parametrize("n", [1, 2, 33])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (3, 1)])
def test_attend(n: int, heads: int, kv_heads: int) -> None:
    # with 6 query and 2 key heads, head 1 reads key head 0 (consecutive), not 1 (alternating)
    q, k, v = normal(heads, 8), normal(n, kv_heads, 8, seed=1), normal(n, kv_heads, 8, seed=2)
    scale = 8**-0.5
    got, wanted = attend(q, k, v, scale), np.array(attend_naive(q, k, v, scale))
    # a score: a dot product over D = 8, the scale, the maximum off: (D + 3) u of the largest
    # sum |q||k|; it moves a weight by twice that factor. exp (4 u), its sum over n, the quotient
    # and the weighted sum over n: (2 n + 6) u of the largest value. 1.01: products of errors
    largest = scale * np.abs(q).sum(axis=-1).max() * np.abs(k).max()
    bound = 1.01 * (2 * (8 + 3) * largest + 2 * n + 6) * U * np.abs(v).max()
    assert np.abs(got - wanted).max() <= bound


SIGHTS: dict[str, dict[str, Any]] = {
    "all": {},
    "window": {"window": 3},
    "wide window": {"window": 100},
    "chunk": {"chunk": 4},
    "sinks": {"sinks": np.arange(6, dtype=np.float32) - 3},
    "window and sinks": {"window": 5, "sinks": np.arange(6, dtype=np.float32) - 3},
}


@pytest.mark.parametrize("preset", NUMERICS)
@pytest.mark.parametrize("sight", SIGHTS)
def test_prefill_is_decode_bit_for_bit(preset: str, sight: str) -> None:
    # vllm#26042: a prompt cut into chunks gave other numbers than one in a piece
    named = SIGHTS[sight]
    numerics = NUMERICS[preset]
    tokens, page_size, table = 11, 4, np.array([3, 0, 2])
    q, k, v = (
        store(normal(tokens, heads, 8, seed=heads).astype(numerics.dtype), numerics.storage)
        for heads in (6, 2, 2)
    )
    pages = np.full((2, 4, page_size, 2, 8), np.nan, numerics.dtype)  # a stray read shows
    for kind, values in enumerate((k, v)):
        write_pages(pages[kind], slots_of(np.arange(tokens), table, page_size), values)
    whole = attention_prefill(q, *pages, table, 0, 0.3, numerics, **named)
    cut = [
        attention_prefill(q[a:b], *pages, table, a, 0.3, numerics, **named)
        for a, b in ((0, 5), (5, 11))
    ]
    tables, lengths = [table] * tokens, list(range(1, 12))
    single = attention_decode(q, *pages, tables, lengths, 0.3, numerics, **named)
    np.testing.assert_array_equal(np.concatenate(cut), whole)
    np.testing.assert_array_equal(single, whole)


# ------------------------------------------------------------------------------- router, experts

CARD = tiny_card(experts=8, top_k=3, bias_dtype="model")
CARDS = {
    "qwen": CARD,
    "olmoe": replace(CARD, renormalise=False),
    "deepseek_v3": replace(
        CARD, score="sigmoid", selection_bias=True, renorm_epsilon=1e-20, scale=2.5
    ),
    "ernie": replace(CARD, selection_bias=True, renorm_floor=1e-12),
    "gpt_oss": replace(CARD, score="identity", weight_from="softmax_of_chosen", renormalise=False),
    "llama4": replace(
        CARD, score="identity", weight_from="sigmoid_of_chosen", renormalise=False, top_k=1
    ),
    "all experts": replace(CARD, top_k=8),
    "phi": replace(CARD, score="identity", weight_from="sparsemixer", renormalise=False, top_k=2),
}


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("ties", [False, True])
def test_route(name: str, ties: bool) -> None:
    # ties: logits that are whole numbers, so that several experts share a score (vllm#52679: the
    # library's top-k leaves open which of them wins). The bias chooses and never weighs
    # (vllm#12002).
    card = CARDS[name]
    logits = np.round(normal(50, 8)) if ties else normal(50, 8)
    bias = normal(8, seed=1) if card.selection_bias else None
    got = route_logits(logits, bias, card)
    for t in range(len(logits)):
        wanted = route_naive(logits[t], bias, card)
        assert sorted(got.ids[t].tolist()) == sorted(expert for expert, _ in wanted)
        exact = dict(wanted)
        for expert, weight in zip(got.ids[t].tolist(), got.weights[t].tolist(), strict=True):
            # both begin with the same float32 scores or logits; the rest is a sum over K (K u),
            # epsilon, quotient and scale (3 u), and for a softmax of the chosen, whose twin sums
            # the same powers in another order in float32, K u more
            assert abs(weight - exact[expert]) <= (2 * card.top_k + 3) * U * exact[expert]
        pairs = list(zip((-got.weights[t]).tolist(), got.ids[t].tolist(), strict=True))
        assert pairs == sorted(pairs)  # weight descending, then id


@pytest.mark.parametrize("weight_on", ["output", "input"])
@pytest.mark.parametrize("preset", NUMERICS)
def test_grouped_experts_equal_the_loop_bit_for_bit(preset: str, weight_on: Any) -> None:
    # sorted, grouped, put back and summed: the same bits as token by token, choice by choice.
    # 2 tokens with 3 of 8 experts leave some expert unused: its rows are an empty range.
    numerics, card = NUMERICS[preset], replace(CARD, weight_on=weight_on)
    taps: dict[str, np.ndarray] = {}

    def keep(name: str, value: np.ndarray) -> None:
        taps[name] = value.copy()

    config, params = one_layer(card, numerics)
    cache = PagedCache.for_model(config, numerics, positions=2)
    run = Run(slice(0, 2), 0, cache.take(2))
    batch = Batch(np.arange(2), np.arange(2), (run,), np.arange(2))
    forward(params, config, batch, cache, numerics, tap=keep)
    routing = Routing(*(taps[f"layers.0.router.{field}"] for field in Routing._fields))
    assert len(np.unique(routing.ids)) < card.experts
    normed, ffn = taps["layers.0.moe.norm"], params.layers[0].ffn
    assert isinstance(ffn, MoeParams)
    wanted = moe_naive(normed, routing, ffn.gate_up, ffn.down, card, numerics)
    np.testing.assert_array_equal(taps["layers.0.moe.routed"], wanted)


def one_layer(card: RouterCard, numerics: Numerics) -> tuple[ModelConfig, Params]:
    """A model of one layer with random weights; V 4, H 12, D 6, I 5."""
    V, H, D, width, E = 4, 12, 6, 5, card.experts
    rope = RopeCard(theta=1e4, rotary_dim=D, pairing="half", scaling=None)
    config = ModelConfig(
        family="test",
        vocab_size=V,
        hidden_size=H,
        layers=("moe",),
        attention=(full_attention(D, rope),),
        heads=2,
        kv_heads=1,
        head_dim=D,
        norm="rms",
        rms_norm_eps=1e-6,
        norm_rounds_before_weight=True,
        dense_intermediate=1,
        moe_intermediate=width,
        experts=PLAIN_SWIGLU,
        router=card,
        multipliers=NO_MULTIPLIERS,
        residual=None,
        tied_head=True,
        max_positions=8,
    )

    def stored(seed: int, *shape: int) -> np.ndarray:
        return store(normal(*shape, seed=seed).astype(numerics.dtype), numerics.storage)

    attention = AttentionParams(
        norm=stored(1, H),
        qkv=stored(2, 4 * D, H),
        qk_norm=None,
        out=stored(5, H, 2 * D),
    )
    experts = MoeParams(
        norm=stored(6, H),
        router=stored(7, E, H),
        selection_bias=None,
        gate_up=stored(8, E, 2 * width, H),
        down=stored(9, E, H, width),
    )
    layers = (LayerParams(attention=attention, ffn=experts),)
    embed = stored(10, V, H)
    return config, Params(embed=embed, layers=layers, final_norm=stored(11, H), head=embed)


def test_permutation_is_stable() -> None:
    # worked out by hand: slots are t * K + k, in the order of experts 0, 2, 2, 3
    order, offsets = permute(np.array([[2, 0], [3, 2]]), experts=5)
    assert order.tolist() == [1, 0, 3, 2]
    assert offsets.tolist() == [0, 1, 1, 3, 4, 4]
