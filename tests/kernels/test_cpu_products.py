"""The op table's inputs through the products, the router and the sums of the compiled step."""

from __future__ import annotations

import pytest

from tests.kernels.on_threads import keeps_contract
from tinymoe.kernels.cpu.ops_products import CpuProducts
from tinymoe.kernels.cpu.team import Team

pytestmark = pytest.mark.kernels
ALONE, TOGETHER = (CpuProducts(Team(threads)) for threads in (1, 2))
OPS = ("linear", "expert_ffn", "route", "permute", "combine", "gemm_nvfp4", "gemm_mxfp4")


@pytest.mark.parametrize("op", OPS)
def test_an_op_keeps_its_contract(op: str) -> None:
    keeps_contract(op, ALONE, [TOGETHER], 60)
