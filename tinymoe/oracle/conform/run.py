"""A foreign function under our tests: property cases, metamorphic pairs, inputs that matter.

Needs hypothesis, which draws the cases and makes a failing one as small as it can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tinymoe.core import TinymoeError
from tinymoe.kernels.contracts import Contract
from tinymoe.oracle.conform.looks_like import looks_like
from tinymoe.oracle.conform.metamorphic import (
    VARIANTS,
    Case,
    Variant,
    another,
    array_inputs,
    distance,
    same_bits,
    size,
)
from tinymoe.oracle.conform.metamorphic_formats import FORMAT_VARIANTS
from tinymoe.oracle.vectors.ops import of_op
from tinymoe.oracle.vectors.ops import run as run_vector
from tinymoe.oracle.vectors.vector import Vector

Implementation = Callable[..., Any]
COARSE = 1e-3
FIRST, GOLDEN = "the definition's answer", "golden vectors"


class Result(NamedTuple):
    """One line of the table."""

    name: str
    verdict: str  # "pass", "FAIL", or "bits" where only the last bits depend on the company
    cases: int
    says: str  # why it failed
    example: Case | None  # the smallest case that fails
    resembles: tuple[str, ...]  # names of mutants that give the same wrong answer


def conform(
    row: Contract,
    implementation: Implementation,
    *,
    cases: int = 200,
    seed: int = 0,
    shrink: bool = True,
    only: str | None = None,
    vectors: Iterable[Vector] = (),
    where: Mapping[str, str] | None = None,
) -> list[Result]:
    """Every check of one op, or `only` the one of that name.

    `cases`: of each; `seed`: another gives other cases; `shrink`: make failing ones small;
    `vectors`: golden ones, of which this op's are run, too; `where`: only cases whose arguments
    have these values, as {"convention": "ct"} for a kernel that knows one convention.
    """
    effort = _Effort(cases, seed, shrink, dict(where or {}))
    judged = _search(FIRST, row, implementation, effort, _judge)
    variants = {**VARIANTS, **FORMAT_VARIANTS}.get(row.name, {})
    checks = {name: _related(variant, judged) for name, variant in variants.items()}
    checks["every input matters"] = _matters
    others = [
        _search(name, row, implementation, effort, check)
        for name, check in checks.items()
        if only in (None, name)
    ]
    wanted = [v for v in of_op(row.name, vectors) if _fits(effort.where, v.given)]
    golden = _golden(row, implementation, wanted) if only in (None, GOLDEN) else []
    return [judged, *golden, *others]


def _golden(
    row: Contract, implementation: Implementation, vectors: Iterable[Vector]
) -> list[Result]:
    """The op's golden vectors, up to the first that fails; nothing where there are none."""
    tried = 0
    for vector in vectors:
        tried += 1
        try:
            says = run_vector(vector, implementation)
        except TinymoeError:
            raise
        except Exception as error:
            says = f"raised {type(error).__name__}: {error}"
        if says is not None:
            case = dict(vector.given)
            names = looks_like(row, implementation, case)
            return [Result(GOLDEN, "FAIL", tried, f"{vector.name}: {says}", case, names)]
    return [Result(GOLDEN, "pass", tried, "", None, ())] if tried else []


class _Effort(NamedTuple):
    cases: int
    seed: int
    shrink: bool
    where: Mapping[str, str]


def _fits(where: Mapping[str, str], case: Mapping[str, Any]) -> bool:
    """Whether the arguments have these values; cards and numerics go by their names."""
    told = {name: getattr(value, "name", value) for name, value in case.items()}
    return all(name in told and str(told[name]) == value for name, value in where.items())


Check = Callable[[Contract, Implementation, Case], None]


class _BitsDiffer(Exception):  # noqa: N818  (no error: a property that was not asked for)
    """Right within the op's bound, but other last bits in other company."""


def _search(
    name: str,
    row: Contract,
    implementation: Implementation,
    effort: _Effort,
    check: Check,
) -> Result:
    """Draw cases until one fails, and shrink it."""
    try:
        import hypothesis
    except ModuleNotFoundError as error:
        raise TinymoeError("conform needs hypothesis: pip install 'tinymoe[test]'") from error
    phases = [hypothesis.Phase.generate]
    if effort.shrink:
        phases.append(hypothesis.Phase.shrink)
    last: Case | None = None
    tried = 0
    differ: list[str] = []

    @hypothesis.seed(effort.seed)
    @hypothesis.settings(
        max_examples=effort.cases,
        phases=phases,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
        verbosity=hypothesis.Verbosity.quiet,
    )
    @hypothesis.given(case=row.inputs().filter(lambda case: _fits(effort.where, case)))
    def run(case: Case) -> None:
        nonlocal last, tried
        tried += 1
        try:
            check(row, implementation, case)
        except _BitsDiffer as found:
            differ.append(str(found))
        except BaseException:
            last = case
            raise

    try:
        run()
    except (KeyboardInterrupt, TinymoeError):
        raise
    except hypothesis.errors.Unsatisfiable as error:
        raise TinymoeError(
            f"where: no case of {row.name} has {dict(effort.where)}; its arguments are "
            f"{row.signature}"
        ) from error
    except AssertionError as error:
        names = looks_like(row, implementation, last) if check is _judge else ()
        return Result(name, "FAIL", tried, str(error), last, names)
    except Exception as error:
        says = f"raised {type(error).__name__}: {error}"
        return Result(name, "FAIL", tried, says, last, ())
    if differ:
        share = f"in {len(differ)} of {tried} cases"
        return Result(name, "bits", tried, f"other last bits {share}: {differ[0]}", None, ())
    return Result(name, "pass", tried, "", None, ())


def _judge(row: Contract, implementation: Implementation, case: Case) -> None:
    row.judge(implementation, case)


def _related(variant: Variant, judged: Result) -> Check:
    """The answer to the variant: the same bits as the part of the first, or near enough.

    Near enough is the op's own bound where the function keeps that; where it does not, or the
    variant holds NaN, of which the bound knows nothing, a thousandth of the largest number.
    """

    def check(row: Contract, implementation: Implementation, case: Case) -> None:
        related = variant(case)
        if related is None:
            return
        whole, got = implementation(**case), implementation(**related.case)
        if related.padded:
            want, got = whole, related.part(got)
        else:
            want = related.part(whole)
        if same_bits(want, got):
            return
        off = distance(want, got)
        if judged.verdict == "pass" and not related.padded:
            row.check(related.case, got)
        elif off > COARSE * size(want):
            raise AssertionError(f"{row.name}: the answers differ by {off:.3g}")
        raise _BitsDiffer(f"by up to {off:.3g}")

    return check


def _matters(row: Contract, implementation: Implementation, case: Case) -> None:
    """Where another value of an input changes the right answer, it changes theirs as well."""
    if any(not np.isfinite(case[name]).all() for name in array_inputs(case)):
        return
    for name in array_inputs(case):
        other = {**case, name: another(case[name])}
        try:
            right, moved = row.definition(**case), row.definition(**other)
        except Exception:  # the changed input means nothing: no question to ask
            continue
        # A large move, so that rounding cannot hide it.
        if not distance(right, moved) > 1e-2:
            continue
        if same_bits(implementation(**case), implementation(**other)):
            raise AssertionError(f"{row.name}: another {name!r} gives the same answer: is it read?")
