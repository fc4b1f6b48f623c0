"""The op table's inputs through compiled kernels: within the bound, and the same bits by any team.

What a thread does depends on how many there are; what comes out must not (a reduction that is
split by the number of threads gives other text on another machine).
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinymoe.kernels.contracts import contract
from tinymoe.kernels.cpu.ops import CpuOps
from tinymoe.kernels.cpu.team import Team

pytestmark = pytest.mark.kernels
ALONE, *OTHERS = (CpuOps(Team(threads)) for threads in (1, 2, 4))
OPS = ("rmsnorm", "rope", "attention_decode", "attention_prefill")


@pytest.mark.parametrize("op", OPS)
@settings(
    max_examples=80,
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
    alone = getattr(ALONE, op)(**case)
    for other in OTHERS:
        assert getattr(other, op)(**case).tobytes() == alone.tobytes()
