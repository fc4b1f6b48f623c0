"""Kernels with one defect each, all found and named; their twins without it run clean and right."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinymoe.kernels.cuda.compile import NoCompilerError, build
from tinymoe.kernels.ptx import DefectError, launch, parse

pytestmark = pytest.mark.kernels
FOLDER = Path(__file__).parents[1] / "vectors" / "ptx"
SOURCE = (FOLDER / "defects.cu").read_text("utf-8")
KERNELS = parse((FOLDER / "defects.ptx").read_text("utf-8"))
T = np.arange(128)
X = (T * 37 % 101).astype("i4")
HALF = T & 31 < 16


@dataclass(frozen=True)
class Case:
    """How to launch a pair, what the defect is called, and what the twin gives."""

    found: str
    line: str  # the CUDA C line the finding points at, or a part of it
    want: Any
    grid: int = 1
    block: int = 128
    extra: tuple[Any, ...] = ()
    given: Any = field(default_factory=lambda: X)
    size: int = 128
    options: dict[str, Any] = field(default_factory=dict)


STRICT = {"strict": True}
CASES = {
    "neighbour": Case("this read and an earlier write", "out[t] = row", X[(T + 33) % 128]),
    "refill": Case("this write and an earlier read", "row[t] = in[t] + k", 2 * X[::-1] + 1),
    "total": Case("race in global memory", "out[0] += in", [X[:3].sum()], 3, 32, size=1),
    "count": Case("this read and an earlier atomic", "= seen", np.full(128, (X & 1).sum())),
    "within_warp": Case("another lane of this warp", "= row[t ^ 1]", X[T ^ 1], options=STRICT),
    "shuffle_is_no_fence": Case("another lane of this warp", "= row[", X[T ^ 1], options=STRICT),
    "mask": Case("0xffff does not name the lane", "0x0000ffffu", np.r_[X[1:32], X[31]], 1, 32),
    "early_return": Case(
        "waits for lanes 20, .*exited", "__shfl_xor", None, 1, 32, (np.int32(20),)
    ),
    "absent_source": Case(
        "reads lane 16, which takes no part", "value, 16)", np.where(HALF, X[T ^ 8], X)
    ),
    "never_comes": Case("waits for lanes 16, 17.* never come", "__ballot_sync", None),
    "tail": Case(
        "is outside every buffer: 4 bytes past", "i <= n", X[:32], 1, 32, (np.int32(128),)
    ),
    "overrun": Case("4 bytes past the end of .*first", "first[min", None, 1, 32),
    "vector": Case("not aligned to its 16 bytes", "(in + 1", X.reshape(32, 4).sum(1), 1, 32),
    "barrier": Case("at different barriers", "__syncthreads", np.where(T < 64, X, 2)),
    "named": Case("barrier 1 waits for 96 threads, got 64", "bar.sync 1, 96", X),
    "wait": Case("waits without end", "while", [7], 2, 32, (), np.zeros(1, "i4"), 1),
    "last": Case("a different value to the same address", "= in[threadIdx.x]", [X[31]], 1, 32),
    "lock": Case("waits without end", "", [32], 1, 32, (), np.zeros(1, "i4"), 1),
    "last_block": Case(
        "race in global memory: this read and an earlier write by block 0",
        "parts[b]",
        [2 * X[:5].sum()],
        5,
        64,
        (np.zeros(5, "i4"), np.zeros(1, "i4")),
        size=1,
    ),
    "local": Case("the local address", "+ extra", X[(T[:32] + X[:32] % 8) & 31], 1, 32),
}


def run(name: str, case: Case) -> np.ndarray[Any, Any]:
    """Launch one kernel of a pair; what it wrote."""
    out = np.zeros(case.size, "i4")
    given = case.given.copy()
    args = [out, given, *(x.copy() for x in case.extra)]
    launch(KERNELS[name], case.grid, case.block, args, **case.options)
    return out


@pytest.mark.parametrize("name", CASES)
def test_the_defect_is_found_and_its_line_named(name: str) -> None:
    case = CASES[name]
    with pytest.raises(DefectError, match=f"kernel {name}_bad.*{case.found}") as raised:
        run(f"{name}_bad", case)
    at = raised.value.instruction
    assert at is not None
    assert case.line in SOURCE.splitlines()[at.source - 1]
    assert at.file == "defects.cu"


@pytest.mark.parametrize("name", CASES)
def test_the_twin_is_clean(name: str) -> None:
    # a checker that cries wolf is switched off: strict mode and counters on, nothing to report
    case = CASES[name]
    options = {"strict": True, "counters": True}
    out = run(f"{name}_good", Case(**{**vars(case), "options": options}))
    if case.want is not None:
        assert np.array_equal(out[: len(case.want)], case.want)


@pytest.mark.parametrize("name", ["within_warp", "shuffle_is_no_fence"])
def test_without_strict_the_order_in_a_warp_is_not_checked(name: str) -> None:
    assert np.array_equal(
        run(f"{name}_bad", Case(**{**vars(CASES[name]), "options": {}})), X[T ^ 1]
    )


def test_every_pair_is_tried() -> None:
    assert {n.rsplit("_", 1)[0] for n in KERNELS} == set(CASES)


def test_the_committed_ptx_is_that_of_the_source() -> None:
    # opcodes, not bytes: registers may be numbered otherwise by another compiler
    try:
        fresh = parse(build(SOURCE, "80").ptx)
    except NoCompilerError:
        pytest.skip("no NVRTC here")
    for name, kernel in fresh.items():
        assert [i.opcode for i in kernel.code] == [i.opcode for i in KERNELS[name].code], name
