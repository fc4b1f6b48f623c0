"""`route`, `permute` and `combine` as launches of kernels.

NumPy arrays on the PTX machine, CuPy arrays on a GPU. Signatures and meaning: the rows of
`kernels/contracts.py`. Each op has the rungs of its ladder, which give the same ids and differ in
launches and in last bits; the last rung is the one to use.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from tinymoe.core import Array, Numerics, Permutation, RouterCard, Routing, TinymoeError
from tinymoe.kernels.cuda.arguments import NULL, blocks_for, floats, rounds, whole_numbers
from tinymoe.kernels.cuda.launch import Device, Kernel, launch
from tinymoe.kernels.cuda.ops_model import ModelOps

# naive: one thread a token. steps: a warp a token, a launch a step. fused: one launch after the
# logits, where a row fits a warp's registers; else as steps
RouteRung = Literal["naive", "steps", "fused"]
THREADS = 128  # of a block: four warps, so four tokens where a token has a warp
SLOTS = 256  # of a block that counts or places
SCAN = 256  # threads of the one block that sums up
IN_REGISTERS = (32, 128, 512)  # experts up to which a row fits the kernels of that name
LANES = 32  # K and groups up to which a warp has one a lane
SCORE = {"softmax": 0, "sigmoid": 1, "identity": 2}  # as in scoring.cuh
WEIGHT = {"score": 0, "softmax_of_chosen": 1, "sigmoid_of_chosen": 2, "sparsemixer": 3}


@dataclass(frozen=True)
class RoutingOps:
    """Kernels for `route`, `permute` and `combine` on one device."""

    device: Device
    rung: RouteRung = "fused"

    # ---------------------------------------------------------------------------------- route

    def route(
        self,
        x: Array,
        weight: Any,
        bias: Array | None,
        card: RouterCard,
        numerics: Numerics,
        *,
        logit_bias: Array | None = None,
    ) -> Routing:
        """x (T, H), weight (E, H), bias (E,) or None -> `Routing` of T rows.

        Logits: linear.cu. The five steps: route.cu.
        """
        kept = numerics.router_logits
        if kept == "card":
            kept = numerics.storage if card.logits_dtype == "model" else "float32"
        as_kept = replace(numerics, storage=kept)
        logits = ModelOps(self.device).linear(x, weight, as_kept, bias=logit_bias)
        return self.route_logits(logits, bias, card)

    def route_logits(self, logits: Array, bias: Array | None, card: RouterCard) -> Routing:
        """The five steps on logits (T, E), which are float32."""
        device, (tokens, experts) = self.device, logits.shape
        logits = floats(device, logits, "route: logits")
        if experts != card.experts:
            raise TinymoeError(f"route: {experts} logits a token, the card has {card.experts}")
        if bias is not None:
            bias = floats(device, bias, "route: bias")
        identity = card.score == "identity"  # the scores are the logits, not a copy of them
        routing = Routing(
            logits,
            logits if identity else device.empty(logits.shape, np.float32),
            device.empty((tokens, card.top_k), np.int64),
            device.empty((tokens, card.top_k), np.float32),
            device.empty((tokens,), np.float32),
        )
        if not tokens:
            return routing
        if self.rung == "fused" and _fits(card):
            self._fused(routing, bias, card)
        else:
            self._steps(routing, bias, card)
        return routing

    def _fused(self, routing: Routing, bias: Array | None, card: RouterCard) -> None:
        """route.cu: everything in one launch."""
        logits, scores, ids, weights, margin = routing
        sizes = _int32(*logits.shape, card.top_k, SCORE[card.score])
        self._by_warp(
            "route",
            len(logits),
            card.experts,
            [
                NULL if scores is logits else scores,
                *(ids, weights, margin, logits, NULL if bias is None else bias),
                *(*sizes, *_groups(card), *_weighing(card)),
            ],
        )

    def _steps(self, routing: Routing, bias: Array | None, card: RouterCard) -> None:
        """scores.cu, groups.cu, topk.cu, weights.cu: the arrays between them in memory."""
        device, (logits, scores, ids, weights, margin) = self.device, routing
        shape = _int32(*logits.shape)
        self._score(scores, logits, card)
        choice = scores
        if bias is not None:
            choice = device.empty(scores.shape, np.float32)
            add = device.kernel("groups", "add_bias")
            self._by_thread(add, scores.size, [choice, scores, bias, *shape])
        if card.groups_kept < card.groups:
            kept = device.empty(scores.shape, np.float32)
            self._drop_groups(len(logits), card, [kept, choice, *shape, *_groups(card)])
            choice = kept
        chosen, raw = device.empty(ids.shape, np.int64), device.empty(ids.shape, np.float32)
        top_k = np.int32(card.top_k)
        self._choose(len(logits), card, [chosen, margin, choice, *shape, top_k])
        arguments = [weights, ids, raw, chosen, logits, scores, *shape, top_k, *_weighing(card)]
        if self.rung == "naive":
            self._by_thread(device.kernel("weights", "weights_naive"), len(logits), arguments)
        else:
            weigh = device.kernel("weights", "weights_warp")
            self._by_thread(weigh, len(logits) * LANES, arguments)

    def _drop_groups(self, tokens: int, card: RouterCard, arguments: list[Any]) -> None:
        if self.rung != "naive" and _fits(card):
            self._by_warp("groups", tokens, card.experts, arguments, "drop_groups")
        else:
            drop = self.device.kernel("groups", "drop_groups_naive")
            self._by_thread(drop, tokens * card.groups, arguments)

    def _choose(self, tokens: int, card: RouterCard, arguments: list[Any]) -> None:
        if self.rung == "naive":
            self._by_thread(self.device.kernel("topk", "topk_naive"), tokens, arguments)
        elif _fits(card):
            self._by_warp("topk", tokens, card.experts, arguments)
        else:
            self._by_thread(self.device.kernel("topk", "topk_any"), tokens * LANES, arguments)

    def _score(self, scores: Array, logits: Array, card: RouterCard) -> None:
        if card.score == "identity":
            return
        if card.score == "sigmoid":
            sigmoid = self.device.kernel("scores", "sigmoid")
            self._by_thread(sigmoid, logits.size, [scores, logits, np.int32(logits.size)])
        elif self.rung == "naive":
            softmax = self.device.kernel("scores", "softmax_naive")
            self._by_thread(softmax, len(logits), [scores, logits, *_int32(*logits.shape)])
        else:
            softmax = self.device.kernel("scores", "softmax_warp")
            arguments = [scores, logits, *_int32(*logits.shape)]
            self._by_thread(softmax, len(logits) * LANES, arguments)

    def _by_thread(self, kernel: Kernel, work: int, arguments: list[Any]) -> None:
        launch(kernel, blocks_for(work, THREADS), THREADS, arguments)

    def _by_warp(
        self, source: str, tokens: int, experts: int, arguments: list[Any], entry: str = ""
    ) -> None:
        """A warp a token, of the kernel whose registers hold that many experts."""
        most = next(n for n in IN_REGISTERS if experts <= n)
        kernel = self.device.kernel(source, f"{entry or source}_{most}")
        self._by_thread(kernel, tokens * LANES, arguments)

    # -------------------------------------------------------------------------------- permute

    def permute(self, ids: Array, experts: int) -> Permutation:
        """ids (T, K) -> the slots by expert, then token, then choice. permute.cu."""
        return self.permute_and_inverse(ids, experts)[0]

    def permute_and_inverse(self, ids: Array, experts: int) -> tuple[Permutation, Array]:
        """The same, and `where` (T*K,): the row that each slot went to, as `combine_rows` reads."""
        device = self.device
        ids = whole_numbers(device, ids).reshape(-1)
        slots, blocks = len(ids), blocks_for(len(ids), SLOTS)
        order, where = device.empty((slots,), np.int64), device.empty((slots,), np.int64)
        offsets = device.empty((experts + 1,), np.int64)
        starts = device.empty((blocks, experts), np.int32)
        if not slots:
            return Permutation(order, device.zeros((experts + 1,), np.int64)), where
        sizes, shared = _int32(slots, experts), 4 * experts
        count = device.kernel("permute", "histogram")
        launch(count, blocks, SLOTS, [starts, ids, *sizes], shared)
        launch(
            device.kernel("permute", "scan"),
            1,
            SCAN,
            [offsets, starts, *_int32(blocks, experts)],
        )
        place = device.kernel("permute", "place")
        launch(place, blocks, SLOTS, [order, where, ids, starts, *sizes], shared)
        return Permutation(order, offsets), where

    def permute_naive(self, ids: Array, experts: int) -> Permutation:
        """The first rung: a thread an expert."""
        device = self.device
        ids = whole_numbers(device, ids).reshape(-1)
        sizes = _int32(len(ids), experts)
        order, offsets = (
            device.empty((len(ids),), np.int64),
            device.empty((experts + 1,), np.int64),
        )
        if not len(ids):
            return Permutation(order, device.zeros((experts + 1,), np.int64))
        counts = device.empty((experts,), np.int64)
        count = device.kernel("permute", "count_naive")
        self._by_thread(count, experts, [counts, ids, *sizes])
        launch(
            device.kernel("permute", "offsets_naive"), 1, 1, [offsets, counts, np.int32(experts)]
        )
        place = device.kernel("permute", "place_naive")
        self._by_thread(place, experts, [order, offsets, ids, *sizes])
        return Permutation(order, offsets)

    def schedule(self, offsets: Array, rows: int, slots: int) -> Array:
        """Tiles of `rows` rows for a grouped GEMM over `slots` rows: (most, 3) int32.

        Expert, first row and row behind the last of each tile, by expert and row; expert -1 pads.
        """
        device, experts = self.device, len(offsets) - 1
        most = slots // rows + min(experts, slots)
        tiles = device.empty((most, 3), np.int32)
        if most:
            launch(
                device.kernel("permute", "schedule"),
                1,
                SCAN,
                [tiles, whole_numbers(device, offsets), *_int32(experts, rows, most)],
            )
        return tiles

    # -------------------------------------------------------------------------------- combine

    def combine(self, expert_out: Array, weights: Array, numerics: Numerics) -> Array:
        """expert_out (T, K, H), weights (T, K) -> (T, H), summed in the order of K. combine.cu."""
        tokens, top_k, width = expert_out.shape
        return self.combine_rows(expert_out.reshape(tokens * top_k, width), None, weights, numerics)

    def combine_rows(
        self, rows: Array, where: Array | None, weights: Array, numerics: Numerics
    ) -> Array:
        """The same of rows (T*K, H) in expert order, read at `where` (None: in order of slots)."""
        bf16, device, (tokens, top_k) = rounds(numerics), self.device, weights.shape
        rows = floats(device, rows, "combine: expert_out")
        weights = floats(device, weights, "combine: weights")
        out = device.empty((tokens, rows.shape[1]), np.float32)
        if not out.size:
            return out
        wide = rows.shape[1] % 4 == 0
        kernel = device.kernel("combine", "combine_4" if wide else "combine")
        sizes = _int32(tokens, top_k, rows.shape[1])
        at = NULL if where is None else whole_numbers(device, where)
        work = out.size // 4 if wide else out.size
        self._by_thread(kernel, work, [out, rows, at, weights, *sizes, bf16])
        return out

    def combine_scatter(self, expert_out: Array, weights: Array, numerics: Numerics) -> Array:
        """As `combine`, with atomics: the order of the sums is whatever it happens to be."""
        bf16, device, (tokens, top_k, width) = rounds(numerics), self.device, expert_out.shape
        rows = floats(device, expert_out, "combine: expert_out")
        weights = floats(device, weights, "combine: weights")
        out = device.zeros((tokens, width), np.float32)
        if not out.size:
            return out
        scatter = device.kernel("combine", "combine_scatter")
        sizes = _int32(tokens * top_k, top_k, width)
        self._by_thread(scatter, rows.size, [out, rows, NULL, weights, *sizes])
        if bf16:
            finish = device.kernel("combine", "round_in_place")
            self._by_thread(finish, out.size, [out, np.int32(out.size)])
        return out


def _fits(card: RouterCard) -> bool:
    """Whether a warp can hold a row: experts in registers, one of the chosen a lane."""
    return card.experts <= IN_REGISTERS[-1] and max(card.top_k, card.groups) <= LANES


def _int32(*values: int) -> list[np.int32]:
    return [np.int32(v) for v in values]


def _groups(card: RouterCard) -> list[np.int32]:
    top2, to_zero = card.group_score == "top2_sum", card.dropped_group == "zero"
    return _int32(card.groups, card.groups_kept, top2, to_zero)


def _weighing(card: RouterCard) -> list[Any]:
    factors = (card.renorm_epsilon, card.renorm_floor, card.scale)
    return [
        *_int32(WEIGHT[card.weight_from], card.renormalise),
        *(np.float32(f) for f in factors),
    ]
