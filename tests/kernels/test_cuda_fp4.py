"""FP4 kernels on the PTX machine: contracts kept, races and bounds checked, no code unreached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.kernels.fp4_cases import cases, ends, of_nothing
from tests.kernels.model_kernels import keeps_contract, machine, missed
from tinymoe.core import Array
from tinymoe.kernels.contracts import contract
from tinymoe.kernels.cuda.ops_fp4 import Fp4Ops
from tinymoe.kernels.cuda.ops_fp4_gemm import Fp4Gemm
from tinymoe.kernels.cuda.table import KERNELS, on
from tinymoe.kernels.formats_ops import dequantize_mxfp4
from tinymoe.kernels.rows_formats import ROWS

pytestmark = pytest.mark.kernels
FORMATS = (
    *("quantize_nvfp4", "dequantize_nvfp4", "quantize_mxfp4", "dequantize_mxfp4"),
    *("swizzle_scales", "unswizzle_scales"),
)
PLAIN = ("gemm_nvfp4", "gemm_mxfp4", "gemm_nvfp4_w4a4", "gemm_mxfp4_w4a4")
GROUPED = tuple(f"grouped_{op}" for op in PLAIN)
NETWORK = "expert_ffn_nvfp4_w4a4"
MMA = (*PLAIN, *GROUPED, NETWORK)
MMA_FILES = ("gemm_nvfp4_mma", "grouped_gemm_nvfp4_mma", "fused_gate_up")
FORMAT_FILES = ("quantize_nvfp4", "quantize_mxfp4", "decode_nvfp4", "swizzle")
RUNGS = {  # rung -> where it runs, what it does, and its files
    "formats": ("80", FORMATS, FORMAT_FILES),
    "formats-120a": ("120a", FORMATS, FORMAT_FILES),
    "naive": ("80", PLAIN, ("gemm_naive_nvfp4",)),
    "naive-120a": ("120a", PLAIN, ("gemm_naive_nvfp4",)),
    "shared": ("80", PLAIN, ("gemm_shared_nvfp4",)),
    "shared-120a": ("120a", PLAIN, ("gemm_shared_nvfp4",)),
    "mma": ("80", MMA, MMA_FILES),
    "mma-120a": ("120a", MMA, MMA_FILES),
    "sm120": (
        "120a",
        (*PLAIN[2:], *GROUPED[2:], NETWORK),
        ("gemm_nvfp4_sm120", "grouped_gemm_nvfp4_sm120", "fused_gate_up_sm120"),
    ),
}


def implementation(op: str, rung: str, arch: str) -> Callable[..., Any]:
    """The op as kernels of one rung do it, on the PTX machine."""
    if op in FORMATS:
        return getattr(Fp4Ops(machine(arch)), op)  # type: ignore[no-any-return]
    return getattr(Fp4Gemm(machine(arch), rung.split("-")[0]), op)  # type: ignore[no-any-return, arg-type]


@pytest.mark.parametrize("rung", RUNGS)
def test_hard_cases_keep_the_contract_and_reach_every_instruction(rung: str) -> None:
    # an instruction that no example reaches is a tail or a convention that nobody has tried
    arch, ops, files = RUNGS[rung]
    for op in ops:
        kernels = implementation(op, rung, arch)
        for case in cases(op):
            contract(op).judge(kernels, case)
        if op not in FORMATS:
            for case in of_nothing(op):
                assert not kernels(**case).any()
        if op.endswith("gemm_mxfp4"):
            for case in ends(op):
                got, want = flushed(kernels(**case)), flushed(read_by_ones(**case))
                assert np.array_equal(got, want, equal_nan=True)
    assert [line for file in files for line in missed(machine(arch), file)] == []


def read_by_ones(
    x: Array, weight_codes: Array, weight_scales: Array, convention: str, **others: Any
) -> Array:
    """What rows of x with a single one make of weights (E, N, K) or (N, K), infinite ones too."""
    weight = dequantize_mxfp4(weight_codes, weight_scales, convention)
    if "offsets" in others:
        weight = np.repeat(weight, np.diff(others["offsets"]), axis=0)  # each row's expert's
    with np.errstate(invalid="ignore"):  # 0 * infinity
        out: Array = (x[:, None, :] * weight).sum(axis=-1)
    return out


def flushed(x: Array) -> Array:
    """Subnormals, of bytes 0 and 1 here, to zero: under -ftz=true a kernel may."""
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.float32(0), x)


def test_every_row_of_the_table_has_kernels_and_each_chip_its_own() -> None:
    assert {row.name for row in ROWS} <= set(KERNELS)
    for arch, first in (("80", "mma"), ("100a", "mma"), ("120a", "sm120")):
        rungs = on("gemm_nvfp4_w4a4", machine(arch))
        assert next(iter(rungs)) == first
        assert ("sm120" in rungs) == (arch == "120a")


@pytest.mark.parametrize("op", [*FORMATS, *PLAIN, *GROUPED, NETWORK])
def test_drawn_cases_keep_the_contract(op: str) -> None:
    keeps_contract(op, implementation(op, "mma", "80"), 6, lambda case: True)


@pytest.mark.parametrize("op", RUNGS["sm120"][1])
def test_drawn_cases_on_fp4_tensor_cores(op: str) -> None:
    keeps_contract(op, implementation(op, "sm120", "120a"), 5)
