"""Which known wrong variant of the model gives an engine's tensors: one by one, then in pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from tinymoe.core import ModelConfig, Numerics
from tinymoe.model.params import Params
from tinymoe.oracle.diagnose.judging import Bench, Judged, Variant
from tinymoe.oracle.diagnose.replay import spans
from tinymoe.oracle.diagnose.signatures import Mark, hints_of, signatures
from tinymoe.oracle.diff import Report, diff, diff_traces
from tinymoe.oracle.diff.tensors import MULTIPLE, ROUNDOFF
from tinymoe.oracle.diff.walk import Trace, aligned
from tinymoe.oracle.mutants import MODEL_MUTANTS, ModelMutant, Setup

# A quick run is judged by bounds that are not its own: this much beyond them may still be within.
SLACK = 4.0
CAREFULLY = 8  # of the nearest, runs with bounds of their own
HALVES = 6  # of the nearest, tried with every other one on top
TOGETHER = 12  # of the nearest, tried two by two: two bugs in one tensor
PAIRS = 4  # of the nearest pairs, runs with bounds of their own

Progress = Callable[[int, int], None]  # (done, of how many)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One explanation, and how far it goes."""

    name: str  # of the mutant, of two of them with " + ", or of the signature
    kind: Literal["mutant", "pair", "signature"]
    says: str
    case: str  # public bugs; empty where there is none
    error: float  # relative L2 at the first wrong tensor; of experts the share of tokens on others
    fits: bool  # every tensor that was judged is within bounds
    further: int  # tensors that it reproduces, beyond those that the right model does
    wrong: str | None  # that one


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What `diff` found, and what explains it."""

    report: Report
    right: float  # error of the right model at the first wrong tensor
    judged: tuple[str, ...]  # the tensors that explanations are judged by
    tried: int  # how many variants
    candidates: tuple[Candidate, ...]  # best first

    @property
    def agrees(self) -> bool:
        """Whether nothing is wrong."""
        return self.report.agrees

    @property
    def named(self) -> Candidate | None:
        """What explains it; None if nothing that is known does."""
        return next((c for c in self.candidates if c.fits), None)

    @property
    def alike(self) -> tuple[Candidate, ...]:
        """What explains it as well: these tokens do not tell them apart."""
        named = self.named
        if named is None:
            return ()
        same = [c for c in self.candidates if c.fits and c.kind == named.kind]
        return tuple(c for c in same if c is not named)


def diagnose(
    params: Params,
    config: ModelConfig,
    mine: Trace,
    numerics: Numerics,
    *,
    more: Sequence[ModelMutant] = (),
    progress: Progress | None = None,
) -> Diagnosis:
    """Compare an engine's trace with the model, and try what explains the first wrong tensor.

    `mine` and `numerics` as for `diff`. Every variant runs from the engine's own input to the half
    of the layer that is wrong first, to the end of that layer; from further before, if the right
    model explains that half. `more`: variants beside `MODEL_MUTANTS`, as the wrong readings of a
    quantised checkpoint (`stored.format_mutants`). `progress` is called with (done, of how many).
    """
    report = diff(params, config, mine, numerics)
    if report.first is None:
        return Diagnosis(report=report, right=0.0, judged=(), tried=0, candidates=())
    first = report.first.name
    bench, right = begun(Setup(config, params), mine, first, numerics)
    reference, known = bench.right.exact, (*MODEL_MUTANTS, *more)
    found, tried = singles(bench, known, progress) if not right.fits else ([], 0)
    if found and not found[0].fits:
        pairs, combined = in_pairs(bench, right, found, known, progress)
        found, tried = found + pairs, tried + combined
    theirs = aligned(mine, first, reference)
    limit = bench.bounds[first].rows if first in bench.bounds else 0.0
    hints = hints_of(first, reference, config)
    marks = signatures(reference[first], theirs, max(limit, ROUNDOFF[numerics.storage]), hints)
    candidates = [_candidate(each, first, right) for each in found] + [
        _marked(m, first) for m in marks
    ]
    return Diagnosis(
        report=report,
        right=right.taps[first].error,
        judged=tuple(right.taps),
        tried=tried,
        candidates=tuple(sorted(candidates, key=_order)),
    )


def begun(setup: Setup, mine: Trace, first: str, numerics: Numerics) -> tuple[Bench, Judged]:
    """The part of the model to try variants in, as small as shows that the right one is not it."""
    for found, restarts in spans(first, mine, setup.config):
        bench = Bench(setup, mine, found, first, numerics, restarts)
        right = bench.carefully(())
        if not right.fits:
            break
    return bench, right


def diagnose_traces(
    reference: Trace, mine: Trace, numerics: tuple[Numerics, Numerics]
) -> Diagnosis:
    """Two traces without a model: what the first wrong tensor looks like, by itself."""
    report = diff_traces(reference, mine, numerics)
    if report.first is None:
        return Diagnosis(report=report, right=0.0, judged=(), tried=0, candidates=())
    name = report.first.name
    before = [max(t.row_errors, default=0.0) for t in report.tensors if t.status == "agrees"]
    usual = max(*(ROUNDOFF[n.storage] for n in numerics), *before)
    theirs, hints = aligned(mine, name, reference), hints_of(name, reference, None)
    marks = signatures(reference[name], theirs, MULTIPLE * usual, hints)
    return Diagnosis(
        report=report,
        right=report.first.relative_l2,
        judged=(name,),
        tried=0,
        candidates=tuple(sorted((_marked(mark, name) for mark in marks), key=_order)),
    )


def singles(
    bench: Bench, known: Sequence[ModelMutant], progress: Progress | None
) -> tuple[list[Judged], int]:
    """Every mutant that could be it, nearest first, and how many there were."""
    mutants = list(possible(bench, known))
    quick = _quickly(bench, [(mutant,) for mutant in mutants], progress)
    unchanged = bench.quickly(())
    changing = [each for each in quick if each.taps != unchanged.taps]
    return _carefully(bench, changing, CAREFULLY), len(mutants)


def in_pairs(
    bench: Bench,
    right: Judged,
    found: Sequence[Judged],
    known: Sequence[ModelMutant],
    progress: Progress | None,
) -> tuple[list[Judged], int]:
    """Two at once: the ones that go furthest with any other, and the nearest among themselves."""
    every = [m for m in known if not m.equivalent and m.applies(bench.stated)]
    further = [each for each in found if each.explained() > right.explained()][:HALVES]
    variants = [
        (*each.variant, other)
        for each in further
        for other in every
        if other is not each.variant[0]
    ]
    near = [each.variant[0] for each in found if each.whole][:TOGETHER]
    variants += [pair for pair in combinations(near, 2) if pair not in variants]
    quick = _quickly(bench, variants, progress)
    best = max((each.explained() for each in found), default=0)
    pairs = [each for each in _carefully(bench, quick, PAIRS) if each.explained() > best]
    return pairs, len(variants)


def possible(bench: Bench, known: Sequence[ModelMutant]) -> Iterable[ModelMutant]:
    """All but those that change only what comes after the first wrong tensor."""
    places = {_part(name): place for place, name in enumerate(bench.right.exact)}
    first = places[_part(bench.first)]
    for mutant in known:
        later = places.get(_part(mutant.first_tap), -1) > first
        elsewhere = "." not in mutant.first_tap and mutant.first_tap not in places
        if not (mutant.equivalent or later or elsewhere) and mutant.applies(bench.stated):
            yield mutant


def _part(tap: str) -> str:
    """A tap's name without its layer."""
    return tap.split(".", 2)[2] if tap.startswith("layers.") else tap


