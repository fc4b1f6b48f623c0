"""The page of known bugs and what diagnose calls them: true of a sample, and good enough."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest

from tests import confusion
from tests.confusion import HIDDEN, SHIPPED, Case, read_record
from tinymoe.oracle.mutants import MODEL_MUTANTS, mutant

pytestmark = pytest.mark.definition

RECORD = read_record()
SPECIMENS = [case for case in RECORD if case.model != SHIPPED]
# 11 and 61 are prime to the number of models and modes, so that all of them come up
SAMPLE = [case for case in SPECIMENS if case.numerics == "fp32"][::11]
SAMPLE += [case for case in SPECIMENS if case.numerics == "bf16"][::61]


@pytest.mark.parametrize("case", SAMPLE, ids="-".join)
def test_the_record_is_what_diagnose_says(case: Case) -> None:
    assert confusion.run(case) == RECORD[case], "write it again: python -m tests.confusion"


def test_the_page_is_what_the_record_says() -> None:
    written = confusion.PAGE.read_text(encoding="utf-8")
    assert written == confusion.page(RECORD), "write it again: python -m tests.confusion"


def test_every_mutant_is_in_the_record() -> None:
    # a mutant that came without being tried
    known = {found.name for found in MODEL_MUTANTS if not found.equivalent}
    assert {case.mutant for case in RECORD} == known


def test_the_right_name_comes_first() -> None:
    assert confusion.share(RECORD, "fp32") >= 0.95
    assert confusion.share(RECORD, "bf16") >= 0.85


def test_most_are_seen() -> None:
    # a name that is always right because nothing is ever accused
    hidden = [case for case, result in RECORD.items() if result.first == HIDDEN]
    assert len(hidden) < 0.1 * len(RECORD)


def test_diff_names_the_right_first_tensor() -> None:
    for case, result in RECORD.items():
        if case.numerics == "fp32" and result.first != HIDDEN:
            expected = mutant(case.mutant).first_tap
            # what chooses was moved, and by luck no choice: then the margin alone can show it
            by_luck = expected.replace("ids", "margin")
            assert any(fnmatchcase(result.tap, tap) for tap in (expected, by_luck)), (case, result)
