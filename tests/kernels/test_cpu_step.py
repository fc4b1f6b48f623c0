"""The compiled step is the definition: every activation of every family, in any company.

Bugs of this kind: a fast path that drifts from the model it was made of (vllm#12002, sglang#32430:
one half swapped in one of two copies), and results that depend on the batch (vllm#26042).
"""

from __future__ import annotations

import itertools
import time
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tinymoe
from tests.kernels.company import IDS, logits_in_company
from tinymoe.core import NUMERICS, TinymoeError
from tinymoe.kernels import ops, ops_where
from tinymoe.kernels.cpu.step import uncovered
from tinymoe.kernels.cpu.team import Team, physical_cores
from tinymoe.oracle.diff import diff
from tinymoe.oracle.diff.told import verdict

pytestmark = pytest.mark.kernels
ROOT = Path(__file__).parents[1] / "vectors" / "parity"
CASES = sorted(folder.name for folder in ROOT.iterdir() if folder.is_dir())
MUST = {  # families that the whole step has to cover
    *("mixtral", "mixtral_window", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss", "gpt_oss-mxfp4"),
    *("glm4_moe", "granitemoe", "ernie4_5_moe", "dots1", "deepseek_v2", "deepseek_v3"),
}


@cache
def model(
    case: str, backend: str, numerics: str, threads: int | None = None, latent: str | None = None
) -> tinymoe.Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of checkpoints' own oddities: tested elsewhere
        return tinymoe.load(
            ROOT / case, backend=backend, numerics=numerics, threads=threads, latent=latent
        )


def covered(case: str) -> bool:
    return uncovered(model(case, "numpy", "fp32").config, NUMERICS["fp32"]) is None


def test_the_step_covers_the_families_it_must():
    assert {case for case in CASES if covered(case)} >= MUST


@pytest.mark.parametrize("numerics", ["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_every_activation_is_the_definition_s(case, numerics):
    # judged by the error that the stated arithmetic itself makes, tensor by tensor; models that
    # the whole step does not cover run op by op, and are held to the same
    reference = model(case, "numpy", numerics)
    mine = model(case, "numba", numerics).trace(IDS, ["*"])
    wanted = reference.trace(IDS, ["*"])
    assert list(mine) == list(wanted)
    assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in wanted.items()}
    report = diff(reference.params, reference.config, mine, reference.numerics)
    assert report.agrees, verdict(report)


@pytest.mark.parametrize("case", ["deepseek_v2", "deepseek_v3"])
def test_the_absorbed_form_is_the_definition_s(case):
    reference = model(case, "numpy", "fp32", None, "absorbed")
    mine = model(case, "numba", "fp32", None, "absorbed").trace(IDS, ["*"])
    assert mine["layers.0.attn.k"].shape[1] == 1  # one key for all heads
    report = diff(reference.params, reference.config, mine, reference.numerics)
    assert report.agrees, verdict(report)


def test_exact_numerics_are_the_definition_s_own():
    # the compiled kernels sum in float32: `exact` must never be computed by them
    logits = [model("qwen3_moe", backend, "exact")(IDS) for backend in ("numpy", "numba")]
    assert logits[0].dtype == np.float64
    assert logits[0].tobytes() == logits[1].tobytes()


# ------------------------------------------------------------------------------- company


@settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    case=st.sampled_from(["qwen3_moe", "gpt_oss", "mixtral_window", "deepseek_v3"]),
    threads=st.sampled_from([1, 2, 4]),
    cuts=st.lists(st.integers(1, 22), max_size=6, unique=True),
    others=st.integers(0, 5),
)
def test_threads_batches_and_cuts_change_no_bit(case, threads, cuts, others):
    edges = [0, *sorted(cuts), 23]
    pieces = [b - a for a, b in itertools.pairwise(edges)]
    mine = logits_in_company(model(case, "numba", "fp32", threads), pieces, others)
    assert mine == logits_in_company(model(case, "numba", "fp32", 1), [23], 0)


def test_text_is_the_same_alone_and_together_and_with_numpy():
    prompts = ["Once upon a time", "Tom had a", "The sun is"]
    fast, slow = tinymoe.load(backend="numba"), tinymoe.load()
    wish = fast.default_sampling(max_tokens=24, temperature=0.0)
    together: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for number, token in fast.generate_many(prompts, [wish] * 3):
        together[number].append(token.id)
    for number, prompt in enumerate(prompts):
        assert together[number] == [token.id for token in fast.generate(prompt, wish)]
        assert together[number] == [token.id for token in slow.generate(prompt, wish)]


# ------------------------------------------------------------------------------- threads


def test_nobody_works_when_there_is_nothing_to_do():
    # a team that goes on looking for work takes the cores from everybody else
    m = model("qwen3_moe", "numba", "fp32", 2)
    m(IDS)
    team = m.ops.step.team
    for _ in range(400):  # helpers look for a little while, the longer the busier the machine is
        if team.sleepers == team.threads - 1:
            break
        time.sleep(0.05)
    assert team.sleepers == team.threads - 1
    begin = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - begin < 0.25  # one spinning thread would take 0.5
    assert m(IDS).shape == (len(IDS), m.config.vocab_size)  # and a step wakes them


def test_threads_are_counted_as_the_process_may_use_them():
    assert 1 <= physical_cores() <= len(__import__("os").sched_getaffinity(0))
    with pytest.raises(TinymoeError, match="at least 1"):
        Team(0)
    with pytest.raises(TinymoeError, match="numba"):
        ops("numpy", threads=2)


def test_info_says_where_each_op_runs():
    where = ops_where("numba")
    assert where["rmsnorm"].startswith("numba")
    assert where["gated_delta"] == "the definition"
