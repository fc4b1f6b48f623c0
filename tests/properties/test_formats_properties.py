"""Number formats on drawn inputs: round trips, errors within half a step, twins, layouts, sums.

Magnitudes are drawn over many powers of two and the shapes are odd, because random normal
matrices of round sizes hide what breaks: flashinfer#2732 (a kernel wrong on real weights, never on
random ones), flashinfer#3398 and #4741 (some row counts, one tile size).
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinymoe.formats import bf16, e2m1, e4m3, e8m0, fp8, gemm, ggml, mxfp4, nvfp4, scale_layout
from tinymoe.formats.conventions import MXFP4, NVFP4
from tinymoe.formats.e2m1 import RULES
from tinymoe.formats.exact import rounded

pytestmark = pytest.mark.properties
U = 2.0**-24

floats = st.floats(width=32, allow_nan=False)
rowwise = st.sampled_from([name for name in NVFP4 if name != "te_2d"])


@st.composite
def matrices(draw: st.DrawFn, block: int, *, most: int = 12) -> np.ndarray:
    """(N, K) of BF16 values: each block as loud as it likes, some of zeros, one value non-zero."""
    rows, blocks = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    loudness = np.exp2(rng.integers(-most, 1, (rows, blocks, 1))).astype(np.float32)
    loudness *= rng.random(loudness.shape) > 0.1
    x = rng.standard_normal((rows, blocks, block)).astype(np.float32) * loudness
    x[0, 0, 0] = draw(st.sampled_from([1.0, -1.5, 6.0, 0.01]))
    return bf16.round_to_bf16(x.reshape(rows, -1))


@given(floats, st.sampled_from(sorted(RULES)))
def test_e2m1_is_the_search(value: float, name: str) -> None:
    got = e2m1.encode(np.array([max(-1e30, min(1e30, value))], np.float32), RULES[name])
    assert got[0] == e2m1.encode_naive(max(-1e30, min(1e30, value)), RULES[name])


@given(st.floats(-500, 500, width=32), st.sampled_from(["saturate", "nan"]))
def test_e4m3_is_the_search(value: float, overflow: str) -> None:
    got = e4m3.encode(np.array([value], np.float32), overflow=overflow, nan_sign="kept")
    assert got[0] == e4m3.encode_naive(value, overflow=overflow)


@given(st.floats(2.0**-126, 2.0**127, width=32), st.sampled_from(["down", "up", "half_up"]))
def test_e8m0_is_the_search(value: float, rounding: str) -> None:
    got = e8m0.encode(np.array([value], np.float32), rounding=rounding, overflow="nan")
    assert got[0] == e8m0.encode_naive(value, rounding=rounding)


@given(st.floats(-(2.0**100), 2.0**100, width=32))
def test_bf16_is_the_rational_rounding(value: float) -> None:
    got = float(bf16.round_to_bf16(np.array([value], np.float32))[0])
    assert Fraction(got) == rounded(Fraction(value), bits=8, smallest=-133)


@given(st.lists(st.integers(0, 15), min_size=2, max_size=40).filter(lambda c: len(c) % 2 == 0))
def test_nibbles_round_trip(codes: list[int]) -> None:
    packed = e2m1.pack(np.array(codes, np.uint8))
    assert e2m1.unpack(packed).tolist() == codes
    assert packed.tolist() == [a + 16 * b for a, b in zip(codes[::2], codes[1::2], strict=True)]


@given(st.integers(1, 300), st.integers(1, 20), st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_scale_layouts_round_trip(rows: int, columns: int, seed: int) -> None:
    scales = np.random.default_rng(seed).integers(0, 256, (rows, columns), np.uint8)
    for name in ("128x4", "8x4"):
        flat = getattr(scale_layout, f"swizzle_{name}")(scales)
        m, k = rows - 1, columns - 1
        assert flat[getattr(scale_layout, f"offset_{name}")(m, k, columns)] == scales[m, k]
        back = getattr(scale_layout, f"unswizzle_{name}")(flat, rows, columns)
        assert np.array_equal(back, scales)


@given(matrices(16), rowwise)
@settings(max_examples=80)
def test_nvfp4_is_within_half_a_step(x: np.ndarray, convention: str) -> None:
    """Half a step of E2M1 is 1 at most, and 1 of 6: |x - q| <= scale, plus what the scale lacks.

    A scale rounded down to E4M3 leaves amax above 6 * scale, by 2^-4 of it at most: no more than
    half a step again. Blocks whose scale is at a floor, or lost, are judged by that floor instead.
    """
    q = nvfp4.encode(x, convention=convention, source="bfloat16", zero_tensor="refuse")
    values = nvfp4.decode(q)
    assert values.shape == x.shape
    blocks, got = x.reshape(*q.scales.shape, 16), values.reshape(*q.scales.shape, 16)
    ones = nvfp4.decode(
        nvfp4.QuantTensor(
            format="nvfp4",
            convention=convention,
            codes=np.full_like(q.codes, 0x22),
            scales=q.scales,
            block=q.block,
            tensor_scale=q.tensor_scale,
            tensor_scale_is=q.tensor_scale_is,
        )
    ).reshape(blocks.shape)
    peak = np.abs(x).max()
    lost = np.maximum(np.abs(blocks).max(-1, keepdims=True) - 6 * ones, 0)
    step = ones + np.float32(peak * 2.0**-15)  # a scale below 2^-10 of 448 may be lost
    assert (np.abs(got - blocks) <= (step + lost) * 1.001).all()
    assert (np.sign(got) * np.sign(blocks) >= 0).all()


@given(matrices(16), rowwise)
@settings(max_examples=40)
def test_nvfp4_decoded_values_are_codes_times_scales(x: np.ndarray, convention: str) -> None:
    # the decoders differ in association alone: two or three roundings from the rational product
    q = nvfp4.encode(x, convention=convention, source="bfloat16", zero_tensor="refuse")
    v = e2m1.decode(e2m1.unpack(q.codes), code_8="+0").astype(np.float64)
    s = e4m3.decode(q.scales).astype(np.float64).repeat(16, axis=-1)
    t = 1.0 if q.tensor_scale is None else float(q.tensor_scale)
    factor = {"multiplier": t, "divisor": 1 / t, "amax": t / 2688, "none": 1.0}[q.tensor_scale_is]
    wanted = v * s * factor
    assert (np.abs(nvfp4.decode(q) - wanted) <= 4 * U * np.abs(wanted)).all()


@given(matrices(32, most=30), st.sampled_from(sorted(MXFP4)))
@settings(max_examples=60)
def test_mxfp4_twice_is_once(x: np.ndarray, convention: str) -> None:
    # what MXFP4 can say, MXFP4 says: decoded values encode to themselves where nothing clips again
    once = mxfp4.decode(mxfp4.encode(x, convention=convention))
    again = mxfp4.decode(mxfp4.encode(once, convention=convention))
    if convention != "triton_round_down":  # clips, and a clipped maximum may lower the exponent
        assert np.array_equal(once, again)
    assert (np.abs(once) <= np.float32(4 / 3) * np.abs(x).max()).all()


@given(matrices(64))
@settings(max_examples=30)
def test_gguf_blocks_hold_a_checkpoints_values(x: np.ndarray) -> None:
    q = nvfp4.encode(x, convention="modelopt", source="bfloat16", zero_tensor="refuse")
    rows, scale = ggml.from_nvfp4(q)
    assert np.array_equal(ggml.decode_nvfp4(rows) * scale, nvfp4.decode(q, association="left"))


@given(st.integers(1, 140), st.integers(1, 140), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_fp8_blocks_are_those_of_their_corner(rows: int, columns: int, seed: int) -> None:
    # a ragged last block has its own scale; those before do not change when it is cut off
    w = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    w[0, 0] = 9.0
    for granularity in ("block", "group"):
        kwargs = {"convention": "div32", "source": "float32", "power_of_two": "no"}
        q = fp8.encode(w, granularity=granularity, **kwargs)
        cut = fp8.encode(w[:128, :128], granularity=granularity, **kwargs)
        assert np.array_equal(q.codes[:128, :128], cut.codes)
        # E4M3: 2^-4 of a normal value, 2^-10 steps of the scale below; 1 rounding each for the
        # quotient and the product
        step = np.abs(w) * (2.0**-4 + 2 * U) + 9 / 448 * 2.0**-10
        assert (np.abs(fp8.decode(q) - w) <= step).all()


@st.composite
def pairs(draw: st.DrawFn) -> tuple[nvfp4.QuantTensor, nvfp4.QuantTensor]:
    """Raw codes and scale bytes, any that tensor cores take: more than a quantiser would write."""
    M, N, blocks = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 24))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return tuple(
        nvfp4.QuantTensor(
            format="nvfp4",
            convention="modelopt",
            codes=rng.integers(0, 256, (rows, blocks * 8), np.uint8),
            scales=rng.integers(0, 0x7F, (rows, blocks), np.uint8),
            block=(1, 16),
            tensor_scale=np.float32(draw(st.floats(2.0**-30, 1, width=32))),
            tensor_scale_is="multiplier",
        )
        for rows in (M, N)
    )


@given(pairs())
@settings(max_examples=40)
def test_fp4_product_is_exact_and_its_float32_form_within_the_bound(pair) -> None:
    x, w = pair
    exact = gemm.exact(x, w)
    m, n = exact.integers.shape[0] - 1, 0
    value = Fraction(int(exact.integers[m, n])) * Fraction(2) ** exact.exponent
    assert value == gemm.exact_naive(x, w, m, n)
    D, factor = gemm.emulated(x, w), gemm.alpha(x, w)
    for output in ("float32", "bfloat16"):
        y = gemm.epilogue(D, factor, placement="float32", output=output, bias=None)
        away = np.abs(y - float(factor) * exact.as_float64())
        assert (away <= gemm.bound(x, w, unit_roundoff=U, output=output)).all()
