"""What the benchmark counts, on samples and clocks made by hand: nothing here depends on speed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinymoe.api import load
from tinymoe.core import NUMERICS, Array, ModelConfig, TinymoeError
from tinymoe.engine.scheduler import Scheduler
from tinymoe.measure import bench as bench_module
from tinymoe.measure import machine, setup
from tinymoe.measure.bench import bench
from tinymoe.measure.footprint import footprint
from tinymoe.measure.random_model import random_params
from tinymoe.measure.runs import (
    Case,
    ExpertCount,
    Subject,
    engine_run,
    make_engine,
    make_prompts,
    model_run,
)
from tinymoe.measure.setup import Settings
from tinymoe.measure.shapes import SHAPES, parameters, shape
from tinymoe.measure.statistics import latencies, percentile, summary
from tinymoe.measure.traffic import step_bytes, weight_bytes
from tinymoe.model.ops import DEFINITION

from .tiny_contest import Ticks

pytestmark = pytest.mark.definition

FP32 = NUMERICS["fp32"]
QWEN = Path(__file__).parents[1] / "vectors" / "parity" / "qwen3_moe"
FAMILIES = sorted(config.parent for config in QWEN.parent.glob("*/config.json"))
TINY = shape(
    hidden=32, layers=2, heads=2, kv_heads=1, experts=6, top_k=2,
    moe_intermediate=16, vocab=64, tied=False, positions=64, head_dim=16,
)  # fmt: skip


# ------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize(
    ("samples", "percent", "expected"),
    [
        ([7.0], 99, 7.0),
        ([2.0, 1.0], 50, 1.5),
        ([5.0, 1.0, 3.0, 2.0, 4.0], 50, 3.0),
        ([5.0, 1.0, 3.0, 2.0, 4.0], 75, 4.0),  # position 3 of 0..4
        ([0.0, 8.0], 25, 2.0),
        ([4.0, 9.0, 6.0], 0, 4.0),
        ([4.0, 9.0, 6.0], 100, 9.0),
    ],
)
def test_percentiles_by_hand(samples: list[float], percent: float, expected: float) -> None:
    # a p99 of "the largest but one hundredth of n, rounded somehow" differs from tool to tool
    assert percentile(samples, percent) == expected


def test_percentiles_are_numpys() -> None:
    samples = np.random.default_rng(0).random(38).tolist()
    for percent in (12.5, 25, 50, 87.5):  # eighths: the position is exact in both
        # numbers below 1: difference, product, sum round by at most 2**-54 each, on either side
        assert abs(percentile(samples, percent) - np.percentile(samples, percent)) <= 6 * 2**-54


@pytest.mark.parametrize(("samples", "percent"), [([], 50), ([1.0], 101), ([1.0], -1)])
def test_percentiles_of_nothing_are_refused(samples: list[float], percent: float) -> None:
    with pytest.raises(TinymoeError, match="percentile"):
        percentile(samples, percent)


def test_summaries_keep_the_raw_samples() -> None:
    expected = {"median": 2.0, "min": 1.0, "max": 4.0, "samples": [4.0, 1.0, 2.0]}
    assert summary([4.0, 1.0, 2.0]) == expected
    assert latencies([1.0, 3.0])["p50"] == 2.0
    assert latencies([1.0, 3.0])["count"] == 2


# ------------------------------------------------------------------------------- counts


class WorkClock:
    """Time passes only where the test says that work is done."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def working(clock: WorkClock, function: Any, seconds: float) -> Any:
    def slow(*args: Any, **kwargs: Any) -> Any:
        clock.now += seconds
        return function(*args, **kwargs)

    return slow


def subject_of(config: Any = TINY, **ops: Any) -> Subject:
    return Subject(random_params(config, 0, FP32), config, FP32, replace(DEFINITION, **ops))


def test_the_first_token_is_ttft_and_only_the_others_are_decode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # the classic errors: N tokens over N - 1 gaps, and a prefill inside the decode time
    clock, case = WorkClock(), Case(batch=3, prompt=5, tokens=4)
    subject = subject_of(route=working(clock, DEFINITION.route, 1.0))  # 2 layers: 2 s a forward
    monkeypatch.setattr(Scheduler, "pick", working(clock, Scheduler.pick, 10.0))
    engine, prompts = make_engine(subject, case), make_prompts(case, 64, seed=0)
    by_engine, outputs = engine_run(engine, case, prompts, clock)
    assert by_engine.first == 12.0
    assert by_engine.steps == (12.0, 12.0, 12.0)
    assert [len(output) for output in outputs] == [4, 4, 4]
    by_model = model_run(engine, case, prompts, outputs, clock)
    assert by_model.first == 2.0  # the scheduler's 10 s are the engine's
    assert by_model.steps == (2.0, 2.0, 2.0)
    assert not engine.busy
    engine.scheduler.check_integrity()


def test_the_model_run_sees_the_engine_runs_batches() -> None:
    # other tokens would meet other experts, and the difference would not be the engine's cost
    seen: list[Array] = []

    def route(x: Array, *rest: Any) -> Any:
        seen.append(np.array(x))
        return DEFINITION.route(x, *rest)

    case = Case(batch=2, prompt=4, tokens=5)
    engine = make_engine(subject_of(route=route), case)
    prompts = make_prompts(case, 64, seed=1)
    _, outputs = engine_run(engine, case, prompts, WorkClock())
    by_engine, seen[:] = list(seen), []
    model_run(engine, case, prompts, outputs, WorkClock())
    assert len(seen) == len(by_engine) == 2 * 5
    assert all(np.array_equal(a, b) for a, b in zip(seen, by_engine, strict=True))


