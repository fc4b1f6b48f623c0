"""`conform` as its user types it."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest

from tinymoe.kernels.contracts import CONTRACTS
from tinymoe.model.ops import DEFINITION


@pytest.fixture
def kernels(monkeypatch):
    module = types.ModuleType("my_kernels")
    module.right = DEFINITION.combine
    module.doubled = lambda **case: DEFINITION.combine(**case) * 2
    module.zeros = lambda expert_out, weights, numerics: np.zeros_like(expert_out[:, 0])
    monkeypatch.setitem(sys.modules, "my_kernels", module)


def test_the_list_of_ops(run):
    ran = run("conform")
    assert ran.code == 0
    assert all(op in ran.out for op in CONTRACTS)
    assert set(json.loads(run("conform", "--json").out)["ops"]) == set(CONTRACTS)


def test_a_right_and_a_wrong_function(run, kernels):
    assert run("conform", "combine", "my_kernels:right", "--cases", "20").code == 0
    ran = run("conform", "combine", "my_kernels:zeros", "--cases", "20")
    assert ran.code == 1
    assert "does NOT conform to combine" in ran.out
    assert "expert_out = float" in ran.out


def test_json_holds_the_smallest_failing_case(run, kernels):
    ran = run("conform", "combine", "my_kernels:doubled", "--cases", "50", "--json")
    found = json.loads(ran.out)
    assert (ran.code, found["conforms"]) == (1, False)
    first = found["checks"][0]
    assert first["verdict"] == "FAIL"
    # hypothesis shrinks every axis to 1
    assert "(1, 1, 1)" in first["example"]["expert_out"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing"], "unknown op 'nothing'"),
        (["combine"], "which function"),
        (["combine", "x"], "MODULE:FUNCTION"),
        (["combine", "x.y:z"], "cannot be imported"),
        (["combine", "my_kernels:right", "--where", "numerics"], "NAME=VALUE"),
        (["combine", "my_kernels:right", "--where", "numerics=fp4"], "no case of combine has"),
        (["combine", "my_kernels:right", "--arrays", "lists"], "numpy, torch, cupy"),
    ],
)
def test_nonsense(run, kernels, arguments, says):
    ran = run("conform", *arguments)
    assert ran.code == 2
    assert says in ran.err
