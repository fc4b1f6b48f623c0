"""Every example in a docstring runs and shows what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import tinymoe
import tinymoe.kernels

MODULES = ["tinymoe"] + [
    module.name
    for package in (tinymoe, tinymoe.kernels)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert not result.failed, f"{result.failed} of {result.attempted} examples fail"


def test_the_modules_that_users_meet_have_examples() -> None:
    # walk_packages would find nothing at all, without a word, if the package path were wrong
    finder = doctest.DocTestFinder()
    for name in ("tinymoe", "tinymoe.api", "tinymoe.cache", "tinymoe.kernels"):
        tests = finder.find(importlib.import_module(name))
        assert any(test.examples for test in tests), name
