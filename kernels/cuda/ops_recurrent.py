"""The ops that carry a state in place of keys and values, as launches of recurrent.cu."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinymoe.core import Array, Numerics, TinymoeError
from tinymoe.kernels.cuda.arguments import blocks_for, floats, rounds
from tinymoe.kernels.cuda.calls import THREADS, ints
from tinymoe.kernels.cuda.launch import Device, launch
from tinymoe.model.linear_attention import Carried

WARPS = 4  # of a block: a row of the state each


@dataclass(frozen=True)
class RecurrentOps:
    """Kernels for `causal_conv`, `gated_delta` and `lightning` on one device.

    States come back as new arrays, never rounded; those given are left as they are.
    """

    device: Device

    def causal_conv(self, x: Array, weight: Array, before: Array, numerics: Numerics) -> Carried:
        """x (T, C), weight (C, taps), before (taps - 1, C): (T, C), and the state (taps - 1, C).

        recurrent.cu: taps are added from the oldest to the newest.
        """
        bf16 = rounds(numerics)
        x, weight, before = self._floats("causal_conv", x=x, weight=weight, before=before)
        (tokens, channels), taps = x.shape, weight.shape[1]
        if weight.shape[0] != channels or before.shape != (taps - 1, channels):
            raise TinymoeError(
                f"causal_conv: x {x.shape}, weight {weight.shape} and before {before.shape} do "
                "not fit: expected (T, C), (C, taps) and (taps - 1, C)"
            )
        out, state = (self.device.empty(like.shape, np.float32) for like in (x, before))
        launch(
            self.device.kernel("recurrent", "causal_conv"),
            blocks_for((tokens + taps - 1) * channels, THREADS),
            THREADS,
            [out, state, x, weight, before, *ints(tokens, channels, taps), bf16],
        )
        return Carried(out, state)

    def gated_delta(
        self,
        q: Array,
        k: Array,
        v: Array,
        log_decay: Array,
        beta: Array,
        state: Array,
        eps: float,
        numerics: Numerics,
    ) -> Carried:
        """q, k (T, Nk, Dk), v (T, Nv, Dv), log_decay, beta (T, Nv), state (Nv, Dv, Dk).

        recurrent.cu. Sums over Dk: lane l adds terms l, l + 32, ...; then a tree of 32.
        """
        bf16, (heads, value_dim, key_dim) = rounds(numerics), state.shape
        given = self._floats("gated_delta", q=q, k=k, v=v, log_decay=log_decay, beta=beta, S=state)
        _check("gated_delta", q, k, v, state)
        sizes = ints(len(q), q.shape[1], heads, key_dim, value_dim)
        return self._rows("gated_delta", given, [*sizes, np.float32(eps), bf16])

    def lightning(
        self, q: Array, k: Array, v: Array, keep: Array, state: Array, numerics: Numerics
    ) -> Carried:
        """q, k (T, Nq, Dk), v (T, Nq, Dv), keep (Nq,), state (Nq, Dv, Dk).

        recurrent.cu, sums as in `gated_delta`.
        """
        bf16, (heads, value_dim, key_dim) = rounds(numerics), state.shape
        given = self._floats("lightning", q=q, k=k, v=v, keep=keep, S=state)
        _check("lightning", q, k, v, state)
        return self._rows("lightning", given, [*ints(len(q), heads, key_dim, value_dim), bf16])

    def _rows(self, name: str, given: list[Any], sizes: list[Any]) -> Carried:
        """A warp for each row of the state, which is the last of the arrays given."""
        heads, value_dim, _ = given[-1].shape
        out, new = (self.device.empty(like.shape, np.float32) for like in (given[2], given[-1]))
        launch(
            self.device.kernel("recurrent", name),
            blocks_for(heads * value_dim, WARPS),
            32 * WARPS,
            [out, new, *given, *sizes],
        )
        return Carried(out, new)

    def _floats(self, op: str, **arrays: Any) -> list[Any]:
        return [floats(self.device, array, f"{op}: {name}") for name, array in arrays.items()]


def _check(op: str, q: Any, k: Any, v: Any, state: Any) -> None:
    """One more head than keys are for would read past the end of them."""
    heads, value_dim, key_dim = state.shape
    whole = q.shape[1] and heads % q.shape[1] == 0
    if not whole or q.shape != k.shape or k.shape[2] != key_dim or len(q) != len(v):
        raise TinymoeError(f"{op}: q {q.shape}, k {k.shape} and state {state.shape} do not fit")
    if v.shape[1:] != (heads, value_dim):
        raise TinymoeError(f"{op}: v {v.shape} and state {state.shape} do not fit")
