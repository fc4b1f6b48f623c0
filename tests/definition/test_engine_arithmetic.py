"""Whose arithmetic a loaded model's inputs go through, where it decides between two codes.

x / s and x * (1/s) give the same code but where the quotient is half way between two. There they
part, and no tolerance shows it: 1 / 7 is rounded up, and 25/16 * 7 * (1/7) is above 25/16.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.low_precision import made
from tests.quantised_runs import inputs_of, params_of
from tinymoe.families.layout_fp8 import cache_format
from tinymoe.formats.inputs import InputFormat, fake_quantise

pytestmark = pytest.mark.definition
S, X = np.float32(7), np.float32(25 / 16 * 7)  # E4M3 has 12/8 and 13/8: a tie goes to 12/8
DIVIDED, MULTIPLIED = 12 / 8 * 7, 13 / 8 * 7


def quantised(form: InputFormat) -> float:
    """What becomes of X under the scale S, given or found: 448 S is the loudest of the row."""
    if form.scale is not None:
        form = replace(form, scale=S)
    row = np.zeros((1, 96), np.float32)
    row[0, :2] = 448 * S, X
    loudest, value = fake_quantise(row, form)[0, :2]
    assert loudest == 448 * S
    return float(value)


@pytest.mark.parametrize(
    ("layout", "wanted"),
    [
        # vLLM: static_scaled_fp8_quant
        ("modelopt FP8", MULTIPLIED),
        ("ct FP8 tensor", MULTIPLIED),
        # QuantFP8.forward_native: of a token times 1/s, of a group divided
        ("modelopt FP8 channel", MULTIPLIED),
        ("ct FP8 channel", MULTIPLIED),
        ("ct FP8 block", DIVIDED),
        # DeepSeek's act_quant
        ("DeepSeek FP8", DIVIDED),
    ],
)
def test_where_a_quotient_is_half_way(layout: str, wanted: float, tmp_path: Path) -> None:
    case = made(layout)
    weights = inputs_of(params_of(tmp_path, case.low, case.config))
    assert {quantised(form) for weight in weights for form in weight.inputs} == {wanted}


def test_the_cache_divides() -> None:
    # vLLM's reshape_and_cache: fp8/nvidia/quant_utils.cuh
    assert quantised(cache_format(S)) == DIVIDED


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        # 6.5 is 1.625 * 4: the scale is 1, by which 1.4 becomes 1.5. Rounded up, as FlashInfer's
        # kernel does, it is 2, and 1.4 becomes 1
        ((6.5, 1.4), (6, 1.5)),
        # 7 is 1.75 * 4: the scale is 2. By OCP's minimum rule it is 1, and 7 is cut off at 6
        ((7, 1.4), (8, 1)),
        ((6.996, 1.4), (6, 1.5)),
    ],
)
def test_mxfp4_exponents_go_up_from_a_fraction_of_175(
    values: tuple[float, ...], wanted: tuple[float, ...], tmp_path: Path
) -> None:
    case = made("ct MXFP4")
    row = np.zeros((1, 96), np.float32)
    row[0, :2] = values
    for weight in inputs_of(params_of(tmp_path, case.low, case.config)):
        np.testing.assert_array_equal(fake_quantise(row, weight.inputs[0])[0, :2], wanted)
