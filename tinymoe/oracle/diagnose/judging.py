"""How well a variant of the model gives an engine's tensors, from the engine's own inputs.

Quickly: one run in the stated numerics, against the bounds of the right model. Carefully: runs in
float64 and, in three orders of sums, in the stated numerics, as `diff` judges; the variant has
bounds of its own, as some (attention without its scale) make rounding errors larger.

Experts are sets. From a router on, tokens that met other experts are not looked at: they say
nothing of what came after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tinymoe.core import NUMERICS, Array, ModelConfig, Numerics
from tinymoe.model.ops import DEFINITION
from tinymoe.oracle.diagnose.replay import Stage, narrowed, run
from tinymoe.oracle.diff.references import BACKWARDS, FORWARDS, References, in_dtype
from tinymoe.oracle.diff.tensors import Bound, compare
from tinymoe.oracle.diff.walk import TIE, Trace, aligned, bounds
from tinymoe.oracle.mutants import ModelMutant, Setup

EXACT = NUMERICS["exact"]
ORDERS = (DEFINITION, FORWARDS, BACKWARDS)
HOPELESS = 16.0  # times the bound, at a tensor that is right: not this one
FAR = 1e300  # in place of infinity, so that ranks have a sum

Variant = tuple[ModelMutant, ...]  # applied one after the other; () is the right model


class TapError(NamedTuple):
    """One tensor of a variant against the engine's."""

    error: float  # relative L2; of experts the share of tokens on others
    excess: float  # largest error / bound: above 1 it is not reproduced


class Judged(NamedTuple):
    """A variant against the engine."""

    variant: Variant
    taps: dict[str, TapError]  # in the order of execution; ends early where it was given up
    whole: bool  # False: given up at a tensor that is right in the engine
    flips: int = 0  # tokens on other experts, close calls that they are included

    def explained(self, slack: float = 1.0) -> int:
        """How many tensors are reproduced before the first that is not."""
        count = 0
        for found in self.taps.values():
            if not found.excess <= slack:
                break
            count += 1
        return count

    def fits(self, first: str) -> bool:
        """Whether all tensors are reproduced, the first wrong one among them."""
        return self.whole and first in self.taps and self.explained() == len(self.taps)

    @property
    def size(self) -> float:
        """Root of the mean square of all errors, for ranks."""
        errors = [min(found.error, FAR**0.5) for found in self.taps.values()]
        return float(np.sqrt(np.mean(np.square(errors)))) if errors else FAR


class _GivenUp(Exception):  # noqa: N818 - it is no error
    """A tensor that is right in the engine is wrong in the variant."""


