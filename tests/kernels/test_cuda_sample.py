"""Drawing tokens on the PTX machine: exactly as the seed says, and as likely as they should be."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.model_kernels import ARCHES, keeps_contract, machine, reaches_everything
from tinymoe.core import Array
from tinymoe.kernels.cuda.ops_sample import SampleOps
from tinymoe.kernels.gumbel import gumbel_draw, noise
from tinymoe.random_draw import draw

pytestmark = pytest.mark.kernels
COVERED = ("sample",)
# logf looks whether its argument is infinite: neither u in (0, 1) nor -log u ever is
LOG_OF_INFINITY = (r"mov.f32 %f\d+, 0f7F800000", r"fma\S* %f\d+, %f\d+, (%f\d+), \1 ")


@pytest.mark.parametrize("arch", ARCHES)
def test_the_sampler_with_the_draw_on_the_device(arch: str) -> None:
    ops = SampleOps(machine(arch))
    keeps_contract("sample", ops.sample, 30 if arch == "80" else 10, wanted=lambda case: True)


def rows_of(rows: int, vocabulary: int) -> tuple[Array, Array, Array]:
    """Probabilities with zeros in them, seeds of all 64 bits and steps beyond 32."""
    rng = np.random.default_rng(3)
    p = rng.random((rows, vocabulary)) * (rng.random((rows, vocabulary)) < 0.6)
    p[:, -2:] += 0.01  # no row without a token
    seeds, steps = rng.integers(0, 2**64, rows, np.uint64), rng.integers(0, 9, rows)
    steps = steps.astype(np.uint64) << np.uint64(31)
    return p / p.sum(axis=1, keepdims=True), seeds, steps


@pytest.mark.parametrize("arch", ARCHES)
def test_a_draw_is_the_definitions_to_the_last_bit(arch: str) -> None:
    # flashinfer#2320: ids came back that could not be drawn
    p, seeds, steps = rows_of(70, 23)
    p[:8], p[:8, 4] = 0, 5e-324  # u times the total may round to the total: the last id is taken
    tokens = SampleOps(machine(arch)).draw(p, seeds, steps)
    want = [draw(row, int(s), int(n)) for row, s, n in zip(p, seeds, steps, strict=True)]
    assert tokens.tolist() == want


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("vocabulary", [1, 33, 300])
def test_gumbel_noise_is_the_twins(arch: str, vocabulary: int) -> None:
    _, seeds, steps = rows_of(12, vocabulary)
    logits = np.random.default_rng(4).normal(size=(12, vocabulary)).astype(np.float32)
    logits[:, ::3] = np.where(vocabulary > 1, -np.inf, 0)
    tokens = SampleOps(machine(arch)).gumbel(logits, seeds, steps)
    for row, token, seed, step in zip(logits, tokens, seeds, steps, strict=True):
        scores = row.astype(np.float64) + noise(int(seed), int(step), vocabulary)
        # float32: logf is within one unit in its last place (2 u) of log u; that error, relative
        # to log u, is absolute in the outer logarithm, which adds one of its own, and the sum a
        # rounding: 2 u + 2 u |noise| + u |score|, for the token and for its rival
        u, size = 2.0**-24, np.abs(row[np.isfinite(row)]).max() + 17
        assert scores[token] >= scores.max() - 2 * (2 * u + 3 * u * size)
        rivals = np.sort(scores)[-2:]
        if len(rivals) == 2 and rivals[1] - rivals[0] > 1e-4:  # clear: far above that bound
            assert token == gumbel_draw(row, int(seed), int(step))


def test_gumbel_draws_as_often_as_the_probabilities_say() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.04, 0.01], np.float32))
    rows = 1000
    tokens = SampleOps(machine("80")).gumbel(
        np.tile(logits, (rows, 1)), np.zeros(rows, np.uint64), np.arange(rows, dtype=np.uint64)
    )
    want = np.exp(logits.astype(np.float64)) * rows
    chi2 = ((np.bincount(tokens, minlength=6) - want) ** 2 / want).sum()
    assert chi2 < 37.7  # five degrees of freedom: one seed in two million is above


@pytest.mark.parametrize("arch", ARCHES)
def test_a_row_with_nan_gives_no_token(arch: str) -> None:
    # a token drawn from such a row would hide a broken kernel
    logits = np.zeros((3, 40), np.float32)
    logits[0, 35], logits[1] = np.nan, -np.inf
    zeros = np.zeros(3, np.uint64)
    tokens = SampleOps(machine(arch)).gumbel(logits, zeros, zeros)
    assert tokens[:2].tolist() == [-1, -1]
    assert tokens[2] == gumbel_draw(logits[2], 0, 0)


@pytest.mark.parametrize("arch", ARCHES)
def test_the_examples_reach_every_instruction(arch: str) -> None:
    reaches_everything(
        arch,
        COVERED,
        [
            test_a_draw_is_the_definitions_to_the_last_bit,
            *(lambda a, v=v: test_gumbel_noise_is_the_twins(a, v) for v in (1, 33, 300)),
            test_a_row_with_nan_gives_no_token,
            test_the_sampler_with_the_draw_on_the_device,
        ],
        unreachable=LOG_OF_INFINITY,
    )
