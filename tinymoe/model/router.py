"""The router: five named steps that decide which experts a token meets, and with what weight.

    score -> select -> gather -> renorm -> scale

A `RouterCard` says what each step does; families differ in their card, never in this code.
14 of 70 collected engine bugs are in these steps: each rule below names the one it prevents.
"""

from __future__ import annotations

import math

from tinymoe.core import Array, Numerics, RouterCard, Routing
from tinymoe.model.precision import array_module, linear_unrounded, store


def route(
    x: Array,
    weight: Array,
    bias: Array | None,
    card: RouterCard,
    numerics: Numerics,
    *,
    logit_bias: Array | None = None,
) -> Routing:
    """x (T, H), weight (E, H), bias (E,) or None -> `Routing` of T rows.

    `bias` chooses and never weighs; `logit_bias` (E,) is part of the logits (gpt-oss).

    All steps in `numerics.accumulate`; the logits are first rounded to the type the numerics
    or the card keeps them in. A row of NaN logits gives experts 0..K-1, distinct, and NaN
    weights (vllm#39288: the same expert twice, then an illegal memory access).
    """
    return route_logits(router_logits(x, weight, card, numerics, logit_bias), bias, card)


def router_logits(
    x: Array,
    weight: Array,
    card: RouterCard,
    numerics: Numerics,
    logit_bias: Array | None = None,
) -> Array:
    """x (T, H) times weight (E, H) transposed: (T, E), rounded as numerics and card say.

    sglang#29783: logits kept in BF16 where the model asks for float32 change the experts of
    3.6 % of tokens.
    """
    kept = numerics.router_logits
    if kept == "card":
        kept = numerics.storage if card.logits_dtype == "model" else "float32"
    return store(linear_unrounded(x, weight, logit_bias), kept)


def route_logits(logits: Array, bias: Array | None, card: RouterCard) -> Routing:
    """The five steps on given logits (T, E): what an engine's router kernel is compared with."""
    scores = score(logits, card)  # (T, E)
    ids, margin = select(scores, bias, card)  # (T, K), (T,)
    weights = gather(logits, scores, ids, card)  # (T, K)
    weights = renorm(weights, card)
    weights = scale(weights, card)
    ids, weights = by_weight(ids, weights)
    return Routing(logits, scores, ids, weights, margin)


def score(logits: Array, card: RouterCard) -> Array:
    """Step 1. Logits (T, E) to scores (T, E): softmax or sigmoid over all experts, or none."""
    if card.score == "softmax":
        return softmax(logits)
    if card.score == "sigmoid":
        return sigmoid(logits)
    return logits


def select(scores: Array, bias: Array | None, card: RouterCard) -> tuple[Array, Array]:
    """Step 2. Choose K experts of each row: ids (T, K) ascending, and the margin (T,).

    The bias takes part here and nowhere else (vllm#12002). The K largest win, the lower index
    first among equals; NaN is below every number. The margin is the gap at the cut: the last
    chosen minus the best left out (inf when K = E). A token whose margin is within a rounding
    error may route differently in a correct engine; one with a large margin may not.
    """
    xp = array_module(scores)
    choice = scores if bias is None else scores + bias  # (T, E)
    if card.groups_kept < card.groups:
        choice = drop_groups(choice, card)
    ranked = xp.argsort(-choice, axis=-1, kind="stable")  # (T, E); NaN sorts last
    ids = xp.sort(ranked[:, : card.top_k], axis=-1)  # (T, K)
    if card.top_k == card.experts:
        return ids, xp.full(len(scores), xp.inf, dtype=scores.dtype)
    at_cut = ranked[:, card.top_k - 1 : card.top_k + 1]  # (T, 2) last in, first out
    edge = pick(choice, at_cut)
    return ids, edge[:, 0] - edge[:, 1]


