"""One layer of a decode step, recorded: nothing is read back, and the bits are those of the ops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.kernels.model_kernels import machine
from tests.tiny import tiny_config, tiny_params
from tinymoe.core import NUMERICS, Array, Batch, Run, TinymoeError
from tinymoe.kernels.cuda.backend import ops_on
from tinymoe.kernels.cuda.decode_step import Places, layer_step
from tinymoe.kernels.cuda.recorder import Recorder
from tinymoe.model import norm
from tinymoe.model.ops import Ops
from tinymoe.model.rope import rope_tables
from tinymoe.model.router import route
from tinymoe.model.transformer import begin, no_tap, run_layer

pytestmark = pytest.mark.kernels
FP32 = NUMERICS["fp32"]


def step_of(config: Any, rows: int) -> tuple[Any, Array, Places]:
    """The MoE layer of a tiny model, hidden states, and `rows` sequences in scrambled pages."""
    rng, params = np.random.default_rng(6), tiny_params(config)
    shape = (9, 4, config.kv_heads, config.head_dim)
    tables = rng.permutation(8).reshape(2, 4)[:rows].astype(np.int64)
    places = Places(
        key_pages=rng.normal(size=shape).astype(np.float32),
        value_pages=rng.normal(size=shape).astype(np.float32),
        tables=tables,
        positions=np.array([5, 11][:rows]),
        turns=rope_tables(np.arange(16), config.attention[1].rope, FP32),
    )
    x = rng.normal(size=(rows, config.hidden_size)).astype(np.float32)
    return params.layers[1], x, places


def by_the_model(config: Any, layer: Any, x: Array, places: Places, ops: Ops) -> Array:
    """The same layer as `forward` runs it, on copies of the pages."""
    runs = tuple(
        Run(slice(r, r + 1), int(p), (places.tables[r],)) for r, p in enumerate(places.positions)
    )
    batch = Batch(np.zeros(len(x), np.int64), places.positions.copy(), runs, np.arange(len(x)))
    pages = places.key_pages.copy(), places.value_pages.copy()
    cache = OnePage(pages)
    this = begin(config, batch, cache, FP32, ops, no_tap)
    return run_layer(x, layer, 1, pages, this)


class OnePage:
    """A cache of one layer."""

    page_size = 4

    def __init__(self, pages: tuple[Array, Array]) -> None:
        self.pages = pages

    def layer(self, index: int) -> tuple[Array, Array]:
        return self.pages


def test_a_recorded_layer_goes_on_by_itself() -> None:
    # no read-back, no allocation, one grid for every step: replayed at other positions, with
    # other experts chosen, the recording must give what the model's ops give, bit for bit
    config = tiny_config()
    layer, x, places = step_of(config, rows=2)
    card, on_ptx = config.attention[1], ops_on(machine("80"))
    recorder = Recorder(machine("80"))
    want = by_the_model(config, layer, x, places, on_ptx)
    out = recorder.record(lambda: layer_step(recorder, x, layer, card, config, places, FP32))
    rng, counts = np.random.default_rng(8), set()
    for _ in range(3):
        recorder.replay()
        assert np.array_equal(out, want)
        x[...] = rng.normal(size=x.shape)
        places.positions[...] += 1
        want = by_the_model(config, layer, x, places, on_ptx)
        normed = norm.rmsnorm(x, layer.ffn.norm, 1e-6, FP32, rounds_before_weight=True)
        ids = route(normed, layer.ffn.router, None, config.router, FP32).ids
        counts.add(tuple(np.bincount(ids.ravel(), minlength=6)))
    assert len(counts) > 1  # the same launches served experts with other numbers of tokens


def test_a_layer_that_a_step_is_not_written_for_is_refused() -> None:
    # a card's field that a step left out would be a wrong model without a word
    config = tiny_config()
    layer, x, places = step_of(config, rows=1)
    for card, what in (
        (replace(config.attention[1], qk_norm_after_rope=True), "after rope"),
        (replace(config.attention[1], clip=1.0), "clipped"),
        (replace(config.attention[1], out_gate=True), "gate"),
    ):
        with pytest.raises(TinymoeError, match=what):
            layer_step(machine("80"), x, layer, card, config, places, FP32)
    dense = tiny_params(config).layers[0]
    with pytest.raises(TinymoeError, match="DenseParams"):
        layer_step(machine("80"), x, dense, config.attention[1], config, places, FP32)
