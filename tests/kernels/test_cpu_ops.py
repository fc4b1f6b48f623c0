"""The op table's inputs through compiled kernels: within the bound, and the same bits by any team.

What a thread does depends on how many there are; what comes out must not (a reduction that is
split by the number of threads gives other text on another machine).
"""

from __future__ import annotations

import pytest

from tests.kernels.on_threads import keeps_contract
from tinymoe.kernels.cpu.ops import CpuOps
from tinymoe.kernels.cpu.team import Team

pytestmark = pytest.mark.kernels
ALONE, *OTHERS = (CpuOps(Team(threads)) for threads in (1, 2, 4))
OPS = ("rmsnorm", "rope", "attention_decode", "attention_prefill")


@pytest.mark.parametrize("op", OPS)
def test_an_op_keeps_its_contract(op: str) -> None:
    keeps_contract(op, ALONE, OTHERS, 80)
