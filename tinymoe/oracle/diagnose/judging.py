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

from tinymoe.core import NUMERICS, Array, Numerics, Tap, TinymoeError
from tinymoe.model.ops import DEFINITION
from tinymoe.oracle.diagnose.replay import Narrow, Stage, narrowed, run
from tinymoe.oracle.diff.references import (
    BACKWARDS,
    FORWARDS,
    References,
    in_dtype,
    unquantised,
)
from tinymoe.oracle.diff.tensors import compare
from tinymoe.oracle.diff.walk import TIE, Trace, aligned, bounds
from tinymoe.oracle.mutants import ModelMutant, Setup

EXACT = NUMERICS["exact"]
ORDERS = (DEFINITION, FORWARDS, BACKWARDS)
HOPELESS = 16.0  # times the bound, at a tensor that is right in the engine: not this variant

Variant = tuple[ModelMutant, ...]  # applied one after the other; () is the right model


class TapError(NamedTuple):
    """One tensor of a variant against the engine's."""

    error: float  # relative L2; of experts the share of tokens on others
    excess: float  # largest error / bound: above 1 it is not reproduced


class Judged(NamedTuple):
    """A variant against the engine."""

    variant: Variant
    taps: dict[str, TapError]  # in the order of execution; ends early where it was given up
    whole: bool  # False: given up, at a tensor that is right in the engine
    flips: int = 0  # tokens on other experts, close calls among them

    @property
    def name(self) -> str:
        """The mutants' names; empty for the right model."""
        return " + ".join(mutant.name for mutant in self.variant)

    def explained(self, slack: float = 1.0) -> int:
        """How many tensors are reproduced before the first that is not."""
        count = 0
        for found in self.taps.values():
            if not found.excess <= slack:
                break
            count += 1
        return count

    @property
    def fits(self) -> bool:
        """Whether all tensors are reproduced."""
        return self.whole and self.explained() == len(self.taps)

    @property
    def wrong(self) -> str | None:
        """The first tensor that is not reproduced."""
        count = self.explained()
        return [*self.taps][count] if count < len(self.taps) else None

    def rank(self, slack: float = 1.0) -> tuple[float, ...]:
        """Smaller is nearer: gone furthest, then nearest where that ends, then few flips."""
        count, taps = self.explained(slack), [*self.taps.values()]
        edge = taps[count].error if count < len(taps) else 0.0
        errors = np.minimum([found.error for found in taps], 1e150)
        size = float(np.sqrt(np.mean(np.square(errors)))) if taps else np.inf
        return (not self.whole, -count, min(edge, 1e150), self.flips, size)


class _GivenUpError(Exception):
    """A tensor that is right in the engine is wrong in the variant."""


