"""The FP4 kernels as each chip would load them: the instructions of its tensor cores.

That nothing spills, for these as for all kernels: test_cuda_compile.py.
"""

from __future__ import annotations

import re

import pytest

from tinymoe.core import TinymoeError
from tinymoe.kernels.cuda.compile import build
from tinymoe.kernels.cuda.disassemble import sass
from tinymoe.kernels.cuda.source import names, source

pytestmark = pytest.mark.kernels
F16, BF16 = "HMMA.16816.F32", "HMMA.16816.F32.BF16"
NVFP4, MXFP4 = "OMMA.SF.16864.F32.E2M1.E2M1.UE4M3.4X", "OMMA.SF.16864.F32.E2M1.E2M1.E8"
TENSOR_CORES = {  # file -> instruction -> how often it stands there
    # an f16 product: 4 groups of 8 columns, 2 mma of 16 along k each. BF16: the same for MXFP4 in
    # W4A4 and both formats in W4A16, and three times that for both in float32
    "gemm_nvfp4_mma": {F16: 8, BF16: 3 * 8 + 2 * 24},
    "grouped_gemm_nvfp4_mma": {F16: 8, BF16: 3 * 8 + 2 * 24},
    "gemm_nvfp4_sm120": {NVFP4: 4, MXFP4: 4},  # 64 along k in one
    "grouped_gemm_nvfp4_sm120": {NVFP4: 4, MXFP4: 4},
    "fused_gate_up": {F16: 8},
    "fused_gate_up_sm120": {NVFP4: 4},
}
EVERY = [  # all experts' products are the same tiles: one chip of each kind says enough
    (name, arch)
    for name in TENSOR_CORES
    for arch in source(name).arches
    if not name.startswith("grouped") or arch in ("80", "120a")
]


@pytest.mark.parametrize(("name", "arch"), EVERY)
def test_tensor_cores_are_used(name: str, arch: str) -> None:
    # inline PTX that ptxas takes may still become something slow; the SASS is what runs
    made = build(name, arch)
    assert max(made.registers.values()) <= 128  # four blocks of 128 threads on 65,536 registers
    text = sass(made.cubin)
    found = re.findall(r"\b[HO]MMA[.\w]*", text)
    assert {kind: found.count(kind) for kind in set(found)} == TENSOR_CORES[name]


@pytest.mark.parametrize(("ran", "other"), [("80", "90a"), ("120a", "100a")])
@pytest.mark.parametrize("name", [n for n in names() if re.search("fp[48]|fused|swizzle", n)])
def test_what_runs_for_one_chip_is_what_runs_for_the_next(name: str, ran: str, other: str) -> None:
    # so that what the PTX machine proves on two chips holds for four
    if not source(name).only:
        one, two = (re.sub(r"\.target .*", "", build(name, arch).ptx) for arch in (ran, other))
        assert one == two


def test_fp4_tensor_cores_are_of_one_chip() -> None:
    with pytest.raises(TinymoeError, match="gemm_nvfp4_sm120.cu is for sm_120a, not sm_100a"):
        build("gemm_nvfp4_sm120", "100a")