class Bench:
    """The stages to run, the engine's tensors, and the right model to begin from."""

    def __init__(
        self, setup: Setup, mine: Trace, found: Sequence[Stage], first: str, numerics: Numerics
    ) -> None:
        self.mine, self.stages, self.first, self.numerics = mine, list(found), first, numerics
        self.layers = narrowed(setup, found).layers
        self.config = setup.config
        own = narrowed(setup, found).setup
        self.stated = own._replace(params=in_dtype(own.params, numerics.dtype))
        self.exact = own._replace(params=in_dtype(own.params, EXACT.dtype))
        self.right = self.careful_runs(())
        self.null_bounds: dict[str, Bound] = {}
        kept = _same(self.right)
        few = _rows(self.right, kept)
        for name in self.right.exact:
            if name in mine and not name.endswith("ids"):
                self.null_bounds[name] = bounds(few, name, numerics)

    # ------------------------------------------------------------------------------- runs

    def traced(self, variant: Variant, base: Setup, numerics: Numerics) -> dict[str, Array]:
        """One run of a variant; the order of sums is that of base.ops."""
        kept: dict[str, Array] = {}

        def tap(name: str, value: Array) -> None:
            kept[name] = np.array(value)

        self._run(variant, base, numerics, tap)
        return kept

    def _run(self, variant: Variant, base: Setup, numerics: Numerics, tap: object) -> None:
        setup = base
        for mutant in variant:
            setup = mutant.apply(setup)
        narrow = narrowed(base, self.stages)._replace(setup=setup, layers=self.layers)
        run(narrow, self.stages, self.mine, numerics, tap)  # type: ignore[arg-type]

    def careful_runs(self, variant: Variant) -> References:
        """In float64, and in the stated numerics in three orders of sums."""
        exact = self.traced(variant, self.exact, EXACT)
        emulated = tuple(
            self.traced(variant, self.stated._replace(ops=ops), self.numerics) for ops in ORDERS
        )
        return References(exact, emulated, {})

    # ---------------------------------------------------------------------------- judging

    def quickly(self, variant: Variant) -> Judged:
        """By one run; given up as soon as a tensor is wrong that is right in the engine."""
        taps, seen = dict[str, TapError](), dict[str, Array]()
        state = _State(len(self.mine["tokens"]))
        early = True

        def tap(name: str, value: Array) -> None:
            nonlocal early
            seen[name] = np.array(value)
            early = early and name != self.first
            if name not in self.mine or name == "tokens":
                return
            found = self._one(name, seen, state)
            taps[name] = found
            if early and found.excess > HOPELESS:
                raise _GivenUp

        try:
            self._run(variant, self.stated, self.numerics, tap)
        except _GivenUp:
            return Judged(variant, taps, whole=False)
        return Judged(variant, taps, whole=True, flips=state.flips)

    def _one(self, name: str, seen: Mapping[str, Array], state: _State) -> TapError:
        """One tensor of a quick run."""
        engine, value = self.mine[name], seen[name]
        if engine.shape != value.shape:
            return TapError(np.inf, np.inf)
        if name.endswith("router.ids"):
            margin = seen.get(name)
            ids = np.sort(np.asarray(engine)) != np.sort(margin)  # type: ignore[arg-type]
            return state.routed(ids.any(-1), np.zeros(len(engine), bool))
        judged = state.judged if name.endswith(AFTER_ROUTER) else None
        mine = aligned(self.mine, name, seen)
        found = compare(name, value, mine, self.null_bounds[name], judged)
        return TapError(found.relative_l2, found.excess)

    def carefully(self, variant: Variant) -> Judged:
        """By four runs, with bounds of the variant's own."""
        runs = self.right if not variant else self.careful_runs(variant)
        state = _State(len(self.mine["tokens"]))
        state.judged = _same(runs)
        taps: dict[str, TapError] = {}
        for name, exact in runs.exact.items():
            if name not in self.mine or name == "tokens":
                continue
            engine = self.mine[name]
            if engine.shape != exact.shape:
                taps[name] = TapError(np.inf, np.inf)
            elif name.endswith("router.ids"):
                wrong = (np.sort(np.asarray(engine)) != np.sort(exact)).any(-1)
                taps[name] = state.routed(wrong, close_calls(runs, name, self.numerics))
            else:
                taps[name] = self._with_bounds(name, runs, state)
        return Judged(variant, taps, whole=True, flips=state.flips)

    def _with_bounds(self, name: str, runs: References, state: _State) -> TapError:
        kept = state.judged if name.endswith(AFTER_ROUTER) else np.ones(len(state.judged), bool)
        if not kept.any():
            return TapError(np.inf, np.inf)  # no token is left that says anything
        few = _rows(runs, kept)
        mine = aligned(self.mine, name, runs.exact)[kept]
        found = compare(name, few.exact[name], mine, bounds(few, name, self.numerics))
        return TapError(found.relative_l2, found.excess)


AFTER_ROUTER = (
    *("router.weights", "moe.expert_out", "moe.routed", "moe.shared", "moe.out"),
    *(".out", "final_norm", "logits"),
)


class _State:
    """Which tokens are still looked at, and how many met other experts."""

    def __init__(self, tokens: int) -> None:
        self.judged = np.ones(tokens, bool)
        self.flips = 0

    def routed(self, wrong: Array, close: Array) -> TapError:
        """Experts of one layer: tokens (T,) on others, and which of them are close calls."""
        self.flips += int(wrong.sum())
        self.judged = self.judged & ~wrong
        faults = float((wrong & ~close).mean())
        return TapError(faults, np.inf if faults else 0.0)


def close_calls(runs: References, name: str, numerics: Numerics) -> Array:
    """Tokens (T,) whose choice the stated numerics can turn, and that are no exact tie."""
    stem = name.removesuffix("ids")
    margin, exact = runs.exact[f"{stem}margin"], runs.exact[f"{stem}scores"]
    errors = np.stack([run[f"{stem}scores"].astype(np.float64) - exact for run in runs.emulated])
    moved = (errors.max(-1) - errors.min(-1)).max(0)  # (T,)
    most = TIE * np.maximum(moved, moved.mean())
    with np.errstate(invalid="ignore"):
        close: Array = (margin > 0) & (margin <= most)
    return close


def _same(runs: References) -> Array:
    """Tokens (T,) that meet the same experts in all runs."""
    kept: Array | None = None
    for name, exact in runs.exact.items():
        if name.endswith("router.ids"):
            for run_ in runs.emulated:
                same = (np.sort(run_[name]) == np.sort(exact)).all(-1)
                kept = same if kept is None else kept & same
    if kept is None:
        kept = np.ones(len(next(iter(runs.exact.values()))), bool)
    return kept if kept.any() else np.ones_like(kept)


def _rows(runs: References, kept: Array) -> References:
    """The same runs of some tokens alone."""
    return References(
        {name: value[kept] for name, value in runs.exact.items()},
        tuple({name: value[kept] for name, value in run_.items()} for run_ in runs.emulated),
        {},
    )


def config_of(bench: Bench) -> ModelConfig:
    """The whole model's config."""
    return bench.config
