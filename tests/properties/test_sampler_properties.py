"""The sampler against slow twins in plain Python, on logits and settings drawn by hypothesis.

Bugs: flashinfer#384 (masks that renormalise in the wrong place), flashinfer#2320 (ids that cannot
be drawn), vllm#718 (steps in another order).
"""

from __future__ import annotations

import math
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinymoe.core import Sampling
from tinymoe.random_draw import pick, uniform
from tinymoe.sampler import best_ids, masked_probabilities, processed_logits

pytestmark = pytest.mark.properties
INF = math.inf


def exponentials(values):
    """exp(x - max x) by NumPy's exp: the twin checks the masks, not the last bit of exp."""
    with np.errstate(over="ignore"):
        return np.exp(np.array(values) - max(values)).tolist()


def slow_penalties(logits, s, prompt, output, end):
    """Every step before temperature, one token at a time."""
    result = []
    for token, x in enumerate(logits):
        if len(output) < s.min_tokens and (token in end or token in s.stop_ids):
            x = -INF
        x += s.logit_bias.get(token, 0.0)
        if token in prompt or token in output:
            x = x / s.repetition_penalty if x > 0 else x * s.repetition_penalty
        x -= s.frequency_penalty * output.count(token)
        x -= s.presence_penalty * (token in output)
        result.append(x)
    return result


def slow_masks(x, s):
    """Temperature and masks: the processed logits, and how near top_p's cut was to another set."""
    x, gap = [value / s.temperature for value in x], INF
    for mask in {"vllm": "min_p top_k top_p", "transformers": "top_k top_p min_p"}[s.order].split():
        e = exponentials(x)
        if mask == "min_p":
            x = [-INF if e[i] < s.min_p * max(e) else x[i] for i in range(len(x))]
        elif mask == "top_k" and 0 < s.top_k < len(x):
            kth = sorted(x)[-s.top_k]
            x = [-INF if value < kth else value for value in x]
        elif mask == "top_p" and s.top_p < 1:
            cumulative = 0.0
            for i in sorted(range(len(x)), key=lambda i, x=x: (x[i], -i))[:-1]:
                cumulative += e[i] / math.fsum(e)
                gap = min(gap, abs(cumulative - (1 - s.top_p)))
                if cumulative <= 1 - s.top_p:
                    x[i] = -INF
    return x, gap


levels = st.one_of(
    st.integers(-3, 3).map(float),  # many ties
    st.floats(-30, 30),
    st.sampled_from([-INF, -1e300, -800.0, 700.0, 1e300]),
)
rows = st.lists(levels, min_size=1, max_size=30).filter(lambda row: max(row) > -INF)
samplings = st.builds(
    Sampling,
    temperature=st.one_of(st.just(1.0), st.floats(0.05, 20)),
    top_k=st.integers(0, 31),
    top_p=st.one_of(st.sampled_from([1.0, 0.5, 0.25, 1e-12, 1 - 2**-53]), st.floats(0.01, 1)),
    min_p=st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1)),
    order=st.sampled_from(["vllm", "transformers"]),
)
penalties = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1.0]),
    repetition_penalty=st.floats(0.25, 4),
    frequency_penalty=st.one_of(st.just(0.0), st.floats(-2, 2)),
    presence_penalty=st.one_of(st.just(0.0), st.floats(-2, 2)),
    logit_bias=st.dictionaries(st.integers(1, 7), st.floats(-100, 100), max_size=3),
    stop_ids=st.lists(st.integers(1, 7), max_size=2).map(tuple),
    min_tokens=st.integers(0, 4),
)
ids = st.lists(st.integers(0, 7), max_size=8)
quick = settings(max_examples=150, deadline=None)


@quick
@given(st.lists(st.floats(-50, 50), min_size=8, max_size=8), penalties, ids, ids)
def test_penalties_equal_the_slow_twin(row, sampling, prompt, output):
    # Same operations in the same order on the same type: the same bits.
    got = processed_logits(np.array(row), sampling, prompt, output, [7])
    assert got.tolist() == slow_penalties(row, sampling, prompt, output, [7])


@quick
@given(rows, samplings)
def test_masked_probabilities_equal_the_slow_twin(row, sampling):
    expected, gap = slow_masks(row, sampling)
    got = masked_probabilities(np.array(row), sampling)
    # A cumulative sum of V terms, each divided, is off by at most 2 V roundings of 2**-53 in each
    # form. Where top_p's cut is nearer than that to 1 - p, both sets are right; exact edges are
    # among the tests of hand-computed numbers.
    bound = len(row) * 2.0**-51
    if gap <= bound:
        return
    e = exponentials(expected)
    assert (got > 0).tolist() == [value > 0 for value in e]
    wanted = np.array(e) / math.fsum(e)
    np.testing.assert_allclose(got, wanted, rtol=bound, atol=2.0**-1073)  # subnormals: one step
    assert abs(math.fsum(got) - 1) <= len(row) * 2.0**-52


