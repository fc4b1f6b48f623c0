"""How loud activations get: the model runs over a text, and what enters each matrix is measured.

The largest magnitude of every input is all that is kept. It is taken where the values enter the
product, in the numerics that engines have (BF16 between ops, for a BF16 checkpoint).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import NUMERICS, Array, ModelConfig, Numerics, TinymoeError
from tinymoe.families import load_params
from tinymoe.model.experts import grouped_linear, swiglu
from tinymoe.model.ops import DEFINITION, Ops
from tinymoe.model.params import DenseParams, SharedParams
from tinymoe.model.precision import linear
from tinymoe.oracle.trace import check_ids, forward_alone
from tinymoe.quantize.roles import arrays_of
from tinymoe.quantize.writers import Module

PIECE = 512  # tokens that run together; attention sees no further back than their first
Progress = Callable[[str, float], None]


class Loudness:
    """The largest magnitude that entered each matrix, over all calibration tokens.

    An expert that no token reached has none of its own: it gets that of the layer's loudest
    expert, as ModelOpt's exporter has it (`set_expert_quantizer_amax`: "use max from other
    experts"). Any smaller number would clip what it may one day be given.
    """

    def __init__(self, tokens: int, numerics: str) -> None:
        self.tokens, self.numerics = tokens, numerics
        self._largest = dict[str, Array]()  # by path: (), or (E,) for experts

    def see(self, path: str, magnitudes: Array) -> None:
        """Take the larger of what is known and these magnitudes, () or (E,)."""
        known = self._largest.get(path)
        self._largest[path] = magnitudes if known is None else np.maximum(known, magnitudes)

    def of(self, module: Module) -> float:
        """The largest magnitude of a module's input; a stack's is that of its loudest expert."""
        largest = self._largest.get(module.path)
        value = 0.0
        if largest is not None:
            own = float(largest[module.expert]) if module.expert is not None else 0.0
            value = own or float(largest.max())
        if not (value > 0 and np.isfinite(value)):
            raise TinymoeError(
                f"{module.name}: expected its calibrated inputs to be finite and not all zero, "
                f"their largest magnitude is {value}: choose another text, or --weights-only"
            )
        return value

    def not_reached(self, modules: Sequence[Module]) -> list[tuple[int, list[int]]]:
        """Layers with experts that no token reached: (layer, experts)."""
        found = []
        for path in dict.fromkeys(m.path for m in modules if m.path.endswith(".ffn.gate_up")):
            largest = self._largest[path]
            if largest.ndim:
                missing = np.flatnonzero(largest == 0).tolist()
                found += [(int(path.split(".")[1]), missing)] * bool(missing)
        return found


def calibrate(
    checkpoint: Checkpoint, config: ModelConfig, ids: Sequence[int], progress: Progress
) -> Loudness:
    """Run `ids` (T,) in pieces through the model and measure. The whole model is in memory."""
    stored = {checkpoint.entry(name).dtype for name in checkpoint.names()}
    numerics = NUMERICS["bf16" if "BF16" in stored else "fp32"]
    size = min(PIECE, config.max_positions)
    check_ids(ids[:size], config)
    params = load_params(checkpoint, config, numerics)
    loudness = Loudness(len(ids), numerics.name)
    paths = {array.ctypes.data: path for path, array in arrays_of(params, "")}
    ops, layers = _listening(paths, loudness), params.layers

    def tap(name: str, value: Array) -> None:
        if name == "final_norm":
            loudness.see("head", np.abs(value).max())
            loudness.see("embed", np.abs(value).max())  # where it is the head
        if not name.endswith((".mlp.norm", ".moe.norm")):
            return
        layer = ".".join(name.split(".")[:2])
        ffn = layers[int(name.split(".")[1])].ffn
        loudness.see(f"{layer}.ffn.router", np.abs(value).max())
        if isinstance(ffn, DenseParams):
            _see_plain(f"{layer}.ffn", value, ffn, loudness, numerics)
        elif ffn.shared is not None:
            _see_plain(f"{layer}.ffn.shared", value, ffn.shared, loudness, numerics)

    for start in range(0, len(ids), size):
        progress("calibrating", start / len(ids))
        forward_alone(params, config, ids[start : start + size], numerics, ops=ops, tap=tap)
    return loudness


def _see_plain(
    path: str, x: Array, ffn: DenseParams | SharedParams, loudness: Loudness, numerics: Numerics
) -> None:
    """The inputs of a network that every token meets; its inside has no tap, so it is redone."""
    loudness.see(f"{path}.gate_up", np.abs(x).max())
    hidden = swiglu(linear(x, ffn.gate_up, numerics), numerics)
    loudness.see(f"{path}.down", np.abs(hidden).max())


def _listening(paths: dict[int, str], loudness: Loudness) -> Ops:
    """The definition, measuring what enters; a matrix is known by where its memory begins."""

    def heard_linear(x: Array, weight: Array, numerics: Numerics, **more: Any) -> Array:
        loudness.see(paths[weight.ctypes.data], np.abs(x).max())
        return DEFINITION.linear(x, weight, numerics, **more)

    def heard_experts(
        x: Array,
        gate_up: Array,
        down: Array,
        offsets: Array,
        numerics: Numerics,
        **more: Any,
    ) -> Array:
        # the definition's three steps (`model.experts.expert_ffn`), with a look between them
        card = {"card": more["card"]} if "card" in more else {}
        loudness.see(paths[gate_up.ctypes.data], _by_expert(x, offsets))
        first = grouped_linear(x, gate_up, offsets, numerics, more.get("gate_up_bias"))
        hidden = swiglu(first, numerics, **card)
        loudness.see(paths[down.ctypes.data], _by_expert(hidden, offsets))
        return grouped_linear(hidden, down, offsets, numerics, more.get("down_bias"))

    return replace(DEFINITION, linear=heard_linear, expert_ffn=heard_experts)


def _by_expert(rows: Array, offsets: Array) -> Array:
    """Largest magnitude of each expert's rows (S, in): (E,), zero where it has none."""
    of_rows = np.abs(rows).max(axis=1)  # (S,)
    largest = np.zeros(len(offsets) - 1, of_rows.dtype)
    np.maximum.at(largest, np.repeat(np.arange(len(largest)), np.diff(offsets)), of_rows)
    return largest
