"""Requests that the sampler cannot honour are refused by field, range and value.

Bug: vllm#718 and its like, where a bad value turned into text that nobody could explain.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from tinymoe.core import Sampling, TinymoeError
from tinymoe.sampler import check_sampling

pytestmark = pytest.mark.definition
INF = math.inf


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("max_tokens", 0), ("max_tokens", 1.5), ("max_tokens", True),
        ("temperature", -0.1), ("temperature", math.nan), ("temperature", INF),
        ("temperature", "hot"),
        ("top_k", -1), ("top_k", 2.0),
        ("top_p", 0.0), ("top_p", 1.01), ("top_p", math.nan),
        ("min_p", -0.01), ("min_p", 1.01),
        ("repetition_penalty", 0.0), ("repetition_penalty", -1.0), ("repetition_penalty", INF),
        ("presence_penalty", math.nan), ("frequency_penalty", INF),
        ("logit_bias", {100: 1.0}), ("logit_bias", {-1: 1.0}), ("logit_bias", {1: math.nan}),
        ("logit_bias", {"1": 1.0}), ("logit_bias", None),
        ("stop", ("",)), ("stop", "word"), ("stop_ids", (100,)), ("stop_ids", 5),
        ("min_tokens", -1), ("min_tokens", 129),
        ("seed", -1), ("seed", 2**64), ("seed", 0.5),
        ("logprobs", -1), ("logprobs", 101), ("logprobs", True),
        ("logprobs_of", "logits"), ("order", "hf"),
    ],
)  # fmt: skip
def test_check_sampling_names_the_field_and_the_value(field, bad):
    with pytest.raises(TinymoeError) as caught:
        check_sampling(Sampling(**{field: bad}), vocab_size=100)
    assert str(caught.value).startswith(f"Sampling.{field}: expected ")
    assert f"got {bad!r}" in str(caught.value)


def test_check_sampling_accepts_the_edges():
    check_sampling(Sampling(), 100)
    edges = Sampling(
        max_tokens=1, temperature=0, top_k=1000, top_p=1e-300, min_p=1, repetition_penalty=0.5,
        presence_penalty=-2, logit_bias={0: -100, 99: 100}, stop=("a", "\n"), stop_ids=(0, 99),
        min_tokens=1, seed=2**64 - 1, logprobs=100, logprobs_of="processed", order="transformers",
    )  # fmt: skip
    check_sampling(edges, 100)
    check_sampling(Sampling(temperature=np.float32(0.5), top_k=np.int64(3)), 100)
