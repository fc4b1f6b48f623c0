"""The ops of a model but routing and attention, as launches of kernels.

They take NumPy arrays on the PTX machine, CuPy arrays on a GPU. Signatures and meaning: the rows of
`kernels/contracts.py`. Each method checks its arguments and makes room for the result; `calls.py`
launches, and the arithmetic is in the `.cu` file that its docstring names.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np

from tinymoe.cards import PLAIN_SWIGLU, ExpertCard
from tinymoe.core import Array, Numerics, RopeCard, TinymoeError
from tinymoe.kernels.cuda import calls, calls_naive
from tinymoe.kernels.cuda.arguments import NULL, floats, matrix, rounds, whole_numbers
from tinymoe.kernels.cuda.launch import Device
from tinymoe.model.weights import QuantisedInput

Rung = Literal["naive", "fast"]  # the plainest kernel of an op, or the last one of its ladder


@dataclass(frozen=True)
class ModelOps:
    """Kernels for `linear`, `rmsnorm`, `rope` and `expert_ffn` on one device."""

    device: Device
    rung: Rung = "fast"

    def linear(
        self, x: Array, weight: Any, numerics: Numerics, *, bias: Array | None = None
    ) -> Array:
        """x (T, in) times weight (out, in) transposed, plus bias: (T, out). linear.cu.

        Lane l of a warp adds up terms l, l + 32, ...; then a tree of 32, whatever T is. An input
        that the checkpoint quantises is quantised by the definition; the product is the kernel's.
        """
        bf16, device = rounds(numerics), self.device
        if isinstance(weight, QuantisedInput):
            x, weight = weight.quantise(x), weight.values
        x, weight = floats(device, x, "linear: x"), matrix(device, weight, "linear: weight")
        if x.shape[1:] != weight.shape[1:]:
            raise TinymoeError(f"linear: x {x.shape} and weight {weight.shape} do not fit")
        out: Array = device.empty((len(x), len(weight)), np.float32)
        if len(x):
            added = NULL if bias is None else floats(device, bias, "linear: bias")
            self._calls.linear(device, out, x, weight, added, bf16)
        return out

    def rmsnorm(
        self,
        x: Array,
        weight: Array,
        eps: float,
        numerics: Numerics,
        *,
        rounds_before_weight: bool,
    ) -> Array:
        """Rows x (..., N) by their root mean square, times weight (N,) or (heads, N). rmsnorm.cu.

        A block's threads each sum every so-many-th square; then trees of 32, then warp by warp.
        """
        bf16, device = rounds(numerics), self.device
        x, weight = floats(device, x, "rmsnorm: x"), floats(device, weight, "rmsnorm: weight")
        if x.shape[-weight.ndim :] != weight.shape:
            raise TinymoeError(f"rmsnorm: x {x.shape} and weight {weight.shape} do not fit")
        out: Array = device.empty(x.shape, np.float32)
        if x.size:
            self._calls.rmsnorm(device, out, x, weight, eps, rounds_before_weight, bf16)
        return out

    def rope(
        self, x: Array, tables: tuple[Array, Array], card: RopeCard, numerics: Numerics
    ) -> Array:
        """The first `rotary_dim` numbers of every head of x (T, N, D), turned. rope.cu."""
        bf16, device = rounds(numerics), self.device
        x = floats(device, x, "rope: x")
        cosine, sine = (floats(device, table, "rope: tables") for table in tables)
        out: Array = device.empty(x.shape, np.float32)
        if x.size:
            interleaved = card.pairing == "interleaved"
            calls.rope(device, out, x, (cosine, sine), NULL, interleaved, bf16)
        return out

    def expert_ffn(
        self,
        x: Array,
        gate_up: Any,
        down: Any,
        offsets: Array,
        numerics: Numerics,
        *,
        card: ExpertCard = PLAIN_SWIGLU,
        gate_up_bias: Array | None = None,
        down_bias: Array | None = None,
    ) -> Array:
        """Rows x (S, H) in expert order through gate_up (E, 2I, H), down (E, H, I). expert_ffn.cu.

        Sums as in `linear`; gate, up and their product are rounded to storage, though gate and up
        never leave the registers.
        """
        bf16, device = rounds(numerics), self.device
        x = floats(device, x, "expert_ffn: x")
        weights = (
            matrix(device, gate_up, "expert_ffn: gate_up"),
            matrix(device, down, "expert_ffn: down"),
        )
        biases = [
            NULL if bias is None else floats(device, bias, f"expert_ffn: {name}")
            for name, bias in (("gate_up_bias", gate_up_bias), ("down_bias", down_bias))
        ]
        out: Array = device.empty(x.shape, np.float32)
        if len(x):
            middle = device.empty((len(x), weights[1].shape[-1]), np.float32)
            where = whole_numbers(device, offsets)
            biased = biases[0], biases[1]
            self._calls.expert_ffn(device, out, middle, x, weights, biased, where, card, bf16)
        return out

    @property
    def _calls(self) -> ModuleType:
        return calls if self.rung == "fast" else calls_naive
