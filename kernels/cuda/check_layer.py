"""A layer of a decode step on a device: launched, and replayed as a CUDA graph.

Both must have the bits that the ops give one by one on the same device, which are held to their
contracts elsewhere. What is timed is the host's clock over one step: the difference is what a graph
saves. The layer is small, so that the PTX machine can run it; what is left is launch overhead.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from tinymoe.cards import NO_MULTIPLIERS, PLAIN_SWIGLU, full_attention
from tinymoe.core import NUMERICS, Array, Batch, ModelConfig, RopeCard, Run
from tinymoe.kernels.contract import Case
from tinymoe.kernels.cuda.backend import ops_on
from tinymoe.kernels.cuda.check_sizes import PLAIN
from tinymoe.kernels.cuda.decode_step import Places, layer_step
from tinymoe.kernels.cuda.on_device import moved
from tinymoe.kernels.cuda.recorder import Recorder
from tinymoe.kernels.cuda.timed_devices import Timed
from tinymoe.model.params import AttentionParams, LayerParams, MoeParams
from tinymoe.model.rope import rope_tables
from tinymoe.model.transformer import begin, no_tap, run_layer

FP32 = NUMERICS["fp32"]
ROPE = RopeCard(theta=1e4, rotary_dim=8, pairing="half", scaling=None)
HEADS, KV_HEADS, SIZE, HIDDEN, WIDTH, PAGE = 4, 2, 8, 32, 16, 4
CARD = full_attention(SIZE, ROPE)
CONFIG = ModelConfig(
    family="one layer",
    vocab_size=8,
    hidden_size=HIDDEN,
    layers=("moe",),
    attention=(CARD,),
    heads=HEADS,
    kv_heads=KV_HEADS,
    head_dim=SIZE,
    norm="rms",
    rms_norm_eps=1e-6,
    norm_rounds_before_weight=True,
    dense_intermediate=WIDTH,
    moe_intermediate=WIDTH,
    experts=PLAIN_SWIGLU,
    router=PLAIN,
    multipliers=NO_MULTIPLIERS,
    residual=None,
    tied_head=False,
    max_positions=64,
)


class Both(NamedTuple):
    """Hidden states (R, H) after the layer, as the recorded step and as the ops give them."""

    step: Array
    by_ops: Array


def check(case: Case, got: Both) -> None:
    """Bit for bit."""
    assert np.isfinite(got.by_ops).all(), "decode_layer: the ops themselves gave no numbers"
    differ = int((got.step.view(np.uint32) != got.by_ops.view(np.uint32)).sum())
    assert not differ, (
        f"decode_layer: {differ} of {got.step.size} numbers are not the bits that the ops give"
    )


@dataclass(frozen=True, slots=True)
class LayerSteps:
    """The op `decode_layer` on one device. `rung`: "launches" or "graph"."""

    device: Timed
    rung: str

    def decode_layer(self, rows: int, seed: int) -> Both:
        """One new token of each of R sequences, values drawn with `seed`."""
        device = self.device
        device.timing = False  # its events would become part of a graph
        try:
            by_ops = self._by_ops(*_made(rows, seed))
            layer, x, places = moved(_made(rows, seed), device, {})
            if self.rung == "graph":
                recorder = Recorder(device)
                out = recorder.record(lambda: self._step(recorder, layer, x, places))
                recorder.replay()  # the first start of a graph is a slow one
                begin_at = perf_counter()
                recorder.replay()
            else:
                self._step(device, layer, x, places)  # compiles
                begin_at = perf_counter()
                out = self._step(device, layer, x, places)
            step = device.to_numpy(out)  # waits
            device.also((perf_counter() - begin_at) * 1e3)
        finally:
            device.timing = True
        return Both(step, by_ops)

    @staticmethod
    def _step(device: Any, layer: LayerParams, x: Any, places: Places) -> Any:
        return layer_step(device, x, layer, CARD, CONFIG, places, FP32)

    def _by_ops(self, layer: LayerParams, x: Array, places: Places) -> Array:
        """As `forward` runs a layer."""
        take, rows = self.device.asarray, len(x)
        runs = tuple(
            Run(slice(r, r + 1), int(places.positions[r]), (take(places.tables[r]),))
            for r in range(rows)
        )
        numbers = take(np.arange(rows))
        batch = Batch(numbers, take(places.positions), runs, numbers)
        pages = take(places.key_pages), take(places.value_pages)
        this = begin(CONFIG, batch, _Cache(pages), FP32, ops_on(self.device), no_tap)
        placed = moved(layer, self.device, {})
        result: Array = self.device.to_numpy(run_layer(take(x), placed, 0, pages, this))
        return result


@dataclass(frozen=True, eq=False)
class _Cache:
    """A cache of one layer."""

    pages: tuple[Any, Any]
    page_size: int = PAGE

    def layer(self, index: int) -> tuple[Any, Any]:
        return self.pages


def _made(rows: int, seed: int) -> tuple[LayerParams, Array, Places]:
    """Weights, hidden states, and sequences that end in the middle of scrambled pages."""
    rng, card = np.random.default_rng(seed), CONFIG.router

    def matrix(*shape: int) -> Array:
        return (rng.normal(size=shape) * 2 / shape[-1] ** 0.5).astype(np.float32)

    def norm() -> Array:
        return rng.uniform(0.5, 2, HIDDEN).astype(np.float32)

    attention = AttentionParams(
        norm=norm(),
        qkv=matrix((HEADS + 2 * KV_HEADS) * SIZE, HIDDEN),
        qk_norm=None,
        out=matrix(HIDDEN, HEADS * SIZE),
    )
    moe = MoeParams(
        norm=norm(),
        router=matrix(card.experts, HIDDEN),
        selection_bias=None,
        gate_up=matrix(card.experts, 2 * WIDTH, HIDDEN),
        down=matrix(card.experts, HIDDEN, WIDTH),
    )
    shape = (4 * rows, PAGE, KV_HEADS, SIZE)
    places = Places(
        key_pages=matrix(*shape),
        value_pages=matrix(*shape),
        tables=rng.permutation(4 * rows).reshape(rows, 4).astype(np.int64),
        positions=rng.integers(1, 4 * PAGE, rows),
        turns=rope_tables(np.arange(4 * PAGE), ROPE, FP32),
    )
    return LayerParams(attention=attention, ffn=moe), matrix(rows, HIDDEN), places