class Bench:
    """The stages to run, the engine's tensors, and the right model to begin from."""

    def __init__(
        self,
        setup: Setup,
        mine: Trace,
        found: Sequence[Stage],
        first: str,
        numerics: Numerics,
        restarts: bool = True,
    ) -> None:
        self.mine, self.stages, self.first, self.numerics = mine, found, first, numerics
        self.restarts = restarts  # every stage from the engine's input, or the first one alone
        own, self.layers = narrowed(setup, found)
        self.stated = own._replace(params=in_dtype(own.params, numerics.dtype))
        self.exact = own._replace(params=in_dtype(unquantised(own.params), EXACT.dtype))
        self.right = self.careful_runs(())
        few = rows_of(self.right, same_experts(self.right))
        self.bounds = {
            name: bounds(few, name, numerics)
            for name in self.right.exact
            if name in mine and not name.endswith("ids")
        }

    def run(self, variant: Variant, base: Setup, numerics: Numerics, tap: Tap) -> None:
        """Apply and run; the order of sums is that of base.ops."""
        setup = base
        for mutant in variant:
            setup = mutant.apply(setup)
        run(Narrow(setup, self.layers), self.stages, self.mine, numerics, tap, self.restarts)

    def traced(self, variant: Variant, base: Setup, numerics: Numerics) -> dict[str, Array]:
        """Every tap of a variant."""
        kept: dict[str, Array] = {}

        def tap(name: str, value: Array) -> None:
            kept[name] = np.array(value)

        self.run(variant, base, numerics, tap)
        return kept

    def careful_runs(self, variant: Variant) -> References:
        """In float64, and in the stated numerics in three orders of sums."""
        emulated = tuple(
            self.traced(variant, self.stated._replace(ops=ops), self.numerics) for ops in ORDERS
        )
        return References(self.traced(variant, self.exact, EXACT), emulated, {})

    def quickly(self, variant: Variant) -> Judged:
        """By one run; given up as soon as a tensor is wrong that is right in the engine."""
        taps, seen, state = dict[str, TapError](), dict[str, Array](), _State(self.mine)
        early = True

        def tap(name: str, value: Array) -> None:
            nonlocal early
            seen[name] = np.array(value)
            early = early and name != self.first
            if name in self.mine and name != "tokens":
                taps[name] = self._one(name, seen, state)
                if early and taps[name].excess > HOPELESS:
                    raise _GivenUpError

        try:
            with np.errstate(all="ignore"):  # a wrong variant may well overflow
                self.run(variant, self.stated, self.numerics, tap)
        except (_GivenUpError, TinymoeError):  # or its numbers are none that an engine could have
            return Judged(variant, taps, whole=False)
        return Judged(variant, taps, whole=True, flips=state.flips)

    def _one(self, name: str, seen: Mapping[str, Array], state: _State) -> TapError:
        """One tensor of a quick run."""
        engine, value = self.mine[name], seen[name]
        if engine.shape != value.shape:
            return TapError(np.inf, np.inf)
        if name.endswith("router.ids"):
            return state.routed(others(engine, value), np.zeros(len(engine), bool))
        if not state.judged.any():
            return TapError(np.inf, np.inf)  # no token is left that says anything
        mine = aligned(self.mine, name, seen)
        found = compare(name, value, mine, self.bounds[name], state.judged)
        return TapError(found.relative_l2, found.excess)

    def carefully(self, variant: Variant) -> Judged:
        """By four runs, with bounds of the variant's own."""
        with np.errstate(all="ignore"):
            return self._carefully(variant)

    def _carefully(self, variant: Variant) -> Judged:
        runs = self.careful_runs(variant) if variant else self.right
        taps, state, same = dict[str, TapError](), _State(self.mine), same_experts(runs)
        for name, exact in runs.exact.items():
            engine = self.mine.get(name)
            if engine is None or name == "tokens":
                continue
            if engine.shape != exact.shape:
                taps[name] = TapError(np.inf, np.inf)
            elif name.endswith("router.ids"):
                wrong = others(engine, exact)
                for emulated in runs.emulated:
                    wrong = wrong & others(engine, emulated[name])
                scores = self.mine.get(f"{name.removesuffix('ids')}scores")
                taps[name] = state.routed(wrong, close_calls(runs, name, scores))
                state.judged = state.judged & ~others(engine, exact)
                state.judged = state.judged & same
            elif state.judged.any():
                few = rows_of(runs, state.judged)
                mine = aligned(self.mine, name, runs.exact)[state.judged]
                found = compare(name, few.exact[name], mine, bounds(few, name, self.numerics))
                taps[name] = TapError(found.relative_l2, found.excess)
            else:
                taps[name] = TapError(np.inf, np.inf)
        return Judged(variant, taps, whole=True, flips=state.flips)


class _State:
    """Which tokens are still looked at, and how many met other experts."""

    def __init__(self, mine: Trace) -> None:
        self.judged, self.flips = np.ones(len(mine["tokens"]), bool), 0

    def routed(self, wrong: Array, close: Array) -> TapError:
        """Experts of one layer: tokens (T,) on others, and which of them are close calls."""
        self.flips += int(wrong.sum())
        self.judged = self.judged & ~wrong
        faults = float((wrong & ~close).mean())
        return TapError(faults, np.inf if faults else 0.0)


def others(engine: Array, ids: Array) -> Array:
    """Tokens (T,) whose sets of experts differ: of ids (T, K)."""
    differ: Array = (np.sort(np.ma.getdata(engine)) != np.sort(ids)).any(-1)
    return differ


def close_calls(runs: References, name: str, scores: Array | None) -> Array:
    """Tokens (T,) whose choice is explained by how far some run's scores are from the engine's.

    Where the engine's own scores (T, E) are not known: by how far the numerics move them. Equal
    scores explain nothing: there is a rule for ties.
    """
    stem = name.removesuffix("ids")
    exact, margin = runs.exact[f"{stem}scores"], runs.exact[f"{stem}margin"]
    close = np.zeros(len(exact), bool)
    if scores is None or np.ma.isMaskedArray(scores) or scores.shape != exact.shape:
        errors = [each[f"{stem}scores"].astype(np.float64) - exact for each in runs.emulated]
        moved = np.max([error.max(-1) - error.min(-1) for error in errors], axis=0)  # (T,)
        close |= margin <= TIE * np.maximum(moved, moved.mean())
    else:
        for each in (runs.exact, *runs.emulated):
            apart = 2 * np.abs(each[f"{stem}scores"].astype(np.float64) - scores).max(-1)  # (T,)
            close |= (apart > 0) & (each[f"{stem}margin"] <= apart)
    unequal: Array = close & (margin > 0)
    return unequal


def same_experts(runs: References) -> Array:
    """Tokens (T,) that meet the same experts in all runs; all, if none does."""
    kept = np.ones(len(next(iter(runs.exact.values()))), bool)
    for name, exact in runs.exact.items():
        if name.endswith("router.ids"):
            for emulated in runs.emulated:
                kept = kept & ~others(emulated[name], exact)
    return kept if kept.any() else np.ones_like(kept)


def rows_of(runs: References, kept: Array) -> References:
    """The same runs of some tokens alone."""
    return References(
        {name: value[kept] for name, value in runs.exact.items()},
        tuple({name: value[kept] for name, value in run.items()} for run in runs.emulated),
        {},
    )
