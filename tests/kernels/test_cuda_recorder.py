"""A step recorded once and replayed, and what a recorded step may not do, found on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels.test_cuda_devices import FP32, SHIFT
from tests.kernels.test_cuda_routing import PLAIN
from tinymoe.core import Array
from tinymoe.kernels.cuda.devices import PtxDevice
from tinymoe.kernels.cuda.ops_routing import RoutingOps
from tinymoe.kernels.cuda.recorder import CaptureError, Recorder

pytestmark = pytest.mark.kernels


def test_a_replay_is_the_step_on_new_inputs() -> None:
    rng = np.random.default_rng(0)
    x, weight = (rng.normal(size=(n, 8)).astype("f4") for n in (4, 8))
    fixed = x.repeat(2, axis=0)
    recorder = Recorder(PtxDevice())
    ops = RoutingOps(recorder)

    def step() -> Any:
        routing = ops.route(x, weight, None, PLAIN, FP32)
        permutation, where = ops.permute_and_inverse(routing.ids, 8)
        return (*routing, *permutation, ops.combine_rows(fixed, where, routing.weights, FP32))

    results = recorder.record(step)
    assert [one.kernel.name for one in recorder.launches] == [
        *("linear_8", "route_32", "histogram", "scan", "place", "combine_4"),
    ]
    # a launch reads what an earlier one wrote: the same buffer by number
    logits = recorder.launches[0].buffers[0]
    assert logits in recorder.launches[1].buffers
    for seed in range(3):
        x[...] = np.random.default_rng(seed).normal(size=x.shape)
        recorder.replay()
        plain = RoutingOps(PtxDevice())
        routing = plain.route(x, weight, None, PLAIN, FP32)
        permutation, where = plain.permute_and_inverse(routing.ids, 8)
        rows = plain.combine_rows(fixed, where, routing.weights, FP32)
        want = (*routing, *permutation, rows)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(results, want, strict=True))


def allocates(ops: RoutingOps, x: Array, seen: list[int]) -> None:
    ops.device.empty((len(seen),), np.float32)


def allocates_more(ops: RoutingOps, x: Array, seen: list[int]) -> None:
    for _ in seen:
        ops.device.empty((1,), np.float32)


def allocates_less(ops: RoutingOps, x: Array, seen: list[int]) -> None:
    if len(seen) == 1:
        ops.device.empty((1,), np.float32)


def zeroes(ops: RoutingOps, x: Array, seen: list[int]) -> None:
    ops.device.zeros((1,), np.float32)


def uploads(ops: RoutingOps, x: Array, seen: list[int]) -> None:
    ops.device.asarray([1.0, 2.0])


def makes_contiguous(ops: RoutingOps, x: Array, seen: list[int]) -> None:
    ops.device.asarray(x.T)


def reads_back(ops: RoutingOps, x: Array, seen: list[int]) -> None:
    ops.device.to_numpy(x)


def loads(ops: RoutingOps, x: Array, seen: list[int]) -> None:
    ops.device.kernel(SHIFT.replace("+ by", f"+ by * {len(seen)}"), "shift")


def branches(ops: RoutingOps, x: Array, seen: list[int]) -> None:
    if ops.route_logits(x, None, PLAIN).margin[:1]:
        pass


def takes_a_number(ops: RoutingOps, x: Array, seen: list[int]) -> None:
    int(ops.route_logits(x, None, PLAIN).ids[0, 0])


def lists(ops: RoutingOps, x: Array, seen: list[int]) -> None:
    ops.route_logits(x, None, PLAIN).ids.tolist()


def computes(ops: RoutingOps, x: Array, seen: list[int]) -> None:
    ops.route_logits(x, None, PLAIN).weights * 2


def writes(ops: RoutingOps, x: Array, seen: list[int]) -> None:
    ops.route_logits(x, None, PLAIN).weights[...] = 0


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (allocates, r"its buffer 0 is \(2,\) float32, and was \(1,\) float32 before: shapes must"),
        (allocates_more, r"it allocates \(1,\) float32, one buffer more than before"),
        (allocates_less, "it allocated 0 buffers, 1 before"),
        (zeroes, r"zeros \(1,\): only kernels are replayed"),
        (uploads, "it copies from the host: write into a buffer before the replay"),
        (makes_contiguous, "it copies an array"),
        (reads_back, "it reads a result back"),
        (loads, "it loads kernel shift, which its first run did not use"),
        (branches, "it branches on a buffer on the host"),
        (takes_a_number, "it takes a number from a buffer"),
        (lists, "it reads a buffer on the host"),
        (computes, "it computes multiply of a buffer on the host"),
        (writes, "it writes into a buffer on the host"),
    ],
)
def test_what_a_graph_cannot_hold_is_found_on_the_cpu(fault: Any, message: str) -> None:
    # on a GPU: a capture that fails without a word, or a replay that computes yesterday's values
    x = np.random.default_rng(0).normal(size=(4, 8)).astype("f4")
    recorder, seen = Recorder(PtxDevice()), list[int]()
    ops = RoutingOps(recorder)

    def step() -> None:
        seen.append(0)
        fault(ops, x, seen)

    with pytest.raises(CaptureError, match=f"this step cannot be recorded: {message}"):
        recorder.record(step)


def test_a_recorder_takes_one_step() -> None:
    recorder = Recorder(PtxDevice())
    with pytest.raises(CaptureError, match="nothing is recorded yet"):
        recorder.replay()
    recorder.record(lambda: None)
    with pytest.raises(CaptureError, match="a recorder takes one step"):
        recorder.record(lambda: None)
