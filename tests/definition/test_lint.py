"""The lint: every rule finds the fault that was planted for it, and nothing in what is clean.

A rule that stays silent is worse than none, and so is one that speaks of good checkpoints: each
row of PLANTED says which rules must speak, and no other may.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.lint_faults import PLANTED
from tests.lint_folders import CLEAN, Folder
from tests.stored import ROOT
from tinymoe.api import shipped_model
from tinymoe.core import TinymoeError
from tinymoe.families.common import softmax_router
from tinymoe.formats import bf16, e2m1, e4m3
from tinymoe.model.router import route_naive, select, sigmoid
from tinymoe.oracle.lint import RULES, SEVERITIES, Finding, lint
from tinymoe.oracle.lint.bias import SEED, TOKENS, cast_to_bf16
from tinymoe.oracle.lint.parts import role
from tinymoe.oracle.lint.registry import Found, Rule, run
from tinymoe.oracle.lint.samples import SLICE, WHOLE, some_of
from tinymoe.oracle.lint.subject import Subject

pytestmark = pytest.mark.definition

PADDING = "vocabulary-padding"
# notes that hold for good checkpoints, too
NOTED = {
    **{case: {PADDING} for case in ("gpt_oss", "gpt_oss-mxfp4", "mixtral", "olmoe", "qwen3_moe")},
    "deepseek_v3": {"mtp-layers", PADDING},  # promises a layer that the small one has not
    "dots1": {"gating-implied"},
    "glm4_moe": {"gating-implied", "mtp-layers"},
    "llama4_text": {"gating-implied"},
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_fault_is_found_and_nothing_else(planted: str, tmp_path: Path) -> None:
    base, change, wanted = PLANTED[planted]
    folder = CLEAN[base]()
    change(folder)
    skip = {PADDING} - wanted  # the recorded tokenizers are smaller than their vocab_size
    found = lint(folder.write(tmp_path / "model"), skip=skip)
    assert {finding.rule for finding in found.findings} == wanted
    for finding in found.findings:
        assert "could not look" not in finding.says, finding
        assert finding.severity in SEVERITIES
    json.dumps(found.as_dict(), allow_nan=False)


def test_every_rule_has_a_planted_fault() -> None:
    assert {planted.partition(":")[0] for planted in PLANTED} == set(RULES)


def test_every_rule_names_its_public_case() -> None:
    for entry in RULES.values():
        assert entry.cases, entry.id
        assert all("#" in case for case in entry.cases)
        assert entry.looks_for.endswith(".")
        assert not entry.engine.endswith(".")


@pytest.mark.parametrize("base", CLEAN)
def test_nothing_is_found_in_a_clean_checkpoint(base: str, tmp_path: Path) -> None:
    path = CLEAN[base]().write(tmp_path / "model")
    assert lint(path, skip=[PADDING]).findings == ()


CASES = sorted(folder.name for folder in ROOT.iterdir() if folder.is_dir())


@pytest.mark.parametrize("case", CASES)
def test_recorded_checkpoints_have_notes_at_most(case: str) -> None:
    found = lint(ROOT / case)
    assert {finding.rule for finding in found.findings} == NOTED.get(case, set())
    assert found.counts["error"] == found.counts["warning"] == 0


def test_the_shipped_model_is_clean() -> None:
    assert lint(shipped_model()).findings == ()


PARTS = ("weight_packed", "weight_scale", "weight_global_scale")


def found_by(rule: str, base: str, change: Callable[[Folder], None], path: Path) -> Finding:
    """The one finding of a rule."""
    folder = CLEAN[base]()
    change(folder)
    (finding,) = lint(folder.write(path / "model"), only=[rule]).findings
    return finding


def test_a_mismatch_is_told_in_numbers(tmp_path: Path) -> None:
    # vllm#54974: 69 % of pairs, up to 10x
    found = found_by("fused-scale-mismatch", *PLANTED["fused-scale-mismatch"][:2], tmp_path)
    # one expert of ten in each of three layers, and 4 times the gate's
    assert found.numbers == {"differ": 3, "sets": 30, "worst_ratio": 4.0}
    assert "3 of 30 (10%)" in found.says
    assert found.count == 6
    assert found.severity == "error"


def test_an_inverted_scale_is_told_in_numbers(tmp_path: Path) -> None:
    # modular#6600: off by the square of the scale
    found = found_by("scale-convention", *PLANTED["scale-convention: ct"][:2], tmp_path)
    module = found.names[0].removesuffix(".weight_global_scale")
    stored = CLEAN["ct"]().tensors
    codes, scales, divisor = (stored[f"{module}.{part}"][1] for part in PARTS)
    values = e2m1.decode(e2m1.unpack(codes), code_8="-0").reshape(*scales.shape, 16)
    weights = values * e4m3.decode(scales)[..., None] / divisor
    # the largest scale's largest code, 6, need not be there: 4 or more is
    inverted, largest = found.numbers["inverted"], float(np.abs(weights).max())
    assert largest * 0.999 <= inverted <= largest * 1.5
    assert found.numbers["as_named"] == pytest.approx(inverted * float(divisor[0]) ** 2, rel=1e-5)


def test_a_bias_in_bf16_sends_tokens_elsewhere() -> None:
    # sglang#31213: the band [6.817, 7.063]. BF16 steps there are 2^-5: 6.8125, ..., 7.0625 are 9
    card = replace(
        softmax_router(256, 8), score="sigmoid", selection_bias=True, bias_dtype="float32"
    )
    bias = np.random.default_rng(0).uniform(6.817, 7.063, 256).astype(np.float32)
    cast = cast_to_bf16(bias, card)
    assert (cast.distinct, cast.left) == (256, 9)
    assert 0.4 < cast.changed < 0.6  # 48.7 % with logits of a random model
    # the same count by the router in plain Python, on the first tokens
    logits = np.random.default_rng(SEED).standard_normal((TOKENS, 256)).astype(np.float32)[:40]
    rounded = bf16.round_to_bf16(bias)
    sets = [[{e for e, _ in route_naive(row, b, card)} for row in logits] for b in (bias, rounded)]
    few = sum(a != b for a, b in zip(*sets, strict=True))
    scores = sigmoid(logits)
    ids = [select(scores, b, card)[0] for b in (bias, rounded)]
    assert few == (ids[0] != ids[1]).any(axis=1).sum() > 0


def test_wide_biases_survive_a_cast(tmp_path: Path) -> None:
    assert lint(CLEAN["fp8"]().write(tmp_path / "model"), only=["bias-cast"]).findings == ()


STRANGE: list[Any] = [None, True, -1, 0, 10**12, 1e300, "x", [], {}, [[1]], {"a": {"b": []}}]


@pytest.mark.parametrize("base", ["fp8", "modelopt", "mxfp4"])
def test_no_config_breaks_it(base: str, tmp_path: Path) -> None:
    # whatever stands in a field, the lint says something and does not end in a traceback
    path = CLEAN[base]().write(tmp_path / "model")
    config = json.loads((path / "config.json").read_text())
    for number, name in enumerate(config):
        for value in STRANGE[number % 5 :: 5]:
            (path / "config.json").write_text(json.dumps(config | {name: value}))
            json.dumps(lint(path).as_dict(), allow_nan=False)
    for name in config["quantization_config"]:
        for value in STRANGE:
            scheme = config["quantization_config"] | {name: value}
            (path / "config.json").write_text(json.dumps(config | {"quantization_config": scheme}))
            json.dumps(lint(path).as_dict(), allow_nan=False)


@pytest.mark.parametrize("base", CLEAN)
def test_no_tensor_breaks_it(base: str, tmp_path: Path) -> None:
    # a tensor of any role in another type, shape or emptied
    clean = CLEAN[base]()
    kinds = {role(name): name for name in clean.tensors}
    values = [
        ("I64", np.zeros((2, 2), np.int64)),
        ("F32", np.zeros((0, 3), np.float32)),
        ("F64", np.full((), np.inf)),
        ("F8_E4M3", np.full((1, 1, 1), 127, np.uint8)),
    ]
    for number, name in enumerate(kinds.values()):
        tensors = clean.tensors | {name: values[number % len(values)]}
        folder = replace(clean, tensors=tensors)
        found = lint(folder.write(tmp_path / f"{number}"))
        assert found.findings
        assert not [f for f in found.findings if "could not look" in f.says]


def test_a_rule_that_cannot_look_says_so() -> None:
    def broken(subject: Subject) -> Iterator[Found]:
        raise KeyError("nothing there")
        yield

    entry = Rule("broken", "error", ("a#1",), "fails", "Nothing.", broken)
    (finding,) = run(entry, Subject(ROOT / "mixtral"))
    assert finding.severity == "warning"
    assert "could not look: KeyError" in finding.says


def test_a_config_that_asks_for_millions_is_not_listed(tmp_path: Path) -> None:
    folder = CLEAN["plain"]()
    folder.config |= {"num_experts": 4096, "num_hidden_layers": 1024}
    found = lint(folder.write(tmp_path / "model"))
    assert any("more than 100,000 tensors" in finding.says for finding in found.findings)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_what_cannot_be_opened_is_refused(name: str, tmp_path: Path) -> None:
    path = CLEAN["plain"]().write(tmp_path / "model")
    (path / name).write_bytes((path / name).read_bytes()[:-5])
    with pytest.raises(TinymoeError, match=name):
        lint(path)
    with pytest.raises(TinymoeError, match="no such folder"):
        lint(tmp_path / "nowhere")


def test_a_config_that_names_code_is_read_without_a_warning(tmp_path: Path) -> None:
    folder = CLEAN["plain"]()
    folder.config["auto_map"] = {"AutoModel": "modeling.Model"}
    assert lint(folder.write(tmp_path / "model"), skip=[PADDING]).findings == ()


def test_rules_are_chosen_by_name(tmp_path: Path) -> None:
    base, change, _ = PLANTED["bias-cast"]
    folder = CLEAN[base]()
    change(folder)
    path = folder.write(tmp_path / "model")
    assert len(lint(path, only=["bias-cast"]).findings) == 1
    assert lint(path, skip=["bias-cast", PADDING]).findings == ()
    assert lint(path, only=["bias-dtype"]).rules == ("bias-dtype",)
    with pytest.raises(TinymoeError, match="'bias-colour'.*bias-cast"):
        lint(path, only=["bias-colour"])


def test_large_tensors_are_sampled_at_both_ends_and_in_the_middle() -> None:
    bits = np.arange(4 * WHOLE, dtype=np.int32)
    seen = some_of(bits)
    assert seen.nbytes == WHOLE == 3 * SLICE
    assert (seen[0], seen[-1]) == (0, bits[-1])
    assert abs(int(np.median(seen)) - bits.size // 2) <= 1
    assert some_of(bits[: WHOLE // 4]).size == WHOLE // 4
