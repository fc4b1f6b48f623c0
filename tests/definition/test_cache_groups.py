"""Caches that hold only what they need: windows, chunks, latent vectors and states.

Held to the forward pass that keeps everything, bit for bit, with NaN in every page that was given
back. Bugs of this kind: LLMs-from-scratch#925 (a sliding window over a cache), vllm#26042 (a
prompt cut in pieces saw other keys).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tinymoe
from tests.serving import Bench
from tests.tiny import tiny_attention, tiny_config, tiny_params
from tinymoe.cache import PagedCache, PagePool
from tinymoe.cache_groups import GONE, CacheGroup, grouped
from tinymoe.cards import in_form
from tinymoe.checkpoint import Checkpoint
from tinymoe.core import NUMERICS, GatedDeltaCard, LatentCard, Sampling, TinymoeError
from tinymoe.families import read_config
from tinymoe.model.attention import first_seen, read_pages
from tinymoe.oracle.trace import forward_alone

PARITY = Path(__file__).parents[1] / "vectors" / "parity"
KINDS = {"window": {"window": 5}, "chunk": {"chunk": 5}, "both": {"window": 3, "chunk": 8}}
FP32 = NUMERICS["fp32"]


def model_with(max_positions=256, **seen):
    """(config, params): a layer that sees everything, and one that does not."""
    cards = (tiny_attention(), tiny_attention(**seen))
    config = tiny_config(attention=cards, max_positions=max_positions)
    return config, tiny_params(config, FP32)


def greedy(model, prompt, steps):
    """(tokens, logits) by running the whole sequence anew for every token: no cache at all."""
    config, params = model
    ids, logits = list(prompt), []
    for _ in range(steps):
        logits.append(forward_alone(params, config, ids, FP32)[-1])
        ids.append(int(logits[-1].argmax()))
    return ids[len(prompt) :], [row.tobytes() for row in logits]


def wish(steps):
    return Sampling(max_tokens=steps, temperature=0, ignore_eos=True)


PROMPT = tuple(int(i) for i in np.random.default_rng(3).integers(8, 50, 19))


# ------------------------------------------------------------------------------- what is kept


def test_layers_are_grouped_by_what_they_keep():
    config = read_config(Checkpoint.open(PARITY / "gpt_oss").config)
    kinds = [(group.kind, group.span) for group in config.cache_groups]
    assert kinds == [("window", 16), ("all", 0)]
    for layer, card in enumerate(config.attention):
        assert (config.group_of(layer) == 0) == (card.window is not None)
    chunked = read_config(Checkpoint.open(PARITY / "llama4_text").config)
    assert ("chunk", 5) in [(group.kind, group.span) for group in chunked.cache_groups]
    assert grouped([("all", 0)] * 3) == (CacheGroup("all", 0, (0, 1, 2)),)


@pytest.mark.parametrize("page_size", [1, 3, 4, 16])
@pytest.mark.parametrize("group", [CacheGroup("window", 5, (0,)), CacheGroup("chunk", 5, (0,))])
def test_what_a_token_sees_is_kept_and_no_page_more(group, page_size):
    # first_seen is what attention reads; one position less is an error, one page more a leak
    for position in range(40):
        first = first_seen(position, **{"window": None, "chunk": None, group.kind: group.span})
        assert group.first_kept(position) == first
        pool = PagePool(group, 40, page_size)
        table: list[int] = []
        pool.hold(table, 0, position + 1)
        pool.let_go(table, position)
        held = [place for place, page in enumerate(table) if page != GONE]
        assert held == list(range(first // page_size, position // page_size + 1))


@pytest.mark.parametrize("page_size", [1, 2, 3, 16])
@pytest.mark.parametrize("kind", ["window", "chunk"])
@pytest.mark.parametrize("span", [1, 5, 16])
def test_the_stated_bound_is_reached_and_never_passed(kind, span, page_size):
    group, run, worst = CacheGroup(kind, span, (0,)), 4, 0
    for start in range(200):
        worst = max(worst, len(group.pages(start, start + run, page_size)))
    bound = group.most_pages(200, run, page_size)
    assert worst <= bound
    if kind == "window":  # a chunk may begin where pages do, and then needs less
        assert worst == bound


def test_reading_a_page_that_was_given_back_fails():
    pages = np.zeros((4, 2, 1, 1))
    with pytest.raises(IndexError):
        read_pages(pages, np.array([GONE, 1, 2]), length=6, first=1)
    assert read_pages(pages, np.array([GONE, 1, 2]), length=6, first=2).shape == (4, 1, 1)


# ------------------------------------------------------------------- the same bits, less memory


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("page_size", [1, 3, 16])  # a window of 5: in more pages, in one
@pytest.mark.parametrize("batch_tokens", [1, 4, 7, 512])  # a prompt of 19 in 19, 5, 3, 1 pieces
def test_generates_what_no_cache_at_all_generates(kind, page_size, batch_tokens):
    model = model_with(**KINDS[kind])
    tokens, logits = expected(kind)
    bench = Bench(
        "fp32",
        pages=-(-40 // page_size),
        page_size=page_size,
        max_batch_tokens=batch_tokens,
        max_running=1,
        model=model,
    )
    request = bench.submit("it", PROMPT, wish(12))
    got = bench.finish()["it"]
    assert [out[0] for out in got.tokens] == tokens == request.output_ids
    assert list(got.logits) == logits


_expected: dict = {}


def expected(kind):
    if kind not in _expected:
        _expected[kind] = greedy(model_with(**KINDS[kind]), PROMPT, 12)
    return _expected[kind]


def test_the_window_matters():
    # or the tests above would hold for layers that ignore it
    assert expected("window") != expected("chunk") != greedy(model_with(), PROMPT, 12)


@pytest.mark.parametrize("kind", ["window", "chunk"])
@pytest.mark.parametrize("page_size", [2, 16])
def test_pages_in_use_stay_within_the_bound(kind, page_size):
    # a long sequence, counted in every step: what a window holds does not grow
    model, run = model_with(**KINDS[kind]), 8
    bench = Bench(
        "fp32",
        pages=-(-200 // page_size),
        page_size=page_size,
        max_batch_tokens=run,
        max_running=1,
        model=model,
    )
    pool = bench.cache.pools[1]
    bound = pool.group.most_pages(200, run, page_size)
    assert pool.pages == bound < bench.cache.pools[0].pages
    request = bench.submit("it", PROMPT * 4, wish(120))
    while bench.engine.busy:
        bench.step()
        if request.pages:
            held = sum(page != GONE for page in request.pages[1])
            assert held == pool.pages - pool.free_pages
            # between steps: what the next token sees, in pages that begin anywhere
            assert held <= pool.group.most_pages(200, 1, page_size)
            assert sum(page != GONE for page in request.pages[0]) == -(-request.cached // page_size)
    assert bench.cache.free_pages == bench.cache.pages


def test_a_request_that_fits_its_window_is_taken_whatever_its_length():
    model = model_with(**KINDS["window"])
    bench = Bench(
        "fp32", pages=20, page_size=4, max_batch_tokens=8, max_running=1, model=model,
    )  # fmt: skip
    assert bench.cache.pages == (20, CacheGroup("window", 5, (1,)).most_pages(80, 8, 4))
    bench.submit("it", PROMPT, wish(61))
    assert len(bench.finish()["it"].tokens) == 61
    # pieces larger than the cache was made for: refused at the door, not in the middle
    wide = Bench(
        "fp32", pages=20, page_size=4, max_batch_tokens=64, max_running=1, model=model,
        batch_tokens=8,
    )  # fmt: skip
    with pytest.raises(TinymoeError, match="keep window"):
        wide.engine.submit(PROMPT * 3, wish(20))


@pytest.mark.parametrize("kind", KINDS)
def test_preempted_and_restarted(kind):
    # the younger loses the pages of every group, and computes them again
    model = model_with(**KINDS[kind])
    bench = Bench("fp32", pages=17, page_size=2, max_batch_tokens=6, max_running=3, model=model)
    prompts = (PROMPT, PROMPT[:4], PROMPT[5:9])
    for number, prompt in enumerate(prompts):
        bench.submit(str(number), prompt, wish(12))
    results = bench.finish()
    assert bench.preemptions > 0
    for number, prompt in enumerate(prompts):
        tokens, logits = greedy(model, prompt, 12)
        assert [out[0] for out in results[str(number)].tokens] == tokens
        assert list(results[str(number)].logits) == logits


def test_cancel_gives_the_pages_of_every_group_back():
    bench = Bench("fp32", pages=40, page_size=2, max_batch_tokens=6, model=model_with(window=5))
    leaver, stayer = (bench.submit(name, PROMPT, wish(12)) for name in ("leaver", "stayer"))
    for _ in range(6):
        bench.step()
    assert GONE in leaver.pages[1]
    bench.engine.cancel(leaver)
    assert leaver.pages == []
    bench.engine.scheduler.check_integrity()
    assert bench.finish()["stayer"].tokens
    assert stayer.output_ids == expected("window")[0]


def test_integrity_is_checked_in_every_group():
    cache = PagedCache.for_model(model_with(window=5)[0], FP32, 32, 4)
    tables = [[int(page) for page in table] for table in cache.take(9)]
    cache.check_integrity([tables])
    with pytest.raises(AssertionError, match=r"window.*lost \[2\]"):
        cache.check_integrity([[tables[0], tables[1][:-1]]])
    cache.pools[1].let_go(tables[1], 9)
    cache.check_integrity([tables])


def test_the_order_of_the_pages_changes_nothing():
    # the free pages of both groups shuffled, in two ways
    results = []
    for seed in (0, 1):
        bench = Bench("fp32", pages=30, page_size=3, max_batch_tokens=5, model=model_with(window=5))
        for pool in bench.cache.pools:
            np.random.default_rng(seed).shuffle(pool._free)
        bench.submit("it", PROMPT, wish(12))
        results.append(bench.finish()["it"])
    assert results[0] == results[1]
    assert list(results[0].logits) == expected("window")[1]


# ------------------------------------------------------------------------------- bytes


def bytes_of(cache):
    cache.layer(0)
    return sum(array.nbytes for array in cache.arrays)


def test_a_window_takes_memory_for_the_window():
    config = model_with(window=5, max_positions=4096)[0]
    cache = PagedCache.for_model(config, FP32, 4096, 16, sequences=1, batch_tokens=32)
    per_page = 16 * 2 * 2 * 8 * 4  # P, keys and values, Nk, D, float32
    # 36 positions, 4 before a run and the run: 3 whole pages and the ends of one more
    assert bytes_of(cache) == per_page * (4096 // 16 + 4)


def test_the_latent_cache_holds_576_numbers_a_position_in_deepseek_v3():
    latent = LatentCard(
        query_rank=1536, rank=512, nope_dim=128, rope_dim=64, value_dim=128, norm_eps=1e-6,
        form="expanded",
    )  # fmt: skip
    card = tiny_attention(latent=latent)
    config = tiny_config(layers=("moe",), attention=(card,), heads=128, kv_heads=128, head_dim=192)
    for form, numbers in (("absorbed", 576), ("expanded", 128 * (192 + 128))):
        cache = PagedCache.for_model(in_form(config, form), FP32, 32)
        assert bytes_of(cache) == 32 * numbers * 4


def test_a_cache_serves_one_layout():
    # pages read in another order than they were written would be another text, and no error
    cache = PagedCache.for_model(model_with(window=5)[0], FP32, 32, 4)
    cache.layer(1)
    with pytest.raises(TinymoeError, match=r"made for tinymoe\.cache .* one backend"):
        cache.laid_out(0, lambda *given: cache.layer(0))


def test_a_state_is_one_slot_a_sequence():
    delta = GatedDeltaCard(
        key_heads=2, value_heads=4, key_dim=3, value_dim=5, kernel=4, unit_eps=1e-6
    )
    config = tiny_config(attention=(delta, tiny_attention()), head_dim=8)
    assert [group.kind for group in config.cache_groups] == ["state", "all"]
    cache = PagedCache.for_model(config, FP32, 160, 16, sequences=3)
    states, inputs = cache.layer(0)
    assert states.shape == (3, *delta.state[0])
    assert inputs.shape == (3, *delta.state[1])
    assert [len(table) for table in cache.take(100)] == [1, 7]
    assert cache.free_pages == (2, 3)


# ------------------------------------------------------------------------------- the choice


def test_generate_holds_latents_and_traces_hold_heads():
    folder = PARITY / "deepseek_v2"
    model = tinymoe.load(folder)
    assert model.engine(positions=16).config == in_form(model.config, "absorbed")
    assert model.trace([5, 6])["layers.0.attn.k"].shape == (
        2,
        model.config.heads,
        model.config.head_dim,
    )
    for latent in ("absorbed", "expanded"):
        chosen = tinymoe.load(folder, latent=latent)
        assert chosen.config == chosen.generating == in_form(model.config, latent)
    with pytest.raises(TinymoeError, match="latent"):
        tinymoe.load(folder, latent="folded")
