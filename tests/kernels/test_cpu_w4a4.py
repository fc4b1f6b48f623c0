"""Products of four-bit codes by four-bit codes: whole numbers in a block, one order across blocks.

Held to the op table's contracts; beyond them, to the definition's own bits, which add the same
exact terms in the same order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels.on_threads import keeps_contract
from tests.kernels.plain_cpu import on_a_plain_cpu
from tinymoe.core import NUMERICS, Array, TinymoeError
from tinymoe.kernels import formats_ops
from tinymoe.kernels.cpu.ops_w4a4 import CpuW4a4
from tinymoe.kernels.cpu.team import Team

pytestmark = pytest.mark.kernels
ALONE, *OTHERS = (CpuW4a4(Team(threads)) for threads in (1, 2, 4))
PRODUCTS = [
    f"{grouped}gemm_{form}_w4a4" for grouped in ("", "grouped_") for form in ("nvfp4", "mxfp4")
]
FP32 = NUMERICS["fp32"]


@pytest.mark.parametrize("op", [*PRODUCTS, "expert_ffn_nvfp4_w4a4"])
def test_an_op_keeps_its_contract(op: str) -> None:
    keeps_contract(op, ALONE, OTHERS, 30)


def codes(rng: np.random.Generator, *shape: int, block: int) -> tuple[Array, Array]:
    """Any codes; scales of seven octaves, so that the order of the sum is seen."""
    *lead, columns = shape
    low, high = (0x20, 0x60) if block == 16 else (120, 135)
    return (
        rng.integers(0, 256, (*lead, columns // 2), np.uint8),
        rng.integers(low, high, (*lead, columns // block), np.uint8),
    )


def large_products() -> list[Array]:
    """More tokens than are taken at once, ragged rows, loud blocks; two formats."""
    rng = np.random.default_rng(5)
    made = []
    for form, block in (("nvfp4", 16), ("mxfp4", 32)):
        x, weight = codes(rng, 150, 352, block=block), codes(rng, 40, 352, block=block)
        if form == "nvfp4":
            made.append(ALONE.gemm_nvfp4_w4a4(*x, *weight, 0.37, FP32))
        else:
            made.append(ALONE.gemm_mxfp4_w4a4(*x, *weight, FP32))
    return made


def test_the_order_of_the_sum_is_the_definition_s(monkeypatch: pytest.MonkeyPatch) -> None:
    got = large_products()
    asked = []

    def by_definition(op: str) -> Any:
        def called(_: CpuW4a4, *given: Any) -> Any:
            asked.append(op)
            return getattr(formats_ops, op)(*given)

        return called

    for op in PRODUCTS:
        monkeypatch.setattr(CpuW4a4, op, by_definition(op))
    for mine, other in zip(got, large_products(), strict=True):
        assert mine.tobytes() == other.tobytes()
    assert asked == PRODUCTS[:2]


@pytest.mark.parametrize("form", ["nvfp4", "mxfp4"])
def test_the_loudest_block_does_not_saturate(form: str) -> None:
    """The instruction that adds pairs of products stops at 2^15: sums of codes stay below."""
    block = 16 if form == "nvfp4" else 32
    for one, other in ((0x77, 0x77), (0xFF, 0x77), (0xFF, 0xFF)):  # 6 and -6
        x, weight = (np.full((1, 64), code, np.uint8) for code in (one, other))
        scales = np.full((1, 128 // block), 0x38 if block == 16 else 127, np.uint8)
        given = (x, scales, weight, scales)
        if form == "nvfp4":
            got = ALONE.gemm_nvfp4_w4a4(*given, 1.0, FP32)
        else:
            got = ALONE.gemm_mxfp4_w4a4(*given, FP32)
        assert got == 128 * 36 * (1 if one == other else -1)


def test_a_token_s_company_changes_no_bit() -> None:
    rng = np.random.default_rng(6)
    x, weight = codes(rng, 9, 160, block=16), codes(rng, 48, 160, block=16)
    whole = ALONE.gemm_nvfp4_w4a4(*x, *weight, 1.5, FP32)
    for cut in (slice(0, 1), slice(3, 5), slice(4, 9)):
        part = ALONE.gemm_nvfp4_w4a4(x[0][cut], x[1][cut], *weight, 1.5, FP32)
        assert part.tobytes() == whole[cut].tobytes()


def test_a_scale_that_is_nan_is_refused() -> None:
    """The kernels would read 480: an engine that does so gives numbers where there are none."""
    rng = np.random.default_rng(7)
    x, weight = codes(rng, 2, 32, block=16), codes(rng, 4, 32, block=16)
    weight[1][2, 1] = 0x7F
    with pytest.raises(TinymoeError, match="got 0x7f: NaN"):
        ALONE.gemm_nvfp4_w4a4(*x, *weight, 1.0, FP32)


def test_scales_beyond_float32_s_range_are_the_definition_s() -> None:
    """2^127 * 2^-120 is 2^7; on the way there a kernel's product would be infinite."""
    rng = np.random.default_rng(8)
    x, weight = codes(rng, 2, 64, block=32), codes(rng, 3, 64, block=32)
    x[1][:], weight[1][:] = 254, 7
    got = ALONE.gemm_mxfp4_w4a4(*x, *weight, FP32)
    assert got.tobytes() == formats_ops.gemm_mxfp4_w4a4(*x, *weight, FP32).tobytes()
    assert np.isfinite(got).all()


def test_a_cpu_without_extras_gives_the_same_bits() -> None:
    """Whole numbers are the same, however they are made; so is one rounding a block."""
    there = on_a_plain_cpu(__file__, "b''.join(made.tobytes() for made in large_products())")
    assert there == b"".join(made.tobytes() for made in large_products())
