"""The Numba-CUDA kernels as ops: `linear`, `route`, `permute` and `combine`, as `ops_routing.py`.

Signatures and meaning: the rows of `kernels/contracts.py`; float32 storage. They are the twins of
the CUDA C kernels, to read beside them, and hold those to the same results. No GPU has run them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinymoe.core import Array, Numerics, Permutation, RouterCard, Routing, TinymoeError
from tinymoe.kernels.cuda import combine_numba, gemm_numba, permute_numba, route_numba
from tinymoe.kernels.cuda.arguments import blocks_for
from tinymoe.kernels.cuda.devices import CupyDevice, PtxDevice
from tinymoe.kernels.cuda.numba_launch import numba_kernel, numba_launch
from tinymoe.kernels.cuda.ops_routing import SCORE, THREADS, WEIGHT

LANES = 32


@dataclass(frozen=True)
class NumbaOps:
    """Numba-CUDA kernels on one device."""

    device: PtxDevice | CupyDevice

    def _run(self, function: Callable[..., None], work: int, *args: Any) -> None:
        """One thread for each piece of work."""
        self._launch(function, blocks_for(work, THREADS), THREADS, *args)

    def _launch(self, function: Callable[..., None], grid: Any, block: Any, *args: Any) -> None:
        kernel = numba_kernel(self.device, function, *map(_type, args))
        numba_launch(kernel, grid, block, args)

    def linear(
        self, x: Array, weight: Array, numerics: Numerics, *, bias: Array | None = None
    ) -> Array:
        """x (T, in) times weight (out, in) transposed, and a bias: (T, out). gemm_numba.py."""
        _float32(numerics)
        out = self.device.empty((len(x), len(weight)), np.float32)
        tiles = blocks_for(len(weight), gemm_numba.TILE), blocks_for(len(x), gemm_numba.TILE)
        block = gemm_numba.TILE, gemm_numba.TILE
        x, weight = self.device.asarray(x), self.device.asarray(weight)
        self._launch(gemm_numba.gemm_tiled, tiles, block, out, x, weight)
        if bias is not None:
            added = self.device.asarray(bias)
            self._run(route_numba.add_bias, out.size, out, out.copy(), added)
        return out

    def route(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        card: RouterCard,
        numerics: Numerics,
        *,
        logit_bias: Array | None = None,
    ) -> Routing:
        """x (T, H), weight (E, H), bias (E,) or None -> `Routing` of T rows. route_numba.py."""
        return self.route_logits(self.linear(x, weight, numerics, bias=logit_bias), bias, card)

    def route_logits(self, logits: Array, bias: Array | None, card: RouterCard) -> Routing:
        """The five steps on logits (T, E)."""
        (tokens, _), empty = logits.shape, self.device.empty
        logits = self.device.asarray(logits)
        scores = empty(logits.shape, np.float32)
        kind = np.int32(SCORE[card.score])
        self._run(route_numba.scores, tokens * LANES, scores, logits, kind)
        choice = scores
        if bias is not None:
            choice = empty(logits.shape, np.float32)
            added = self.device.asarray(bias)
            self._run(route_numba.add_bias, choice.size, choice, scores, added)
        if card.groups_kept < card.groups:
            kept = empty(logits.shape, np.float32)
            limits = card.groups, card.groups_kept
            masks = card.group_score == "top2_sum", card.dropped_group == "zero"
            work = tokens * card.groups
            self._run(
                route_numba.drop_groups, work, kept, choice, *map(np.int32, (*limits, *masks))
            )
            choice = kept
        ids, margin = empty((tokens, card.top_k), np.int64), empty((tokens,), np.float32)
        self._run(route_numba.topk, tokens * LANES, ids, margin, choice)
        weights = empty((tokens, card.top_k), np.float32)
        how = map(np.int32, (WEIGHT[card.weight_from], card.renormalise))
        factors = map(np.float32, (card.renorm_epsilon, card.renorm_floor, card.scale))
        self._run(route_numba.weights, tokens, weights, ids, logits, scores, *how, *factors)
        return Routing(logits, scores, ids, weights, margin)

    def permute(self, ids: Array, experts: int) -> Permutation:
        """ids (T, K) -> the slots by expert, then token, then choice. permute_numba.py."""
        if experts > permute_numba.MOST_EXPERTS:
            raise TinymoeError(
                f"permute_numba.py holds counts of {permute_numba.MOST_EXPERTS} experts in shared "
                f"memory, got {experts}: use the CUDA C kernel"
            )
        flat, slots = self.device.asarray(ids).reshape(-1), permute_numba.SLOTS
        blocks = blocks_for(flat.size, slots)
        starts = self.device.empty((blocks, experts), np.int32)
        order = self.device.empty((flat.size,), np.int64)
        offsets = self.device.empty((experts + 1,), np.int64)
        self._launch(permute_numba.histogram, blocks, slots, starts, flat)
        self._launch(permute_numba.scan, 1, permute_numba.MOST_EXPERTS, offsets, starts)
        self._launch(permute_numba.place, blocks, slots, order, flat, starts)
        return Permutation(order, offsets)

    def combine(self, expert_out: Array, weights: Array, numerics: Numerics) -> Array:
        """expert_out (T, K, H), weights (T, K) -> (T, H). combine_numba.py."""
        _float32(numerics)
        tokens, top_k, width = expert_out.shape
        rows = self.device.asarray(expert_out).reshape(tokens * top_k, width)
        out = self.device.empty((tokens, width), np.float32)
        self._run(combine_numba.combine, out.size, out, rows, self.device.asarray(weights))
        return out


def _type(value: Any) -> str:
    """The name that `numba_ptx` gives an argument's type."""
    name = f"{value.dtype.kind}{8 * value.dtype.itemsize}"
    return f"{name}[{','.join(':' * value.ndim)}]" if value.ndim else name  # or a NumPy number


def _float32(numerics: Numerics) -> None:
    if numerics.storage != "float32":
        raise TinymoeError(
            f"the Numba-CUDA kernels store float32, numerics {numerics.name!r} {numerics.storage}: "
            "use numerics 'fp32', or the CUDA C kernels"
        )
