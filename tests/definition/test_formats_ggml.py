"""GGUF's blocks and ggml's quantisers: nibbles by halves, UE4M3 of its own, no tensor scale."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tinymoe.core import TinymoeError
from tinymoe.formats import bf16, e4m3, ggml, mxfp4, nvfp4
from tinymoe.formats.e2m1 import MAGNITUDES

pytestmark = pytest.mark.definition


def random(shape: tuple[int, int], seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return bf16.round_to_bf16(x)


def test_ue4m3_is_not_round_to_nearest_even() -> None:
    x = np.array([17, 19, 250, 256, 300, 247.9, 448, 1e9], np.float32)
    got = e4m3.decode(ggml.encode_ue4m3(x)).tolist()
    assert got == [18, 20, 448, 448, 448, 240, 448, 448]
    assert e4m3.decode(e4m3.saturated(x)).tolist() == [16, 20, 256, 256, 288, 240, 448, 448]


def test_ue4m3_small_and_odd_inputs() -> None:
    x = np.array([0, -1, 2.0**-10, 2.0**-9, 7.5 / 512, 2.0**-6, np.nan], np.float32)
    assert ggml.encode_ue4m3(x).tolist() == [0, 0, 1, 1, 7, 8, 0]


def test_ue4m3_encodes_every_value_below_248_as_itself() -> None:
    codes = np.arange(0x78, dtype=np.uint8)
    assert np.array_equal(ggml.encode_ue4m3(e4m3.decode(codes)), codes)


def test_ue4m3_decoder_ignores_the_sign_and_reads_nan_as_zero() -> None:
    assert ggml.decode_ue4m3(np.array([0x7F, 0xFF, 0xB8, 0x38], np.uint8)).tolist() == [0, 0, 1, 1]


def test_mxfp4_block_layout() -> None:
    x = np.zeros((1, 32), np.float32)
    x[0, [0, 1, 16]] = [4.0, 1.0, -2.0]
    block = ggml.encode_mxfp4(x)[0]
    assert block[:3].tolist() == [127, 0xC6, 0x02]  # byte 1: elements 0 and 16; byte 2: 1 and 17
    assert np.array_equal(ggml.decode_mxfp4(block), x[0])


def test_nvfp4_block_layout() -> None:
    x = np.zeros((1, 64), np.float32)
    x[0, [0, 8, 16, 63]] = [6.0, 3.0, 12.0, -6.0]
    block = ggml.encode_nvfp4(x)[0]
    assert block.size == 36
    assert block[:4].tolist() == [0x38, 0x40, 0, 0x38]
    assert block[4] == 0x57  # elements 0 (code 7) and 8 (code 5)
    assert block[12] == 0x07
    assert block[35] == 0xF0  # elements 55 and 63
    assert np.array_equal(ggml.decode_nvfp4(block), x[0])


def test_elements_are_the_nearest_and_never_code_8() -> None:
    x = random((4, 64), 3)
    rows = ggml.encode_mxfp4(x).reshape(4, 2, 17)
    decoded = ggml.decode_mxfp4(ggml.encode_mxfp4(x)).reshape(4, 2, 32)
    nibbles = np.concatenate([rows[..., 1:] & 15, rows[..., 1:] >> 4], axis=-1)
    assert not (nibbles == 8).any()
    for (i, j, k), value in np.ndenumerate(x.reshape(4, 2, 32)):
        scale = Fraction(2) ** (int(rows[i, j, 0]) - 127)
        distances = [abs(abs(Fraction(float(value))) - Fraction(m) * scale) for m in MAGNITUDES]
        # equal distances: the lower index, toward zero
        wanted = float(MAGNITUDES[distances.index(min(distances))] * scale)
        assert abs(decoded[i, j, k]) == wanted


def test_mxfp4_scale_is_the_floor_rule_and_wraps() -> None:
    x = random((3, 64), 5)
    rows = ggml.encode_mxfp4(x).reshape(3, 2, 17)
    assert np.array_equal(rows[..., 0], mxfp4.encode(x, convention="ocp_floor").scales)
    tiny = np.full((1, 32), 2.0**-126, np.float32)
    assert ggml.encode_mxfp4(tiny)[0, 0] == 255  # -1 as a byte
    assert ggml.encode_mxfp4(np.zeros((1, 32), np.float32))[0].tolist() == [0] * 17


@pytest.mark.parametrize("convention", ["modelopt", "ct"])
def test_a_checkpoint_converted_keeps_its_values(convention: str) -> None:
    # llama.cpp#27178 and its like: a scale tensor that is never attached leaves fluent rubbish
    w = random((3, 128), 7) * np.float32(0.02)
    w = bf16.round_to_bf16(w)
    q = nvfp4.encode(w, convention=convention, source="bfloat16", zero_tensor="refuse")
    rows, scale = ggml.from_nvfp4(q)
    assert rows.shape == (3, 2 * 36)
    # g times an exact v * s: one rounding, as in the association "left"
    association = "left" if convention == "modelopt" else "quotient"
    got, wanted = ggml.decode_nvfp4(rows) * scale, nvfp4.decode(q, association=association)
    if convention == "modelopt":
        assert np.array_equal(got, wanted)
    else:  # v * s, 1/G and their product against s/G and its product with v: 2 roundings each
        assert (np.abs(got - wanted) <= 4 * 2.0**-24 * np.abs(wanted)).all()
    # without it: another tensor
    assert not np.allclose(ggml.decode_nvfp4(rows), w, atol=0.02)


def test_naive_nvfp4_is_poor_where_weights_are_small() -> None:
    # 0.02 / 6 is under two steps of UE4M3's subnormals; at 0.005 most scales are one step or two
    for size, worse in ((0.02, 1.0), (0.005, 1.5)):
        w = random((16, 256), 11) * np.float32(size)
        q = nvfp4.encode(w, convention="modelopt", source="float32", zero_tensor="refuse")
        naive = ggml.decode_nvfp4(ggml.encode_nvfp4(w))
        errors = [float(np.square(v - w).sum()) for v in (nvfp4.decode(q), naive)]
        assert errors[1] > worse * errors[0]


def test_bad_input_is_named() -> None:
    with pytest.raises(TinymoeError, match="blocks of 64"):
        ggml.encode_nvfp4(np.zeros((1, 32), np.float32))
    with pytest.raises(TinymoeError, match="blocks of 17 bytes"):
        ggml.decode_mxfp4(np.zeros(16, np.uint8))
