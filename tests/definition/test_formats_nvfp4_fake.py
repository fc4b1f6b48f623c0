"""ModelOpt's fake quantisation is not its exporter: a model tuned with one may leave the other."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tests.nvfp4_inputs import encode, random, row
from tinymoe.formats import e2m1, nvfp4
from tinymoe.formats.e2m1 import RULES
from tinymoe.formats.exact import fp32
from tinymoe.formats.nvfp4_fake import FakeForm, fake_modelopt
from tinymoe.formats.nvfp4_naive import E4M3, _scale_byte

pytestmark = pytest.mark.definition

FORMS: list[FakeForm] = ["kernel", "scalar"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("source", ["float32", "bfloat16"])
def test_on_usual_weights_it_is_the_exporter(form: FakeForm, source: str) -> None:
    x = random((64, 256), 5, source)
    got = fake_modelopt(x, float(np.abs(x).max()), form=form)
    assert np.array_equal(got, nvfp4.decode(encode(x, "modelopt", source)))


@pytest.mark.parametrize("form", FORMS)
def test_against_rational_arithmetic(form: FakeForm) -> None:
    x = random((1, 64), 6, "bfloat16")
    amax = Fraction(float(np.abs(x).max()))
    g, got = fp32(amax / 2688), fake_modelopt(x, float(amax), form=form)[0]
    for start in range(0, 64, 16):
        block = [Fraction(float(value)) for value in x[0, start : start + 16]]
        byte = _scale_byte(max(map(abs, block)), g, "modelopt", fp32)
        s = fp32(E4M3[byte] * g)
        for place, value in enumerate(block):
            code = e2m1.encode_naive(float(fp32(value / s)), RULES["modelopt_nvfp4"])
            magnitude = fp32(Fraction(e2m1.MAGNITUDES[code & 7]) * s)
            assert Fraction(float(got[start + place])) == (-magnitude if code > 7 else magnitude)


@pytest.mark.parametrize("form", FORMS)
def test_ties_at_every_midpoint_go_to_the_even_code(form: FakeForm) -> None:
    # amax 6 * 448 makes g 1; the block's own maximum 6 makes s 1: elements are rounded as they are
    ties = [*e2m1.MIDPOINTS, *(-tie for tie in e2m1.MIDPOINTS)]
    x = row(*enumerate(ties), (15, 6.0), K=16)
    even = [0, 1, 1, 2, 2, 4, 4]
    assert fake_modelopt(x, 2688.0, form=form)[0].tolist() == [*even, *(-v for v in even), 0, 6]


@pytest.mark.parametrize("form", FORMS)
def test_a_block_too_small_for_a_scale(form: FakeForm) -> None:
    # block 1: a scale of 448e-7 rounds to 0; the exporter stores 0x01 and keeps what 2^-9 g can
    x = row((0, 1.0), (16, 2.0**-21), K=32)
    assert not fake_modelopt(x, 1.0, form=form)[0, 16:].any()
    assert nvfp4.decode(encode(x, "modelopt"))[0, 16] > 0


def test_scales_below_1e_5_are_1_in_the_kernel_alone() -> None:
    # amax / 6 is 8e-6 in block 1: divided by 1 in place of it, everything rounds to 0
    x = row((0, 2.0**-10), (16, 4.8e-5), (17, -2.4e-5), K=32)
    amax = float(np.abs(x).max())
    exported = nvfp4.decode(encode(x, "modelopt", "float32"))[0, 16:18]
    assert fake_modelopt(x, amax, form="kernel")[0, 16:].tolist() == [0] * 16
    assert np.array_equal(fake_modelopt(x, amax, form="scalar")[0, 16:18], exported)
    assert exported.all()


@pytest.mark.parametrize("form", FORMS)
def test_zeros_stay_zeros(form: FakeForm) -> None:
    # the exporter writes NaN scales for such a tensor
    assert fake_modelopt(np.zeros((2, 16), np.float32), 0.0, form=form).tolist() == [[0.0] * 16] * 2
    x = row((0, 1.0), (1, -0.0), (2, -1e-6), K=32)
    got = fake_modelopt(x, 1.0, form=form)
    assert np.signbit(got[0, :3]).tolist() == [False, False, True]
    assert not got[0, 16:].any()


def test_louder_than_the_calibration_clips() -> None:
    x = row((0, 4.0), K=16)
    for form in FORMS:  # s saturates at 448 g = 1/6, codes at 6
        assert fake_modelopt(x, 1.0, form=form)[0, 0] == np.float32(6) * (
            np.float32(448) * (np.float32(1) / np.float32(2688))
        )
