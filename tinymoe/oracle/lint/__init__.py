"""The lint: what will go wrong with a checkpoint in an engine, before an engine has loaded it.

    >>> from tinymoe.api import shipped_model
    >>> from tinymoe.oracle.lint import lint
    >>> lint(shipped_model()).findings
    ()

Names, headers, configs and the numbers of scales and biases are looked at; of weights nothing is
read. A rule is a function with a row of facts: see `registry.py` and any of the rules' modules.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tinymoe.core import TinymoeError
from tinymoe.oracle.lint import (
    activations,
    bias,
    configs,
    exclusion,
    index,
    names,
    scales,
    vocabulary,
)
from tinymoe.oracle.lint.registry import ENTERED, run
from tinymoe.oracle.lint.registry import SEVERITIES as SEVERITIES
from tinymoe.oracle.lint.registry import Finding as Finding
from tinymoe.oracle.lint.registry import Rule as Rule
from tinymoe.oracle.lint.subject import Subject

_IN_ORDER = (index, configs, exclusion, names, scales, activations, bias, vocabulary)
RULES: dict[str, Rule] = {
    entry.id: entry
    for module in _IN_ORDER
    for entry in ENTERED
    if entry.look.__module__ == module.__name__
}


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it."""

    path: str
    looked: dict[str, Any]  # at what, and how much of it
    rules: tuple[str, ...]  # ids of those that ran
    findings: tuple[Finding, ...]  # errors first

    @property
    def counts(self) -> dict[str, int]:
        """Findings by severity."""
        given = [finding.severity for finding in self.findings]
        return {severity: given.count(severity) for severity in SEVERITIES}

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"counts": self.counts}


def lint(path: str | Path, *, only: Collection[str] = (), skip: Collection[str] = ()) -> Report:
    """Run the rules (all, or those of `only`, without those of `skip`) over a model folder.

    Raises `TinymoeError` for an unknown rule and for a folder whose files cannot be opened at all:
    a safetensors header, a config.json or an index that is malformed.
    """
    chosen = pick(only, skip)
    subject = Subject(path)
    found = [finding for entry in chosen for finding in run(entry, subject)]
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))  # stable
    return Report(
        str(subject.path), _looked(subject), tuple(entry.id for entry in chosen), tuple(found)
    )


def pick(only: Collection[str], skip: Collection[str]) -> list[Rule]:
    """The rules to run, in their order."""
    unknown = sorted((set(only) | set(skip)) - set(RULES))
    if unknown:
        raise TinymoeError(
            f"no rule is called {', '.join(map(repr, unknown))}; the rules: {', '.join(RULES)}"
        )
    return [e for e in RULES.values() if (not only or e.id in only) and e.id not in skip]


def _looked(subject: Subject) -> dict[str, Any]:
    sample = subject.scales
    return {
        "tensors": len(subject.names),
        "files": len(subject.checkpoint.files),
        "family": subject.config.get("model_type"),
        "quant_method": subject.method or "none",
        "quantised_matrices": sum(module.quantised for module in subject.modules.values()),
        "scale_tensors": sample.tensors,
        "scale_tensors_read": len(sample.numbers),
        "scale_bytes": sample.bytes_there,
        "scale_bytes_read": sample.bytes_read,
    }
