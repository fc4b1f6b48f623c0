"""NVFP4: worked examples in which the conventions part, each against the published bytes.

There is no "the" NVFP4 quantiser: a test or a checkpoint that does not name its convention compares
bytes that were never meant to be equal. Bugs: modular#6600 (one library's scale read as another's),
flashinfer#2732 (wrong on real weights, never on random ones).
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.nvfp4_inputs import KERNELS, ROWWISE, codes, encode, random, row
from tinymoe.core import TinymoeError
from tinymoe.formats import bf16, nvfp4, nvfp4_naive
from tinymoe.formats.conventions import NVFP4

pytestmark = pytest.mark.definition


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (
            1.375,
            0.56640625,
            {"modelopt": 0x74, "ct": 0x73, "torchao": 0x74, "te": 0x74, "fi": 0x74},
        ),
        (
            1.625,
            0.15234375,
            {"modelopt": 0x62, "ct": 0x63, "torchao": 0x62, "te": 0x63, "fi": 0x63},
        ),
        (1.75, 0.08984375, {"modelopt": 0x5C, "ct": 0x5B, "torchao": 0x5B, "te": 0x5C, "fi": 0x5C}),
        (1.25, 0.05859375, {"modelopt": 0x5A, "ct": 0x5B, "torchao": 0x5A, "te": 0x5A, "fi": 0x5B}),
    ],
)
def test_the_second_blocks_scale_byte(a: float, b: float, expected: dict[str, int]) -> None:
    # amax/(6g), (amax/6)/g, S*(amax*(1/6)) and amax*(S*(1/6)) are equal on paper
    x = row((0, a), (16, b))
    for name, byte in expected.items():
        for convention in KERNELS if name == "fi" else [name]:
            if convention != "kernel_flashinfer_exact":  # te's arithmetic
                assert encode(x, convention).scales[0, 1] == byte, convention


def test_the_order_is_not_only_a_bf16_matter() -> None:
    x = row((0, 1.625), (16, 0.15234375))
    assert encode(x, "modelopt", "float32").scales[0, 1] == 0x62
    assert encode(x, "te", "float32").scales[0, 1] == 0x63


def test_dividing_by_the_product_and_multiplying_by_a_reciprocal() -> None:
    x = row((0, 1.03125), (1, 0.6015625), K=16)
    got = {name: codes(encode(x, name))[0][1] for name in ("modelopt", "torchao", "te")}
    assert got == {"modelopt": 6, "torchao": 5, "te": 5}


def test_ct_divides_by_its_global_scale() -> None:
    # with E4M3 * (1/G) in place of E4M3 / G the quotients land on the other side of a tie
    for amax, value, code in ((1.71875, 1.0, 5), (1.75, 0.21875, 2)):
        assert codes(encode(row((0, amax), (1, value), K=16), "ct"))[0][1] == code


@pytest.mark.parametrize("source", ["float32", "bfloat16"])
@pytest.mark.parametrize("convention", ["modelopt", "ct", "torchao", "te", "kernel"])
def test_blocks_against_rational_arithmetic(convention: str, source: str) -> None:
    # the twin rounds where the convention says and nowhere else: a fused multiply-add, float64 in
    # between or a flush to zero in the fast form would show
    x = random((12, 128), 3, source)
    x[:4] *= np.float32(2.0**-5)  # small blocks: subnormal scales, and floors where there are any
    q = encode(x, convention, source)
    for i, j in np.ndindex(*q.scales.shape):
        block = x[i, 16 * j : 16 * j + 16].tolist()
        byte, wanted = nvfp4_naive.encode_block(
            block, float(q.tensor_scale), convention=convention, source=source
        )
        assert (q.scales[i, j], codes(q)[i][16 * j : 16 * j + 16]) == (byte, wanted), (i, j)


def test_float32_weights_agree_and_bf16_weights_do_not() -> None:
    # few mantissa bits put BF16 quotients exactly on ties, which random float32 data all but never
    # shows: two orders of rounding differ by at most 2 of the 2^20 float32 steps between ties, so
    # 2048 scales have 0.01 such places on average, and three with probability below 1e-6
    differing = {}
    for source in ("float32", "bfloat16"):
        x = random((64, 512), 5, source)
        modelopt, ct = encode(x, "modelopt", source), encode(x, "ct", source)
        differing[source] = int(np.count_nonzero(modelopt.scales != ct.scales))
    assert differing["float32"] < 3
    assert 10 < differing["bfloat16"] < 200  # published: 3 % of a million normal weights


def test_ct_computes_its_global_scale_in_the_weights_dtype() -> None:
    # torch's 2688.0 / tensor is a rounded reciprocal times 2688, both in BF16
    def divisor(amax: float, source: str) -> float:
        return float(nvfp4.tensor_scale(amax, convention="ct", source=source))

    assert divisor(0.625, "float32") != float(np.float32(2688) / np.float32(0.625))
    assert abs(divisor(0.625, "float32") - 4300.80029) < 2.0**-11  # one float32 step there is 2^-11
    for amax in (0.076171875, 0.0867, 0.04):
        a = float(bf16.round_to_bf16(np.float32(amax)))
        assert divisor(a, "bfloat16") == float(
            bf16.round_to_bf16(np.float32(divisor(a, "bfloat16")))
        )
    assert divisor(0.076171875, "bfloat16") == 35328.0  # as in exported files


def test_a_quotient_in_torch_is_two_roundings() -> None:
    x = np.random.default_rng(1).random(10_000, np.float32) + np.float32(1)
    one = np.float32(2688) / x
    two = (np.float32(1) / x) * np.float32(2688)
    assert 0.2 < np.mean(one != two) < 0.35  # published: some 26 %
    off = np.abs(one - two) / np.spacing(one)
    assert off.max() == 1
    for value, divisor in zip(x[:50], two[:50], strict=True):
        for convention in ("ct", "kernel"):
            got = nvfp4.tensor_scale(value, convention=convention, source="float32")
            assert got == divisor


@pytest.mark.parametrize(
    ("convention", "zero", "small"),
    [
        ("modelopt", 0x38, 0x01),
        ("ct", 0x20, 0x20),
        ("torchao", 0x08, 0x08),
        ("te", 0x00, 0x00),
        ("kernel", 0x00, 0x00),
        ("kernel_flashinfer", 0x00, 0x00),
        ("kernel_flashinfer_exact", 0x00, 0x00),
        ("kernel_vllm", 0x00, 0x00),
        ("vllm_ref", 0x00, 0x00),
    ],
)
def test_a_block_of_zeros_and_one_too_small_for_a_scale(
    convention: str, zero: int, small: int
) -> None:
    # block 1 is zero; block 2 has scale amax/6 * 448/amax_t*6 = 448e-7, under half of 2^-9
    x = row((0, 1.0), (32, 2.0**-23), (33, -(2.0**-24)), K=48)
    q = encode(x, convention)
    assert q.scales[0].tolist() == [0x7E, zero, small]
    assert codes(q)[0][16:32] == [0] * 16
    wild = {
        "te": [7, 15, 0],
        "kernel_flashinfer": [7, 15, 7],
        "kernel_flashinfer_exact": [7, 15, 0],
    }
    minus = 8  # all of them keep the sign of a value that becomes zero
    assert codes(q)[0][32:35] == wild.get(convention, [0, minus, 0])
    if small == 0:  # however wild the codes, a zero scale reads as zeros
        assert not nvfp4.decode(q)[0, 16:].any()


def under(x: np.ndarray, S: float, convention: str) -> tuple[int, int]:
    """First scale byte and first code under a given divisor."""
    q = nvfp4.encode_with(x, np.float32(S), convention=convention, source="bfloat16")
    return int(q.scales[0, 0]), codes(q)[0][0]


def test_fast_math_flushes_subnormals() -> None:
    # amax / 6 is subnormal: a scale of zero in a -use_fast_math build, and 2^-1 / 6 elsewhere
    x = row((0, 2.0**-126), K=16)
    assert under(x, 2.0**125, "kernel") == (0x1B, 7)
    assert under(x, 2.0**125, "kernel_flashinfer") == (0x00, 7)  # times infinity
    assert under(x, 2.0**125, "kernel_vllm")[0] == 0x1B  # only its reciprocals flush


def test_a_loud_block_under_a_scale_of_zero() -> None:
    x = row((0, 4.0), K=16)
    assert under(x, 2.0**-12, "vllm_ref") == (0x00, 0)  # times 1e-8
    assert under(x, 2.0**-12, "kernel_vllm") == (0x00, 0)
    assert under(x, 2.0**-12, "kernel_flashinfer") == (0x00, 7)


def test_signed_zeros() -> None:
    x = row((0, 1.0), (1, -0.0), (2, -1e-6), K=16)
    for convention in ROWWISE:
        kept = NVFP4[convention].element.zero_sign == "kept"
        assert codes(encode(x, convention, "float32"))[0][1:3] == [8 if kept else 0, 8], convention
    assert {c for c in ROWWISE if NVFP4[c].element.zero_sign == "kept"} == {
        *(c for c in KERNELS if c != "vllm_ref"),
        "torchao",
        "torchao_one_level",
    }


def test_a_tensor_of_zeros_as_the_libraries_have_it() -> None:
    x = np.zeros((1, 16), np.float32)
    for convention, byte, code in (("modelopt", 0x7F, 7), ("ct", 0x20, 0), ("te", 0x00, 0)):
        q = encode(x, convention)
        # the sign of 0/0 is the platform's: 0x7f or 0xff
        assert (q.scales[0, 0] & 0x7F, set(codes(q)[0])) == (byte, {code})
    assert encode(x, "modelopt").tensor_scale == 0
    assert encode(x, "ct").tensor_scale == 1
    torchao = encode(x, "torchao")
    assert (torchao.scales[0, 0] & 0x7F, torchao.tensor_scale) == (0x7F, 0)
    assert {code & 7 for code in codes(torchao)[0]} == {4}  # 12 where 0/0 is negative


def test_a_tensor_of_zeros_is_refused_or_written_as_zeros() -> None:
    x = np.zeros((2, 32), np.float32)
    for convention in ROWWISE:
        with pytest.raises(TinymoeError, match="zero_tensor"):
            nvfp4.encode(x, convention=convention, source="float32", zero_tensor="refuse")
        q = nvfp4.encode(x, convention=convention, source="float32", zero_tensor="zeros")
        assert not q.codes.any()
        assert not q.scales.any()
        assert q.tensor_scale in (None, 1)
        assert not nvfp4.decode(q).any()


def test_a_tiny_tensor() -> None:
    x = row((0, 1e-38), K=16)
    got = {
        name: (int(q.scales[0, 0]), codes(q)[0][0])
        for name in ("modelopt", "ct", "torchao", "te")
        for q in [encode(x, name, "float32")]
    }
    assert got == {"modelopt": (0x7E, 7), "ct": (0x20, 0), "torchao": (0x7E, 7), "te": (0x31, 5)}
    assert encode(x, "ct", "float32").tensor_scale == 1  # 2688/amax overflows: all is lost


def test_torchao_never_uses_subnormal_scales() -> None:
    x = row((0, 1.0), (16, 2.0**-16))
    assert encode(x, "modelopt").scales[0, 1] < 0x08
    assert encode(x, "torchao").scales[0, 1] == 0x08


def test_torchao_one_level() -> None:
    q = encode(row((0, 12.0), (1, 1.0), (16, 0.01)), "torchao_one_level", "float32")
    assert q.scales.tolist() == [[0x40, 0x08]]  # 2.0; 0.01/6 lifted to the smallest normal
    assert codes(q)[0][:2] == [7, 1]
    assert q.tensor_scale is None
    assert nvfp4.decode(q)[0, :2].tolist() == [12, 1]


def test_te_2d_shares_a_scale_over_16_rows() -> None:
    x = random((32, 32), 7, "bfloat16")
    q = encode(x, "te_2d")
    assert q.block == (16, 16)
    assert all(len(set(q.scales[i : i + 16, j])) == 1 for i in (0, 16) for j in (0, 1))
    tile = np.abs(x[16:, :16]).max()
    one = nvfp4.encode_with(
        row((0, tile), K=16), q.tensor_scale, convention="te", source="bfloat16"
    )
    assert q.scales[16, 0] == one.scales[0, 0]
    with pytest.raises(TinymoeError, match="multiples of 16"):
        encode(x[:20], "te_2d")


def test_bad_input_is_named() -> None:
    x = row((0, 1.0))
    with pytest.raises(TinymoeError, match="expected one of modelopt, ct.*got 'nvidia'"):
        encode(x, "nvidia")
    with pytest.raises(TinymoeError, match="blocks of 16.*pad K"):
        encode(x[:, :20], "modelopt")
    with pytest.raises(TinymoeError, match="expected finite values, got 1 NaN"):
        encode(row((0, np.nan)), "modelopt")
    with pytest.raises(TinymoeError, match="expected BF16 values"):
        encode(row((0, 0.1)), "ct")
    with pytest.raises(TinymoeError, match="got float64"):
        encode(x.astype(np.float64), "ct")
    with pytest.raises(TinymoeError, match="expected multiplier for 'modelopt', got None"):
        nvfp4.encode_with(x, None, convention="modelopt", source="float32")