def test_an_end_of_sequence_id_ends_no_run() -> None:
    case = Case(batch=1, prompt=3, tokens=6)
    engine = make_engine(subject_of(), case)
    engine.end_ids = tuple(range(64))  # whatever comes is one
    _, (output,) = engine_run(engine, case, make_prompts(case, 64, seed=0), WorkClock())
    assert len(output) == 6


def test_contexts_of_the_decode_steps() -> None:
    case = Case(batch=1, prompt=10, tokens=4)  # decode positions 10, 11, 12 see 11, 12, 13 keys
    assert case.contexts == (11, 13)
    assert case.mean_context == 12


def test_distinct_experts_of_decode_steps() -> None:
    count = ExpertCount()
    prefill, layer0, layer1 = np.arange(6).reshape(3, 2), [[0, 1], [1, 0]], [[0, 1], [2, 3]]
    for ids in (prefill, prefill, layer0, layer1, layer0, layer0):
        count("layers.0.router.ids", np.array(ids))
        count("layers.0.router.logits", np.zeros((9, 9)))
    assert count.per_decode_step(moe_layers=2) == [2.0, 3.0]  # (2 + 2) / 2, (4 + 2) / 2


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "tiny", TINY)  # type: ignore[arg-type]
    for module in (machine, setup):
        monkeypatch.setattr(module, "probe_bytes", lambda: 2**16)


@pytest.mark.usefixtures("tiny")
def test_the_reports_rates_follow_from_its_seconds() -> None:
    settings = Settings(
        shape="tiny", prompt=8, tokens=5, batches=(1, 4), repeats=3, start=False, memory=False
    )
    parts: list[float] = []
    report = bench(settings, clock=Ticks(), progress=lambda what, part: parts.append(part))
    assert parts == sorted(parts)
    assert parts[-1] == 1.0
    assert report["read_bandwidth"]["bytes_per_s"]["samples"] == [2**16] * 3
    for case, batch in zip(report["cases"], (1, 4), strict=True):
        for form in ("engine", "model"):
            numbers = case[form]
            assert numbers["raw_s"] == [[1.0] * 5] * 3
            assert numbers["prefill_tokens_per_s"]["samples"] == [8.0 * batch] * 3
            assert numbers["decode_tokens_per_s"]["samples"] == [float(batch)] * 3
        assert case["engine"]["tokens_per_s_per_user"] == 1.0
        assert case["engine"]["itl_s"]["count"] == 4 * 3
        assert case["engine"]["ttft_s"]["median"] == 1.0
        assert case["implied_bytes_per_s"] == case["bytes_per_step"]["total"]
        assert case["of_limit"] == case["bytes_per_step"]["total"] / 2**16
    assert report["cases"][0]["experts_per_step_and_layer"] == TINY.router.top_k


def test_warnings_name_a_busy_machine_and_a_model_in_cache() -> None:
    about = {"load_average_1min": 0.1, "usable_cores": 2, "last_level_cache_bytes": 100}
    report = {"machine": about, "model": {"weight_bytes": 101}}
    assert bench_module.warnings(report) == []
    about["load_average_1min"] = 1.5
    report["model"]["weight_bytes"] = 100
    busy, cached = bench_module.warnings(report)
    assert "busy" in busy
    assert "cache" in cached


# ------------------------------------------------------------------------------- bytes


def repeated_norms(config: ModelConfig) -> int:
    """Bytes held beyond the parameters: every head has its own row of the q or k norm's weight."""
    return 4 * config.num_layers * (config.heads + config.kv_heads - 2) * config.head_dim


def test_bytes_of_a_step_by_hand() -> None:
    case = Case(batch=1, prompt=9, tokens=3)
    read = step_bytes(subject_of(), case, [2.0, 2.0])
    _, active = parameters(TINY)
    embed = TINY.vocab_size * TINY.hidden_size
    weights = 4 * (active - embed + TINY.hidden_size)  # of the embedding one row
    weights += repeated_norms(TINY)
    assert read["shared_weights"] + read["experts"] == weights
    # keys and values, 2 layers, 1 head of 16, mean of 10 and 11 keys, float32
    assert read["cache"] == 2 * 2 * 1 * 16 * 10.5 * 4
    assert read["total"] == weights + read["cache"]


def test_bytes_of_a_step_are_the_footprints() -> None:
    # two ways to one number: from the arrays as held (fp32), from the headers (BF16)
    model = load(QWEN)
    subject = Subject(model.params, model.config, model.numerics)
    read = step_bytes(subject, Case(1, 2, 2), [4.0] * 3)
    stored = footprint(model.checkpoint, model.config)
    repeated = repeated_norms(model.config)
    assert read["shared_weights"] + read["experts"] == 2 * stored.read_per_token + repeated
    assert weight_bytes(model.params) == 2 * stored.nbytes + repeated


@pytest.mark.parametrize("folder", FAMILIES, ids=lambda folder: folder.name)
def test_parameters_by_cards_are_those_of_the_checkpoint(folder: Path) -> None:
    # forgotten biases, sinks or latent matrices would make a shape lighter than its family
    model = load(folder)
    stored = footprint(model.checkpoint, model.config)
    bias = 0 if model.params.head_bias is None else model.params.head_bias.size
    total, active = parameters(model.config)
    assert (total + bias, active + bias) == (stored.total, stored.active)


def test_a_tied_head_is_read_and_held_once() -> None:
    tied = replace(TINY, tied_head=True)
    read = step_bytes(subject_of(tied), Case(1, 2, 2), [2.0, 2.0])
    total, active = parameters(tied)
    repeated = repeated_norms(tied)
    assert read["shared_weights"] + read["experts"] == 4 * active + repeated
    assert weight_bytes(random_params(tied, 0, FP32)) == 4 * total + repeated
