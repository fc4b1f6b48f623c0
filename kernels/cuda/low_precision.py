"""The rows of `kernels/rows_formats.py` as CUDA kernels do them: which kernel a chip gets.

    implementations(PtxDevice("80"))["gemm_nvfp4_w4a4"](x_codes=..., ...)

FP4 tensor cores where the chip has them (sm_120), 16-bit ones elsewhere.
"""

from __future__ import annotations

from tinymoe.kernels.contract import Implementation
from tinymoe.kernels.cuda.devices import CupyDevice, PtxDevice
from tinymoe.kernels.cuda.ops_fp4 import Fp4Ops
from tinymoe.kernels.cuda.ops_fp4_gemm import Fp4Gemm, Rung
from tinymoe.kernels.cuda.ops_fp8 import Fp8Ops
from tinymoe.kernels.cuda.source import source
from tinymoe.kernels.rows_formats import ROWS


def fastest(device: PtxDevice | CupyDevice) -> Rung:
    """The top of the ladder that the device's chip can climb."""
    return "sm120" if device.arch in source("gemm_nvfp4_sm120").arches else "mma"


def implementations(device: PtxDevice | CupyDevice) -> dict[str, Implementation]:
    """An implementation of every op for low precision, by name."""
    kernels = Fp4Ops(device), Fp8Ops(device), Fp4Gemm(device, fastest(device))
    return {
        row.name: next(getattr(ops, row.name) for ops in kernels if hasattr(ops, row.name))
        for row in ROWS
    }
