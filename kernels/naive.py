"""The naive twins as implementations of the ops: loops over tokens, Python floats, no tricks.

Each adapts the twin beside a definition (`attend_naive`, `route_naive`, ...) to the op's
arguments. They are the first rows that the op table's checks are run on, and the slow form to
read next to any kernel.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from tinymoe.cards import PLAIN_SWIGLU, ExpertCard
from tinymoe.core import Array, Numerics, Permutation, RopeCard, RouterCard, Routing, Sampling
from tinymoe.kernels.check_sample import Drawn
from tinymoe.model.attention import attend_naive
from tinymoe.model.norm import rmsnorm_naive
from tinymoe.model.precision import store
from tinymoe.model.router import route_naive, router_logits, score
from tinymoe.random_draw import draw


def _as_stored(values: Any, numerics: Numerics, shape: tuple[int, ...]) -> Array:
    return store(np.array(values, numerics.dtype).reshape(shape), numerics.storage)


def linear(x: Array, weight: Array, numerics: Numerics, *, bias: Array | None = None) -> Array:
    """One dot product at a time."""
    added = [0.0] * len(weight) if bias is None else [float(b) for b in bias]
    out = [
        math.fsum([*(float(a) * float(b) for a, b in zip(row, column, strict=True)), extra])
        for row in x
        for column, extra in zip(weight, added, strict=True)
    ]
    return _as_stored(out, numerics, (len(x), len(weight)))


def rmsnorm(
    x: Array, weight: Array, eps: float, numerics: Numerics, *, rounds_before_weight: bool
) -> Array:
    """One vector at a time; the weight apart where x / rms is rounded before it."""
    rows = x.reshape(-1, x.shape[-1])
    if not rounds_before_weight:
        return _as_stored([rmsnorm_naive(row, weight, eps) for row in rows], numerics, x.shape)
    ones = np.ones_like(weight)
    normed = _as_stored([rmsnorm_naive(row, ones, eps) for row in rows], numerics, x.shape)
    return store(normed * weight, numerics.storage)


def rope(x: Array, tables: tuple[Array, Array], card: RopeCard, numerics: Numerics) -> Array:
    """One pair at a time, as a complex number times cos + i sin."""
    out = x.copy()
    half = card.rotary_dim // 2
    for t, head, j in np.ndindex(x.shape[0], x.shape[1], half):
        first, second = (j, j + half) if card.pairing == "half" else (2 * j, 2 * j + 1)
        turn = complex(tables[0][t, 0, j], tables[1][t, 0, j])
        product = complex(x[t, head, first], x[t, head, second]) * turn
        out[t, head, first], out[t, head, second] = product.real, product.imag
    return store(out, numerics.storage)


def attention_decode(
    q: Array,
    key_pages: Array,
    value_pages: Array,
    block_tables: Sequence[Array],
    lengths: Sequence[int],
    scale: float,
    numerics: Numerics,
    *,
    window: int | None = None,
    chunk: int | None = None,
    sinks: Array | None = None,
) -> Array:
    """One sequence at a time, its keys fetched one by one."""
    rows = []
    for r, (table, length) in enumerate(zip(block_tables, lengths, strict=True)):
        size = key_pages.shape[1]
        seen = [
            i
            for i in range(length)
            if (window is None or i > length - 1 - window)
            and (chunk is None or i // chunk == (length - 1) // chunk)
        ]
        places = [(int(table[i // size]), i % size) for i in seen]
        k = np.array([key_pages[page, place] for page, place in places])  # (n, Nk, D)
        v = np.array([value_pages[page, place] for page, place in places])
        rows.append(attend_naive(q[r], k, v, scale, sinks))
    return _as_stored(rows, numerics, (*q.shape[:2], value_pages.shape[-1]))


def attention_prefill(
    q: Array,
    key_pages: Array,
    value_pages: Array,
    block_table: Array,
    start: int,
    scale: float,
    numerics: Numerics,
    *,
    window: int | None = None,
    chunk: int | None = None,
    sinks: Array | None = None,
) -> Array:
    """A decode of each token, as if the later ones had not come yet."""
    lengths = [start + t + 1 for t in range(len(q))]
    tables = [block_table] * len(q)
    return attention_decode(
        *(q, key_pages, value_pages, tables, lengths, scale, numerics),
        window=window,
        chunk=chunk,
        sinks=sinks,
    )


def route(
    x: Array,
    weight: Array,
    bias: Array | None,
    card: RouterCard,
    numerics: Numerics,
    *,
    logit_bias: Array | None = None,
) -> Routing:
    """One token at a time; group limits as a second bias, which masks what was dropped."""
    logits = router_logits(x, weight, card, numerics, logit_bias)
    scores = score(logits, card)
    ids = np.zeros((len(x), card.top_k), np.int64)
    weights = np.zeros((len(x), card.top_k), numerics.dtype)
    margin = np.full(len(x), np.inf, numerics.dtype)
    for t, row in enumerate(scores):
        values = [float(value) for value in row]
        extra = [0.0] * card.experts if bias is None else [float(b) for b in bias]
        if card.groups_kept < card.groups:
            extra = _mask_groups(values, extra, card)
        pairs = route_naive(logits[t], np.array(extra), card)
        ids[t], weights[t] = [e for e, _ in pairs], [w for _, w in pairs]
        ranked = sorted((v + b for v, b in zip(values, extra, strict=True)), reverse=True)
        if card.top_k < card.experts:
            margin[t] = ranked[card.top_k - 1] - ranked[card.top_k]
    return Routing(logits, scores, ids, weights, margin)


def _mask_groups(values: list[float], bias: list[float], card: RouterCard) -> list[float]:
    """The bias (E,), changed so that value + bias is -inf or 0 in every dropped group."""
    if any(map(math.isnan, values)):
        return bias
    size = card.experts // card.groups
    biased = [v + b for v, b in zip(values, bias, strict=True)]
    members = [sorted(biased[g * size : (g + 1) * size], reverse=True) for g in range(card.groups)]
    best = 1 if card.group_score == "max" else 2
    ranked = sorted(range(card.groups), key=lambda g: (-sum(members[g][:best]), g))
    dropped = ranked[card.groups_kept :]
    masked = [-math.inf if card.dropped_group == "-inf" else -value for value in values]
    return [masked[e] if e // size in dropped else bias[e] for e in range(card.experts)]


def permute(ids: Array, experts: int) -> Permutation:
    """A list of slots for each expert."""
    flat = [int(i) for i in ids.reshape(-1)]
    lists = [[slot for slot, e in enumerate(flat) if e == expert] for expert in range(experts)]
    order = [slot for slots in lists for slot in slots]
    offsets = [sum(map(len, lists[:expert])) for expert in range(experts + 1)]
    return Permutation(np.array(order, np.int64), np.array(offsets, np.int64))


def expert_ffn(
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
    """One row at a time through its expert, the activation one number at a time."""
    out, width = np.empty_like(x), down.shape[2]
    for r in range(len(x)):
        expert = max(e for e in range(len(gate_up)) if offsets[e] <= r)
        biases = [None if b is None else b[expert] for b in (gate_up_bias, down_bias)]
        first = linear(x[r][None], gate_up[expert], numerics, bias=biases[0])[0]
        pairs = zip(first[:width].tolist(), first[width:].tolist(), strict=True)
        hidden = _as_stored([_activate(g, u, card) for g, u in pairs], numerics, (1, width))
        out[r] = linear(hidden, down[expert], numerics, bias=biases[1])[0]
    return out


def _activate(gate: float, up: float, card: ExpertCard) -> float:
    """One pair of numbers to one."""
    alpha = 1.0
    if card.clamp_limit is not None and card.clamp_alpha is not None:
        alpha, limit = card.clamp_alpha, card.clamp_limit
        gate, up = min(gate, limit), max(-limit, min(up, limit)) + 1
    if alpha * gate < -700:  # e^700 is near the largest number
        return -0.0 * up
    return gate / (1 + math.exp(-alpha * gate)) * up


def combine(expert_out: Array, weights: Array, numerics: Numerics) -> Array:
    """One number at a time, choices in order."""
    tokens, chosen, hidden = expert_out.shape
    out = np.zeros((tokens, hidden), numerics.dtype)
    for t, h in np.ndindex(tokens, hidden):
        total = 0.0
        for k in range(chosen):
            total += float(weights[t, k]) * float(expert_out[t, k, h])
        out[t, h] = total
    return store(out, numerics.storage)


def sample(
    logits: Array,
    sampling: Sampling,
    prompt_ids: Sequence[int] = (),
    output_ids: Sequence[int] = (),
    end_ids: Collection[int] = (),
) -> Drawn:
    """A dict of the tokens still possible, from which each step strikes some."""
    x = _penalised(logits, sampling, prompt_ids, output_ids, end_ids)
    if sampling.temperature < 1e-5:
        best = max(x, key=lambda i: (x[i], -i))
        return Drawn(np.eye(len(logits))[best], best)
    x = {i: value / sampling.temperature for i, value in x.items() if value > -math.inf}
    steps = [_min_p, _top_k, _top_p] if sampling.order == "vllm" else [_top_k, _top_p, _min_p]
    for step in steps:
        x = step(x, sampling)
    powers = _powers(x)
    probabilities = np.zeros(len(logits))
    for i, power in powers.items():
        probabilities[i] = power / math.fsum(powers.values())
    return Drawn(probabilities, draw(probabilities, sampling.seed, len(output_ids)))


Tokens = dict[int, float]  # token id -> logit


def _penalised(
    logits: Array,
    sampling: Sampling,
    prompt_ids: Sequence[int],
    output_ids: Sequence[int],
    end_ids: Collection[int],
) -> Tokens:
    forbidden = {*end_ids, *sampling.stop_ids} if len(output_ids) < sampling.min_tokens else set()
    seen, counts = {*prompt_ids, *output_ids}, Counter(output_ids)
    x: Tokens = {}
    for i, logit in enumerate(logits):
        value = -math.inf if i in forbidden else float(logit)
        value += sampling.logit_bias.get(i, 0.0)
        if i in seen:
            r = sampling.repetition_penalty
            value = value / r if value > 0 else value * r
        if counts[i]:
            value -= sampling.frequency_penalty * counts[i] + sampling.presence_penalty
        x[i] = value
    return x


def _powers(x: Tokens) -> Tokens:
    top = max(x.values())
    return {i: math.exp(value - top) for i, value in x.items()}


def _min_p(x: Tokens, sampling: Sampling) -> Tokens:
    powers = _powers(x)
    return {i: value for i, value in x.items() if powers[i] >= sampling.min_p}


def _top_k(x: Tokens, sampling: Sampling) -> Tokens:
    if sampling.top_k == 0:
        return x
    least = sorted(x.values(), reverse=True)[: sampling.top_k][-1]
    return {i: value for i, value in x.items() if value >= least}


def _top_p(x: Tokens, sampling: Sampling) -> Tokens:
    if sampling.top_p == 1:
        return x
    powers = _powers(x)
    total, mass = math.fsum(powers.values()), 0.0
    kept: Tokens = {}
    for i in sorted(x, key=lambda i: (-x[i], i)):
        if kept and mass >= sampling.top_p * total:
            break
        kept[i] = x[i]
        mass += powers[i]
    return kept
