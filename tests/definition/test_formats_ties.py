"""Every midpoint, through every convention's whole encoder: the bytes, against a table.

The rounding of single values is in test_formats_e2m1.py. Here the scales are such that each step
of a convention is exact and its scale is 1, so that a tie reaches the rounding as it is; a
convention that divides in another way, or rounds ties in another, gives another byte.
"""

from __future__ import annotations

import numpy as np
import pytest

from tinymoe.formats import e2m1, e4m3, fp8, mxfp4, nvfp4
from tinymoe.formats.conventions import FP8, MXFP4, NVFP4
from tinymoe.formats.e2m1 import MIDPOINTS

pytestmark = pytest.mark.definition

# codes of the seven midpoints, and of their negatives 8 more
CODES = {
    "even": [0, 2, 2, 4, 4, 6, 6],
    "toward_zero": [0, 1, 2, 3, 4, 5, 6],
    "away": [1, 2, 3, 4, 5, 6, 7],
}
MXFP4_TIES = {
    **dict.fromkeys(["ocp_floor", "torchao_floor", "torchao_even", "torchao_rceil"], "even"),
    **dict.fromkeys(["torchao_ceil", "ct", "vllm", "flashinfer"], "even"),
    **dict.fromkeys(["modelopt", "deepgemm"], "toward_zero"),
    **dict.fromkeys(["gpt_oss", "triton_round_up", "triton_round_down"], "away"),
}
TENSOR_SCALE = {"multiplier": 1.0, "divisor": 1.0, "amax": 2688.0}


@pytest.mark.parametrize("convention", NVFP4)
def test_nvfp4(convention: str) -> None:
    x = np.array([[*MIDPOINTS, *(-m for m in MIDPOINTS), 6.0, -6.0]], np.float32)
    rows = 16 if convention == "te_2d" else 1
    meaning = NVFP4[convention].tensor_scale
    scale = None if meaning == "none" else np.float32(TENSOR_SCALE[meaning])
    q = nvfp4.encode_with(
        np.repeat(x, rows, axis=0), scale, convention=convention, source="bfloat16"
    )
    even = CODES["even"]
    # -0.25 becomes a zero that keeps its sign, in all of them
    assert e2m1.unpack(q.codes).tolist() == [[*even, *(8 + c for c in even), 7, 15]] * rows
    assert q.scales.tolist() == [[0x38]] * rows  # 1.0


@pytest.mark.parametrize("convention", MXFP4)
def test_mxfp4(convention: str) -> None:
    # "ceil" gives 4 of its scale to the largest, so the last midpoint, 5, is out of its reach
    ceil = MXFP4[convention].exponent == "ceil"
    used, largest = (MIDPOINTS[:6], 4.0) if ceil else (MIDPOINTS, 6.0)
    x = np.zeros((1, 32), np.float32)
    x[0, : len(used)] = used
    x[0, 8 : 8 + len(used)] = [-m for m in used]
    x[0, 16] = largest
    q = mxfp4.encode(x, convention=convention)
    assert q.scales.tolist() == [[127]]
    codes = e2m1.unpack(q.codes)[0]
    wanted = CODES[MXFP4_TIES[convention]][: len(used)]
    assert codes[: len(used)].tolist() == wanted
    # DeepGEMM drops the sign of what becomes zero
    minus = [0 if c == 0 and convention == "deepgemm" else 8 + c for c in wanted]
    assert codes[8 : 8 + len(used)].tolist() == minus
    assert codes[16] == (6 if ceil else 7)


@pytest.mark.parametrize("convention", FP8)
def test_fp8(convention: str) -> None:
    """All 126 midpoints between two neighbours up to 448: to the code that is even.

    Codes 0 .. 126 of E4M3 are its values in order, so code c and c + 1 have the tie between them,
    and the even one of the two numbers is the one with the even mantissa.
    """
    values = e4m3.decode(np.arange(127, dtype=np.uint8)).astype(np.float64)
    ties = (values[:-1] + values[1:]) / 2  # exact in float32, and in BF16: 5 bits each
    codes = [c + c % 2 for c in range(126)]
    x = np.array([[*ties, *-ties, 448.0, -448.0]], np.float32)
    q = fp8.encode(
        x, convention=convention, granularity="tensor", source="bfloat16", power_of_two="no"
    )
    assert np.all(q.scales == 1)
    expected = [*codes, *(128 + c for c in codes), 126, 254]
    assert q.codes.tolist() == [expected]
