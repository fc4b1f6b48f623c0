"""Kernels of layers with a state, on the PTX machine: contracts kept, bounds and races checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels.model_kernels import ARCHES, keeps_contract, machine, reaches_everything
from tests.kernels.test_cuda_routing_mutants import Mutated
from tinymoe.core import NUMERICS, Array, TinymoeError
from tinymoe.kernels.contracts import contract
from tinymoe.kernels.cuda.ops_recurrent import RecurrentOps
from tinymoe.kernels.ptx import DefectError

pytestmark = pytest.mark.kernels
COVERED = ("recurrent",)  # files
OPS = ("causal_conv", "gated_delta", "lightning")
FP32, BF16 = NUMERICS["fp32"], NUMERICS["bf16"]


def values(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def large(op: str, numerics: Any = FP32, *, tokens: int = 5, columns: int = 40) -> dict[str, Any]:
    """More channels, columns and rows than a block or a warp has threads, and none a multiple."""
    if op == "causal_conv":
        given = {"x": values(tokens, 67), "weight": values(67, 4), "before": values(3, 67)}
    else:
        T, Nk, Nv, Dk, Dv = tokens, 2, 4, columns, 5
        heads = Nv if op == "lightning" else Nk
        given = {"q": values(T, heads, Dk, seed=1), "k": values(T, heads, Dk, seed=2)}
        given |= {"v": values(T, Nv, Dv, seed=3), "state": values(Nv, Dv, Dk, seed=4)}
        if op == "lightning":
            given["keep"] = np.array([0.0, 0.43, 0.996, 1.0], np.float32)
        else:
            given |= {"log_decay": -abs(values(T, Nv, seed=5)), "eps": 1e-6}
            given["beta"] = abs(values(T, Nv, seed=6))
    return {**given, "numerics": numerics}


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("op", OPS)
def test_kernels_keep_their_contract(op: str, arch: str) -> None:
    keeps_contract(op, getattr(RecurrentOps(machine(arch)), op), 30 if arch == "80" else 10)


@pytest.mark.parametrize("op", OPS)
def test_sizes_past_a_warp_keep_it_too(op: str) -> None:
    # the lanes' second round of columns, and a last block of which some warps have no row
    for numerics in (FP32, BF16):
        contract(op).judge(getattr(RecurrentOps(machine("80")), op), large(op, numerics))


@pytest.mark.parametrize("op", OPS)
def test_a_state_handed_on_gives_the_same_bits_as_all_tokens_at_once(op: str) -> None:
    # a prompt in chunks: a convolution that forgot its last inputs differs at each chunk's start
    case, function = large(op), getattr(RecurrentOps(machine("80")), op)
    carried = "before" if op == "causal_conv" else "state"
    per_token = [name for name in case if name in ("x", "q", "k", "v", "log_decay", "beta")]
    whole, state, parts = function(**case), case[carried], []
    for t in range(len(case[per_token[0]])):
        now = {name: case[name][t : t + 1] for name in per_token}
        part = function(**{**case, **now, carried: state})
        state = part.state
        parts.append(part.out)
    assert np.array_equal(np.concatenate(parts), whole.out)
    assert np.array_equal(state, whole.state)


@pytest.mark.parametrize("arch", ARCHES)
def test_the_examples_reach_every_instruction(arch: str) -> None:
    def example(arch: str) -> None:
        for op in OPS:
            for numerics in (FP32, BF16):
                getattr(RecurrentOps(machine(arch)), op)(**large(op, numerics))
            # fewer tokens than taps, and lanes that have no column
            getattr(RecurrentOps(machine(arch)), op)(**large(op, tokens=1, columns=5))

    reaches_everything(arch, COVERED, [example])


@pytest.mark.parametrize(
    ("op", "changes"),
    [
        ("causal_conv", {"before": values(2, 67)}),
        ("gated_delta", {"k": values(5, 2, 39)}),
        ("gated_delta", {"state": values(3, 5, 40)}),  # two keys for three heads
        ("lightning", {"v": values(5, 4, 6)}),
    ],
)
def test_shapes_that_do_not_fit_are_refused(op: str, changes: dict[str, Any]) -> None:
    with pytest.raises(TinymoeError, match="do not fit"):
        getattr(RecurrentOps(machine("80")), op)(**{**large(op), **changes})


# --------------------------------------------------------------- the tests of these kernels, tested

MUTANTS: dict[str, tuple[str, str, str]] = {
    "a state that does not fade": (
        "gated_delta",
        "float faded = keep * (t ? mine[c] : old[c]);",
        "float faded = t ? mine[c] : old[c];",
    ),
    "read before it fades": (
        "gated_delta",
        "found = fmaf(faded, key[c]",
        "found = fmaf(faded / keep, key[c]",
    ),
    "a query without its scale": ("gated_delta", "query[c] / q_size / scale", "query[c] / q_size"),
    "keys of heads by turns": ("gated_delta", "head / (heads / key_heads)", "head % key_heads"),
    "the squares of one round of columns": (
        "gated_delta",
        "i < n; i += WARP) squares",
        "i < n && i < WARP; i += WARP) squares",
    ),
    "a token's own key fades": (
        "lightning",
        "fmaf(value, key[c], keep[head] * (t ? mine[c] : old[c]))",
        "keep[head] * fmaf(value, key[c], t ? mine[c] : old[c])",
    ),
    "taps turned round": (
        "causal_conv",
        "weight[c * taps + tap]",
        "weight[c * taps + past - tap]",
    ),
    "the first inputs kept, not the last": (
        "causal_conv",
        "x[(i64)(t - past) * channels + c];\n",
        "x[i - tokens * channels];\n",
    ),
    "the last thread's number lost": (
        "causal_conv",
        "i >= (tokens + taps - 1) * channels",
        "i + 1 >= (tokens + taps - 1) * channels",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_kernel_is_seen(name: str) -> None:
    op, right, wrong = MUTANTS[name]
    ops = RecurrentOps(Mutated("recurrent", right, wrong))
    with pytest.raises((AssertionError, DefectError)):
        contract(op).judge(getattr(ops, op), large(op))
