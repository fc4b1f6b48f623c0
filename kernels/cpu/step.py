"""A whole step in one call: `forward` of the definition, on packed weights and compiled kernels."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from tinymoe.cache import PagedCache
from tinymoe.core import (
    Array,
    AttentionCard,
    Batch,
    ModelConfig,
    Numerics,
    PagedKeysValues,
    Tap,
)
from tinymoe.kernels.cpu.batch import Header, aligned
from tinymoe.kernels.cpu.kernel import Kernel
from tinymoe.kernels.cpu.plan import Plan
from tinymoe.kernels.cpu.program import Program
from tinymoe.kernels.cpu.stamps import Stamped
from tinymoe.kernels.cpu.team import Team
from tinymoe.kernels.cpu.threads import follow, lead
from tinymoe.kernels.cpu.weights import Weights
from tinymoe.model.transformer import no_tap

FEWEST = 16  # tokens that a plan has room for; more by doubling


def uncovered(config: ModelConfig, numerics: Numerics) -> str | None:
    """What of a model the whole step has no kernels for; None: it has them for all of it."""
    if numerics.accumulate != "float32":
        return f"numerics {numerics.name!r}: sums in {numerics.accumulate}"
    if config.norm != "rms":
        return "LayerNorm"
    if config.residual is not None:
        return "normed inputs that go past a layer's parts"
    if config.router.weight_on != "output":
        return "expert weights on the input"
    if config.router.weight_from not in ("score", "softmax_of_chosen", "sigmoid_of_chosen"):
        return f"router weights from {config.router.weight_from}"
    for card in config.attention:
        if not isinstance(card, AttentionCard):
            return type(card).__name__.removesuffix("Card") + " layers"
        if card.out_gate:
            return "gated attention"
        if card.qk_norm == "all_heads" and card.qk_norm_after_rope:
            return "queries and keys that are normed as one after rope"
        if card.temperature is not None:
            return "queries with a temperature"
    return None


class Step:
    """One model's packed weights and threads, and a plan for each cache that it has met."""

    def __init__(self, weights: Weights, team: Team) -> None:
        self.weights, self.team = weights, team
        self.spent: dict[str, float] | None = None  # seconds by kernel, while somebody asks
        self._own = aligned(0, np.uint8)
        self._latest: dict[bool, Callable[[], Plan | None]] = dict.fromkeys(
            (False, True), lambda: None
        )  # traced or not: the plan that was run last
        self._stamped: weakref.WeakKeyDictionary[Program, Stamped] = weakref.WeakKeyDictionary()
        self._plans: weakref.WeakKeyDictionary[Any, dict[Any, Plan]] = weakref.WeakKeyDictionary()

    def __call__(
        self,
        config: ModelConfig,
        batch: Batch,
        cache: PagedKeysValues,
        numerics: Numerics,
        tap: Tap = no_tap,
    ) -> Array:
        """Logits (R, V) of a batch, float32; as `forward`, of a model that is covered."""
        traced, tokens = tap is not no_tap, len(batch.ids)
        plan = self._plan(config, numerics, cache, tokens, traced)
        self._run(plan.program, self._describe(plan, batch))
        if traced:
            tap("tokens", batch.ids)
            for name, view in plan.taps:
                tap(name, view(tokens))
        logits = np.array(plan.logits[: len(batch.logit_rows), : config.vocab_size])
        if config.multipliers.logits_divisor != 1:
            logits /= np.float32(config.multipliers.logits_divisor)
        tap("logits", logits)
        return logits

    def greedy(
        self, config: ModelConfig, batch: Batch, cache: PagedKeysValues, numerics: Numerics
    ) -> Array:
        """Ids (R,) of each row's largest logit, the lowest of equals; -1: see its logits."""
        plan = self._plan(config, numerics, cache, len(batch.ids), traced=False)
        self._run(plan.greedy, self._describe(plan, batch))
        return plan.ids[: len(batch.logit_rows)].copy()

    def _describe(self, plan: Plan, batch: Batch) -> int:
        """Tell a step's kernels of its batch: the address of its header."""
        if plan.header is None:
            groups, memory = len(plan.config.cache_groups), self._memory(plan)
            plan.header = Header(batch, groups, plan.page_size, memory, self.team.threads)
        address = plan.header.fill(batch)
        for turns in plan.turns.values():
            turns.reach(plan.header.longest)
        return address

    def kernels(self, config: ModelConfig, numerics: Numerics) -> list[Kernel]:
        """What a step of this model needs, found by planning one."""
        cache = PagedCache.for_model(config, numerics, 1)
        plan = self._plan(config, numerics, cache, 1, traced=False)
        called = [*plan.program.kernels, *plan.greedy.kernels, lead, follow]
        return list(dict.fromkeys(called))

    def _run(self, program: Program, batch: int) -> None:
        """The whole program; while it is being profiled, with a stamp after each instruction."""
        if self.spent is None:
            self.team.run(program.code, batch)
            return
        stamped = self._stamped.get(program)
        if stamped is None:
            stamped = self._stamped[program] = Stamped(program)
        code = stamped.program.code  # compiled before the clock starts
        begin = time.perf_counter()
        self.team.run(code, batch)
        total = time.perf_counter() - begin
        for name, share in stamped.shares():
            self.spent[name] = self.spent.get(name, 0.0) + share * total

    def _plan(
        self,
        config: ModelConfig,
        numerics: Numerics,
        cache: PagedKeysValues,
        tokens: int,
        traced: bool,
    ) -> Plan:
        """The plan for this cache with room for so many tokens, made when there is none."""
        latest = self._latest[traced]()
        if latest is not None and latest.fits(config, numerics, cache, tokens):
            return latest  # as nearly always: no dictionary is as quick
        plans = self._plans.setdefault(cache, {})
        key = (id(config), numerics, traced)
        plan = plans.get(key)
        if plan is None or plan.buffers.tokens < tokens:
            room = tokens if traced else max(FEWEST, 1 << (tokens - 1).bit_length())
            plan = Plan(
                self.weights,
                config,
                numerics,
                cache,
                room,
                threads=self.team.threads,
                traced=traced,
            )
            plans[key] = plan
        self._latest[traced] = weakref.ref(plan)
        return plan

    def _memory(self, plan: Plan) -> Array:
        """Each thread's own memory, as much as the hungriest kernel of this step wants."""
        size = (8 * plan.own_words + 63) // 64 * 64 * self.team.threads
        if self._own.nbytes < size:
            self._own = aligned(2 * size, np.uint8)
        return self._own[:size]
