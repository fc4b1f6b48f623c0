"""`lint`: exit codes, and what a person or a program reads."""

from __future__ import annotations

import json
from pathlib import Path

from tests.lint_faults import PLANTED
from tests.lint_folders import CLEAN
from tinymoe.oracle.lint import RULES


def planted(name: str, path: Path) -> str:
    base, change, _ = PLANTED[name]
    folder = CLEAN[base]()
    change(folder)
    return str(folder.write(path / "model"))


def test_a_clean_checkpoint_is_0(run, model):
    done = run("lint", model)
    assert done.code == 0
    assert "0 errors, 0 warnings, 1 note" in done.out
    assert "note  vocabulary-padding" in done.out


def test_the_shipped_model_is_linted_without_a_path(run):
    done = run("lint")
    assert done.code == 0
    assert "0 errors, 0 warnings, 0 notes" in done.out
    assert "nothing found" in done.out


def test_an_error_is_1_and_says_what_where_and_how_bad(run, tmp_path):
    done = run("lint", planted("fused-scale-mismatch", tmp_path))
    assert done.code == 1
    for part in ("error  fused-scale-mismatch", "vllm#54974", "3 of 30 (10%)", "the worst are 4"):
        assert part in done.out
    assert "experts.3.up_proj.weight_scale_2" in done.out
    assert "1 error, 0 warnings, 0 notes" in done.out


def test_a_warning_alone_is_0(run, tmp_path):
    done = run("lint", planted("bias-cast", tmp_path))
    assert done.code == 0
    assert "distinct values" in " ".join(done.out.split())


def test_json_is_one_object(run, tmp_path):
    done = run("lint", planted("scale-invalid: input", tmp_path), "--json")
    assert done.code == 1
    facts = json.loads(done.out)
    (finding,) = facts["findings"]
    assert (finding["rule"], finding["severity"], finding["count"]) == ("scale-invalid", "error", 1)
    assert finding["names"] == ["model.layers.1.mlp.experts.3.up_proj.input_scale"]
    assert finding["cases"] == list(RULES["scale-invalid"].cases)
    assert facts["counts"] == {"error": 1, "warning": 0, "note": 0}
    assert facts["looked"]["scale_bytes_read"] == facts["looked"]["scale_bytes"] > 0


def test_rules_can_be_chosen(run, tmp_path):
    path = planted("scale-zero", tmp_path)
    assert run("lint", path, "--skip", "scale-zero").code == 0
    assert run("lint", path, "--only", "scale-zero").code == 1
    assert run("lint", path, "--only", "bias-cast", "--only", "tied-head").code == 0


def test_every_rule_is_listed_with_its_case(run):
    page = " ".join(run("lint", "--rules").out.split())
    rows = json.loads(run("lint", "--rules", "--json").out)["rules"]
    assert [row["id"] for row in rows] == list(RULES)
    for row in rows:
        assert row["id"] in page
        assert ", ".join(row["cases"]) in page
        assert row["looks_for"] in page


def test_what_cannot_be_linted_is_2(run, tmp_path):
    path = planted("special-id", tmp_path)
    assert run("lint", str(tmp_path / "none")).code == 2
    unknown = run("lint", path, "--only", "abacus")
    assert unknown.code == 2
    assert "'abacus'" in unknown.err
    weights = Path(path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    cut = run("lint", path, "--json")
    assert cut.code == 2
    assert "cut off" in json.loads(cut.out)["error"]


def test_a_name_cannot_move_the_cursor(run, tmp_path):
    folder = CLEAN["plain"]()
    folder.tensors["\x1b[2J"] = folder.tensors["model.norm.weight"]
    done = run("lint", str(folder.write(tmp_path / "model")))
    assert "tensor-unused" in done.out
    assert "\x1b" not in done.out
