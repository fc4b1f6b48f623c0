"""Windows, sinks, chunks, latent and linear attention in the engine: company changes no bit.

The kinds of attention that the tiny model of the other tests lacks, from the parity cases.
vllm#26042: latent attention with chunked prefill took GSM8K from 93 to 65; LLMs-from-scratch#925:
a sliding window over a cache.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving import Bench, sampling_of
from tinymoe.cards import in_form
from tinymoe.checkpoint import Checkpoint
from tinymoe.core import NUMERICS
from tinymoe.families import load_params, read_config

pytestmark = pytest.mark.properties

ROOT = Path(__file__).parents[1] / "vectors" / "parity"
MODELS = {
    "gpt_oss": None,  # window of 16 and sinks
    "mixtral_window": None,  # of 5
    "llama4_text": None,  # chunks of 5, positions in the query
    "deepseek_v2 expanded": "expanded",
    "deepseek_v2 absorbed": "absorbed",
    "qwen3_next": None,  # a state and the inputs of a convolution, beside pages
    "minimax": None,  # a state, a residual of norms
}


@cache
def model_of(name, preset):
    folder = ROOT / name.split()[0]
    config = read_config(Checkpoint.open(folder).config)
    config = config if MODELS[name] is None else in_form(config, MODELS[name])
    return config, load_params(Checkpoint.open(folder), config, NUMERICS[preset])


@cache
def alone(name, preset, wish):
    bench = Bench(preset, pages=1, page_size=64, model=model_of(name, preset))
    bench.submit("it", wish[0], sampling_of(*wish[1:]))
    return bench.finish()["it"]


wishes = st.tuples(
    st.lists(st.integers(0, 49), min_size=1, max_size=24).map(tuple),  # longer than a window
    st.sampled_from([0.0, 1.0]),
    st.integers(1, 6),
    st.integers(0, 1),
)


@pytest.mark.parametrize("name", MODELS)
def test_company_changes_nothing(name):
    @settings(
        max_examples=12,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(
        preset=st.sampled_from(["fp32", "bf16"]),
        requests=st.lists(st.tuples(st.integers(0, 3), wishes), min_size=2, max_size=3),
        page_size=st.sampled_from([1, 3, 16]),
        spare=st.integers(0, 3),
        max_batch_tokens=st.integers(1, 16),
    )
    def holds(preset, requests, page_size, spare, max_batch_tokens):
        longest = max(len(wish[0]) + wish[2] for _, wish in requests)
        bench = Bench(
            preset,
            pages=-(-longest // page_size) + spare,
            page_size=page_size,
            max_batch_tokens=max_batch_tokens,
            model=model_of(name, preset),
        )
        for step in range(4):
            for number, (arrival, wish) in enumerate(requests):
                if arrival == step:
                    bench.submit(str(number), wish[0], sampling_of(*wish[1:]))
            bench.step()
        results = bench.finish()
        for number, (_, wish) in enumerate(requests):
            assert results[str(number)] == alone(name, preset, wish)

    holds()
