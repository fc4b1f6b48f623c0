"""`conform` on the low-precision ops: the format bugs that published tolerances let through.

With those tolerances, shifted block scales and swapped nibbles pass. Here each is caught at every
op that reads or writes such bytes, and called by its name.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tests.properties.test_conform import FIRST, verdict, verdicts
from tests.properties.test_format_op_checks import not_requantised
from tinymoe.core import NUMERICS, TinymoeError
from tinymoe.formats.conventions import NVFP4
from tinymoe.formats.scale_layout import swizzle_128x4
from tinymoe.kernels import formats_ops
from tinymoe.kernels.contracts import contract
from tinymoe.model.experts import swiglu
from tinymoe.model.precision import store
from tinymoe.oracle.conform.run import conform

pytestmark = pytest.mark.properties


def reads(op, **changes):
    """The op, with arguments taken for others."""

    def function(**case):
        return contract(op).definition(**{**case, **{n: c(case[n]) for n, c in changes.items()}})

    return function


def writes(op, change):
    """The op, its answer changed."""
    return lambda **case: change(contract(op).definition(**case))


def swapped(codes):
    return (codes >> 4) | (codes << 4)


def shifted(scales):
    return np.roll(scales, 1, axis=-1)


NIBBLES, SHIFTED = "format.nibbles-swapped", "layout.scales-shifted"
PRODUCTS = [
    f"{grouped}gemm_{form}{coded}"
    for form in ("nvfp4", "mxfp4")
    for grouped in ("", "grouped_")
    for coded in ("", "_w4a4")
]
BUGS = {
    **{f"{op}: nibbles": (reads(op, weight_codes=swapped), NIBBLES) for op in PRODUCTS},
    **{f"{op}: scales": (reads(op, weight_scales=shifted), SHIFTED) for op in PRODUCTS},
    **{
        f"{op}: scales of x": (reads(op, x_scales=shifted), SHIFTED)
        for op in PRODUCTS
        if op.endswith("w4a4")
    },
    "dequantize_nvfp4: nibbles": (reads("dequantize_nvfp4", codes=swapped), NIBBLES),
    "dequantize_mxfp4: nibbles": (reads("dequantize_mxfp4", codes=swapped), NIBBLES),
    "dequantize_nvfp4: scales": (reads("dequantize_nvfp4", scales=shifted), SHIFTED),
    "dequantize_mxfp4: scales": (reads("dequantize_mxfp4", scales=shifted), SHIFTED),
    "dequantize_mxfp4: bias": (
        reads("dequantize_mxfp4", scales=lambda s: np.maximum(s, 1) - np.uint8(1)),
        "format.e8m0-bias-off-by-one",
    ),
    "quantize_nvfp4: nibbles": (
        writes("quantize_nvfp4", lambda q: (swapped(q.codes), q.scales)), NIBBLES
    ),
    "quantize_mxfp4: nibbles": (
        writes("quantize_mxfp4", lambda q: (swapped(q.codes), q.scales)), NIBBLES
    ),
    "gemm_nvfp4: a divisor multiplies": (  # modular#6600
        reads("gemm_nvfp4", tensor_scale=lambda s: 1 / s), "format.global-scale-inverted"
    ),
    "expert_ffn_nvfp4_w4a4: nibbles": (
        reads("expert_ffn_nvfp4_w4a4", gate_up_codes=swapped), NIBBLES
    ),
    "expert_ffn_nvfp4_w4a4: nibbles of down": (
        reads("expert_ffn_nvfp4_w4a4", down_codes=swapped), NIBBLES
    ),
    "dequantize_fp8: scale_inv divides": (
        reads("dequantize_fp8", scales=lambda s: 1 / s), "format.scale-inv-as-divisor"
    ),
    "swizzle_scales: row-major": (  # vllm#50084
        lambda scales: np.pad(
            scales, ((0, -len(scales) % 128), (0, -scales.shape[1] % 4))
        ).ravel(),
        "layout.linear-as-tiles",
    ),
    "unswizzle_scales: row-major": (  # modular#6600
        lambda flat, rows, columns: flat.reshape(-1, columns + -columns % 4)[:rows, :columns],
        "layout.tiles-as-linear",
    ),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_format_bugs_are_caught_and_named(bug):
    function, name = BUGS[bug]
    result = verdict(bug.partition(":")[0], function, cases=60)
    assert result.verdict == "FAIL"
    # where two wrong readings are one on the case that failed, the other may come first
    assert name in result.resembles


def test_an_intermediate_that_is_not_quantised_again_is_caught():
    """Off by 0.08 of the result, which published tolerances take for rounding."""
    op = "expert_ffn_nvfp4_w4a4"
    assert verdict(op, not_requantised, cases=60).verdict == "FAIL"
    found = verdict(op, reads(op, hidden_scales=lambda s: s * np.float32(0.5)), cases=60)
    assert found.verdict == "FAIL"


def test_zero_scales_are_caught():
    """flashinfer#3398: a quantiser that wrote them at some row counts."""
    for op in ("quantize_nvfp4", "quantize_mxfp4", "quantize_fp8"):
        assert verdict(op, writes(op, lambda q: (q.codes, q.scales * 0))).verdict == "FAIL"


def test_a_kernel_of_one_convention_is_tried_on_that_alone():
    def quantise(x, tensor_scale, convention, source):
        assert convention == "kernel"
        return formats_ops.quantize_nvfp4(x, tensor_scale, "kernel", source)

    row = contract("quantize_nvfp4")
    for where, expected in (({"convention": "kernel"}, "pass"), (None, "FAIL")):
        found = conform(row, quantise, cases=20, shrink=False, only=FIRST, where=where)
        assert (found[0].verdict, found[0].cases > 0) == (expected, True)
    with pytest.raises(TinymoeError, match="no case of quantize_nvfp4 has"):
        conform(row, quantise, cases=20, where={"convention": "none such"})


