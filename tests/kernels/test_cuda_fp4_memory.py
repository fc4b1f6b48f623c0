"""How FP4 kernels use memory, as the PTX machine counts it: what the ladder's steps are for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels.fp4_cases import FP32, product
from tinymoe.kernels import ptx
from tinymoe.kernels.cuda.compile import build
from tinymoe.kernels.cuda.devices import PtxDevice
from tinymoe.kernels.cuda.launch import Dim3, Kernel
from tinymoe.kernels.cuda.ops_fp4 import Fp4Ops
from tinymoe.kernels.cuda.ops_fp4_gemm import Fp4Gemm, Rung
from tinymoe.kernels.cuda.source import source

pytestmark = pytest.mark.kernels
CASE = product("gemm_nvfp4_w4a4", FP32, "exact", rows=32, outs=64, blocks=8)


class Counting(PtxDevice):
    """A machine that counts banks and sectors, and runs a file with a change in it."""

    change: tuple[str, str] | None = None

    def kernel(self, name: str, entry: str, defines: tuple[str, ...] = ()) -> Any:
        if self.change is None:
            return super().kernel(name, entry, defines)
        text = source(name).text
        assert self.change[0] in text
        return self.from_ptx(build(text.replace(*self.change), self.arch).ptx, entry, name)

    def run(self, kernel: Kernel, grid: Dim3, block: Dim3, args: list[Any], shared: int) -> None:
        self.report = ptx.launch(
            kernel.handle, grid, block, args, shared_bytes=shared, counters=True
        )


def counted(rung: Rung, change: tuple[str, str] | None = None) -> ptx.Report:
    """The report of one W4A4 product of 32 x 64 outputs, K = 128."""
    device = Counting("120a" if rung == "sm120" else "80")
    device.change = change
    Fp4Gemm(device, rung).gemm_nvfp4_w4a4(**CASE)
    assert device.report is not None
    return device.report


def test_padding_frees_shared_memory_of_conflicts() -> None:
    # the one change to a kernel that no value shows: 8.9 times the passes of its accesses
    padded, plain = counted("shared"), counted("shared", ("[STEP + 1]", "[STEP]"))
    assert padded.bank_conflicts.used == padded.bank_conflicts.needed
    assert plain.bank_conflicts.needed == padded.bank_conflicts.needed
    assert plain.bank_conflicts.used > 8 * plain.bank_conflicts.needed


def test_each_step_of_the_ladder_moves_less() -> None:
    naive, shared = counted("naive").coalescing.used, counted("shared").coalescing.used
    assert (naive, shared) == (43_264, 896)  # as the comments in the two files say
    assert counted("mma").coalescing.used < naive / 25  # a read serves a warp's tile, not a block's
    assert counted("sm120").coalescing.used < naive / 25


def test_formats_move_no_byte_that_is_not_asked_for() -> None:
    device = Counting("80")
    x = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    packed = Fp4Ops(device).quantize_nvfp4(x, 100.0, "kernel", "float32")
    assert device.report is not None
    assert device.report.coalescing.efficiency == 1
    Fp4Ops(device).dequantize_nvfp4(*packed, 100.0, "kernel")
    assert device.report.coalescing.efficiency == 1
