"""What a request gets depends on the request alone: bit for bit, whatever the engine is doing.

No tolerance anywhere. Bugs of this kind: vllm#26042 (chunked prefill cost 28 points of GSM8K),
vllm#53257 and #45683 (results depend on the batch), flashinfer#3559 (batch 8 against 64),
sglang#33764 (small batches choose other experts), sglang#31838 (padding rows routed).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.serving import CONFIG, PARAMS, Bench, alone, sampling_of
from tests.tiny import tiny_attention, tiny_card, tiny_params
from tinymoe.cache import PagedCache
from tinymoe.core import NUMERICS, Batch, Run, Sampling, TinymoeError
from tinymoe.model.experts import moe_naive
from tinymoe.model.ops import DEFINITION
from tinymoe.model.transformer import forward
from tinymoe.oracle.trace import forward_alone

pytestmark = pytest.mark.properties
presets = st.sampled_from(sorted(NUMERICS))


def some(examples):
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


wishes = st.tuples(
    st.lists(st.integers(0, 49), min_size=1, max_size=12).map(tuple),  # prompt
    st.sampled_from([0.0, 1.0]),  # temperature
    st.integers(1, 6),  # max_tokens
    st.integers(0, 3),  # seed
)


@some(100)
@given(
    preset=presets,
    requests=st.lists(st.tuples(st.integers(0, 6), wishes), min_size=2, max_size=4),
    page_size=st.sampled_from([1, 2, 3, 5, 16]),
    spare=st.integers(0, 4),
    max_batch_tokens=st.integers(1, 24),
    max_running=st.integers(1, 4),
)
def test_company_changes_nothing(preset, requests, page_size, spare, max_batch_tokens, max_running):
    # any batch, order of arrival, cut of the prompts, page size, and a cache that may be too small
    longest = max(len(wish[0]) + wish[2] for _, wish in requests)
    bench = Bench(
        preset,
        pages=-(-longest // page_size) + spare,
        page_size=page_size,
        max_batch_tokens=max_batch_tokens,
        max_running=max_running,
    )
    for step in range(7):
        for number, (arrival, wish) in enumerate(requests):
            if arrival == step:
                bench.submit(str(number), wish[0], sampling_of(*wish[1:]))
        bench.step()
    results = bench.finish()
    event(f"preempted: {bench.preemptions > 0}")
    for number, (_, wish) in enumerate(requests):
        assert results[str(number)] == alone(preset, *wish)
    assert max(bench.batch_tokens) <= max_batch_tokens


@some(40)
@given(
    seen=st.dictionaries(st.sampled_from(["window", "chunk"]), st.integers(1, 9), min_size=1),
    requests=st.lists(wishes, min_size=1, max_size=3),
    page_size=st.sampled_from([1, 2, 3, 16]),
    spare=st.integers(0, 4),
    max_batch_tokens=st.integers(1, 24),
)
def test_layers_that_forget_change_nothing(seen, requests, page_size, spare, max_batch_tokens):
    # LLMs-from-scratch#925, vllm#26042: pages out of sight are given back and full of NaN
    config = replace(CONFIG, attention=(tiny_attention(), tiny_attention(**seen)))
    longest = max(len(prompt) + most for prompt, _, most, _ in requests)
    bench = Bench(
        "fp32",
        pages=-(-longest // page_size) + spare,
        page_size=page_size,
        max_batch_tokens=max_batch_tokens,
        model=(config, PARAMS["fp32"]),
    )
    for number, wish in enumerate(requests):
        bench.submit(str(number), wish[0], sampling_of(*wish[1:]))
    results = bench.finish()
    for number, (prompt, *_) in enumerate(requests):
        ids = list(prompt)
        for token, row in zip(*results[str(number)], strict=True):
            # a forward pass of the whole sequence, which forgets nothing
            assert forward_alone(PARAMS["fp32"], config, ids, NUMERICS["fp32"])[-1].tobytes() == row
            ids.append(token[0])


@pytest.mark.parametrize("preset", sorted(NUMERICS))
def test_preempted_request_goes_on_as_if_nothing_had_happened(preset):
    # a cache for one and a half requests: the younger loses its pages and computes them again
    wishes = [((1, 2, 3, 4, 5), 1.0, 9, 1), ((9, 8, 6), 1.0, 9, 2), ((4, 4), 0.0, 9, 0)]
    bench = Bench(preset, pages=9, page_size=2, max_batch_tokens=4)
    for number, wish in enumerate(wishes):
        bench.submit(str(number), wish[0], sampling_of(*wish[1:]))
    results = bench.finish()
    assert bench.preemptions > 0
    for number, wish in enumerate(wishes):
        assert results[str(number)] == alone(preset, *wish)


def test_decodes_are_not_starved_by_a_long_prompt():
    # a prompt comes in pieces between the others' tokens; every step serves every decode
    bench = Bench("fp32", pages=40, page_size=2, max_batch_tokens=4)
    bench.submit("early", (1, 2), Sampling(max_tokens=10, temperature=0, ignore_eos=True))
    bench.step()
    bench.submit("late", tuple(range(8, 38)), Sampling(max_tokens=2, temperature=0))
    for _ in range(9):
        assert "early" in [out.request_id for out in bench.step()]
    bench.finish()


# -------------------------------------------------------------------------- the forward pass alone


def run_pieces(preset, ids, cuts, pages, page_size, pool):
    """Logits (T, V) of ids, run in pieces, in given pages of a cache full of NaN."""
    n = NUMERICS[preset]
    cache = PagedCache.for_model(CONFIG, n, pool * page_size, page_size)
    for layer in range(CONFIG.num_layers):
        for array in cache.layer(layer):
            array[:] = np.nan
    logits = []
    for start, stop in zip([0, *cuts], [*cuts, len(ids)], strict=True):
        rows = np.arange(stop - start)
        run = Run(slice(0, stop - start), start, (pages,))
        batch = Batch(ids[start:stop], rows + start, (run,), rows)
        logits.append(forward(PARAMS[preset], CONFIG, batch, cache, n))
    return np.concatenate(logits)


@some(40)
@given(
    preset=presets,
    ids=st.lists(st.integers(0, 49), min_size=1, max_size=24),
    page_size=st.sampled_from([1, 2, 3, 5, 16]),
    data=st.data(),
)
def test_prompt_in_pieces_gives_the_same_logits(preset, ids, page_size, data):
    # vllm#26042; and pages in any order, with NaN in every slot that is not the sequence's
    ids = np.array(ids)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(ids) - 1))))) if len(ids) > 1 else []
    needed = -(-len(ids) // page_size)
    pool = data.draw(st.permutations(range(needed + 2)))
    pages = np.array(pool[: needed + 1], np.int64)
    whole = forward_alone(PARAMS[preset], CONFIG, ids, NUMERICS[preset])
    assert np.isfinite(whole).all()
    pieces = run_pieces(preset, ids, cuts, pages, page_size, needed + 2)
    assert np.array_equal(pieces, whole)


class Naive:
    """Ops whose experts are `moe_naive`: token by token, expert by expert."""

    def __init__(self, card):
        self.card = card
        self.calls = 0
        self.ops = replace(
            DEFINITION, route=self.route, expert_ffn=self.expert_ffn, combine=self.combine
        )

    def route(self, x, *rest):
        self.x, self.routing = x, DEFINITION.route(x, *rest)
        return self.routing

    def expert_ffn(self, rows, gate_up, down, offsets, numerics):
        self.gate_up, self.down = gate_up, down
        return np.full_like(rows, np.nan)  # nothing of the grouped form is used

    def combine(self, expert_out, weights, numerics):
        self.calls += 1
        return moe_naive(self.x, self.routing, self.gate_up, self.down, self.card, numerics)


@some(25)
@given(
    preset=presets,
    ids=st.lists(st.integers(0, 49), min_size=1, max_size=12),
    top_k=st.integers(1, 6),
    weight_on=st.sampled_from(["output", "input"]),
    score=st.sampled_from(["softmax", "sigmoid"]),
    selection_bias=st.booleans(),
)
def test_grouped_experts_equal_the_naive_loop(preset, ids, top_k, weight_on, score, selection_bias):
    # permutation, weights and their order of summation, inside a whole forward pass
    card = tiny_card(
        top_k=top_k, weight_on=weight_on, score=score, selection_bias=selection_bias, scale=2.5
    )
    config = replace(CONFIG, router=card)
    n = NUMERICS[preset]
    params = tiny_params(config, n)
    naive = Naive(card)
    expected = forward_alone(params, config, ids, n, ops=naive.ops)
    assert naive.calls == 1
    assert np.isfinite(expected).all()
    assert np.array_equal(forward_alone(params, config, ids, n), expected)


# ------------------------------------------------------------------------------ coming and going


@some(30)
@given(
    requests=st.lists(wishes, min_size=1, max_size=4),
    leavers=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8)), max_size=3),
    max_batch_tokens=st.integers(1, 12),
    spare=st.integers(0, 6),
)
def test_cancelled_requests_give_their_pages_back(requests, leavers, max_batch_tokens, spare):
    # before, during or after their run; the others do not notice
    longest = max(len(prompt) + most for prompt, _, most, _ in requests)
    bench = Bench(
        "fp32", pages=-(-longest // 2) + spare, page_size=2, max_batch_tokens=max_batch_tokens
    )
    sent = [bench.submit(str(i), w[0], sampling_of(*w[1:])) for i, w in enumerate(requests)]
    for step in range(9):
        for number, when in leavers:
            if when == step and number < len(sent):
                bench.engine.cancel(sent[number])
                bench.engine.scheduler.check_integrity()
                assert sent[number].pages == []
        bench.step()
    results = bench.finish()
    left = {number for number, _ in leavers}
    for number, wish in enumerate(requests):
        expected = alone("fp32", *wish)
        if number in left:
            count = len(results[str(number)].tokens)
            assert results[str(number)].tokens == expected.tokens[:count]
        else:
            assert results[str(number)] == expected


def test_cancel_takes_the_one_it_was_given():
    # two users may send the same words under the same name: they are still two requests
    bench = Bench("fp32", pages=8, page_size=4)
    first, second = (bench.submit("twin", (1, 2, 3), sampling_of(0.0, 4, 0)) for _ in range(2))
    bench.engine.cancel(second)
    bench.finish()
    assert first.finish
    assert not second.output_ids


@some(30)
@given(
    prompt=st.integers(1, 40),
    most=st.integers(1, 40),
    pages=st.integers(1, 12),
    page_size=st.integers(1, 4),
)
def test_too_large_requests_are_refused_at_the_door(prompt, most, pages, page_size):
    # one that could never get its pages would block the queue for ever
    bench = Bench("fp32", pages=pages, page_size=page_size)
    ids, sampling = (3,) * prompt, Sampling(max_tokens=most, temperature=0, ignore_eos=True)
    if prompt + most > pages * page_size:
        with pytest.raises(TinymoeError, match="lower max_tokens"):
            bench.engine.submit(ids, sampling)
        assert not bench.engine.busy
    elif prompt + most <= 24:
        bench.submit("fits", ids, sampling)
        assert len(bench.finish()["fits"].tokens) == most
    assert bench.cache.free_pages == (pages,)


def test_output_ends_at_the_models_last_position():
    bench = Bench("fp32", pages=64, page_size=1)
    bench.submit("it", (3,) * 62, Sampling(max_tokens=50, temperature=0, ignore_eos=True))
    tokens = bench.finish()["it"].tokens
    assert len(tokens) == 2
    assert tokens[-1][-1] == "length"
    with pytest.raises(TinymoeError, match="at most 63 tokens"):
        bench.engine.submit((3,) * 64, Sampling())


@pytest.mark.parametrize("bad", [(), (50,), (-1,)])
def test_bad_prompts_are_refused(bad):
    bench = Bench("fp32", pages=8, page_size=4)
    with pytest.raises(TinymoeError):
        bench.engine.submit(bad, Sampling())
    assert not bench.engine.busy
