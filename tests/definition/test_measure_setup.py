"""What can be benchmarked: random models that behave, settings that make sense, processes."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinymoe.core import NUMERICS, Array, AttentionCard, TinymoeError
from tinymoe.measure import setup
from tinymoe.measure.process import peak_memory, start_once
from tinymoe.measure.random_model import random_params
from tinymoe.measure.runs import Case, Subject, engine_run, make_engine, make_prompts
from tinymoe.measure.setup import Settings, check
from tinymoe.measure.shapes import SHAPES, parameters, shape
from tinymoe.oracle.trace import trace

from .tiny_contest import Ticks

pytestmark = pytest.mark.definition

FP32 = NUMERICS["fp32"]
TINY = shape(
    hidden=32, layers=2, heads=2, kv_heads=1, experts=6, top_k=2,
    moe_intermediate=16, vocab=64, tied=False, positions=64, head_dim=16,
)  # fmt: skip
QWEN = Path(__file__).parents[1] / "vectors" / "parity" / "qwen3_moe"


# ------------------------------------------------------------------------------- random models


def arrays(part: Any) -> list[Array]:
    """All arrays below a dataclass, in order."""
    if isinstance(part, np.ndarray):
        return [part]
    if isinstance(part, tuple):
        return [array for item in part for array in arrays(item)]
    if part is None:
        return []
    return [a for field in fields(part) for a in arrays(getattr(part, field.name))]


def test_random_weights_depend_on_the_seed_alone() -> None:
    first, again, other, wide = (
        arrays(random_params(TINY, seed, numerics))
        for seed, numerics in ((3, FP32), (3, FP32), (4, FP32), (3, NUMERICS["exact"]))
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(first, wide, strict=True))
    assert {a.dtype for a in wide} == {np.dtype(np.float64)}
    pairs = zip(first, other, strict=True)
    drawn = [(a, b) for a, b in pairs if (a != 1).any()]  # a norm is 1 whatever the seed
    assert not any(np.array_equal(a, b) for a, b in drawn)


# tied and untied, a limit of groups, biases
@pytest.mark.parametrize("name", ["shipped", "small", "small-deepseek", "small-gpt-oss"])
def test_random_routing_does_not_collapse(name: str) -> None:
    # Untrained attention gives all tokens the same direction, and then the same K experts
    # (share 1/K each): such a model would decode from cache and measure nothing.
    config = SHAPES[name]
    ids = np.random.default_rng(7).integers(0, config.vocab_size, 128)
    taps = trace(random_params(config, 0, FP32), config, ids, FP32, patterns=["*.router.ids"])
    assert len(taps) == config.layers.count("moe")
    for chosen in taps.values():
        share = np.bincount(chosen.ravel(), minlength=config.router.experts) / chosen.size
        assert share.max() <= 0.5 / config.router.top_k  # half of a collapsed one's
        assert share.min() > 0


@pytest.mark.parametrize("name", ["shipped", "small"])
def test_a_greedy_random_model_does_not_repeat_one_token(name: str) -> None:
    # with a tied head at the wrong scale each token predicts itself, and routing stands still
    case, config = Case(batch=1, prompt=16, tokens=24), SHAPES[name]
    engine = make_engine(Subject(random_params(config, 0, FP32), config, FP32), case)
    _, (output,) = engine_run(engine, case, make_prompts(case, 4096, seed=0), Ticks())
    assert len(set(output)) > len(output) // 2


def test_shapes_are_the_sizes_they_are_named_for() -> None:
    millions = {name: round(parameters(config)[0] / 1e6, 1) for name, config in SHAPES.items()}
    assert millions == {
        **{"shipped": 15.2, "small": 22.6, "small-deepseek": 22.5, "small-gpt-oss": 22.7},
        **{"medium": 914.9, "medium-deepseek": 899.7, "medium-gpt-oss": 916.0},
    }


@pytest.mark.parametrize("name", ["small-deepseek", "small-gpt-oss"])
def test_a_shape_of_a_kind_has_what_the_kind_costs(name: str) -> None:
    # a shape whose cards lack what slows the family down would measure Qwen3-MoE under its name
    config = SHAPES[name]
    first, second = (c for c in config.attention[:2] if isinstance(c, AttentionCard))
    if name.endswith("deepseek"):
        assert first.latent is not None
        assert (config.router.groups, config.router.groups_kept) == (4, 2)
        assert config.experts.shared == "added"
    else:
        assert first.sinks
        assert first.qkv_bias
        assert (first.window, second.window) == (128, None)
        assert config.experts.biases
        assert config.experts.activation == "swiglu_clamped"


# ------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"shape": "huge"},
            "--shape must be one of shipped, small, medium, small-deepseek, .*; got 'huge'",
        ),
        ({"shape": "small", "model": "x"}, "not both"),
        ({"shape": "small", "batches": (1, 0)}, "--batch must be at least 1, got 0"),
        ({"shape": "small", "batches": (2, 2)}, "twice"),
        ({"shape": "small", "prompt": 0}, "--prompt must be at least 1, got 0"),
        ({"shape": "small", "threads": 0}, "--threads must be at least 1, got 0"),
        ({"shape": "small", "prompt": 4090, "tokens": 7}, "4097 positions, the model has 4096"),
        ({"shape": "small", "tokens": 1}, "--tokens must be at least 2, got 1"),
        ({"shape": "small", "repeats": 0}, "--repeats must be at least 1, got 0"),
        ({"shape": "small", "warmup": 0}, "--warmup must be at least 1, got 0"),
        ({"shape": "small", "seed": -1}, "--seed must be 0 or more, got -1"),
        ({"shape": "small", "numerics": "fp4"}, "numerics must be one of"),
        ({"model": "no/such/folder"}, "no such folder"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(TinymoeError, match=says):
        check(Settings(**settings))


def test_a_model_that_does_not_fit_is_refused_before_it_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(setup, "free_memory", lambda: 3 * 10**9)
    with pytest.raises(TinymoeError, match=r"0\.91 G .* 3\.0 GB are free: .*--shape small"):
        check(Settings(shape="medium"))
    check(Settings(shape="small"))


# ------------------------------------------------------------------------------- processes


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_a_start_is_timed_to_its_first_word_and_its_end() -> None:
    # white space is no word: a line break would make every start look fast
    program = "import sys\nprint(flush=True)\nsys.stdin.read()\nprint('Once', flush=True)"
    start = start_once(python(program), {}, Ticks())
    assert (start.first_word, start.total) == (1.0, 2.0)  # the clock is read three times


@pytest.mark.parametrize("program", ["print()", "print('x'); raise SystemExit('went wrong')"])
def test_a_start_that_fails_is_an_error(program: str) -> None:
    with pytest.raises(TinymoeError, match="--no-start"):
        start_once(python(program), {}, Ticks())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the trap is Linux's ru_maxrss")
def test_peak_memory_is_the_childs_not_the_parents() -> None:
    held = np.ones(2**25)  # 256 MiB in this process, which ru_maxrss would hand down
    settings = Settings(model=str(QWEN), prompt=4, tokens=2, batches=(1,))
    peak = peak_memory(settings)["peak_bytes"]
    assert peak is not None
    assert 2**20 < peak < held.nbytes
