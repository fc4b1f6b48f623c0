"""The FP4 product: integers against rationals, float32 sums inside the derived bound, mutants out.

Suites with `atol 0.1` accept swapped nibbles, a lost scale, even zeros. The bound here is derived,
and each mutant below (vllm#50084's wrong swizzle, modular#6600's wrong direction, vllm#54974's
wrong half) must break it.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from tinymoe.core import QuantTensor, TinymoeError
from tinymoe.formats import activations, bf16, e2m1, fp8, gemm, mxfp4, nvfp4

pytestmark = pytest.mark.definition

U = gemm.UNIT_FLOAT32


def random(shape: tuple[int, int], seed: int) -> np.ndarray:
    return bf16.round_to_bf16(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def loudness(blocks: int, quiet: int) -> np.ndarray:
    """Powers of two from 1 down to 2^-quiet, shuffled: sums of equally loud blocks are exact."""
    powers = np.linspace(-quiet, 0, blocks).round().astype(np.float32)
    return np.exp2(np.random.default_rng(6).permutation(powers))


def nvfp4_pair(
    M: int = 5, N: int = 7, K: int = 256, *, convention: str = "modelopt", quiet: int = 0
):
    """Activations by a kernel under a calibrated scale, weights by an exporter."""
    x, w = random((M, K), 1), random((N, K), 2) * np.float32(2.0**-6)
    x = x * loudness(K // 16, quiet).repeat(16)
    meaning = "divisor" if convention == "ct" else "multiplier"
    scale = nvfp4.tensor_scale(np.abs(x).max(), convention=convention, source="bfloat16")
    q = activations.quantize_nvfp4(
        x, scale, meaning=meaning, convention="kernel", source="bfloat16"
    )
    kwargs = {"convention": convention, "source": "bfloat16", "zero_tensor": "refuse"}
    return q, nvfp4.encode(w, **kwargs)


def mxfp4_pair(M: int = 5, N: int = 7, K: int = 256, *, quiet: int = 0):
    x, w = random((M, K), 3), random((N, K), 4)
    x = x * loudness(K // 32, quiet).repeat(32)
    return mxfp4.encode(x, convention="vllm"), mxfp4.encode(w, convention="gpt_oss")


def y_of(D: np.ndarray, x: QuantTensor, w: QuantTensor, output: str = "float32") -> np.ndarray:
    return gemm.epilogue(D, gemm.alpha(x, w), placement="float32", output=output, bias=None)


def error(y: np.ndarray, x: QuantTensor, w: QuantTensor) -> np.ndarray:
    return np.abs(y - float(gemm.alpha(x, w)) * gemm.exact(x, w).as_float64())


@pytest.mark.parametrize(
    "pair", [nvfp4_pair(), nvfp4_pair(convention="ct"), mxfp4_pair(), mxfp4_pair(quiet=70)]
)
def test_integers_against_rationals(pair) -> None:
    x, w = pair
    integers, exponent = gemm.exact(x, w)
    for m, n in np.ndindex(*integers.shape):
        value = Fraction(int(integers[m, n])) * Fraction(2) ** exponent
        assert value == gemm.exact_naive(x, w, m, n)


def test_integers_of_three_widths() -> None:
    # float64 where every partial sum fits in 53 bits, int64 up to 63, Python integers beyond
    assert gemm.exact(*nvfp4_pair(K=256)).integers.dtype == np.int64
    wide = gemm.exact(*nvfp4_pair(1, 1, K=2**14))
    assert wide.integers.dtype == np.int64
    assert wide.exponent == -20
    assert gemm.exact(*mxfp4_pair(quiet=70)).integers.dtype == object


def test_the_largest_product_is_exact_to_its_last_unit() -> None:
    # codes 6 and scales 448 throughout, but for one smallest term: a sum of 57 bits that ends in 1,
    # which neither float64 nor a sum by blocks in float32 can hold
    K = 2**14
    codes, scales = np.full((1, K), 7, np.uint8), np.full((1, K // 16), 0x7E, np.uint8)
    codes[0, :16], scales[0, 0] = [1] + [0] * 15, 0x01
    q = QuantTensor(
        format="nvfp4",
        convention="modelopt",
        codes=e2m1.pack(codes),
        scales=scales,
        block=(1, 16),
        tensor_scale=np.float32(1),
        tensor_scale_is="multiplier",
    )
    assert gemm.exact(q, q).exponent == -20
    assert int(gemm.exact(q, q).integers[0, 0]) == (K - 16) * (12 * 448 * 512) ** 2 + 1


def test_the_bound_is_the_derived_formula() -> None:
    x, w = nvfp4_pair(K=1024, quiet=12)
    partial = np.abs(_terms(x, w).astype(np.float64)).sum(0)
    for u in (U, 2.0**-20):
        formula = (1024 / 16 + 2) * u * float(gemm.alpha(x, w)) * partial
        got = gemm.bound(x, w, unit_roundoff=u, output="float32")
        # 2^-144 and more are the terms for subnormal results; float64 adds 64 terms
        assert np.allclose(got, formula, rtol=64 * 2.0**-53, atol=0)


@pytest.mark.parametrize("pair", [nvfp4_pair(K=1024, quiet=12), mxfp4_pair(K=1024, quiet=30)])
@pytest.mark.parametrize("output", ["float32", "bfloat16"])
def test_float32_sums_in_any_order_are_inside_the_bound(pair, output: str) -> None:
    x, w = pair
    bound = gemm.bound(x, w, unit_roundoff=U, output=output)
    orders = [gemm.emulated(x, w), gemm.emulated(_reversed(x), _reversed(w))]
    terms = _terms(x, w)
    orders.append(np.add.reduce(terms.reshape(4, -1, *terms.shape[1:]), axis=1).sum(0))  # split K
    for D in orders:
        y = y_of(D.astype(np.float32), x, w, output)
        assert (error(y, x, w) <= bound).all()
    assert gemm.measured_roundoff(y_of(orders[0], x, w), x, w) <= U
    assert not np.array_equal(orders[0], orders[1])  # the orders do differ


def _terms(x: QuantTensor, w: QuantTensor) -> np.ndarray:
    """Each block's term (K/B, M, N) by a product of its own."""
    size, D = x.block[1], []
    for k in range(x.scales.shape[-1]):
        part = [
            replace(
                q,
                codes=q.codes[:, k * size // 2 : (k + 1) * size // 2],
                scales=q.scales[:, k : k + 1],
            )
            for q in (x, w)
        ]
        D.append(gemm.exact(*part).as_float64().astype(np.float32))
        assert np.array_equal(D[-1], gemm.exact(*part).as_float64())  # exact in float32
    return np.array(D)


def _reversed(q: QuantTensor) -> QuantTensor:
    codes = e2m1.unpack(q.codes)[:, ::-1]
    return replace(q, codes=e2m1.pack(codes), scales=q.scales[:, ::-1])


def test_a_14_bit_accumulator_needs_its_own_constant() -> None:
    x, w = nvfp4_pair(K=1024)
    D = np.zeros((5, 7), np.float32)
    for term in _terms(x, w):
        mantissa, exponent = np.frexp(D + term)
        D = np.ldexp(np.rint(np.ldexp(mantissa, 14)), exponent - 14).astype(np.float32)
    y = y_of(D, x, w)
    wide = gemm.bound(x, w, unit_roundoff=gemm.UNIT_14_BIT, output="float32")
    assert (error(y, x, w) <= wide).all()
    assert (error(y, x, w) > gemm.bound(x, w, unit_roundoff=U, output="float32")).any()
    assert U < gemm.measured_roundoff(y, x, w) <= gemm.UNIT_14_BIT


MUTANTS = {
    "nibbles swapped": lambda q: replace(q, codes=(q.codes >> 4) | (q.codes << 4)),
    "scales shifted by one block": lambda q: replace(q, scales=np.roll(q.scales, 1, axis=1)),
    "scales of another row": lambda q: replace(q, scales=np.roll(q.scales, 1, axis=0)),
    "one scale zeroed": lambda q: replace(q, scales=_changed(q.scales, 0)),
    "one scale one step up": lambda q: replace(q, scales=_changed(q.scales, q.scales[0, 0] + 1)),
    "one code one step": lambda q: replace(q, codes=_changed(q.codes, q.codes[0, 0] ^ 1)),
}


def _changed(array: np.ndarray, value: int) -> np.ndarray:
    copy = array.copy()
    copy[0, 0] = value
    return copy


@pytest.mark.parametrize("output", ["float32", "bfloat16"])
@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_break_the_bound(mutant: str, output: str) -> None:
    x, w = nvfp4_pair(4, 6)
    y = y_of(gemm.emulated(x, MUTANTS[mutant](w)), x, w, output)
    assert (error(y, x, w) > gemm.bound(x, w, unit_roundoff=U, output=output)).any()


def test_dequantising_to_bf16_first_is_not_the_product() -> None:
    # vLLM's run_nvfp4_emulations: each operand rounded to BF16 because g is no power of two
    x, w = nvfp4_pair(K=512)
    a, b = (bf16.round_to_bf16(nvfp4.decode(q)).astype(np.float64) for q in (x, w))
    away = error(a @ b.T, x, w)
    assert (away > gemm.bound(x, w, unit_roundoff=U, output="float32")).mean() > 0.9
    size = float(gemm.alpha(x, w)) * gemm.magnitude(x, w)
    terms = np.abs(nvfp4.decode(x)).astype(np.float64) @ np.abs(nvfp4.decode(w)).T
    # two BF16 roundings of 2^-8 on each term's factors, their product, and float32 decoding
    assert (away <= terms * (2 * 2.0**-8 + 2.0**-15) + size * 2.0**-22).all()


def test_activations_left_unquantised_break_the_bound_and_no_usual_tolerance() -> None:
    # the intermediate of an MoE layer kept in BF16 instead of FP4: 8 % off, and a suite that asks
    # for 0.1 + 0.1 * |ref| passes it
    x, w = random((8, 512), 21) * np.float32(0.125), random((16, 512), 22) * np.float32(0.0625)
    scale = nvfp4.tensor_scale(np.abs(x).max(), convention="modelopt", source="bfloat16")
    qx = activations.quantize_nvfp4(
        x, scale, meaning="multiplier", convention="kernel", source="bfloat16"
    )
    qw = nvfp4.encode(w, convention="modelopt", source="bfloat16", zero_tensor="refuse")
    wanted = float(gemm.alpha(qx, qw)) * gemm.exact(qx, qw).as_float64()
    y = x.astype(np.float64) @ nvfp4.decode(qw).T.astype(np.float64)
    assert 0.03 < np.linalg.norm(y - wanted) / np.linalg.norm(wanted) < 0.2
    assert (np.abs(y - wanted) <= 0.1 + 0.1 * np.abs(wanted)).all()
    assert (
        np.abs(y - wanted) > gemm.bound(qx, qw, unit_roundoff=U, output="bfloat16")
    ).mean() > 0.9


def test_alpha() -> None:
    x, w = nvfp4_pair()
    assert gemm.alpha(x, w) == x.tensor_scale * w.tensor_scale
    x, w = nvfp4_pair(convention="ct")
    one = np.float32(1)
    assert gemm.alpha(x, w) == (one / x.tensor_scale) * (one / w.tensor_scale)
    te = nvfp4.encode(random((2, 32), 5), convention="te", source="float32", zero_tensor="refuse")
    assert gemm.alpha(te, te) == (te.tensor_scale * te.tensor_scale) / np.float32(2688.0**2)
    assert gemm.alpha(*mxfp4_pair()) == 1
    with pytest.raises(TinymoeError, match="amax on both sides"):
        gemm.alpha(x, te)


def test_where_alpha_is_applied_shows() -> None:
    x, w = nvfp4_pair(32, 32)
    # an alpha almost half way between two BF16 numbers
    x = replace(x, tensor_scale=np.float32((1 + 0.49 * 2.0**-7) * 2.0**-12))
    w = replace(w, tensor_scale=np.float32(2.0**-13))
    D, factor = gemm.emulated(x, w), gemm.alpha(x, w)
    kinds = {
        name: gemm.epilogue(D, factor, placement=name, output="bfloat16", bias=None)
        for name in ("float32", "after_bfloat16", "bfloat16_alpha")
    }
    assert not np.array_equal(kinds["float32"], kinds["after_bfloat16"])
    assert not np.array_equal(kinds["after_bfloat16"], kinds["bfloat16_alpha"])
    inside = gemm.bound(x, w, unit_roundoff=U, output="bfloat16")
    assert (error(kinds["float32"], x, w) <= inside).all()
    assert (error(kinds["bfloat16_alpha"], x, w) > inside).any()


def test_bias_comes_after_alpha() -> None:
    # flashinfer#3423: a bias accepted and never added
    x, w = nvfp4_pair()
    D, bias = gemm.emulated(x, w), np.arange(7, dtype=np.float32)
    factor = gemm.alpha(x, w)
    y = gemm.epilogue(D, factor, placement="float32", output="float32", bias=bias)
    assert np.array_equal(y, D * factor + bias)


def test_exact_grid_products_have_no_tolerance() -> None:
    # power-of-two scales and sums under 2^24: every order gives the same bits
    rng = np.random.default_rng(7)
    grid = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    x, w = (rng.choice(grid, (n, 128)) * rng.choice([-1, 1], (n, 128)) for n in (3, 4))
    x[:, ::16], w[:, ::16] = 6, -6  # every block has the same maximum, so the same scale
    x, w = x.astype(np.float32), w.astype(np.float32)
    qx = nvfp4.encode_with(x, np.float32(1 / 64), convention="modelopt", source="bfloat16")
    qw = nvfp4.encode_with(w, np.float32(1 / 32), convention="modelopt", source="bfloat16")
    assert np.array_equal(nvfp4.decode(qx), x)
    wanted = (2 * x).astype(np.int64) @ (2 * w).astype(np.int64).T / 4
    for D in (gemm.emulated(qx, qw), gemm.emulated(_reversed(qx), _reversed(qw))):
        assert np.array_equal(y_of(D, qx, qw), wanted)


def test_fp8_product_by_blocks() -> None:
    x, w = random((3, 300), 11), random((200, 300), 12)
    kwargs = {"source": "bfloat16", "power_of_two": "no"}
    qx = fp8.encode(x, convention="deepseek_act", granularity="group", **kwargs)
    qw = fp8.encode(w, convention="div32", granularity="block", **kwargs)
    y = gemm.fp8_product(qx, qw)
    a, b = fp8.decode(qx).astype(np.float64), fp8.decode(qw).astype(np.float64)
    # per block: the dot product's rounding, two scale products; 3 additions; decoding's one each
    assert (np.abs(y - a @ b.T) <= (np.abs(a) @ np.abs(b).T) * 9 * U).all()
    shifted = replace(qw, scales=np.roll(qw.scales, 1, axis=1))
    assert (
        np.abs(gemm.fp8_product(qx, shifted) - a @ b.T) > (np.abs(a) @ np.abs(b).T) * 9 * U
    ).any()


def test_bad_pairs_are_named() -> None:
    x, w = nvfp4_pair()
    with pytest.raises(TinymoeError, match="two NVFP4 or two MXFP4"):
        gemm.exact(x, mxfp4_pair()[1])
    with pytest.raises(TinymoeError, match="of one K"):
        gemm.exact(x, nvfp4_pair(K=128)[1])
    # sglang#22928: byte 127 is NaN, not 480
    with pytest.raises(TinymoeError, match="w.scales: expected bytes up to 0x7e, got 0x7f"):
        gemm.exact(x, replace(w, scales=np.full_like(w.scales, 0x7F)))
    with pytest.raises(TinymoeError, match="may lose everything"):
        gemm.bound(x, w, unit_roundoff=2.0**-4, output="float32")
