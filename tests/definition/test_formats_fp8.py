"""FP8: per tensor, channel, block and group; ragged edges; each library's order of operations."""

from __future__ import annotations

import numpy as np
import pytest

from tinymoe.core import QuantTensor, TinymoeError
from tinymoe.formats import bf16, e4m3, fp8
from tinymoe.formats.conventions import FP8

pytestmark = pytest.mark.definition

F = np.float32


def random(shape: tuple[int, int], seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal(shape).astype(F) * F(0.02)
    return bf16.round_to_bf16(x)


def encode(
    w: np.ndarray, convention: str, granularity: str = "tensor", **changes: str
) -> QuantTensor:
    options = {"source": "bfloat16", "power_of_two": "no", **changes}
    return fp8.encode(w, convention=convention, granularity=granularity, **options)


def test_modelopt_per_tensor_divides_in_bf16() -> None:
    # a 0-d float32 scale does not promote: the quotient of BF16 weights is rounded to BF16 first
    w = np.array([[1.0, 0.609375]], F)
    assert encode(w, "modelopt_tensor").codes.tolist() == [[0x7E, 0x78]]
    assert encode(w, "div32").codes.tolist() == [[0x7E, 0x79]]
    assert encode(w, "modelopt_tensor", source="float32").codes.tolist() == [[0x7E, 0x79]]


def test_modelopt_per_tensor_differs_in_a_few_bytes_in_a_hundred() -> None:
    w = random((128, 256), 3)
    ours, plain = encode(w, "modelopt_tensor"), encode(w, "div32")
    assert ours.scales == plain.scales
    assert 0.01 < np.mean(ours.codes != plain.codes) < 0.06  # published: 2.5 to 4 %


def test_transformers_scale_differs_in_the_last_bit() -> None:
    w = np.full((1, 128), 0.1875, F)
    theirs, plain = encode(w, "transformers", "group"), encode(w, "div32", "group")
    assert theirs.scales[0, 0] == F(0.00041852676)
    assert plain.scales[0, 0] == F(0.00041852679)
    assert theirs.scales[0, 0] != plain.scales[0, 0]


def test_multiplying_by_the_reciprocal_is_not_dividing() -> None:
    # DeepGEMM against DeepSeek: about 0.04 % of bytes
    w = random((256, 512), 5)
    gemm = encode(w, "deepgemm", "group")
    seek = encode(w, "deepseek_act", "group")
    assert np.array_equal(gemm.scales, seek.scales)
    assert 0 < np.mean(gemm.codes != seek.codes) < 0.002


@pytest.mark.parametrize("granularity", ["tensor", "channel", "block", "group"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 130), (130, 3)])
def test_against_blocks_cut_out_one_by_one(shape: tuple[int, int], granularity: str) -> None:
    w = random(shape, 7)
    q = encode(w, "div32", granularity)
    codes, scales = fp8.encode_naive(w, q.block)
    assert np.array_equal(q.codes, codes)
    assert np.array_equal(q.scales.reshape(scales.shape), scales)
    decoded = fp8.decode(q)
    for (r, c), code in np.ndenumerate(codes):
        scale = scales[r // q.block[0], c // q.block[1]]
        assert decoded[r, c] == e4m3.decode(np.array(code)) * scale


@pytest.mark.parametrize(
    ("granularity", "scales"),
    [("tensor", ()), ("channel", (200, 1)), ("block", (2, 3)), ("group", (200, 3))],
)
def test_scale_shapes_with_ragged_edges(granularity: str, scales: tuple[int, ...]) -> None:
    w = random((200, 300), 11)
    w[199, 299] = 1.0  # the loudest, in the corner that a cropped block would lose
    q = encode(w, "div32", granularity)
    assert q.scales.shape == scales
    assert fp8.decode(q)[199, 299] == 1.0
    assert q.scales.flat[-1] == F(1) / F(448)


def test_72_rows_are_one_block_row() -> None:
    q = encode(random((72, 256), 13), "div32", "block")
    assert q.scales.shape == (1, 2)
    assert fp8.decode(q).shape == (72, 256)


@pytest.mark.parametrize("convention", FP8)
def test_every_convention_is_near(convention: str) -> None:
    # E4M3 keeps 4 bits: 2^-4 of a normal value, 2^-10 of the scale below; scale and quotient add
    # one BF16 rounding each at most, 2^-8
    w = random((130, 260), 17)
    q = encode(w, convention, "block")
    scale = np.repeat(np.repeat(q.scales, 128, 0), 128, 1)[:130, :260]
    bound = np.abs(w) * (2.0**-4 + 2 * 2.0**-8) + scale * 2.0**-10
    assert (np.abs(fp8.decode(q) - w) <= bound).all()


@pytest.mark.parametrize(
    ("convention", "scale"),
    [
        ("ct", F(2.0**-7)),
        ("deepseek_act", F(1e-4) / F(448)),
        ("deepgemm", F(1e-4) / F(448)),
        ("transformers", F(1)),
        ("vllm_group", F(1) / F(448 * 512)),
        ("vllm_token", F(1) / F(448 * 512)),
        ("vllm_triton_group", F(1e-10) * (F(1) / F(448))),
        ("modelopt_fake", F(1)),
    ],
)
def test_a_block_of_zeros(convention: str, scale: np.float32) -> None:
    w = np.zeros((2, 256), F)
    w[:, 128:] = 1
    q = encode(w, convention, "group")
    assert q.scales[0, 0] == scale
    assert not q.codes[:, :128].any()
    assert not fp8.decode(q)[:, :128].any()


@pytest.mark.parametrize("convention", ["modelopt_tensor", "modelopt_block", "div32"])
def test_a_block_of_zeros_is_refused_where_it_would_be_nan(convention: str) -> None:
    with pytest.raises(TinymoeError, match="divide 0 by 0.*'ct', 'deepgemm'"):
        encode(np.zeros((2, 128), F), convention, "group")


def test_ct_rounds_its_scale_to_the_dtype() -> None:
    w = random((8, 64), 19)
    q = encode(w, "ct", "channel")
    assert np.array_equal(q.scales, bf16.round_to_bf16(np.abs(w).max(1, keepdims=True) / F(448)))
    assert np.array_equal(q.codes, e4m3.saturated(bf16.round_to_bf16(w / q.scales)))
    # rounding the scale down leaves values above 448 * s, which must saturate, not become NaN
    assert q.codes.max() <= 0xFE
    assert not np.isnan(fp8.decode(q)).any()
    zero = encode(np.zeros((1, 64), F), "ct", "channel", source="float32")
    assert zero.scales == F(2.0**-23)


def test_power_of_two_scales_round_up() -> None:
    w = np.full((1, 128), 448 * 0.75, F)
    for how in ("bits", "log2"):
        assert encode(w, "deepgemm", "group", power_of_two=how).scales.tolist() == [[1.0]]
        exact = np.full((1, 128), 448.0, F)
        assert encode(exact, "deepgemm", "group", power_of_two=how).scales.tolist() == [[1.0]]
    with pytest.raises(TinymoeError, match="does not divide by its stored scale"):
        encode(w, "transformers", "group", power_of_two="bits")


def test_bits_and_log2_part_just_above_a_power_of_two() -> None:
    just_above = np.full((1, 128), np.nextafter(F(448 * 16), F(1e9)), F)
    got = [
        float(encode(just_above, "div32", "group", source="float32", power_of_two=how).scales[0, 0])
        for how in ("bits", "log2")
    ]
    assert got == [32.0, 16.0]


def test_static_scales_clip() -> None:
    # a KV cache's k_scale, an input_scale: amax/448 of the calibration
    x = np.array([[1.0, -2.0, 0.5]], F)
    q = fp8.encode_static(x, float(F(1) / F(448)), convention="div32", source="bfloat16")
    assert q.codes.tolist() == [[0x7E, 0xFE, 0x76]]
    assert fp8.decode(q).tolist() == [[1, -1, 0.5]]
    with pytest.raises(TinymoeError, match="no static form"):
        fp8.encode_static(x, 1.0, convention="transformers", source="bfloat16")


def test_a_scale_of_the_wrong_shape_is_named() -> None:
    codes = np.zeros((72, 256), np.uint8)
    with pytest.raises(TinymoeError, match=r"expected \(1, 2\).*got \(1, 1, 2, 1\).*reshaped"):
        fp8.decode_blocks(codes, np.ones((1, 1, 2, 1), F), (128, 128))
    with pytest.raises(TinymoeError, match="matrix"):
        encode(np.zeros((2, 3, 4), F), "ct")
    with pytest.raises(TinymoeError, match="expected BF16 values"):
        encode(np.full((1, 2), 0.1, F), "ct")