def drop_groups(choice: Array, card: RouterCard) -> Array:
    """Keep the best `groups_kept` of G groups; the others' experts get -inf or 0. (T, E).

    A mask of 0 lets a forbidden expert win once biased scores are negative (vllm#13474); the
    card states what the checkpoint's own code does.
    """
    xp = array_module(choice)
    tokens, experts = choice.shape
    members = choice.reshape(tokens, card.groups, experts // card.groups)  # (T, G, E/G)
    if card.group_score == "max":
        rating = members.max(axis=-1)  # (T, G)
    else:
        rating = xp.sort(members, axis=-1)[..., -2:].sum(axis=-1)  # (T, G) two largest
    ranked = xp.argsort(-rating, axis=-1, kind="stable")  # (T, G) lower group first in a tie
    kept = xp.zeros(rating.shape, dtype=bool)
    xp.put_along_axis(kept, ranked[:, : card.groups_kept], True, axis=-1)
    masked = -xp.inf if card.dropped_group == "-inf" else 0.0
    # NaN stays: were it masked in some groups only, those would win (vllm#39288)
    stays = kept[..., None] | xp.isnan(members)  # (T, G, E/G)
    dropped: Array = xp.where(stays, members, choice.dtype.type(masked))
    return dropped.reshape(tokens, experts)


def gather(logits: Array, scores: Array, ids: Array, card: RouterCard) -> Array:
    """Step 3. The chosen experts' raw weights (T, K): never with the selection bias in them.

    Taken from the scores, not recovered as (score + bias) - bias, which cancels to zero
    (vllm#47367: 0/0, then "!!!!!").
    """
    if card.weight_from == "score":
        return pick(scores, ids)
    if card.weight_from == "sparsemixer":
        return sparsemixer(logits, ids)
    chosen = pick(logits, ids)  # (T, K)
    return softmax(chosen) if card.weight_from == "softmax_of_chosen" else sigmoid(chosen)


MIXER_EPSILON = 0.01  # Phi's router_jitter_noise, which at inference is a threshold


def sparsemixer(logits: Array, ids: Array) -> Array:
    """Weights (T, 2) of the two largest logits: each against its near rivals alone (Phi).

    The first: a softmax over the logits l with (m - l) / max(|l|, m) <= 2 epsilon, m being its
    own; the second in the same way with the first left out. They do not sum to 1.
    """
    xp = array_module(logits)
    chosen = pick(logits, ids)  # (T, 2), by id
    first = xp.argmax(chosen, axis=-1)[:, None]  # (T, 1) the lower id in a tie
    weights, left = xp.empty_like(chosen), logits.copy()
    for place in (first, 1 - first):
        top = pick(chosen, place)  # (T, 1)
        with xp.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is no large distance
            far = (top - logits) / xp.maximum(xp.abs(logits), top) > 2 * MIXER_EPSILON
        powers = xp.exp(xp.where(far, -xp.inf, left) - top)  # (T, E)
        xp.put_along_axis(weights, place, 1 / powers.sum(axis=-1, keepdims=True), axis=-1)
        xp.put_along_axis(left, pick(ids, place), -xp.inf, axis=-1)
    return weights


def renorm(weights: Array, card: RouterCard) -> Array:
    """Step 4. Divide (T, K) by the row's sum, if the card says so; the sum by ascending id."""
    if not card.renormalise:
        return weights
    total = weights.sum(axis=-1, keepdims=True)  # (T, 1)
    if card.renorm_epsilon:
        total = total + card.renorm_epsilon
    if card.renorm_floor:
        total = array_module(weights).maximum(total, card.renorm_floor)
    return weights / total


def scale(weights: Array, card: RouterCard) -> Array:
    """Step 5. The routed scaling factor, once (vllm#24119 applied it twice)."""
    return weights if card.scale == 1.0 else weights * card.scale


def by_weight(ids: Array, weights: Array) -> tuple[Array, Array]:
    """Order each row by weight, largest first, equal weights by ascending id. (T, K) each."""
    xp = array_module(ids)
    order = xp.argsort(-weights, axis=-1, kind="stable")  # ids come in ascending
    return pick(ids, order), pick(weights, order)


def pick(values: Array, columns: Array) -> Array:
    """values (T, N) at columns (T, M) of the same row: (T, M)."""
    rows = array_module(values).arange(len(values))[:, None]  # (T, 1)
    picked: Array = values[rows, columns]
    return picked


def softmax(x: Array) -> Array:
    """Over the last axis, the row's maximum taken off first; NumPy's pairwise sum."""
    xp = array_module(x)
    powers = xp.exp(x - xp.maximum.reduce(x, axis=-1, keepdims=True))  # x.max() goes this way, too
    normalised: Array = powers / xp.add.reduce(powers, axis=-1, keepdims=True)
    return normalised


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), by the half that does not overflow: e^-|x| is at most 1."""
    xp = array_module(x)
    power = xp.exp(-xp.abs(x))
    value: Array = xp.where(x >= 0, 1.0, power) / (1.0 + power)
    return value


def route_naive(logits: Array, bias: Array | None, card: RouterCard) -> list[tuple[int, float]]:
    """The twin: one row of logits (E,), no groups, plain Python. [(id, weight)] as `Routing`."""
    values = [float(value) for value in score(logits[None], card)[0]]
    biased = [v + (0.0 if bias is None else float(bias[e])) for e, v in enumerate(values)]
    chosen = sorted(range(card.experts), key=lambda e: (-biased[e], e))[: card.top_k]
    if card.weight_from == "sparsemixer":
        return _mix_naive([float(value) for value in logits], chosen)
    source = values if card.weight_from == "score" else [float(value) for value in logits]
    weights = [source[e] for e in chosen]
    if card.weight_from != "score":
        squash = softmax if card.weight_from == "softmax_of_chosen" else sigmoid
        weights = [float(w) for w in squash(logits[chosen])]
    if card.renormalise:
        total = max(sum(weights) + card.renorm_epsilon, card.renorm_floor)
        weights = [w / total for w in weights]
    scaled = [(e, w * card.scale) for e, w in zip(chosen, weights, strict=True)]
    return sorted(scaled, key=lambda pair: (-pair[1], pair[0]))


def _mix_naive(logits: list[float], chosen: list[int]) -> list[tuple[int, float]]:
    """The twin of `sparsemixer`; `chosen` is largest first."""
    pairs, left = [], list(range(len(logits)))
    for expert in chosen:
        top = logits[expert]
        near = [
            logits[e]
            for e in left
            if not top - logits[e] > 2 * MIXER_EPSILON * max(abs(logits[e]), top)
        ]
        pairs.append((expert, 1 / sum(math.exp(value - top) for value in near)))
        left.remove(expert)
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
