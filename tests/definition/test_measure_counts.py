"""What a step must read and compute, against counts by other ways; work that is timed, by a clock
that only work moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinymoe.api import load
from tinymoe.core import NUMERICS, Array, TinymoeError
from tinymoe.formats import bf16
from tinymoe.measure import build as build_module
from tinymoe.measure.build import Source, build
from tinymoe.measure.by_op import REST, by_op
from tinymoe.measure.counts import Counts, Work, decode_work, experts_met, prefill_work
from tinymoe.measure.random_model import random_params
from tinymoe.measure.runs import Case, Subject
from tinymoe.measure.shapes import SHAPES, parameters, shape
from tinymoe.measure.steps import Line, lines_of
from tinymoe.measure.steps import Work as Timed
from tinymoe.measure.stored import BYTES, FORMS, quantised, round_params, rounded
from tinymoe.measure.traffic import step_bytes
from tinymoe.model.ops import DEFINITION

pytestmark = pytest.mark.definition

FP32 = NUMERICS["fp32"]
PARITY = Path(__file__).parents[1] / "vectors" / "parity"
TINY = shape(
    hidden=64, layers=2, heads=2, kv_heads=1, experts=6, top_k=2,
    moe_intermediate=32, vocab=64, tied=False, positions=64, head_dim=32,
)  # fmt: skip


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


# ------------------------------------------------------------------------------- counts


@pytest.mark.parametrize("tied", [False, True])
def test_bytes_of_a_decode_step_are_those_of_the_arrays(tied: bool) -> None:
    # two counts of one thing: of the values and their format, and of the arrays as held
    subject, case = subject_of(replace(TINY, tied_head=tied)), Case(3, 8, 5)
    counts, met = Counts.of(subject.params), [4.0, 5.0]
    by_values = decode_work(counts, subject.config, "fp32", 3, case.mean_context, met)
    held = step_bytes(subject, case, met)["total"]
    if tied:  # `step_bytes` knows that the row was read with the head
        held += 3 * TINY.hidden_size * 4
    assert by_values.bytes == held


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "gpt_oss", "mixtral"])
def test_every_array_of_a_family_is_counted_once(family: str) -> None:
    # latent attention, shared experts, dense layers, sinks: forgotten weights would be free
    model = load(PARITY / family)
    counts, config = Counts.of(model.params), model.config
    shared = [p for layer in model.params.layers for p in arrays((layer.attention, layer.ffn))]
    everything = sum(a.size for a in shared) + model.params.final_norm.size
    everything += model.params.embed.size
    if model.params.head is not model.params.embed:
        everything += model.params.head.size
    experts = config.router.experts * sum(counts.experts)
    rest = counts.matrices + counts.routers + counts.small + counts.embedding
    assert experts + rest == everything


def arrays(part: Any) -> list[Array]:
    """All arrays below a dataclass."""
    if isinstance(part, np.ndarray):
        return [part]
    if isinstance(part, tuple):
        return [array for item in part for array in arrays(item)]
    names = getattr(part, "__dataclass_fields__", ())
    return [a for name in names for a in arrays(getattr(part, name))]


def test_operations_of_a_decode_step_by_hand() -> None:
    counts = Counts.of(random_params(TINY, 0, FP32))
    _, active = parameters(TINY)
    norms = 2 * (2 * 64 + 2 * 32) + 64
    met_by_a_token = active - 64 * 64 - norms  # without the embedding
    attention = 2 * 2 * 10 * 2 * (32 + 32)  # layers, multiply and add, keys, heads, dimensions
    work = decode_work(counts, TINY, "nvfp4", 4, 10, [6.0, 6.0])
    assert work.flops == 4 * (2 * met_by_a_token + attention)


def test_a_prompt_needs_logits_of_one_token_and_sees_a_triangle_of_keys() -> None:
    counts = Counts.of(random_params(TINY, 0, FP32))
    one = decode_work(counts, TINY, "bf16", 1, 0)
    head = 2 * 64 * 64
    seen = sum(range(1, 9))  # of 8 tokens
    attention = 2 * 2 * seen * 2 * (32 + 32)
    whole = prefill_work(counts, TINY, "bf16", 8)
    assert whole.flops == 8 * one.flops - 7 * head + attention
    assert whole.bytes == decode_work(counts, TINY, "bf16", 8, 0).bytes


def test_a_window_bounds_what_is_read_of_the_cache() -> None:
    model = load(PARITY / "gpt_oss")  # every other layer has a window
    counts, config = Counts.of(model.params), model.config
    window = max(group.span for group in config.cache_groups)
    short, long, longer = (
        decode_work(counts, config, "fp32", 1, window * n).bytes for n in (1, 2, 3)
    )
    full = sum(len(g.layers) for g in config.cache_groups if g.kind == "all")
    grown = 4 * window * full * 2 * config.kv_heads * config.head_dim
    assert long - short == longer - long == grown


def test_experts_met_are_all_in_the_end() -> None:
    assert experts_met(TINY, 1) == 2
    assert experts_met(TINY, 2) == pytest.approx(2 + 2 * (1 - 2 / 6), abs=1e-9)  # rounded there
    assert experts_met(TINY, 1000) == 6


def test_the_slower_of_reading_and_computing_is_the_limit() -> None:
    assert Work(bytes=10, flops=6).seconds(bandwidth=5, peak=1) == 6
    assert Work(bytes=10, flops=6).seconds(bandwidth=1, peak=1) == 10


# ------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("form", FORMS)
def test_a_model_in_a_format_has_its_matrices_rounded_and_nothing_else(form: str) -> None:
    params = random_params(TINY, 0, FP32)
    changed = round_params(params, form)
    for before, after in zip(params.layers, changed.layers, strict=True):
        assert np.array_equal(after.ffn.router, before.ffn.router)  # type: ignore[union-attr]
        assert np.array_equal(after.attention.norm, before.attention.norm)
        for name in ("gate_up", "down"):
            stack, other = getattr(before.ffn, name), getattr(after.ffn, name)
            assert (form == "fp32") == np.array_equal(stack, other)
            assert np.array_equal(rounded(stack[1], form), other[1])  # each expert by itself
    assert np.array_equal(
        changed.embed, rounded(params.embed, "fp32" if form == "fp32" else "bf16")
    )


@pytest.mark.parametrize("form", ["nvfp4", "mxfp4"])
def test_bytes_of_a_value_are_those_of_codes_and_scales(form: str) -> None:
    matrix = np.random.default_rng(0).standard_normal((8, 64), dtype=np.float32)
    tensor = quantised(matrix, form)
    assert (tensor.codes.nbytes + tensor.scales.nbytes) / matrix.size == BYTES[form]
    assert bf16.encode(matrix).nbytes / matrix.size == BYTES["bf16"]


def test_a_format_that_does_not_fit_says_so() -> None:
    with pytest.raises(TinymoeError, match=r"mxfp4 has blocks of 32 .*\(4, 48\)"):
        rounded(np.ones((4, 48), np.float32), "mxfp4")
    with pytest.raises(
        TinymoeError, match="--formats must be of nvfp4, mxfp4, bf16, fp32; got 'x'"
    ):
        build(Source(shape="small"), "x")


# ------------------------------------------------------------------------------- work


def test_only_what_is_inside_the_model_is_timed() -> None:
    clock = WorkClock()
    subject = subject_of(route=working(clock, DEFINITION.route, 1.0))  # 2 layers: 2 s a forward
    assert Timed(subject, Line("prefill", 1, 8, 0)).run(subject, clock) == 2.0
    work = Timed(subject, Line("decode", 3, 20, 4))
    assert work.run(subject, clock) == 8.0
    assert work.run(subject, clock) == 8.0  # the same positions again


def test_a_decode_step_sees_the_context_that_it_was_set_up_for() -> None:
    seen: list[int] = []

    def attend(q: Array, *rest: Any, **named: Any) -> Any:
        seen.append(len(q))
        return DEFINITION.attention_decode(q, *rest, **named)

    subject = subject_of(attention_decode=attend)
    work = Timed(subject, Line("decode", 2, 17, 3))
    assert [[run.start for run in batch.runs] for batch in work.batches] == [
        [n, n] for n in (17, 18, 19)
    ]
    seen.clear()  # of the step that the cache was made in
    work.run(subject, WorkClock())
    assert seen == [2] * 2 * 3  # both sequences in one call, 2 layers, 3 steps
    first, _ = work.cache.layer(0)
    held = first[work.batches[0].runs[1].pages[0][0]]
    assert np.unique(held).size == held.size  # pages were filled: zeros would make experts alike
    assert work.line.mean_context == 19  # of 18, 19, 20 keys, itself too


def test_experts_are_counted_step_by_step() -> None:
    subject = subject_of()
    met = Timed(subject, Line("decode", 1, 5, 3)).met(subject)
    assert met == [2.0, 2.0]  # top-k of one token


def test_layers_with_a_window_or_a_state_can_be_timed() -> None:
    for family in ("gpt_oss", "qwen3_next"):
        model = load(PARITY / family)
        subject = Subject(model.params, model.generating, model.numerics)
        context = model.config.max_positions // 2
        work = Timed(subject, Line("decode", 2, context, 2))
        work.run(subject, WorkClock())
        work.run(subject, WorkClock())


def test_too_long_a_context_is_refused() -> None:
    with pytest.raises(TinymoeError, match="needs 66 positions, the model has 64"):
        Timed(subject_of(), Line("decode", 1, 60, 6))
    with pytest.raises(TinymoeError, match="--context must be at least 1, got 0"):
        lines_of(8, 0, 4, (1,))


def test_time_by_op_adds_up_and_an_op_inside_an_op_counts_once() -> None:
    clock = WorkClock()
    inner = working(clock, DEFINITION.linear, 1.0)

    def outer(*args: Any, **named: Any) -> Any:
        clock.now += 2.0
        return DEFINITION.route(*args, **named)

    subject = subject_of(linear=inner, route=outer)
    work = Timed(subject, Line("prefill", 1, 4, 0))
    spent = by_op(subject, lambda s: work.run(s, clock), clock)
    assert spent["route"] == 4.0  # 2 layers
    assert spent["linear"] == 4.0  # 2 layers, qkv and out
    assert spent[REST] == 0.0
    assert list(spent.values()) == sorted(spent.values(), reverse=True)


# ------------------------------------------------------------------------------- what is built


def test_a_shape_can_have_other_experts_and_positions() -> None:
    config = Source(shape="small", experts=32, top_k=4, positions=32_768).config
    assert (config.router.experts, config.router.top_k) == (32, 4)
    assert config.max_positions == 32_768
    assert SHAPES["small"].router.experts == 16


def test_threads_that_numpy_does_not_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # OpenBLAS would take all cores and the report would say 1
    monkeypatch.setattr(build_module, "usable_cores", lambda: 4)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    with pytest.raises(TinymoeError, match="--threads 1: with --backend numpy .* now 2"):
        build(Source(shape="small"), "fp32", "numpy", 1)
    assert build_module.default_threads("numpy") == 2


def test_a_model_that_does_not_fit_is_refused_before_it_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(build_module, "free_memory", lambda: 5 * 10**9)
    with pytest.raises(TinymoeError, match=r"0\.91 G .* 7\.3 GB .* 5\.0 GB are free"):
        build(Source(shape="medium"), "nvfp4")
    build_module.check_memory(Source(shape="medium"), "fp32")  # 3.7 GB


def test_a_backend_that_is_none_is_refused() -> None:
    with pytest.raises(TinymoeError, match="unknown backend 'fast'"):
        build(Source(shape="small"), "fp32", "fast")


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"experts": 18}, "4 groups: expected a multiple of 4 experts"), ({"top_k": 9}, "among 8")],
)
def test_sizes_that_a_router_cannot_have_are_refused(changes: dict[str, int], says: str) -> None:
    with pytest.raises(TinymoeError, match=says):
        _ = Source(shape="small-deepseek", **changes).config  # type: ignore[arg-type]
