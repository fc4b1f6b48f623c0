"""The op table's inputs through the products, the router and the sums of the compiled step."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinymoe.kernels.contracts import contract
from tinymoe.kernels.cpu.ops_products import CpuProducts
from tinymoe.kernels.cpu.team import Team

pytestmark = pytest.mark.kernels
ALONE, TOGETHER = (CpuProducts(Team(threads)) for threads in (1, 2))
OPS = ("linear", "expert_ffn", "route", "permute", "combine", "gemm_nvfp4", "gemm_mxfp4")


def bits(result: Any) -> bytes:
    parts = result if isinstance(result, tuple) else (result,)
    return b"".join(part.tobytes() for part in parts)


@pytest.mark.parametrize("op", OPS)
@settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(data=st.data())
def test_an_op_keeps_its_contract(op: str, data: Any) -> None:
    row = contract(op)
    case = data.draw(row.inputs())
    row.judge(getattr(ALONE, op), case)
    assert bits(getattr(TOGETHER, op)(**case)) == bits(getattr(ALONE, op)(**case))
