"""`vectors` as its user types it, and `conform` on a folder of them."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from tests.vector_table import ROOT
from tinymoe.model.ops import DEFINITION
from tinymoe.oracle.vectors import made


@pytest.fixture
def few(monkeypatch):
    """Two vectors in place of all: what a command does with them is the same."""
    kept = [vector for vector in made(models=False) if vector.op in ("permute", "combine")]
    monkeypatch.setattr("tinymoe.oracle.vectors.made", lambda: iter(kept))


def test_the_list(run, few):
    ran = run("vectors", "--list")
    assert ran.code == 0, ran.err
    assert "experts/combine" in ran.out
    assert "2 vectors; 7 of" in ran.out
    found = json.loads(run("vectors", "--list", "--json").out)
    assert found["schema"] == "tinymoe-vectors/1"
    assert "experts.combine-bf16" in found["vectors"][1]["kills"]
    assert len(found["survivors"]) == found["mutants"] - found["killed"]


def test_written_and_checked(run, few, tmp_path):
    folder = tmp_path / "golden"
    assert run("vectors", folder.as_posix()).code == 0
    ran = run("vectors", folder.as_posix(), "--check")
    assert ran.code == 0
    assert "is as made, its claims hold" in ran.out

    card = folder / "experts" / "combine.json"
    card.write_text(card.read_text().replace("no tolerance", "any tolerance"))
    ran = run("vectors", folder.as_posix(), "--check")
    assert ran.code == 1
    assert "SHA-256" in ran.out
    assert "differs in 1 places" in ran.out
    assert len(json.loads(run("vectors", folder.as_posix(), "--check", "--json").out)["problems"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "which folder"),
        (["x", "--list"], "--list writes and checks nothing"),
        (["nowhere", "--check"], "expected a folder"),
    ],
)
def test_nonsense(run, few, arguments, says, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    ran = run("vectors", *arguments)
    assert ran.code == 2
    assert says in ran.err
    assert not list(Path.cwd().iterdir())


def test_conform_runs_the_vectors_of_an_op(run, monkeypatch):
    def highest(x, weight, bias, card, numerics, **more):
        """A router that takes the last among equals, and of a bias knows nothing."""
        mirrored = np.ascontiguousarray(weight[::-1])
        right = DEFINITION.route(x, mirrored, bias, card, numerics)
        ids = card.experts - 1 - right.ids
        order = np.lexsort((ids, -right.weights))
        return (np.take_along_axis(found, order, 1) for found in (ids, right.weights))

    module = types.ModuleType("my_vectors")
    module.right = DEFINITION.combine
    module.wrong = lambda **case: tuple(highest(**case))
    monkeypatch.setitem(sys.modules, "my_vectors", module)
    for more in ([], ["--vectors", str(ROOT)]):
        ran = run("conform", "combine", "my_vectors:right", "--cases", "5", *more)
        assert ran.code == 0, ran.out
        assert "golden vectors" in ran.out
    ran = run("conform", "route", "my_vectors:wrong", "--cases", "1", "--json")
    golden = next(c for c in json.loads(ran.out)["checks"] if c["check"] == "golden vectors")
    assert golden["verdict"] == "FAIL"
    assert golden["says"].startswith("router/")
