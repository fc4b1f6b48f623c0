"""The page `tutorials/confusion.rst`: every known bug put into models, and what diagnose calls it.

Each mutant goes into each specimen of `tinymoe.oracle.mutants.specimens`, and into the shipped
model, whose engine runs in fp32 and in bf16. `tests/definition/test_confusion.py` holds the page to
a sample. To write it again (some minutes):

    python -m tests.confusion
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tinymoe.api import load
from tinymoe.core import NUMERICS
from tinymoe.oracle.diagnose import Diagnosis, diagnose
from tinymoe.oracle.mutants import MODEL_MUTANTS, ModelMutant, Setup, mutant
from tinymoe.oracle.mutants.specimen_params import specimen
from tinymoe.oracle.mutants.specimens import CONFIGS, IDS
from tinymoe.oracle.trace import trace

PAGE = Path(__file__).parents[1] / "tutorials" / "confusion.rst"
RECORD = Path(__file__).parent / "vectors" / "confusion.json"
SHIPPED = "shipped"
SHIPPED_IDS = (413, 77, 902, 1500, 31, 256, 8, 3000, 77, 902, 12, 640)
MODELS = (*CONFIGS, SHIPPED)
MODES = ("fp32", "bf16")
HIDDEN, NONE = "hidden", "none"

HEAD = """\
.. Written by `python -m tests.confusion`: change that, and not this page.

Which bug is it: how often diagnose is right
============================================

Every mutant (a known wrong variant of one step, ``python -m tinymoe mutants``) was put into every
small model that it applies to, and into the model that comes with tinymoe. The wrong model ran in
fp32 and in bf16, and ``diagnose`` was given its trace and the right model.

**first**
   of how many times it was seen, ``diagnose`` put the right mutant first.
**alike**
   the right one fits, and another one that gives the same numbers for these tokens comes before it;
   the verdict names both.
**hidden**
   ``diff`` sees nothing wrong: the bug changes no number by more than the numerics themselves do,
   or no expert that is chosen.

"""


class Case(NamedTuple):
    """One wrong model."""

    mutant: str
    model: str
    numerics: str


class Result(NamedTuple):
    """What diagnose said."""

    first: str  # the first candidate's name if it fits; `NONE`, or `HIDDEN`
    alike: bool  # the right one fits, too
    tap: str  # the first wrong tensor; empty where there is none


@cache
def right(model: str, numerics: str) -> Setup:
    """A model without a bug."""
    stated = NUMERICS[numerics]
    if model != SHIPPED:
        return specimen(model, stated)
    opened = load(numerics=stated)
    return Setup(opened.config, opened.params)


def cases() -> Iterator[Case]:
    """Every mutant that is another function, in every model that it applies to."""
    for found in MODEL_MUTANTS:
        for model in MODELS:
            if not found.equivalent and found.applies(right(model, MODES[0])):
                for numerics in MODES:
                    yield Case(found.name, model, numerics)


def run(case: Case) -> Result:
    """Diagnose one wrong model."""
    found = diagnosis(case)
    named = found.named
    right_one = any(c.name == case.mutant and c.fits for c in found.candidates)
    first = HIDDEN if found.agrees else NONE if named is None else named.name
    tap = "" if found.report.first is None else found.report.first.name
    return Result(first, right_one and first != case.mutant, tap)


def diagnosis(case: Case) -> Diagnosis:
    """Of one wrong model's trace."""
    setup, numerics = right(case.model, case.numerics), NUMERICS[case.numerics]
    bug: ModelMutant = mutant(case.mutant)
    config, params, ops = bug.apply(setup)
    ids = SHIPPED_IDS if case.model == SHIPPED else IDS
    mine = trace(params, config, ids, numerics, ops=ops, patterns=["*"])
    return diagnose(setup.params, setup.config, mine, numerics)


def share(record: dict[Case, Result], numerics: str, *, alike: bool = False) -> float:
    """Of the bugs that are seen, those that are named first; `alike`: or cannot be told apart."""
    seen = {c: r for c, r in record.items() if c.numerics == numerics and r.first != HIDDEN}
    good = [r.first == c.mutant or (alike and r.alike) for c, r in seen.items()]
    return sum(good) / len(good)


def page(record: dict[Case, Result]) -> str:
    """The whole page."""
    lines = []
    for numerics in MODES:
        seen = [c for c, r in record.items() if c.numerics == numerics and r.first != HIDDEN]
        lines.append(
            f"In {numerics}, of {len(seen)} wrong models that are seen, the right name comes first "
            f"in {share(record, numerics):.1%}, or is said to be alike, in "
            f"{share(record, numerics, alike=True):.1%}.\n"
        )
    heads = ["mutant", "public bug"]
    heads += [f"{numerics}: {what}" for numerics in MODES for what in ("first", "alike", "hidden")]
    rows = [[*heads, "taken for"]]
    for bug in dict.fromkeys(case.mutant for case in record):
        rows.append(_row(bug, record))
    return HEAD + "\n".join(lines) + "\n" + _table(rows)


def _row(bug: str, record: dict[Case, Result]) -> list[str]:
    cells = [f"``{bug}``", mutant(bug).case or "none"]
    taken: Counter[str] = Counter()
    for numerics in MODES:
        own = [r for c, r in record.items() if (c.mutant, c.numerics) == (bug, numerics)]
        seen = [r for r in own if r.first != HIDDEN]
        cells.append(f"{sum(r.first == bug for r in seen)} of {len(seen)}")
        cells.append(str(sum(r.alike for r in seen)))
        cells.append(str(len(own) - len(seen)))
        taken.update(r.first for r in seen if r.first != bug)
    return [*cells, "; ".join(f"{name} ({n})" for name, n in taken.most_common())]


def _table(rows: list[list[str]]) -> str:
    lines = [".. csv-table::", "   :header-rows: 1", ""]
    lines += ["   " + ", ".join(f'"{cell}"' for cell in row) for row in rows]
    return "\n".join(lines) + "\n"


def read_record() -> dict[Case, Result]:
    """What was found when the page was written."""
    rows = json.loads(RECORD.read_text("utf-8"))
    return {Case(*row[:3]): Result(*row[3:]) for row in rows}


def write() -> None:
    """Run every case, then the record and the page."""
    every, record = list(cases()), {}
    for done, case in enumerate(every, 1):
        record[case] = run(case)
        if done % 50 == 0:
            print(f"{done} of {len(every)}", file=sys.stderr)
    rows = ",\n".join(json.dumps([*case, *result]) for case, result in record.items())
    RECORD.write_text(f"[\n{rows}\n]\n", encoding="utf-8")
    PAGE.write_text(page(record), encoding="utf-8")
    print(page(record))


if __name__ == "__main__":
    write()