def test_a_quantiser_may_answer_by_name_or_in_order():
    for answer in (lambda q: q, tuple, lambda q: q._asdict()):
        found = verdict("quantize_mxfp4", writes("quantize_mxfp4", answer))
        assert (found.verdict, found.says) == ("pass", "")


def test_a_batch_that_is_quantised_by_its_loudest_row_is_caught():
    """One scale for a column of blocks: right for a batch of one."""

    def quantise(x, convention):
        loudest = np.abs(x).max(axis=0, keepdims=True)
        scales = formats_ops.quantize_mxfp4(loudest, convention).scales
        right = formats_ops.quantize_mxfp4(x, convention)
        return right.codes, np.broadcast_to(scales, right.scales.shape)

    only = "a batch of one is a row of a batch"
    assert verdict("quantize_mxfp4", quantise, only).verdict == "FAIL"


def test_scales_past_the_first_tile_are_asked_for():
    """flashinfer#4741: one tile size was wrong."""

    def swizzle(scales):
        flat = swizzle_128x4(scales)
        return flat if len(scales) <= 128 else flat.reshape(2, -1)[::-1].ravel()

    assert verdict("swizzle_scales", swizzle, "the first 128 rows alone", 40).verdict == "FAIL"


def test_padding_that_comes_back_is_caught():
    def unswizzle(flat, rows, columns):
        out = formats_ops.unswizzle_scales(flat, rows, columns)
        return out ^ np.bitwise_xor.reduce(flat)

    assert verdict("unswizzle_scales", unswizzle, "other bytes in the padding").verdict == "FAIL"


def test_an_expert_of_another_number_is_caught():
    """vLLM-metax#270: wrong for one tile of experts."""

    def grouped(offsets, weight_scales, **case):
        tile = weight_scales.copy()
        tile[2:] = tile[:1]
        case |= {"offsets": offsets, "weight_scales": tile}
        return formats_ops.grouped_gemm_mxfp4(**case)

    only = "experts under other numbers"
    assert verdict("grouped_gemm_mxfp4", grouped, only, 60).verdict == "FAIL"


def test_codes_that_are_never_read_are_caught():
    """flashinfer#3423 for bytes: scales accepted, and never used."""

    def gemm(x_scales, **case):
        ones = np.full_like(x_scales, 0x38)
        return formats_ops.gemm_nvfp4_w4a4(x_scales=ones, **case)

    found = verdicts("gemm_nvfp4_w4a4", gemm, only="every input matters")
    assert found[FIRST].verdict == "FAIL"
    assert "'x_scales'" in found["every input matters"].says


# ------------------------------------------------------------------------ right in another way


def summed_backwards(x, weight, alpha, numerics):
    """One float32 addition after the other from the end of K, alpha on every weight."""
    terms = (x[:, None, :] * (weight * np.float32(alpha))[None]).astype(np.float32)
    total = np.zeros(terms.shape[:2], np.float32)
    for k in range(x.shape[1])[::-1]:
        total += terms[..., k]
    return store(total, numerics.storage)


def test_other_orders_of_sums_are_right():
    """A tolerance that only the definition's own order keeps would be no contract."""

    def w4a4(x_codes, x_scales, weight_codes, weight_scales, alpha, numerics):
        sides = ((x_codes, x_scales), (weight_codes, weight_scales))
        x, w = (formats_ops.dequantize_nvfp4(*side, 1.0, "modelopt") for side in sides)
        return summed_backwards(x, w, alpha, numerics)

    def w4a16(x, weight_codes, weight_scales, tensor_scale, convention, numerics):
        """As Marlin: codes times block scales, which BF16 holds, and the tensor scale at last."""
        w = formats_ops.dequantize_nvfp4(weight_codes, weight_scales, None, "torchao_one_level")
        meant = {"multiplier": 1, "divisor": -1, "amax": 1}[NVFP4[convention].tensor_scale]
        factor = tensor_scale**meant / (2688 if convention == "te" else 1)
        exact = summed_backwards(x, w, 1.0, NUMERICS["fp32"]) * np.float32(factor)
        return store(exact, numerics.storage)

    def fused(offsets, gate_up_alphas, down_alphas, numerics, **case):
        """Sums of both products in the order of a matrix product in float32."""
        x = formats_ops.dequantize_nvfp4(case["x_codes"], case["x_scales"], 1.0, "modelopt")
        out = np.zeros((len(x), case["down_codes"].shape[1]), np.float32)
        for e, (start, stop) in enumerate(pairwise(offsets.tolist())):
            up, down = (
                formats_ops.dequantize_nvfp4(
                    case[f"{name}_codes"][e], case[f"{name}_scales"][e], 1.0, "modelopt"
                )
                for name in ("gate_up", "down")
            )
            first = summed_backwards(x[start:stop], up, gate_up_alphas[e], numerics)
            hidden = swiglu(first, numerics)
            if start < stop:
                q = formats_ops.quantize_nvfp4(
                    hidden, float(case["hidden_scales"][e]), "kernel", "float32"
                )
                h = formats_ops.dequantize_nvfp4(*q, 1.0, "modelopt")
                out[start:stop] = summed_backwards(h, down, down_alphas[e], numerics)
        return out

    for op, function in {
        "gemm_nvfp4_w4a4": w4a4,
        "gemm_nvfp4": w4a16,
        "expert_ffn_nvfp4_w4a4": fused,
    }.items():
        found = verdict(op, function, cases=150)
        assert found.verdict == "pass", found.says
