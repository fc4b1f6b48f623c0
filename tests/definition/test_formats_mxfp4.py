"""MXFP4: five exponent rules, three tie rules, and what each library does at the edges."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from tinymoe.core import QuantTensor, TinymoeError
from tinymoe.formats import bf16, e2m1, e8m0, mxfp4, nvfp4
from tinymoe.formats.conventions import MXFP4
from tinymoe.formats.e2m1 import RULES

pytestmark = pytest.mark.definition

AMAX = [1, 1.5, 1.75, 3, 3.2, 3.5, 4, 6, 6.5, 7, 8]
TABLE = {
    "floor": [125, 125, 125, 126, 126, 126, 127, 127, 127, 127, 128],
    "even": [125, 125, 126, 126, 126, 127, 127, 127, 127, 128, 128],
    "rceil": [125, 125, 126, 126, 127, 127, 127, 127, 128, 128, 128],
    "ceil": [125, 126, 126, 127, 127, 127, 127, 128, 128, 128, 128],
    "floor6": [124, 125, 125, 126, 126, 126, 126, 127, 127, 127, 127],
}
SAME = {"floor_log2": "floor", "rceil_log2": "rceil", "rceil_rcp": "rceil"}
ABOVE = np.float32(6.0000005 * 2**20)  # the float32 just above 6 * 2^20


def row(*values: float, K: int = 32) -> np.ndarray:
    x = np.zeros((1, K), np.float32)
    x[0, : len(values)] = values
    return x


def random(shape: tuple[int, int], seed: int) -> np.ndarray:
    return bf16.round_to_bf16(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def codes(q: QuantTensor) -> list[int]:
    return e2m1.unpack(q.codes)[0].tolist()


@pytest.mark.parametrize("rule", [*TABLE, *SAME])
def test_the_table_of_exponents(rule: str) -> None:
    got = mxfp4.block_scales(np.array(AMAX, np.float32), exponent=rule)
    assert got.tolist() == TABLE[SAME.get(rule, rule)]


@pytest.mark.parametrize("rule", TABLE)
def test_exponents_against_powers_tried_one_by_one(rule: str) -> None:
    # every BF16 fraction at a few exponents, the range's ends included, and neighbours of edges
    values = bf16.decode(
        np.concatenate([np.arange(128) + (e << 7) for e in (3, 126, 127, 254)]).astype(np.uint16)
    )
    edges = np.array([1.75, 1, 1.5, 6, 7.5 / 1.25], np.float32)
    near = [np.nextafter(edges, np.float32(to)) for to in (0, 9)]
    x = np.concatenate([values, *near]).astype(np.float32)
    got = mxfp4.block_scales(x, exponent=rule)
    assert got.tolist() == [mxfp4.block_scale_naive(float(a), exponent=rule) for a in x]


def test_log2_misses_the_ceil_just_above_a_power_of_two() -> None:
    # ModelOpt and torchao RCEIL against triton_kernels, DeepGEMM, FlashInfer
    got = {
        name: int(mxfp4.encode(row(ABOVE), convention=name).scales[0, 0])
        for name in ("modelopt", "torchao_rceil", "gpt_oss", "deepgemm", "flashinfer")
    }
    assert got == {
        "modelopt": 147,
        "torchao_rceil": 147,
        "gpt_oss": 148,
        "deepgemm": 148,
        "flashinfer": 148,
    }
    assert codes(mxfp4.encode(row(ABOVE), convention="modelopt"))[0] == 7  # saturated


def test_floor_and_rceil_differ_on_two_blocks_in_five() -> None:
    # they differ where amax is in (1.5, 2) of a power of two: 1 - log2(1.5) = 0.415 of blocks whose
    # loudness is spread evenly in its logarithm; 8192 blocks, standard deviation 0.0055
    rng = np.random.default_rng(2)
    x = rng.standard_normal((8192, 32)).astype(np.float32)
    x *= np.exp2(rng.random((8192, 1))).astype(np.float32)
    floor, rceil = (mxfp4.encode(x, convention=name).scales for name in ("ocp_floor", "gpt_oss"))
    assert abs(np.mean(floor != rceil) - 0.415) < 5 * 0.0055


def test_a_reciprocal_of_six_one_step_high_raises_one_exponent() -> None:
    # FlashInfer relies on amax * rcp(6) giving exactly 2^k for amax = 6 * 2^k
    sixth, six = np.float32(1) / np.float32(6), np.array([6], np.float32)
    moved = [np.nextafter(sixth, np.float32(to)) for to in (0, 1)]
    got = [e8m0.encode(six * r, rounding="up", overflow="saturate")[0] for r in (sixth, *moved)]
    assert got == [127, 127, 128]
    assert mxfp4.encode(row(6.0), convention="flashinfer").scales[0, 0] == 127


@pytest.mark.parametrize(
    ("convention", "byte", "code"),
    [(name, 0, 0) for name in MXFP4 if name not in ("modelopt", "deepgemm")]
    + [("modelopt", 0, 8), ("deepgemm", 112, 0)],
)
def test_a_block_of_zeros(convention: str, byte: int, code: int) -> None:
    q = mxfp4.encode(row(), convention=convention)
    assert q.scales.tolist() == [[byte]]
    assert codes(q) == [code] * 32
    assert not mxfp4.decode(q).any()
    if convention == "modelopt":
        assert set(q.codes.ravel().tolist()) == {0x88}  # fatal to a byte compare, else harmless


@pytest.mark.parametrize(
    ("convention", "expected"),
    [
        # halves of 0.5, 1.5 and 3.5 steps: even, toward zero, away; amax 4 has byte 127 in each
        ("ocp_floor", [6, 0, 2, 6, 8, 10]),
        ("torchao_floor", [6, 0, 2, 6, 8, 10]),
        ("ct", [6, 0, 2, 6, 8, 10]),
        ("vllm", [6, 0, 2, 6, 8, 10]),
        ("modelopt", [6, 0, 1, 5, 8, 9]),
        ("deepgemm", [6, 0, 1, 5, 0, 9]),
        ("gpt_oss", [6, 1, 2, 6, 9, 10]),
    ],
)
def test_ties(convention: str, expected: list[int]) -> None:
    q = mxfp4.encode(row(4, 0.25, 0.75, 3.5, -0.25, -0.75), convention=convention)
    assert q.scales.tolist() == [[127]]
    assert codes(q)[:6] == expected


def test_floor_clips_and_rceil_does_not() -> None:
    x = row(7.0, 1.0)
    assert mxfp4.decode(mxfp4.encode(x, convention="ocp_floor"))[0, :2].tolist() == [6, 1]
    assert mxfp4.decode(mxfp4.encode(x, convention="gpt_oss"))[0, :2].tolist() == [8, 1]


def test_the_rules_order_by_error_on_normal_data() -> None:
    # floor and rceil are 1 % apart: half a million values tell them
    x = np.random.default_rng(0).standard_normal((512, 1024)).astype(np.float32)
    errors = []
    for rule in ("even", "floor", "rceil", "ceil", "floor6"):
        c, s = mxfp4.encode_by_rule(x, exponent=rule, scaling="divide", element=RULES["cuda"])
        q = e2m1.decode(c, code_8="-0").reshape(512, -1, 32)
        q = q * e8m0.decode(s, reading="nan")[..., None]
        errors.append(float(np.mean((q.reshape(x.shape) - x).astype(np.float64) ** 2)))
    assert errors == sorted(errors)


def test_ends_of_the_range() -> None:
    tiny = row(2.0**-126, 2.0**-127)
    assert codes(mxfp4.encode(tiny, convention="vllm"))[:2] == [0, 0]  # byte 0: r is 0
    assert codes(mxfp4.encode(tiny, convention="gpt_oss"))[:2] == [2, 1]  # amax/6 is subnormal
    assert codes(mxfp4.encode(tiny, convention="ct"))[:2] == [4, 2]  # byte 0 is 2^-127
    assert codes(mxfp4.encode(tiny, convention="torchao_floor"))[:2] == [2, 1]  # divisor 2^-126
    huge = mxfp4.encode(row(1.75 * 2.0**127), convention="ct")
    assert huge.scales.tolist() == [[127]]  # infinity cast to a byte
    assert mxfp4.encode(row(1e-30), convention="deepgemm").scales.tolist() == [[112]]
    assert mxfp4.encode(row(3e38), convention="deepgemm").scales.tolist() == [[253]]


def test_ct_rounds_amax_by_bf16_bits_to_the_same_byte() -> None:
    every = np.arange(0x0080, 0x7F60, dtype=np.uint16)  # positive normal BF16 below 1.75 * 2^127
    in_bf16 = np.maximum(((every.astype(np.int64) + (1 << 5)) >> 7) - 2, 0)
    got = mxfp4.block_scales(bf16.decode(every), exponent="even")
    assert np.array_equal(got, in_bf16)


@pytest.mark.parametrize("name", MXFP4)
def test_encoding_by_search(name: str) -> None:
    # in the middle of the range a power of two divides exactly: codes are those of the search
    x, rule = random((2, 64), 5), MXFP4[name].element
    q = mxfp4.encode(x, convention=name)
    got = e2m1.unpack(q.codes)
    for (i, j), value in np.ndenumerate(x):
        scale = Fraction(2) ** (int(q.scales[i, j // 32]) - 127)
        assert got[i, j] == e2m1.encode_naive(float(Fraction(float(value)) / scale), rule)


def test_gpt_oss_blocks() -> None:
    # w[e, n, 32*g + j] = E2M1[nibble j of blocks[e, n, g]] * 2^(scales[e, n, g] - 127)
    rng = np.random.default_rng(7)
    blocks = rng.integers(0, 256, (2, 3, 2, 16), np.uint8)
    scales = rng.integers(110, 140, (2, 3, 2), np.uint8)
    w = mxfp4.decode_gpt_oss(blocks, scales)
    assert w.shape == (2, 3, 64)
    values = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
    for e, n, k in np.ndindex(*w.shape):
        byte = int(blocks[e, n, k // 32, k % 32 // 2])
        nibble = byte >> 4 if k % 2 else byte & 15
        assert w[e, n, k] == values[nibble] * 2.0 ** (int(scales[e, n, k // 32]) - 127)


@pytest.mark.parametrize("name", MXFP4)
def test_every_byte_under_every_scale(name: str) -> None:
    # in float64 all products are exact; float32 holds them, or overflows
    row = MXFP4[name]
    packed = np.tile(np.arange(256, dtype=np.uint8), (256, 1))  # 16 blocks under each scale
    scales = np.tile(np.arange(256, dtype=np.uint8)[:, None], (1, 16))
    powers = 2.0 ** (np.arange(256) - 127)
    powers[255] = {"nan": np.nan, "inf": np.inf, "shift": np.inf, "ldexp": 2.0**128}[row.reading]
    powers[0] *= row.reading != "shift"
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(256, -1)
    with np.errstate(all="ignore"):
        wanted = (e2m1.decode(codes, code_8=row.code_8) * powers[:, None]).astype(np.float32)
    got = mxfp4.decode_by_rule(packed, scales, row=row)
    assert np.array_equal(got, wanted, equal_nan=True)
    assert np.array_equal(np.signbit(got[got == got]), np.signbit(wanted[got == got]))


def test_scale_255_is_read_four_ways() -> None:
    q = mxfp4.encode(row(0.5, 1.0), convention="ocp_floor")
    q = replace(q, codes=e2m1.pack(np.array([[1, 2] + [0] * 30], np.uint8)))
    q = replace(q, scales=np.array([[255]], np.uint8))

    def read(name: str) -> list[float]:
        return mxfp4.decode(replace(q, convention=name))[0, :2].tolist()

    assert np.isnan(read("ocp_floor")).all()
    assert read("modelopt") == [np.inf, np.inf]
    assert read("gpt_oss") == [2.0**127, np.inf]  # ldexp
    assert read("triton_round_up") == [np.inf, np.inf]
    low = replace(q, scales=np.array([[0]], np.uint8))
    assert mxfp4.decode(replace(low, convention="triton_round_up"))[0, 1] == 0  # b << 23
    assert mxfp4.decode(replace(low, convention="gpt_oss"))[0, 1] == 2.0**-127


def test_microxcaling_is_floor_with_ties_away() -> None:
    x = row(4, 0.25, 0.75, 3.5, np.nextafter(np.float32(0.25), np.float32(0)))
    got = mxfp4.round_microxcaling(x, ties="away")[0, :5].tolist()
    assert got == [4, 0.5, 1, 4, 0.5]  # the last one is below the tie
    assert mxfp4.round_microxcaling(x, ties="even")[0, :5].tolist() == [4, 0, 1, 4, 0.5]


def test_mxfp4_to_nvfp4_loses_nothing() -> None:
    x = random((3, 128), 11) * np.exp2(np.arange(3) * -4, dtype=np.float32)[:, None]
    q = mxfp4.encode(x, convention="ocp_floor")
    converted = mxfp4.to_nvfp4(q)
    assert np.array_equal(converted.codes, q.codes)
    assert np.array_equal(nvfp4.decode(converted), mxfp4.decode(q))
    span = replace(q, scales=np.resize(np.array([100, 117], np.uint8), q.scales.shape))
    assert np.array_equal(nvfp4.decode(mxfp4.to_nvfp4(span)), mxfp4.decode(span))
    wide = replace(q, scales=np.resize(np.array([100, 118], np.uint8), q.scales.shape))
    with pytest.raises(TinymoeError, match="span up to 17"):
        mxfp4.to_nvfp4(wide)


def test_bad_input_is_named() -> None:
    with pytest.raises(TinymoeError, match="blocks of 32"):
        mxfp4.encode(row(K=48), convention="ct")
    with pytest.raises(TinymoeError, match="decode_gpt_oss"):
        mxfp4.decode_by_rule(
            np.zeros((2, 32), np.uint8), np.zeros((2, 3), np.uint8), row=MXFP4["ct"]
        )
    with pytest.raises(TinymoeError, match=r"expected \(E, N, K/32, 16\)"):
        mxfp4.decode_gpt_oss(np.zeros((2, 3, 8), np.uint8), np.zeros((2, 3), np.uint8))