def _quickly(bench: Bench, variants: Sequence[Variant], progress: Progress | None) -> list[Judged]:
    found = []
    for done, variant in enumerate(variants, 1):
        found.append(bench.quickly(variant))
        if progress is not None:
            progress(done, len(variants))
    return found


def _carefully(bench: Bench, quick: Sequence[Judged], most: int) -> list[Judged]:
    """The nearest judged anew, by bounds of their own; then all the others as they were."""
    ranked = sorted(quick, key=lambda each: each.rank(SLACK))
    again = [bench.carefully(each.variant) for each in ranked[:most] if each.whole]
    return sorted(again, key=lambda each: (not each.fits, each.rank())) + [
        each for each in ranked if each.variant not in {a.variant for a in again}
    ]


def _candidate(each: Judged, first: str, right: Judged) -> Candidate:
    mutants, found = each.variant, each.taps.get(first)
    return Candidate(
        name=each.name,
        kind="mutant" if len(mutants) == 1 else "pair",
        says=", and ".join(mutant.says for mutant in mutants),
        case=", ".join(mutant.case for mutant in mutants if mutant.case),
        error=np.inf if found is None else found.error,
        fits=each.fits,
        further=max(0, each.explained() - right.explained()),
        wrong=each.wrong,
    )


def _marked(mark: Mark, first: str) -> Candidate:
    return Candidate(
        name=mark.name,
        kind="signature",
        says=mark.says,
        case="",
        error=mark.error,
        fits=mark.fits,
        further=int(mark.fits),
        wrong=None if mark.fits else first,
    )


def _order(each: Candidate) -> tuple[bool, int, int, float]:
    """What fits, in the order it comes in; then one mutant before two; then the nearest."""
    kinds: Mapping[str, int] = {"mutant": 0, "pair": 1, "signature": 2}
    if each.fits:
        return False, kinds[each.kind], 0, 0.0
    return True, 0, -each.further, each.error
