"""The page of a comparison: plots that are there, well formed, and say what is seen."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from tinymoe.core import NUMERICS
from tinymoe.oracle.diff import diff
from tinymoe.oracle.diff.page import page
from tinymoe.oracle.diff.plots import seen
from tinymoe.oracle.mutants import Setup, mutant
from tinymoe.oracle.mutants.specimen_params import specimen
from tinymoe.oracle.mutants.specimens import IDS
from tinymoe.oracle.trace import trace

pytestmark = pytest.mark.definition

FP32 = NUMERICS["fp32"]


def traced(setup: Setup) -> dict[str, np.ndarray]:
    return trace(setup.params, setup.config, IDS, FP32, ops=setup.ops, patterns=("*",))


def judged(setup: Setup, mine: dict[str, np.ndarray]) -> Any:
    return diff(setup.params, setup.config, mine, FP32)


@pytest.mark.parametrize(
    ("name", "first", "titles"),
    [
        (
            "router.bias-lost",  # ids have no error by position: a map of the tokens instead
            "layers.0.router.ids",
            (
                "is the first tensor beyond its bound",
                "choices of experts differ",
                "tokens on other experts",
            ),
        ),
        (
            "attention.heads-tiled",
            "layers.0.attn.mix",
            ("is the first tensor beyond its bound", "every token is off", "columns"),
        ),
    ],
)
def test_the_page_is_well_formed_and_says_what_is_seen(
    name: str, first: str, titles: tuple[str, ...]
) -> None:
    setup = specimen("mixed-bias" if name.startswith("router") else "sinks", FP32)
    report = judged(setup, traced(mutant(name).apply(setup)))
    html = page(report, "<ref>", "mine & theirs")
    assert "<ref>" not in html
    assert f"{first} is the first wrong tensor" in html
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html)
    for caption, title in zip(captions, titles, strict=False):
        assert title in caption
    drawn = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(drawn) == len(captions) >= len(titles)
    for svg in drawn:
        root = ElementTree.fromstring(svg)
        assert len(list(root)) > 5
        numbers = [value for part in root.iter() for value in part.attrib.values()]
        assert not [value for value in numbers if "nan" in value or "inf" in value.split()]
        _, _, wide, high = map(float, root.attrib["viewBox"].split())
        for part in root.iter("{http://www.w3.org/2000/svg}text"):  # no word outside the picture
            assert 0 <= float(part.attrib["x"]) <= wide
            assert 0 <= float(part.attrib["y"]) <= high
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")  # nothing is fetched


def test_the_page_of_nothing_wrong_and_of_nan() -> None:
    # A logarithm of zero or of infinity would leave the page without its plots.
    setup = specimen("mixer", FP32)
    right = traced(setup)
    assert "Every tensor is within its bound" in page(judged(setup, right), "a", "b")
    broken = right | {"layers.0.moe.routed": np.full_like(right["layers.0.moe.routed"], np.nan)}
    html = page(judged(setup, broken), "a", "b")
    assert "layers.0.moe.routed is the first tensor beyond its bound" in html
    cut = right | {"logits": right["logits"][:-1]}
    assert "logits is the first tensor beyond its bound" in page(judged(setup, cut), "a", "b")


def test_what_is_seen_in_rows_and_columns() -> None:
    # A title that names the wrong columns sends its reader to the wrong head.
    assert seen([0.0, 0.0, 2.0, 3.0, 2.0], "token") == "tokens 2 to 4 are off"
    assert seen([0.0, 1.0, 0.0, 1.0, 0.0, 1.0], "column") == "every 2nd column from 1 on is off"
    assert seen([0.0, 1e-9, 1.0], "token") == "token 2 alone is off"
    assert seen([1.0, 1.0], "token") == "every token is off"
    assert seen([1.0, 0.0, 0.0, 1.0, 1.0], "token") == "3 of 5 tokens are off"
    assert seen([0.0, 0.0], "token") == "no token is off"
    assert seen([np.inf, 1.0], "token") == "token 0 alone is off"
