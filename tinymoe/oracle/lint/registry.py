"""What a rule is, and the list of them: one function, one row of facts beside it.

A rule looks at a `Subject` and yields a `Found` for each thing that will go wrong. It says what is
in this checkpoint, with numbers; what an engine then does wrong, and where that has happened in
public, is the same for every checkpoint and stands in the decorator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tinymoe.oracle.lint.reading import reason
from tinymoe.oracle.lint.subject import Subject

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
LISTED = 4  # names that a finding holds; it says how many there are


@dataclass(frozen=True, slots=True)
class Found:
    """One thing that a rule found."""

    says: str  # a sentence about this checkpoint
    names: Sequence[str] = ()  # tensors (or files, fields, tokens) that it concerns, all of them
    numbers: Mapping[str, Any] = field(default_factory=dict)
    severity: Severity | None = None  # where it is less than the rule's own


Look = Callable[[Subject], Iterator[Found]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One question to a checkpoint."""

    id: str
    severity: Severity  # the gravest that it gives
    cases: tuple[str, ...]  # public issues: repository#number
    engine: str  # what an engine does with such a checkpoint
    looks_for: str  # the function's docstring
    look: Look


@dataclass(frozen=True, slots=True)
class Finding:
    """What is reported."""

    rule: str
    severity: Severity
    says: str
    engine: str
    cases: tuple[str, ...]
    names: tuple[str, ...]  # the first of them
    count: int  # of all of them
    numbers: Mapping[str, Any]


ENTERED: list[Rule] = []  # as their modules are imported


def rule(name: str, severity: Severity, *cases: str, engine: str) -> Callable[[Look], Look]:
    """Enter a function into the list."""

    def enter(look: Look) -> Look:
        doc = " ".join((look.__doc__ or "").split())
        ENTERED.append(Rule(name, severity, cases, engine, doc, look))
        return look

    return enter


def run(entry: Rule, subject: Subject) -> Iterator[Finding]:
    """A rule's findings; that it could not look, for whatever reason, is one too.

    Checkpoints come here because they are broken, so no exception of a rule may hide what the
    other rules have to say.
    """
    try:
        found = list(entry.look(subject))
    except Exception as error:
        found = [Found(f"could not look: {reason(error)}", severity="warning")]
    for item in found:
        yield Finding(
            rule=entry.id,
            severity=item.severity or entry.severity,
            says=item.says,
            engine=entry.engine,
            cases=entry.cases,
            names=tuple(item.names[:LISTED]),
            count=len(item.names),
            numbers={name: plain(value) for name, value in item.numbers.items()},
        )


def plain(value: Any) -> Any:
    """A value that strict JSON can hold: NaN and infinities as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def share(part: int, whole: int) -> str:
    """3 of 4 (75%)."""
    fraction = part / max(whole, 1)
    return f"{part:,} of {whole:,} ({fraction:.{0 if fraction >= 0.01 else 2}%})"


def many(number: int, what: str, plural: str = "") -> str:
    """1 tensor, 1,000 tensors."""
    return f"{number:,} {what if number == 1 else plural or what + 's'}"
