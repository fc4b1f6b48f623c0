"""`check_device`: every kernel is run, what is wrong is named, and no fault costs another a result.

Without a GPU, the part of one is played by `cupy_stand_in.py`: what CuPy would do with a kernel is
done by the PTX machine, and faults are what CUDA makes of them: errors that stick, a dead process.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.kernels import cupy_stand_in as gpu
from tinymoe.core import TinymoeError
from tinymoe.kernels.contracts import CONTRACTS, contract
from tinymoe.kernels.cuda import check_layer
from tinymoe.kernels.cuda.check_beyond import SUITE, inputs_of, row_of, suite_on
from tinymoe.kernels.cuda.check_case import difference, opened
from tinymoe.kernels.cuda.check_device import check_device
from tinymoe.kernels.cuda.check_report import DeviceReport, Row
from tinymoe.kernels.cuda.check_worker import Order
from tinymoe.kernels.cuda.source import FOLDER
from tinymoe.kernels.cuda.table import KERNELS, on
from tinymoe.kernels.cuda.timed_devices import TimedPtx

pytestmark = pytest.mark.kernels
PRODUCTS = ("linear", "expert_ffn", "gemm_nvfp4_mma", "grouped_gemm_nvfp4_mma")


def on_gpu(opens: Callable[[str], Any], *, patience: float = 300, **asked: Any) -> DeviceReport:
    return check_device("cuda", order=Order(device="cuda", opens=opens, patience=patience), **asked)


def by_name(report: DeviceReport) -> dict[tuple[str, str], Row]:
    return {(row.op, row.rung): row for row in report.rows}


def test_every_kernel_of_the_table_conforms_on_the_ptx_machine() -> None:
    report = check_device("ptx", cases=2)
    rows, left_out = by_name(report), {(one["op"], one["rung"]) for one in report.left_out}
    assert rows.keys() | left_out == {(op, rung) for op in SUITE for rung in SUITE[op]}
    assert {rung for _, rung in left_out} == {"sm120"}  # sm_80 has no FP4 tensor cores
    assert report.conforms, [(row.op, row.rung, row.failure) for row in report.rows if row.failure]
    # every entry of every source has run, but those that two drawn cases come to by chance alone
    assert report.never_launched is not None
    left = {name.partition(":")[0] for name in report.never_launched}
    assert left <= {"groups", "topk", "scores", "weights", "route", *PRODUCTS}
    assert not report.silicon
    assert all(row.device_ms is not None and row.compared == 0 for row in report.rows)
    for row in report.rows:  # the table says which sources a rung has: those that it launches
        stems = {name.split(":")[0].rpartition(".")[2] for name in row.launched}
        assert stems <= {name.partition(".")[0] for name in row.files}, (row.op, row.rung)
    json.dumps(report.as_json(), allow_nan=False)


def test_the_table_names_files_that_are_there_and_every_row_says_cuda() -> None:
    for op, rungs in KERNELS.items():
        assert "cuda" in contract(op).implementations
        assert "cuda" not in contract(op).anywhere
        assert all((FOLDER / name).is_file() for r in rungs.values() for name in r.files.split())
    assert CONTRACTS.keys() == KERNELS.keys()


def test_a_wrong_kernel_is_named_with_its_smallest_case() -> None:
    order = Order(device="ptx", opens=gpu.opens_mutant)
    report = check_device("ptx", ops=("combine", "rope"), cases=8, order=order)
    rows = by_name(report)
    assert not report.conforms
    assert [name for name, row in rows.items() if not row.conforms] == [("combine", "fast")]
    bad = rows["combine", "fast"]
    assert bad.tried == 9  # and one of another size
    assert 0 < bad.kept < 9  # the cases with one expert a token are right
    assert "combine: out[" in bad.failure
    # who has the report alone can run the case again
    arrays = opened(bad.evidence)
    given = {name: arrays[f"given.{name}"] for name in ("expert_out", "weights")}
    assert f"float32 {given['weights'].shape}" == bad.failing_case["weights"]
    numerics = bad.failing_case["numerics"]
    right = contract("combine").definition(**given, numerics=contract_numerics(numerics))
    assert difference(right, arrays["got.0"])


def contract_numerics(name: str) -> Any:
    from tinymoe.core import NUMERICS

    return NUMERICS[name]


def test_a_gpu_is_compared_with_the_ptx_machine_bit_for_bit() -> None:
    saved: list[DeviceReport] = []
    report = on_gpu(gpu.opens, ops=("rope", "combine"), cases=3, save=saved.append)
    assert report.silicon
    assert report.conforms
    assert report.device["name"] == "Stand-in"
    assert all(row.compared == row.equal == row.cases >= 3 for row in report.rows)
    # a report before the first rung and after every one
    assert [len(one.rows) for one in saved] == [0, 1, 2, 3, 4]
    assert not any(one.finished or one.conforms for one in saved)


def test_a_layer_is_captured_and_replayed_where_arrays_are_not_numpys() -> None:
    # the stand-in refuses to wait, or to mix its arrays with NumPy's, as CuPy does
    rows = by_name(on_gpu(gpu.opens, ops=("decode_layer", "gumbel_draw"), cases=1))
    assert list(rows) == [
        *(("gumbel_draw", "fast"), ("decode_layer", "launches"), ("decode_layer", "graph")),
    ]
    assert all(row.conforms and row.equal == row.cases == 2 for row in rows.values())
    assert {"write_pages:write_pages", "rows:add_to"} <= {*rows["decode_layer", "graph"].launched}


def test_a_replay_with_other_bits_is_found() -> None:
    by_ops = np.ones((2, 3), np.float32)
    step = by_ops.copy()
    step[1, 2] = np.nextafter(step[1, 2], np.float32(2))
    with pytest.raises(AssertionError, match="1 of 6 numbers are not the bits that the ops give"):
        check_layer.check({}, check_layer.Both(step, by_ops))
    with pytest.raises(AssertionError, match="the ops themselves gave no numbers"):
        check_layer.check({}, check_layer.Both(step, by_ops * np.float32("nan")))


def test_a_wrong_draw_is_found() -> None:
    case, *_ = inputs_of("gumbel_draw", "fast", 1, 0)
    right = suite_on("gumbel_draw", TimedPtx())["fast"](**case)
    row_of("gumbel_draw").check(case, right)
    with pytest.raises(AssertionError, match="gumbel_draw: drew"):
        row_of("gumbel_draw").check(case, (right + 1) % case["logits"].shape[1])


def test_other_bits_are_told_and_fail_nothing() -> None:
    rows = by_name(on_gpu(gpu.opens_imprecise, ops=("rmsnorm",), cases=4))
    off, naive = rows["rmsnorm", "fast"], rows["rmsnorm", "naive"]
    assert (naive.equal, naive.difference, naive.conforms) == (4, "", True)
    assert (off.compared, off.equal) == (4, 0)
    assert "numbers, by up to 1 ulp" in off.difference
    assert off.evidence


def test_a_fault_costs_no_other_kernel_its_result() -> None:
    # an illegal address breaks every later call of its process; a crash ends the process
    rows = by_name(on_gpu(gpu.opens_faulty, ops=("combine",), cases=5))
    fast, scatter, numba = (rows["combine", rung] for rung in ("fast", "scatter", "numba"))
    assert (numba.conforms, numba.equal, numba.processes) == (True, 6, 1)
    assert "CUDARuntimeError: cudaErrorIllegalAddress" in scatter.failure
    assert scatter.kept >= 1  # what ran before, and after, in another process, stands
    assert scatter.processes > 1
    assert fast.failure == "the process was ended by SIGKILL"
    assert (fast.tried, fast.kept, fast.processes) == (3, 0, 3)  # then it is given up
    assert fast.failing_case["weights"].startswith("float32")


def test_a_kernel_that_never_ends_is_stopped() -> None:
    report = on_gpu(gpu.opens_hanging, ops=("rope",), cases=1, patience=2)
    assert by_name(report)["rope", "fast"].failure == "no word for 2 s: the process was stopped"


def test_a_gpu_that_cannot_be_opened_is_an_error_at_once() -> None:
    with pytest.raises(TinymoeError, match="opening 'cuda': the process was ended by SIGKILL"):
        on_gpu(gpu.opens_nothing)
    with pytest.raises(TinymoeError, match="the package cupy is missing|no CUDA device|no NVIDIA"):
        check_device("cuda")


def test_differences_are_counted_in_bits() -> None:
    one = np.array([1, np.nan, 0], np.float32)
    assert difference((one, 3), (one.copy(), 3)) == ""
    other = np.array([np.nextafter(np.float32(1), np.float32(2)), np.nan, -0.0], np.float32)
    assert difference(one, other) == "array 0: 2 of 3 numbers, by up to 1 ulp"
    assert difference((one, 3), (one, 4)) == "array 1: 1 of 1 numbers"
    assert difference(one, one.astype("f8")) == "array 0: float32 (3,), there float64 (3,)"


def test_chips_get_the_rungs_they_have() -> None:
    assert list(on("gemm_nvfp4", TimedPtx("75"))) == ["shared", "naive"]  # mma needs sm_80
    assert next(iter(on("gemm_nvfp4_w4a4", TimedPtx("120a")))) == "sm120"
    with pytest.raises(TinymoeError, match="op 'embed' has no CUDA kernel"):
        on("embed", TimedPtx())
