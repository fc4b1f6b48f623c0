"""A forward pass with all it touches on a device: weights and pages once, tokens each time.

The engine and the oracle hold NumPy arrays. `DeviceStep` stands between: it is an `Ops.step`, so
`forward` hands it the whole pass. Weights and pages are copied there when they are first seen and
stay; what comes back are logits, and the taps that somebody looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from tinymoe.core import (
    Array,
    Batch,
    ModelConfig,
    Numerics,
    PagedKeysValues,
    Tap,
    TinymoeError,
)
from tinymoe.kernels.cuda.launch import Device
from tinymoe.model.on_demand import OnDemand
from tinymoe.model.ops import Ops
from tinymoe.model.params import Params
from tinymoe.model.transformer import forward, no_tap


class DeviceStep:
    """`forward` on a device, for NumPy arrays. `ops` take that device's arrays."""

    def __init__(self, device: Device, ops: Ops) -> None:
        self.device, self.ops = device, ops
        self._weights: tuple[Params, Params] | None = None  # of the last model: ours, the device's
        self._caches: WeakKeyDictionary[Any, DeviceCache] = WeakKeyDictionary()

    def __call__(
        self,
        params: Params,
        config: ModelConfig,
        batch: Batch,
        cache: PagedKeysValues,
        numerics: Numerics,
        tap: Tap,
    ) -> Array:
        """Logits (R, V) as NumPy gives them; `tap` sees NumPy arrays."""
        weights = self._there(params)
        if cache not in self._caches:
            self._caches[cache] = DeviceCache(cache, self.device)
        take, back = self.device.asarray, self.device.to_numpy
        placed = Batch(
            take(batch.ids),
            take(batch.positions),
            tuple(run._replace(pages=tuple(map(take, run.pages))) for run in batch.runs),
            take(batch.logit_rows),
        )
        look: Tap = no_tap if tap is no_tap else lambda name, value: tap(name, back(value))
        pages, ops = self._caches[cache], self.ops
        logits: Array = back(forward(weights, config, placed, pages, numerics, ops, look))
        return logits

    def covers(self, config: ModelConfig, numerics: Numerics, params: Params | None = None) -> bool:
        """No: layers run op by op, from weights as they are read into memory."""
        return False

    def greedy(self, *given: Any) -> None:
        """None: logits are carried back, and the sampler looks at them."""

    def prepare(
        self,
        params: Params,
        config: ModelConfig,
        numerics: Numerics,
        report: Callable[[str, int, int], None] | None = None,
    ) -> None:
        """The weights, carried there now."""
        self._there(params)

    def _there(self, params: Params) -> Params:
        if self._weights is None or self._weights[0] is not params:
            self._weights = params, moved(params, self.device, {})
        return self._weights[1]


@dataclass(eq=False)
class DeviceCache:
    """The pages of a cache, on the device: from the first pass on, these are the ones in use."""

    cache: PagedKeysValues
    device: Device

    def __post_init__(self) -> None:
        self._layers: dict[int, tuple[Any, Any]] = {}

    @property
    def page_size(self) -> int:
        """P, in positions."""
        return self.cache.page_size

    def layer(self, index: int) -> tuple[Any, Any]:
        """Key and value pages of a layer, or its states."""
        if index not in self._layers:
            keys, values = self.cache.layer(index)
            there = self.device.asarray(keys)
            if np.may_share_memory(keys, values):  # a latent vector is key and value
                self._layers[index] = there, there[..., : values.shape[-1]]
            else:
                self._layers[index] = there, self.device.asarray(values)
        return self._layers[index]


def moved(value: Any, device: Device, known: dict[int, Any]) -> Any:
    """Parameters with every array on the device; one that comes twice (a tied head) goes once."""
    if isinstance(value, OnDemand) or (
        isinstance(value, Sequence) and not isinstance(value, tuple | str)  # layers, one at a time
    ):
        raise TinymoeError(
            f"this model's weights are read when they are used, and {device.name} takes weights "
            "that are in memory: give the model more --memory, or use the backend 'numpy'"
        )
    if isinstance(value, np.ndarray):
        if id(value) not in known:
            known[id(value)] = device.asarray(value)
        return known[id(value)]
    if isinstance(value, tuple):
        return tuple(moved(part, device, known) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: moved(getattr(value, f.name), device, known) for f in fields(value)}
        return replace(value, **parts)
    return value
