"""ModelOpt's fake quantisation to NVFP4: values in, rounded values out, no bytes.

Training and calibration see these values; the exporter ("modelopt" in `nvfp4.py`) writes others
where a block is small, because it never lets a block's scale fall below 2^-9 and these do:

| | block whose scale rounds to 0 | block with a scale below 1e-5 |
|---|---|---|
| exporter | 2^-9 g stands in: some values stay | kept |
| "kernel", its blockwise Triton kernel | zeros | 1 stands in: all below 0.25 vanish |
| "scalar", its composable Triton functions | zeros | kept |

Source: NVIDIA/Model-Optimizer, kernels/quantization: `gemm/fp4_kernel.py`, `common/nvfp4_quant.py`.
A GPU may divide within an ulp or two; here every division is correctly rounded.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from tinymoe.core import Array
from tinymoe.formats import e2m1, e4m3
from tinymoe.formats.checks import finite_blocks
from tinymoe.formats.e2m1 import RULES
from tinymoe.formats.nvfp4_encoders import ONE, PEAK, SIX, TOP

FakeForm = Literal["kernel", "scalar"]
SMALLEST = np.float32(1e-5)  # "kernel": no block is divided by less
NO_TENSOR_SCALE = np.float32(1e-12)  # "kernel": divides in place of a tensor scale of 0


def fake_modelopt(x: Array, amax: float, *, form: FakeForm) -> Array:
    """x (..., K) float32 rounded to NVFP4 and back, blocks of 16 along K; `amax` of the tensor.

    Each operation float32: s = e4m3(min(amax_b / (6 g), 448)) g with g = amax / 2688, then
    e2m1(|x| / s) s with the sign of x; -0 becomes 0.
    """
    blocks = finite_blocks("x", x, 16)  # (..., K/16, 16)
    g = np.float32(amax) / PEAK
    divisor = (g if g > 0 else NO_TENSOR_SCALE) if form == "kernel" else g
    largest = np.abs(blocks).max(axis=-1, keepdims=True)  # (..., K/16, 1)
    with np.errstate(all="ignore"):  # 0 / 0 in a tensor of zeros, which is caught below
        scaled = np.minimum(largest / (SIX * divisor), TOP)
        s = e4m3.decode(e4m3.saturated(scaled)) * g
        good = s >= SMALLEST if form == "kernel" else np.isfinite(s) & (s != 0)
        safe = np.where(good, s, ONE)
    codes = e2m1.encode(blocks / safe, RULES["modelopt_nvfp4"])
    values = e2m1.decode(codes, code_8="-0") * safe
    if form == "scalar":
        values = np.where(s == 0, np.float32(0), values)
    return values.reshape(np.shape(x))
