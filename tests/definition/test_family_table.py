"""The documentation's table of families and formats says what the tests do, and no more."""

from __future__ import annotations

import pytest

from tests import family_table

pytestmark = pytest.mark.definition


def test_the_page_is_what_the_tests_say() -> None:
    # a family or a case that came without its line, or a claim that nothing checks
    written = family_table.PAGE.read_text(encoding="utf-8")
    assert written == family_table.page(), "write it again: python -m tests.family_table"


def test_every_family_has_a_line() -> None:
    for family in family_table.FAMILIES:
        assert f'\n   "``{family}``", ' in family_table.page()
