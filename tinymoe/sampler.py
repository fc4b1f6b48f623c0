"""The sampler: logits to one token, with its log-probability.

    logits -> min_tokens, logit_bias -> repetition, frequency, presence     (greedy stops here)
           -> temperature -> min_p, top_k, top_p -> probabilities -> draw

Pure functions of one row of logits (V,), all in float64. `masked_probabilities` is the one to
compare with another engine: a draw depends on the engine's random stream, the vector does not.

`Sampling.order` says where min_p stands. "vllm": min_p, top_k, top_p. "transformers": top_k,
top_p, min_p. The sets kept differ, because top_p measures what the masks before it left over.
Nothing else of the order shows in the result: transformers masks for min_tokens after the
penalties, but -inf stays -inf under all of them. It has no frequency and presence penalty; ours
follow the repetition penalty in both orders.

`Sampling` is taken as `check_sampling` accepts it: call that once, when a request comes in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from tinymoe.core import Array, Sampling, TinymoeError
from tinymoe.random_draw import draw
from tinymoe.sampling_check import check_sampling

__all__ = [
    "Sampled",
    "best_ids",
    "check_sampling",
    "draw",
    "is_greedy",
    "log_probabilities",
    "masked_probabilities",
    "processed_logits",
    "sample",
    "softmax",
    "takes_largest",
]

GREEDY_BELOW = 1e-5  # a temperature below it is greedy, as in vLLM


class Sampled(NamedTuple):
    """What `sample` found: fields of `TokenOut`."""

    token_id: int
    logprob: float | None  # natural log; None when not asked for
    top_logprobs: tuple[tuple[int, float], ...]  # (id, logprob), best first; empty if not asked


def sample(
    logits: Array,
    sampling: Sampling,
    prompt_ids: Sequence[int] = (),
    output_ids: Sequence[int] = (),
    end_ids: Collection[int] = (),
) -> Sampled:
    """Logits (V,) to the next token; its draw is number len(output_ids) of the seed.

    `end_ids` are the checkpoint's end-of-sequence ids. Log-probabilities: `log_probabilities` of
    the logits as the model gave them for "raw", of `processed_logits` for "processed" (masked
    tokens have -inf there). The n best, lower id first among equals, may not hold the token.
    """
    processed = processed_logits(logits, sampling, prompt_ids, output_ids, end_ids)  # (V,)
    if is_greedy(sampling):
        token = int(processed.argmax())  # the lowest id among equals
    else:
        token = draw(softmax(processed), sampling.seed, len(output_ids))
    if sampling.logprobs is None:
        return Sampled(token, None, ())
    # vllm#9453: users could not tell which of the two they were given.
    scores = log_probabilities(logits if sampling.logprobs_of == "raw" else processed)  # (V,)
    best = best_ids(scores, min(sampling.logprobs, len(scores)))
    return Sampled(token, float(scores[token]), tuple((int(i), float(scores[i])) for i in best))


def masked_probabilities(
    logits: Array,
    sampling: Sampling,
    prompt_ids: Sequence[int] = (),
    output_ids: Sequence[int] = (),
    end_ids: Collection[int] = (),
) -> Array:
    """Logits (V,) to the probabilities (V,) float64 that the next token is drawn from.

    Greedy: 1 at the lowest id of the largest logit, 0 elsewhere. Otherwise `softmax` of
    `processed_logits`; the sum of the vector is 1 to within V * 2**-52.
    """
    processed = processed_logits(logits, sampling, prompt_ids, output_ids, end_ids)
    if not is_greedy(sampling):
        return softmax(processed)
    one_hot = np.zeros_like(processed)
    one_hot[processed.argmax()] = 1.0
    return one_hot


def processed_logits(
    logits: Array,
    sampling: Sampling,
    prompt_ids: Sequence[int] = (),
    output_ids: Sequence[int] = (),
    end_ids: Collection[int] = (),
) -> Array:
    """Logits (V,) after every step but the draw: (V,) float64, masked tokens -inf.

    Greedy stops after the penalties: no temperature divides, and no mask touches the largest
    logit. NaN, +inf, and a row with no token left are errors: a token drawn from such a row
    would hide a broken kernel.
    """
    x = checked(logits, "from the model")  # (V,)
    with np.errstate(over="ignore"):  # an overflow to +inf is an error in the check below
        x = forbid_and_bias(x, sampling, len(output_ids), end_ids)
        x = penalised(x, sampling, prompt_ids, output_ids)
        if is_greedy(sampling):
            return checked(x, "after the penalties")
        if sampling.temperature != 1:
            x = x / sampling.temperature
    x = checked(x, "after penalties and temperature")
    if sampling.order == "vllm":
        return keep_top_p(keep_top_k(keep_min_p(x, sampling), sampling), sampling)
    return keep_min_p(keep_top_p(keep_top_k(x, sampling), sampling), sampling)


def is_greedy(sampling: Sampling) -> bool:
    """Whether the largest logit is taken, without a draw."""
    return sampling.temperature < GREEDY_BELOW


def takes_largest(sampling: Sampling, outputs: int) -> bool:
    """Whether the token is the largest of the logits as the model gave them, and nothing else.

    Greedy, no log-probabilities, and nothing changes a logit before: ids of end are allowed
    (`outputs` so far), no bias, no penalty.
    """
    untouched = (
        sampling.repetition_penalty == 1
        and not sampling.frequency_penalty
        and not sampling.presence_penalty
        and not sampling.logit_bias
        and outputs >= sampling.min_tokens
    )
    return untouched and is_greedy(sampling) and sampling.logprobs is None


# ------------------------------------------------------------------------ before temperature


def forbid_and_bias(x: Array, sampling: Sampling, outputs: int, end_ids: Collection[int]) -> Array:
    """No end id and no stop id (-inf) before `min_tokens` outputs; then `logit_bias` is added."""
    if outputs < sampling.min_tokens:
        x = x.copy()
        x[token_ids(chain(end_ids, sampling.stop_ids), len(x), "end_ids and stop_ids")] = -np.inf
    if sampling.logit_bias:
        x = x.copy()
        ids = token_ids(sampling.logit_bias, len(x), "logit_bias")
        x[ids] += np.fromiter(sampling.logit_bias.values(), np.float64)
    return x


def penalised(
    x: Array, sampling: Sampling, prompt_ids: Sequence[int], output_ids: Sequence[int]
) -> Array:
    """Repetition, then frequency, then presence penalty on logits (V,).

    Repetition r, ids of prompt or output, once per id: x / r where x > 0, x * r elsewhere.
    Frequency f: x - f * (times in the output). Presence p: x - p for ids in the output; the
    prompt does not count. Keskar et al. 2019 (arXiv:1909.05858); the OpenAI API reference.
    """
    if sampling.repetition_penalty != 1:
        ids = token_ids(chain(prompt_ids, output_ids), len(x), "prompt_ids and output_ids")
        seen, r = x[ids], sampling.repetition_penalty
        x = x.copy()
        # An id that comes twice is read before the first write: penalised once.
        x[ids] = np.where(seen > 0, seen / r, seen * r)
    if (sampling.frequency_penalty or sampling.presence_penalty) and len(output_ids):
        ids, counts = np.unique(token_ids(output_ids, len(x), "output_ids"), return_counts=True)
        x = x.copy()
        x[ids] = x[ids] - sampling.frequency_penalty * counts - sampling.presence_penalty
    return x


# ------------------------------------------------------------------------------------- masks


def keep_min_p(x: Array, sampling: Sampling) -> Array:
    """Drop every token of probability below min_p times the largest probability.

    Both have the same divisor, so e = exp(x - max x) is compared with min_p and no sum is taken.
    Nguyen et al. 2024 (arXiv:2407.01082).
    """
    if sampling.min_p == 0:
        return x
    return np.where(exponentials(x) < sampling.min_p, -np.inf, x)


def keep_top_k(x: Array, sampling: Sampling) -> Array:
    """Drop every token below the k-th largest; all that equal it stay, so more than k may."""
    if sampling.top_k == 0 or sampling.top_k >= len(x):
        return x
    kth = np.partition(x, len(x) - sampling.top_k)[len(x) - sampling.top_k]
    return np.where(x < kth, -np.inf, x)


def keep_top_p(x: Array, sampling: Sampling) -> Array:
    """Drop tokens from the least likely up while their summed probability is <= 1 - top_p.

    The token that crosses top_p stays, and so does the best one. Among equals the higher id goes
    first. Probabilities are of the tokens that earlier masks left. Holtzman et al. 2020
    (arXiv:1904.09751).

    Sums in float64, of e = exp(x - max x): the total pairwise in id order; the cumulative sum
    is that of the tail (below), pairwise in id order, plus that of the rest, one by one in
    ascending order. Tokens with e below half the mean share of the mass to drop,
    (1 - top_p) * total / V / 2, are that tail: even all V of them would be dropped, so the sort,
    which costs the most, leaves them out.
    """
    if sampling.top_p == 1:
        return x
    e = exponentials(x)  # (V,)
    total = e.sum()
    is_tail = e < (1 - sampling.top_p) * total / len(x) / 2
    ascending = np.sort(x[~is_tail])
    mass = np.where(is_tail, e, 0.0).sum() + np.cumsum(exponentials(ascending))
    dropped = int(np.searchsorted(mass / total, 1 - sampling.top_p, side="right"))
    dropped = min(dropped, len(ascending) - 1)
    return keep_count(x, ascending[dropped], len(ascending) - dropped)


def keep_count(x: Array, least: float, count: int) -> Array:
    """Keep `count` tokens: all above `least` and, of its equals, those of lowest id."""
    kept = x >= least
    surplus = int(np.count_nonzero(kept)) - count
    if surplus > 0:
        kept[np.flatnonzero(x == least)[-surplus:]] = False
    return np.where(kept, x, -np.inf)


# ----------------------------------------------------------------------------- probabilities


def exponentials(x: Array) -> Array:
    """exp(x - max x) of logits (V,): the largest becomes 1, a masked one 0."""
    with np.errstate(over="ignore"):  # x - max x may overflow to -inf: 0 as well
        e: Array = np.exp(x - x.max(), where=x > -np.inf, out=np.zeros_like(x))
    return e


def softmax(x: Array) -> Array:
    """`exponentials` over their sum (pairwise, in id order): (V,) float64."""
    e = exponentials(x)
    p: Array = e / e.sum()
    return p


def log_probabilities(logits: Array) -> Array:
    """Natural log of the softmax of logits (V,): (V,) float64, at most 0.

    (x - max x) - log(sum of exp(x - max x)), summed pairwise in id order.
    """
    x = checked(logits, "for log-probabilities")
    with np.errstate(over="ignore"):
        shifted = x - x.max()
    scores: Array = shifted - np.log(exponentials(x).sum())
    return scores


def best_ids(scores: Array, n: int) -> Array:
    """Ids (n,) of the n largest of scores (V,): best first, the lower id first among equals."""
    if n == 0:
        return np.empty(0, dtype=np.int64)
    nth = np.partition(scores, len(scores) - n)[len(scores) - n]
    ids = np.flatnonzero(scores >= nth)  # ascending; more than n when several equal the n-th
    return ids[np.argsort(-scores[ids], kind="stable")[:n]]


# ------------------------------------------------------------------------------------ checks


def checked(logits: Array, where: str) -> Array:
    """The row as (V,) float64, if its largest entry is a number: one pass finds all three ills."""
    x = np.asarray(logits, dtype=np.float64)
    if x.ndim != 1 or x.size == 0:
        raise TinymoeError(
            f"logits {where}: expected one row of shape (V,), got {x.shape}; sample row by row"
        )
    largest = x.max()  # NaN if any entry is
    if np.isfinite(largest):
        return x
    if largest == -np.inf:
        raise TinymoeError(
            f"logits {where}: all {len(x)} are -inf, so no token can be drawn; expected at least "
            f"one finite logit: look at masks before the sampler, min_tokens and logit_bias"
        )
    bad = np.flatnonzero(~(x < np.inf))
    raise TinymoeError(
        f"logits {where}: expected finite numbers or -inf, got {x[bad[0]]} at id {bad[0]} "
        f"({len(bad)} such of {len(x)}); if the model gave them, trace the forward pass to find "
        f"the first activation that is not finite; if not, a penalty, bias or 1 / temperature "
        f"is too large for float64"
    )


def token_ids(ids: Iterable[int], vocab_size: int, name: str) -> Array:
    """The ids as an int64 array; a negative one would count from the end without a word."""
    array = np.fromiter(ids, np.int64)
    if array.size and (array.min() < 0 or array.max() >= vocab_size):
        raise TinymoeError(
            f"{name}: expected token ids from 0 to {vocab_size - 1}, got {array.min()} to "
            f"{array.max()}; was the text tokenised for another model?"
        )
    return array
