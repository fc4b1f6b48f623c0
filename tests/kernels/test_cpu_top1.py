"""A greedy step without logits takes the sampler's token: ties, NaN, any team, any company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tinymoe
from tinymoe.core import Array, Sampling, TinymoeError
from tinymoe.kernels.cpu import linear as product
from tinymoe.kernels.cpu import top1
from tinymoe.kernels.cpu.backend import CompiledStep
from tinymoe.kernels.cpu.batch import Header, aligned
from tinymoe.kernels.cpu.ops import tokens_alone
from tinymoe.kernels.cpu.ops_products import CpuProducts, padded
from tinymoe.kernels.cpu.pack import pack
from tinymoe.kernels.cpu.program import Program
from tinymoe.kernels.cpu.team import Team
from tinymoe.kernels.cpu.weights import bias_of
from tinymoe.sampler import sample, takes_largest

pytestmark = pytest.mark.kernels
TEAMS = [Team(threads) for threads in (1, 2, 4)]
FULL = CpuProducts(TEAMS[0])
GREEDY = Sampling(temperature=0.0)
GRANITE = Path(__file__).parents[1] / "vectors" / "parity" / "granitemoe"


def best_ids(
    team: Team, x: Array, weight: Array, bias: Array | None, divisor: float, rows: Array
) -> Array:
    """What the head finds in the wanted rows of x (T, K)."""
    packed, wide = pack(weight), padded(x)
    found = np.zeros(2 * len(x) * team.threads, np.int64)
    ids = np.full(len(x), 7, np.int64)
    program = Program()
    program.add(
        top1.head, x=wide, x_stride=wide.shape[1], **product.tiles_of(packed), bias=bias_of(bias),
        divisor=divisor, vocabulary=len(weight), found=found, room=len(x),
    )  # fmt: skip
    program.add(top1.choose_best, found=found, room=len(x), ids=ids)
    batch = tokens_alone(len(x))._replace(logit_rows=rows)
    header = Header(batch, 1, 1, aligned(top1.WORDS * team.threads, np.int64), team.threads)
    team.run(program.code, header.address)
    return ids[: len(rows)]


@settings(
    max_examples=80,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    seed=st.integers(0, 2**32 - 1),
    tokens=st.sampled_from([1, 2, 3, 9, 140]),
    vocabulary=st.sampled_from([1, 15, 16, 17, 40, 96, 131]),
    kind=st.sampled_from(["normal", "ties", "all equal", "below zero", "rounded ties"]),
)
def test_the_id_is_the_sampler_s(seed: int, tokens: int, vocabulary: int, kind: str) -> None:
    """The lowest of equals, whichever lane or thread saw it; zeros behind the vocabulary lose."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, 8)).astype(np.float32)
    weight = rng.standard_normal((vocabulary, 8)).astype(np.float32)
    bias = rng.standard_normal(vocabulary).astype(np.float32) if seed % 2 else None
    divisor = 1.0
    if kind != "normal":
        x, weight = (rng.integers(-1, 2, each.shape).astype(np.float32) for each in (x, weight))
        bias = None
    if kind == "all equal":
        weight[:] = weight[0]
    if kind == "below zero":
        bias = np.full(vocabulary, -100, np.float32)
    if kind == "rounded ties":  # neighbours that the division makes equal
        x[:], weight[:] = 0, 0
        bias = np.float32(1) + rng.integers(0, 4, vocabulary).astype(np.float32) * np.float32(
            2**-23
        )
        divisor = 3.0
    rows = np.sort(rng.permutation(tokens)[: max(1, tokens // 2)])
    logits = FULL.linear(x, weight, tinymoe.core.NUMERICS["fp32"], bias=bias)
    if divisor != 1:
        logits = logits / np.float32(divisor)
    want = [sample(logits[row], GREEDY).token_id for row in rows]
    for team in TEAMS:
        assert best_ids(team, x, weight, bias, divisor, rows).tolist() == want


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 20, 69])
def test_what_is_no_logit_is_said(wrong: float, place: int) -> None:
    """NaN loses every comparison: a kernel that only compares would give a token all the same."""
    rng = np.random.default_rng(place)
    x, weight = rng.standard_normal((3, 8)), rng.standard_normal((70, 8))
    bias = np.zeros(70, np.float32)
    bias[place] = wrong
    given: Any = (x.astype(np.float32), weight.astype(np.float32), bias)
    assert best_ids(TEAMS[1], *given, 1.0, np.arange(3)).tolist() == [-1, -1, -1]
    bias[:] = -np.inf
    assert best_ids(TEAMS[1], *given, 1.0, np.arange(3)).tolist() == [-1, -1, -1]
    bias[64] = -1e30  # one is enough
    assert best_ids(TEAMS[1], *given, 1.0, np.arange(3)).tolist() == [64, 64, 64]


@pytest.mark.parametrize(
    ("sampling", "outputs", "alone"),
    [
        (GREEDY, 0, True),
        (Sampling(temperature=1.0), 0, False),
        (Sampling(temperature=0.0, logprobs=0), 0, False),
        (Sampling(temperature=0.0, logit_bias={3: 1.0}), 0, False),
        (Sampling(temperature=0.0, repetition_penalty=1.1), 0, False),
        (Sampling(temperature=0.0, frequency_penalty=0.1), 0, False),
        (Sampling(temperature=0.0, presence_penalty=-0.1), 0, False),
        (Sampling(temperature=0.0, min_tokens=2), 1, False),
        (Sampling(temperature=0.0, min_tokens=2), 2, True),
    ],
)
def test_only_plain_greedy_requests_need_no_logits(
    sampling: Sampling, outputs: int, alone: bool
) -> None:
    assert takes_largest(sampling, outputs) is alone


def test_a_model_says_the_same_with_and_without_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Granite divides its logits; its prompts here end in different steps."""
    asked: list[int] = []
    plain = CompiledStep.greedy

    def counted(self: CompiledStep, *given: Any) -> Any:
        asked.append(1)
        return plain(self, *given)

    monkeypatch.setattr(CompiledStep, "greedy", counted)
    prompts: list[Any] = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]

    def texts(**wish: Any) -> list[list[int]]:
        model = tinymoe.load(GRANITE, backend="numba", threads=2)
        sampling = Sampling(temperature=0.0, max_tokens=9, ignore_eos=True, **wish)
        out: list[list[int]] = [[], [], []]
        for number, token in model.generate_many(prompts, [sampling] * 3):
            out[number].append(token.id)
        return out

    got = texts()
    assert len(asked) == 9
    assert got == texts(logprobs=0)
    assert len(asked) == 9


def test_a_broken_model_is_reported_by_the_sampler() -> None:
    model = tinymoe.load(GRANITE, backend="numba", threads=1)
    model.params.final_norm[2] = np.nan
    with pytest.raises(TinymoeError, match="from the model: expected finite numbers"):
        list(model.generate([1, 2, 3], Sampling(temperature=0.0, max_tokens=2)))
