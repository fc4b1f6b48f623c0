"""The sampler against numbers worked out by hand: each formula, each order, each refusal.

Bugs: flashinfer#2320 and #384 (renormalisation in the wrong place, ids that cannot be drawn),
vllm#9453 and #718 (log-probabilities before or after temperature, top-k before or after
softmax), mini-sglang#88 (ranks that draw from different streams).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tinymoe.core import Sampling, TinymoeError
from tinymoe.random_draw import uniform
from tinymoe.sampler import (
    log_probabilities,
    masked_probabilities,
    processed_logits,
    sample,
)

pytestmark = pytest.mark.definition
INF = math.inf


def processed(logits, prompt_ids=(), output_ids=(), end_ids=(), **fields):
    row = np.array(logits, dtype=np.float64)
    return processed_logits(row, Sampling(**fields), prompt_ids, output_ids, end_ids).tolist()


def kept(probabilities, **fields):
    with np.errstate(divide="ignore"):
        logits = np.log(np.array(probabilities))
    return np.flatnonzero(masked_probabilities(logits, Sampling(**fields))).tolist()


# --------------------------------------------------------------------------------- penalties


def test_repetition_divides_above_zero_and_multiplies_below_once_per_token():
    # Id 0 is in the prompt and twice in the output; dividing a negative logit would reward it.
    got = processed([4, -4, 0, 4], [0, 1], [0, 0, 2], repetition_penalty=2)
    assert got == [2, -8, 0, 4]


def test_frequency_counts_and_presence_does_not_and_the_prompt_is_neither():
    got = processed([8, 8, 8], [2, 2], [0, 0, 0, 1], frequency_penalty=0.5, presence_penalty=2)
    assert got == [8 - 1.5 - 2, 8 - 0.5 - 2, 8]


def test_penalties_come_in_order_repetition_frequency_presence():
    # 8 / 2 - 1 - 2; frequency or presence first would give (8 - 1) / 2 - 2, (8 - 2) / 2 - 1.
    fields = {"repetition_penalty": 2, "frequency_penalty": 1, "presence_penalty": 2}
    assert processed([8, 0], output_ids=[0], **fields) == [1, 0]


def test_bias_comes_before_repetition_and_temperature_last():
    assert processed([2, 0], [0], logit_bias={0: 4}, repetition_penalty=2, temperature=0.5) == [
        6,
        0,
    ]


def test_min_tokens_forbids_end_and_stop_ids_until_reached():
    fields = {"min_tokens": 2, "stop_ids": (3,), "logit_bias": {1: 100.0}}
    for outputs in ([], [0]):
        assert processed([1, 2, 3, 4], output_ids=outputs, end_ids=[1], **fields) == [
            1,
            -INF,
            3,
            -INF,
        ]
    assert processed([1, 2, 3, 4], output_ids=[0, 0], end_ids=[1], **fields) == [1, 102, 3, 4]


def test_the_callers_logits_are_not_changed():
    row = np.array([1.0, 2.0, 3.0])
    everything = Sampling(
        temperature=0.5, top_k=2, top_p=0.5, min_p=0.1, repetition_penalty=2, presence_penalty=1,
        logit_bias={0: 1.0}, min_tokens=5,
    )  # fmt: skip
    sample(row, everything, [0], [1], [2])
    assert row.tolist() == [1, 2, 3]


# ------------------------------------------------------------------------------------- masks


def test_top_k_keeps_every_tie_with_the_kth():
    assert processed([1, 3, 2, 2, 0], top_k=2) == [-INF, 3, 2, 2, -INF]
    assert processed([1, 3, 2, 2, 0], top_k=1) == [-INF, 3, -INF, -INF, -INF]
    assert processed([1, 3, 2, 2, 0], top_k=5) == [1, 3, 2, 2, 0]


def test_top_p_keeps_the_token_that_crosses():
    assert kept([0.1, 0.2, 0.4, 0.3], top_p=0.69) == [2, 3]  # 0.4 is not enough
    assert kept([0.1, 0.2, 0.4, 0.3], top_p=0.71) == [1, 2, 3]
    assert kept([0.1, 0.2, 0.4, 0.3], top_p=1e-9) == [2]  # always the best


def test_top_p_edge_and_ties_are_exact():
    # Equal logits have e = 1 exactly: the cumulative sums are k / 4. At 1/2 the sum is "<= 1 - p",
    # so two go; a hair more and one goes. Of equals, the lower ids stay.
    assert kept([0.25] * 4, top_p=0.5) == [0, 1]
    assert kept([0.25] * 4, top_p=0.5 + 2**-50) == [0, 1, 2]
    assert kept([0.25] * 4, top_p=1e-9) == [0]
    assert kept([0.25] * 4, top_p=1e-300) == [0]  # 1 - p rounds to 1: "<=" would drop all


def test_top_p_with_a_tail_that_is_left_out_of_the_sort():
    # 1000 tokens share a mass of 0.01 and all go; with it, 0.09 makes 0.1: in 0.11, not in 0.095.
    assert kept([1e-5] * 1000 + [0.09, 0.3, 0.6], top_p=0.89) == [1001, 1002]
    assert kept([1e-5] * 1000 + [0.09, 0.3, 0.6], top_p=0.905) == [1000, 1001, 1002]


def test_min_p_is_relative_to_the_largest():
    assert kept([0.6, 0.29, 0.08, 0.03], min_p=0.5) == [0]
    assert kept([0.6, 0.31, 0.06, 0.03], min_p=0.5) == [0, 1]
    assert kept([0.4, 0.4, 0.2], min_p=1.0) == [0, 1]  # "below", so equals of the best stay


def test_temperature_comes_before_the_masks():
    # vllm#718. At T = 2, odds of 16 : 4 : 1 become 4 : 2 : 1, and 1/4 is not below min_p = 0.2.
    logits = np.log([16.0, 4.0, 1.0])
    got = masked_probabilities(logits, Sampling(temperature=2, min_p=0.2))
    # Three roundings of log, exp and the sum, each of relative size 2**-52 times values below 4.
    np.testing.assert_allclose(got, [4 / 7, 2 / 7, 1 / 7], rtol=16 * 2**-52)
    assert np.flatnonzero(masked_probabilities(logits, Sampling(min_p=0.2))).tolist() == [0, 1]


def test_orders_of_vllm_and_transformers_keep_different_sets():
    # min_p keeps p >= 0.12: three tokens of mass 0.75. vLLM renormalises them to .53 .27 .20, and
    # .20 <= 0.3 goes. transformers' top_p sees all six: .07 + .08 + .1 goes, + .15 crosses 0.3.
    p = [0.4, 0.2, 0.15, 0.1, 0.08, 0.07]
    assert kept(p, min_p=0.3, top_p=0.7, order="vllm") == [0, 1]
    assert kept(p, min_p=0.3, top_p=0.7, order="transformers") == [0, 1, 2]


def test_top_p_sees_the_probabilities_that_top_k_left():
    # flashinfer#384. Of 0.4 and 0.3, 3/7 = 0.43 is the lesser share: top_p 0.5 keeps the best only;
    # of all four, 0.1 + 0.2 <= 0.5 goes, and 0.3 crosses.
    assert kept([0.1, 0.2, 0.4, 0.3], top_k=2, top_p=0.5) == [2]
    assert kept([0.1, 0.2, 0.4, 0.3], top_p=0.5) == [2, 3]


# ------------------------------------------------------------------------------ probabilities


@pytest.mark.parametrize("temperature", [0.0, 9e-6])
def test_greedy_is_one_at_the_lowest_id_of_the_largest(temperature):
    sampling = Sampling(temperature=temperature, top_p=0.1, min_p=1.0)
    logits = np.array([1, 7, 7, -INF], dtype=np.float32)
    assert masked_probabilities(logits, sampling).tolist() == [0, 1, 0, 0]
    assert sample(logits, sampling).token_id == 1


def test_greedy_begins_below_one_in_100000_and_stops_before_the_temperature():
    assert processed([1, 2], temperature=9.9e-6, min_p=1.0) == [1, 2]
    assert processed([1, 2], temperature=1e-5) == [1 / 1e-5, 2 / 1e-5]


def test_greedy_takes_the_penalties_into_account():
    sampling = Sampling(temperature=0, presence_penalty=1)
    assert sample(np.array([2.0, 1.5]), sampling, output_ids=[0]).token_id == 1


def test_softmax_of_hand_computed_odds():
    # exp(log 3) may be off by one rounding of log (2**-53 * log 3) and one of exp.
    got = masked_probabilities(np.log([1.0, 3.0]), Sampling())
    np.testing.assert_allclose(got, [0.25, 0.75], rtol=8 * 2**-53)
    assert masked_probabilities(np.zeros(4), Sampling()).tolist() == [0.25] * 4


def test_extreme_logits_do_not_overflow():
    got = masked_probabilities(np.array([1e308, -1e308, 1e308]), Sampling())
    assert got.tolist() == [0.5, 0, 0.5]


def test_float32_logits_are_widened_before_anything_is_computed():
    row = np.random.default_rng(0).normal(size=50).astype(np.float32)
    sampling = Sampling(temperature=0.7, top_p=0.9)
    wide = masked_probabilities(row.astype(np.float64), sampling)
    assert masked_probabilities(row, sampling).tobytes() == wide.tobytes()


# --------------------------------------------------------------------------- log-probabilities


def test_raw_and_processed_log_probabilities_differ_as_documented():
    # vllm#9453. Odds 1 : 3 raw; at T = 1/2 they are 1 : 9.
    logits = np.log([1.0, 3.0])
    ask = Sampling(temperature=0.5, top_k=1, logprobs=2, logprobs_of="raw")
    raw = sample(logits, ask)
    tolerance = 8 * 2**-53  # log and log-sum-exp of values below 3, one rounding each
    assert raw.token_id == 1
    assert raw.logprob == pytest.approx(math.log(3 / 4), rel=0, abs=tolerance)
    assert [i for i, _ in raw.top_logprobs] == [1, 0]
    assert raw.top_logprobs[1][1] == pytest.approx(math.log(1 / 4), rel=0, abs=tolerance)
    assert sample(logits, replace(ask, logprobs_of="processed")).top_logprobs == ((1, 0), (0, -INF))
    hot = sample(logits, replace(ask, logprobs_of="processed", top_k=0))
    assert dict(hot.top_logprobs)[1] == pytest.approx(math.log(9 / 10), rel=0, abs=2 * tolerance)


def test_greedy_processed_log_probabilities_are_those_of_the_penalised_logits():
    ask = Sampling(temperature=0, logit_bias={0: 2.0}, logprobs=0, logprobs_of="processed")
    got = sample(np.array([0.0, 2.0]), ask)
    assert (got.token_id, got.logprob, got.top_logprobs) == (0, -math.log(2), ())


def test_no_log_probabilities_unless_asked():
    assert sample(np.zeros(2), Sampling(temperature=0))[1:] == (None, ())


def test_best_tokens_come_with_the_lower_id_first_among_equals():
    got = sample(np.array([1.0, 2, 2, 2, 3]), Sampling(temperature=0, logprobs=3))
    assert [i for i, _ in got.top_logprobs] == [4, 1, 2]


def test_more_best_tokens_than_the_vocabulary_has():
    assert len(sample(np.zeros(3), Sampling(logprobs=9)).top_logprobs) == 3


def test_log_probabilities_do_not_underflow():
    assert log_probabilities(np.array([0.0, -1e4])).tolist() == [0, -1e4]


def test_the_draw_of_a_token_depends_on_seed_and_place_alone():
    # mini-sglang#88. The same place gives the same token, whatever the ids before it were.
    row = np.zeros(1000)
    first = [sample(row, Sampling(seed=3), [1, 2], [0] * n).token_id for n in range(8)]
    again = [sample(row, Sampling(seed=3), [9], range(n)).token_id for n in reversed(range(8))]
    assert first == again[::-1] == [int(1000 * uniform(3, n)) for n in range(8)]
    assert first != [sample(row, Sampling(seed=4), [1, 2], [0] * n).token_id for n in range(8)]


# ---------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0, np.nan, 1], r"got nan at id 1 \(1 such of 3\)"),
        ([0, INF, np.nan], r"got inf at id 1 \(2 such of 3\)"),
        ([-INF, -INF], "all 2 are -inf"),
        ([], r"got \(0,\)"),
        ([[0, 1]], r"got \(1, 2\)"),
    ],
    ids=str,
)
def test_logits_that_no_token_can_come_from(row, message, temperature):
    for function in (sample, masked_probabilities, processed_logits):
        with pytest.raises(TinymoeError, match=message):
            function(np.array(row, dtype=np.float32), Sampling(temperature=temperature))


def test_min_tokens_that_leave_no_token():
    with pytest.raises(TinymoeError, match="min_tokens"):
        sample(np.array([1.0, -INF]), Sampling(min_tokens=1), end_ids=[0])


def test_penalties_that_overflow_are_named():
    with pytest.raises(TinymoeError, match="after penalties and temperature"):
        sample(np.array([1e306, 0.0]), Sampling(temperature=1e-4))
    with pytest.raises(TinymoeError, match="after the penalties: expected finite numbers"):
        sample(np.array([1e306, 0.0]), Sampling(temperature=0, repetition_penalty=1e-9), [0])


@pytest.mark.parametrize("bad", [-1, 3])
def test_token_ids_outside_the_vocabulary(bad):
    # A negative id would quietly penalise a token counted from the end.
    for fields, ids in (
        ({"repetition_penalty": 2.0}, {"prompt_ids": [bad]}),
        ({"presence_penalty": 2.0}, {"output_ids": [bad]}),
        ({"min_tokens": 1}, {"end_ids": [bad]}),
        ({"logit_bias": {bad: 1.0}}, {}),
    ):
        with pytest.raises(TinymoeError, match="expected token ids from 0 to 2"):
            sample(np.zeros(3), Sampling(**fields), **ids)
