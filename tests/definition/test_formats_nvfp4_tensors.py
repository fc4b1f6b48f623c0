"""NVFP4 tensors: decoding, fused scales, any number of rows, activations under a static scale.

Bugs: modular#6600 (a divisor used as a multiplier), vllm#54974 (gate's scale for both halves),
flashinfer#3398 (zero scales at some row counts), flashinfer#4486 (NaN from one tile size), imp#1544
(loud activations clipped).
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from tests.nvfp4_inputs import KERNELS, ROWWISE, encode, random, row
from tinymoe.core import TinymoeError
from tinymoe.formats import activations, e2m1, e4m3, nvfp4, scale_layout
from tinymoe.formats.exact import fp32

pytestmark = pytest.mark.definition


def test_decoders_differ_in_the_association_alone() -> None:
    x = random((8, 64), 11, "bfloat16")
    q = encode(x, "modelopt")
    v = e2m1.decode(e2m1.unpack(q.codes), code_8="-0").ravel()
    s = np.repeat(e4m3.decode(q.scales), 16, axis=-1).ravel()
    g = Fraction(float(q.tensor_scale))
    pairs = [(Fraction(float(a)), Fraction(float(b))) for a, b in zip(v, s, strict=True)]
    product = [float(fp32(a * fp32(b * g))) for a, b in pairs]
    left = [float(fp32(fp32(a * b) * g)) for a, b in pairs]
    assert nvfp4.decode(q).ravel().tolist() == product
    assert nvfp4.decode(q, association="left").ravel().tolist() == left
    assert product != left
    ct = encode(x, "ct")
    G, pairs = Fraction(float(ct.tensor_scale)), []
    for i in range(0, x.size, 7):
        value = e2m1.decode(e2m1.unpack(ct.codes), code_8="-0").flat[i]
        pairs.append(
            (i, Fraction(float(value)), Fraction(float(e4m3.decode(ct.scales).flat[i // 16])))
        )
    got = nvfp4.decode(ct).ravel()
    assert [got[i] for i, _, _ in pairs] == [float(fp32(a * fp32(b / G))) for _, a, b in pairs]


def test_te_decodes_with_its_amax() -> None:
    q = encode(row((0, 1.5), (16, 0.3)), "te", "float32")
    e = Fraction(float(e4m3.decode(q.scales)[0, 1]))
    inverse = fp32(Fraction(1, 2688))
    wanted = fp32(6 * fp32(fp32(e * Fraction(1.5)) * inverse))
    assert nvfp4.decode(q)[0, 16] == float(wanted)


def test_a_divisor_is_never_used_as_a_multiplier() -> None:
    # modular#6600: off by the square of the scale, some 1e9
    q = encode(random((2, 32), 13, "bfloat16"), "ct")
    with pytest.raises(TinymoeError, match="reads a multiplier.*is a divisor"):
        nvfp4.decode(q, association="product")
    with pytest.raises(TinymoeError, match="reads a divisor.*is a multiplier"):
        nvfp4.decode(replace(q, tensor_scale_is="multiplier"))


def test_fused_matrices_share_the_loudest_ones_scale() -> None:
    # vllm#54974: gate's global scale for both halves; up was up to 10x louder
    gate, up = random((4, 32), 17, "bfloat16"), random((4, 32), 19, "bfloat16") * np.float32(8)
    for convention, meaning in (("modelopt", "multiplier"), ("ct", "divisor"), ("te", "amax")):
        scales = [encode(x, convention).tensor_scale for x in (gate, up)]
        shared = nvfp4.fused_tensor_scale(scales, meaning=meaning)
        assert shared == scales[1]
        q = nvfp4.encode_with(gate, shared, convention=convention, source="bfloat16")
        whole = encode(np.concatenate([gate, up]), convention)
        assert np.array_equal(q.codes, whole.codes[:4])
        assert np.array_equal(q.scales, whole.scales[:4])
    with pytest.raises(TinymoeError, match="nothing to fuse"):
        nvfp4.fused_tensor_scale([], meaning="none")


@pytest.mark.parametrize("convention", ROWWISE)
def test_a_row_does_not_depend_on_how_many_there_are(convention: str) -> None:
    # flashinfer#3398: all-zero scales at some row counts; #4486: NaN from one tile size
    x = random((130, 48), 23, "bfloat16")
    whole = encode(x, convention)
    for rows in (1, 2, 7, 16, 31, 33, 64, 127, 128, 129):
        part = nvfp4.encode_with(
            x[:rows], whole.tensor_scale, convention=convention, source="bfloat16"
        )
        assert np.array_equal(part.codes, whole.codes[:rows]), rows
        assert np.array_equal(part.scales, whole.scales[:rows]), rows
    assert np.count_nonzero(whole.scales) == whole.scales.size


def test_an_expert_stack_is_encoded_as_its_rows() -> None:
    x = random((6, 32), 29, "bfloat16")
    flat, stack = encode(x, "modelopt"), encode(x.reshape(2, 3, 32), "modelopt")
    assert np.array_equal(stack.codes.reshape(6, 16), flat.codes)
    assert stack.shape == (2, 3, 32)
    assert np.array_equal(nvfp4.decode(stack).reshape(6, 32), nvfp4.decode(flat))


def test_loud_activations_clip_twice_and_are_reported() -> None:
    # imp#1544: blocks above 2688 silently clipped; here the calibration saw 1.0
    x = row((0, 1.0), (16, 3.0), (17, 1.0))
    scale = np.float32(1) / np.float32(2688)
    q = activations.quantize_nvfp4(
        x, scale, meaning="multiplier", convention="kernel", source="bfloat16"
    )
    assert q.scales.tolist() == [[0x7E, 0x7E]]
    assert nvfp4.decode(q)[0, [0, 16, 17]].tolist() == [1, 1, 1]
    assert activations.clipped(x, scale, meaning="multiplier").tolist() == [[False, True]]


@pytest.mark.parametrize("convention", KERNELS)
def test_activations_take_a_multiplier_or_a_divisor(convention: str) -> None:
    x = random((3, 64), 31, "bfloat16")
    kwargs = {"convention": convention, "source": "bfloat16"}
    by_divisor = activations.quantize_nvfp4(x, 624.0, meaning="divisor", **kwargs)
    scale = np.float32(1) / np.float32(624)
    by_multiplier = activations.quantize_nvfp4(x, scale, meaning="multiplier", **kwargs)
    # 1/(1/624) is 624 again in float32, which is not so for every number
    assert np.array_equal(by_divisor.codes, by_multiplier.codes)
    assert (by_multiplier.tensor_scale, by_multiplier.tensor_scale_is) == (scale, "multiplier")
    assert np.array_equal(nvfp4.decode(by_multiplier), nvfp4.decode(by_divisor))


def test_activation_errors_are_named() -> None:
    x = random((1, 16), 37, "bfloat16")
    with pytest.raises(TinymoeError, match="runs on activations"):
        activations.quantize_nvfp4(
            x, 1.0, meaning="divisor", convention="modelopt", source="bfloat16"
        )
    with pytest.raises(TinymoeError, match="weight-only"):
        activations.clipped(x, 0.0, meaning="multiplier")


def test_ambiguous_places_are_few_and_cover_another_reciprocal() -> None:
    # hardware's rcp.approx may be one ulp off: a mismatch there is no bug, and elsewhere it is
    x = random((64, 256), 41, "bfloat16")
    S = nvfp4.tensor_scale(np.abs(x).max(), convention="kernel", source="bfloat16")
    places = activations.ambiguous_places(x, S, meaning="divisor")
    assert 0 < places.mean() < 0.05
    one, up = np.float32(1), np.float32(np.inf)
    blocks = x.reshape(64, 16, 16)
    amax = np.abs(blocks).max(-1, keepdims=True)
    scales = e4m3.saturated(S * (amax * np.nextafter(one / np.float32(6), up)))
    r = np.nextafter(one / (e4m3.decode(scales) * (one / S)), -up)
    hardware = e2m1.encode(blocks * r, e2m1.RULES["cuda"]).reshape(x.shape)
    q = nvfp4.encode_with(x, S, convention="kernel", source="bfloat16")
    different = hardware != e2m1.unpack(q.codes)
    assert different.any()
    assert not different[~places].any()


def test_tiled_scales_are_not_taken_for_linear_ones() -> None:
    # modular#6600, vllm#50084: padding shows in the shape, where there is any
    q = encode(random((5, 32), 43, "bfloat16"), "modelopt")
    tiled = scale_layout.swizzle_128x4(q.scales).reshape(128, 4)
    with pytest.raises(TinymoeError, match="unswizzle_128x4"):
        nvfp4.decode(replace(q, scales=tiled))
    back = scale_layout.unswizzle_128x4(tiled, *q.scales.shape)
    assert np.array_equal(nvfp4.decode(replace(q, scales=back)), nvfp4.decode(q))


def test_static_scales_and_four_over_six() -> None:
    x = row((0, 3.0), (1, 1.0), (16, 0.75))
    amax = np.array([[3.0, 0.75]], np.float32)
    q = nvfp4.encode_static(x, amax, 3.0, four_over_six=False)
    assert q.scales.tolist() == [[0x7E, 0x6E]]  # 448 and 112
    assert q.tensor_scale == np.float32(3) / np.float32(2688)
    half = nvfp4.encode_static(x, amax, 3.0, four_over_six=True)
    assert half.scales.tolist() == [[0x78, 0x68]]  # 256 and 64
    assert half.tensor_scale == np.float32(3) / np.float32(1536)
    assert np.array_equal(nvfp4.decode(q)[0, [0, 16]], nvfp4.decode(half)[0, [0, 16]])
    zero = nvfp4.encode_static(x, np.zeros((1, 2), np.float32), 3.0, four_over_six=False)
    assert zero.scales.tolist() == [[0x7E, 0x7E]]  # amax/6 == 0 becomes 1: 448/0.5, clamped
