"""Inputs for `sample`: a row of logits, a history, and every setting of the sampler."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tinymoe.core import NUMERICS, Sampling
from tinymoe.kernels.strategy_values import fill, kinds, seeds

Case = dict[str, Any]


@st.composite
def sample(draw: DrawFn) -> Case:
    """Ties, -inf, every setting, both orders; thresholds that land on a tie."""
    rng, vocabulary = np.random.default_rng(draw(seeds)), draw(st.sampled_from([1, 2, 10, 50]))
    logits = fill(rng, draw(kinds), (vocabulary,), NUMERICS["fp32"]).clip(-1e4, 1e4)
    best = int(logits.argmax())
    others = [i for i in range(vocabulary) if i != best]
    some = st.lists(st.sampled_from(others), max_size=4) if others else st.just([])
    logits[draw(some)] = -np.inf
    ids = st.lists(st.integers(0, vocabulary - 1), max_size=6)
    bias = draw(st.dictionaries(st.integers(0, vocabulary - 1), st.floats(-5, 5), max_size=3))
    fraction = st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9, 0.999, 1.0])
    sampling = Sampling(
        temperature=draw(st.sampled_from([0.0, 0.5, 0.7, 1.0, 3.0])),
        top_k=draw(st.one_of(st.just(0), st.integers(1, vocabulary))),
        top_p=draw(fraction),
        min_p=draw(st.one_of(st.just(0.0), fraction)),
        repetition_penalty=draw(st.sampled_from([1.0, 0.8, 1.3])),
        presence_penalty=draw(st.sampled_from([0.0, 0.5, -0.5])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.25])),
        logit_bias=bias,
        stop_ids=tuple(draw(some)),
        min_tokens=draw(st.integers(0, 8)),
        seed=draw(st.integers(0, 2**64 - 1)),
        order=draw(st.sampled_from(["vllm", "transformers"])),
    )
    prompt, output, end = draw(ids), draw(ids), tuple(draw(some))
    return {
        "logits": logits,
        "sampling": sampling,
        "prompt_ids": prompt,
        "output_ids": output,
        "end_ids": end,
    }
