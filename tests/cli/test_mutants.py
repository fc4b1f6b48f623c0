"""`mutants`: the list that a reader and a program see."""

from __future__ import annotations

import json


def test_the_list_names_the_public_bugs(run):
    ran = run("mutants")
    assert ran.code == 0, ran.err
    assert "vllm#24119" in ran.out
    assert "scaling.twice" in ran.out


def test_json_of_one_step(run):
    ran = run("mutants", "scaling", "--json")
    rows = json.loads(ran.out)["mutants"]
    assert {row["step"] for row in rows} == {"scaling"}
    assert rows[0]["first_tap"] == "layers.*.router.weights"


def test_a_model_says_what_does_not_apply(run, model):
    ran = run("mutants", "scaling", "--model", model)
    assert ran.code == 0, ran.err
    assert "does not apply: the routed scaling factor is 1" in ran.out


def test_an_unknown_step_lists_the_steps(run):
    ran = run("mutants", "nonsense")
    assert ran.code == 2
    assert "router, scaling" in ran.err