@pytest.mark.parametrize("order", ["vllm", "transformers"])
@pytest.mark.parametrize("scale", [0.5, 3.0, 10.0])
def test_a_full_vocabulary_equals_the_slow_twin(scale, order):
    # Large enough that the tail which top_p leaves out of its sort is most of the row.
    row = (np.random.default_rng(1).normal(size=2000) * scale).astype(np.float32)
    sampling = Sampling(temperature=0.7, top_k=900, top_p=0.95, min_p=1e-4, order=order)
    expected, gap = slow_masks(row.astype(np.float64).tolist(), sampling)
    assert gap > len(row) * 2.0**-51  # or the sets could differ by rounding
    got = processed_logits(row, sampling)
    assert got.tolist() == expected


@quick
@given(rows, samplings)
def test_the_likelier_token_is_never_dropped_for_a_less_likely_one(row, sampling):
    got = masked_probabilities(np.array(row), sampling)
    by_logit = sorted(range(len(row)), key=lambda i: row[i])
    assert (np.diff(got[by_logit][got[by_logit] > 0]) >= 0).all()
    assert min(row[i] for i in np.flatnonzero(got)) >= max(
        (row[i] for i in np.flatnonzero(got == 0)), default=-INF
    )
    assert got[np.argmax(row)] > 0


@quick
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=30), samplings, st.integers(-999, 999))
def test_a_constant_added_to_all_logits_changes_nothing(row, sampling, constant):
    # Integers at temperature 1 or 1/2: x + c and x - max x are exact, so the bits are the same.
    exact = Sampling(
        temperature=0.5,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        order=sampling.order,
    )
    first = masked_probabilities(np.array(row, dtype=np.float64), exact)
    assert first.tolist() == masked_probabilities(np.array(row) + float(constant), exact).tolist()


@quick
@given(rows, samplings)
def test_top_k_of_one_is_greedy_but_for_ties(row, sampling):
    greedy = masked_probabilities(np.array(row), Sampling(temperature=0))
    one = Sampling(temperature=1.0, top_k=1, top_p=1e-12, order=sampling.order)
    assert masked_probabilities(np.array(row), one).tolist() == greedy.tolist()


weights = st.lists(
    st.one_of(st.just(0.0), st.floats(0, 1), st.just(2.0**-60)), min_size=1, max_size=30
).filter(lambda w: sum(w) > 2.0**-1000)
edges = st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 0.5, 1 - 2**-53]))


@quick
@given(weights, edges)
def test_pick_equals_a_walk_and_never_hits_zero(p, u):
    token = pick(np.array(p), u)
    sums = list(accumulate(p))
    assert token == next(i for i, running in enumerate(sums) if running > u * sums[-1])
    assert p[token] > 0


@quick
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_uniform_is_a_53_bit_fraction(seed, step):
    u = uniform(seed, step)
    assert 0 <= u < 1
    assert (u * 2**53).is_integer()


@quick
@given(st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=30), st.integers(0, 30))
def test_best_ids_equal_a_sort(scores, n):
    n = min(n, len(scores))
    expected = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:n]
    assert best_ids(np.array(scores), n).tolist() == expected


@pytest.mark.train
def test_order_transformers_equals_the_processors_of_transformers():
    torch = pytest.importorskip("torch")
    processors = pytest.importorskip("transformers.generation.logits_process")
    rng = np.random.default_rng(5)
    sampling = Sampling(
        temperature=0.7, top_k=60, top_p=0.9, min_p=0.02, repetition_penalty=1.3,
        order="transformers",
    )  # fmt: skip
    steps = [  # in the order in which transformers' generate builds them
        processors.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty),
        processors.TemperatureLogitsWarper(sampling.temperature),
        processors.TopKLogitsWarper(sampling.top_k),
        processors.TopPLogitsWarper(sampling.top_p),
        processors.MinPLogitsWarper(sampling.min_p),
    ]
    for _ in range(20):
        row = rng.normal(size=500) * 3
        prompt, output = rng.integers(0, 500, 40), rng.integers(0, 500, 40)
        scores = torch.tensor(row[None])
        for step in steps:
            scores = step(torch.tensor(np.concatenate([prompt, output])[None]), scores)
        # float64 on both sides and the same single operations: the same bits; random rows keep
        # clear of the cuts.
        got = processed_logits(row, sampling, prompt, output)
        assert got.tolist() == scores[0].tolist()
