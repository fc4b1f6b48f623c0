"""Quantised checkpoints through the compiled step: they stay as they are stored, and agree.

Prevents: a quantised checkpoint that grows eightfold in memory without a word, a fused matrix
under one of its scales (vllm#54974), gate and up left by turns (gpt-oss), an expert's codes under
another's number.
"""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinymoe
from tests.low_precision import LAYOUTS, QWEN, made
from tests.quantising import quantised
from tests.stored import ROOT, config_of, write
from tinymoe.checkpoint import Checkpoint
from tinymoe.core import NUMERICS
from tinymoe.families import load_params, read_config, stored_matrices
from tinymoe.kernels.cpu.held import held
from tinymoe.kernels.cpu.step import uncovered
from tinymoe.oracle.diff import diff
from tinymoe.oracle.diff.told import verdict
from tinymoe.oracle.trace import trace

pytestmark = pytest.mark.kernels
IDS = [5, 17, 3, 30, 8, 21, 9]


def forms(model: tinymoe.Model) -> Counter[str]:
    step: Any = model.ops.step
    return Counter(matrix.form.name for matrix in step._step.weights.matrices)


def agrees(folder: Path, numerics: str) -> tinymoe.Model:
    """The trace of the compiled step is the definition's of the same checkpoint."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of checkpoints' own oddities: tested elsewhere
        reference = tinymoe.load(folder, backend="numpy", numerics=numerics)
        model = tinymoe.load(folder, backend="numba", numerics=numerics)
    mine = model.trace(IDS, ["*"])
    report = diff(reference.params, reference.config, mine, reference.numerics)
    assert report.agrees, verdict(report)
    return model


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_quantised_checkpoint_stays_so_and_is_the_definition_s(
    layout: str, tmp_path: Path
) -> None:
    checkpoint = made(layout)
    write(tmp_path, checkpoint.low, checkpoint.config)
    wanted = next(name for name in ("nvfp4", "mxfp4", "fp8") if name in layout.lower())
    for numerics in ("fp32", "bf16"):
        # qkv, out, gate-up and down of two layers; routers, the embedding and the head are plain
        assert forms(agrees(tmp_path, numerics)) == {wanted: 8, "bf16": 4}


@pytest.mark.parametrize(
    ("case", "how", "stays"),
    [
        ("gpt_oss", {"format": "nvfp4", "convention": "modelopt"}, {"nvfp4"}),
        ("gpt_oss", {"format": "mxfp4", "convention": "gpt-oss"}, {"mxfp4"}),
        ("deepseek_v3", {"format": "nvfp4", "convention": "compressed-tensors"}, {"nvfp4"}),
        ("qwen3_moe", {"format": "fp8", "scales": "block"}, {"fp8"}),
    ],
)
def test_what_tinymoe_quantises_runs_as_it_is_stored(
    case: str, how: dict[str, Any], stays: set[str], tmp_path: Path
) -> None:
    """Stacks of experts, inputs first or by turns (gpt-oss), and what fuses (latent attention)."""
    quantised(tmp_path, case, **how)
    model = agrees(tmp_path / "after", "fp32")
    assert set(forms(model)) >= stays
    layer = model.params.layers[-1].ffn
    assert all(w.codes is not None for w in (layer.gate_up, layer.down))  # type: ignore[union-attr]


def test_a_matrix_that_is_quantised_in_part_becomes_values(tmp_path: Path) -> None:
    """q in NVFP4 beside k and v as they were: no tiles say that."""
    checkpoint = made("ct NVFP4A16", only="q_proj")
    write(tmp_path, checkpoint.low, checkpoint.config)
    assert "nvfp4" not in forms(agrees(tmp_path, "fp32"))


CASES = sorted(path.parent.name for path in ROOT.glob("*/config.json"))


@pytest.mark.parametrize("case", CASES)
def test_matrices_that_are_read_at_each_use_are_the_same(case: str) -> None:
    """Every family, op by op: what the backend packs is what the definition computes with."""
    checkpoint, numerics = Checkpoint.open(ROOT / case), NUMERICS["fp32"]
    config = read_config(config_of(case))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        held = load_params(checkpoint, config, numerics)
        stored = load_params(checkpoint, config, numerics, as_stored=True)
    wanted = trace(held, config, IDS, numerics)
    found = trace(stored, config, IDS, numerics)
    assert all(np.array_equal(found[n], v, equal_nan=True) for n, v in wanted.items())


def test_qwen_is_covered() -> None:
    """Else the tests of layouts above would compare the definition with itself."""
    assert uncovered(read_config(QWEN), NUMERICS["fp32"]) is None


@pytest.mark.parametrize("case", ["gpt_oss-mxfp4", "qwen2_moe", "granitemoeshared"])
def test_info_says_the_bytes_that_packing_takes(case: str) -> None:
    """From headers: gpt-oss's experts in MXFP4, a shared expert, a tied head counted once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = tinymoe.load(ROOT / case, backend="numba")
        said = held(stored_matrices(model.checkpoint, model.config, model.numerics))
    model.prepare()
    step: Any = model.ops.step
    assert sum(form.nbytes for form in said.values()) == step.weight_bytes
    assert {form: kind.matrices for form, kind in said.items()} == forms(model)
