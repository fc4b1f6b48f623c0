"""FP8 kernels on the PTX machine: the bytes of every convention, no instruction unreached."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.kernels.model_kernels import ARCHES, keeps_contract, machine, missed
from tests.kernels.test_cuda_fp4_mutants import CONVENTIONS, Mutant, Spoiled
from tinymoe.core import Array, TinymoeError
from tinymoe.formats import bf16, e4m3
from tinymoe.formats.conventions import FP8
from tinymoe.kernels.contracts import contract
from tinymoe.kernels.cuda.ops_fp8 import DIVIDES, Fp8Ops
from tinymoe.kernels.formats_strategies import FLOORED
from tinymoe.kernels.ptx import DefectError

pytestmark = pytest.mark.kernels
COVERED = ("quantize_fp8",)


def cases() -> Iterator[dict[str, Any]]:
    """Each convention on ties, in regions that end early both ways; zeros where it may."""
    rng = np.random.default_rng(3)
    wide, tall = values(rng, (6, 133)), values(rng, (130, 4))
    for convention, row in FP8.items():
        rounded = bf16.round_to_bf16(wide)
        if convention in FLOORED:
            rounded[3] = 0
        given = {"convention": convention, "x": rounded, "source": "bfloat16"}
        for power in ("no", "bits", "log2") if row.element in DIVIDES else ("no",):
            yield {**given, "granularity": "channel", "power_of_two": power}
        given = {"convention": convention, "source": "float32", "power_of_two": "no"}
        yield {**given, "granularity": "group", "x": wide}
        yield {**given, "granularity": "tensor", "x": tall}
        yield {**given, "granularity": "block", "x": tall}


def values(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Rows of values half way between two of E4M3, times a power of two and times any scale."""
    low = rng.integers(0x01, 0x7E, shape, np.uint8)
    x = (e4m3.decode(low) + e4m3.decode(low + np.uint8(1))) / 2 * rng.choice([-1, 1], shape)
    x[:, 0] = 448
    x[::2] *= rng.uniform(1, 2, (len(x[::2]), 1))
    return (x * np.exp2(rng.integers(-8, 1, (len(x), 1)))).astype(np.float32)


def regions() -> Iterator[dict[str, Any]]:
    """Every byte; a scale for all, and for rows and blocks that the matrix ends within."""
    codes = np.tile(np.arange(256, dtype=np.uint8), 5)[:1161].reshape(9, 129)
    for block in ((9, 129), (1, 129), (128, 128), (1, 128)):
        grid = tuple(-(-n // size) for n, size in zip(codes.shape, block, strict=True))
        scales = np.random.default_rng(2).uniform(0.1, 2, grid).astype(np.float32)
        yield {"codes": codes, "scales": scales, "block": block}


@pytest.mark.parametrize("arch", ARCHES)
def test_hard_cases_keep_the_contract_and_reach_every_instruction(arch: str) -> None:
    ops = Fp8Ops(machine(arch))
    for case in cases():
        contract("quantize_fp8").judge(ops.quantize_fp8, case)
    for case in regions():
        contract("dequantize_fp8").judge(ops.dequantize_fp8, case)
    assert [line for file in COVERED for line in missed(machine(arch), file)] == []


@pytest.mark.parametrize("op", ["quantize_fp8", "dequantize_fp8"])
def test_drawn_cases_keep_the_contract(op: str) -> None:
    keeps_contract(op, getattr(Fp8Ops(machine("80")), op), 20, lambda case: True)


def test_bad_calls_say_what_was_expected() -> None:
    ops, x = Fp8Ops(machine("80")), np.ones((3, 8), np.float32)
    with pytest.raises(TinymoeError, match=r"expected a matrix .N, K., got .3, 8, 1."):
        ops.quantize_fp8(x[..., None], "div32", "tensor", "float32", "no")
    with pytest.raises(TinymoeError, match="'transformers' does not divide by its stored scale"):
        ops.quantize_fp8(x, "transformers", "tensor", "float32", "bits")
    with pytest.raises(TinymoeError, match=r"scales .3, 1., one for each block .1, 8. of .3, 8."):
        ops.dequantize_fp8(x.astype(np.uint8), np.ones(3, np.float32), (1, 8))
    large = np.broadcast_to(np.uint8(0), (2**16, 2**15))
    with pytest.raises(TinymoeError, match="counts to 2.31, take rows apart"):
        ops.dequantize_fp8(large, np.ones((), np.float32), large.shape)


@pytest.mark.parametrize(
    ("right", "wrong", "seen"),
    [
        ("__syncthreads();  // every warp has written its own", "", DefectError),
        ("rows = min(rows, N - row);", "", DefectError),
        ("columns = min(columns, K - column);", "",
         (DefectError, AssertionError)),
        (" | sign_bit(y) << 7", "", AssertionError),
        ("mul_rn(w, div_rn(1, s))", "div_rn(w, s)", AssertionError),
        ("(int)ceilf(log2_of(s))", "(int)floorf(log2_of(s))", AssertionError),
    ],
)  # fmt: skip
def test_a_bug_is_seen(right: str, wrong: str, seen: Any) -> None:
    ops = Fp8Ops(Spoiled(Mutant("", "quantize_fp8", right, wrong)))

    def judge() -> None:
        for case in cases():
            if case["convention"] in CONVENTIONS:
                contract("quantize_fp8").judge(ops.quantize_fp8, case)

    with pytest.raises(seen):
        judge()
