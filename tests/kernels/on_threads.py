"""Shared by the tests of compiled ops: the contract, and one answer on any number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings

from tinymoe.kernels.contracts import contract


def bits(result: Any) -> bytes:
    """All arrays of an answer."""
    parts = result if isinstance(result, tuple) else (result,)
    return b"".join(part.tobytes() for part in parts)


def keeps_contract(op: str, alone: Any, others: Sequence[Any], examples: int) -> None:
    """Judge `alone`'s op on drawn cases of its row; each of `others` must give the same bits."""
    row = contract(op)

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(case=row.inputs())
    def judged(case: dict[str, Any]) -> None:
        row.judge(getattr(alone, op), case)
        want = bits(getattr(alone, op)(**case))
        for other in others:
            assert bits(getattr(other, op)(**case)) == want

    judged()
