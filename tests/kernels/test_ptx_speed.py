"""The PTX machine's speed table: every number is there, counts are right; times are not judged."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tinymoe.core import TinymoeError
from tinymoe.kernels.cuda.devices import PtxDevice
from tinymoe.kernels.cuda.numba_launch import numba_kernel, numba_launch
from tinymoe.measure import ptx_speed, twins

pytestmark = pytest.mark.kernels


@pytest.fixture(scope="module")
def found() -> Any:
    """The report of the smallest run, as a program reads it."""
    return json.loads(json.dumps(ptx_speed.measure("tiny", 1), allow_nan=False))


def test_each_kernel_has_its_counts_and_its_rate(found: Any) -> None:
    names = [line["kernel"] for line in found["kernels"]]
    assert len(names) == len(set(names)) > 15
    for line in found["kernels"]:
        assert line["thread_instructions"] >= line["threads_per_step"] >= 1
        rate, step = line["thread_instructions_per_s"], line["seconds_per_step"]
        assert len(rate["samples"]) == len(step["samples"]) == found["rounds"] == 1
        # the three numbers are of one run
        assert rate["median"] * step["median"] == pytest.approx(line["threads_per_step"])


def test_the_twins_gave_equal_results_and_their_ratio_is_of_their_times(found: Any) -> None:
    assert {line["kernel"] for line in found["twins"]} == set(twins.twins("tiny"))
    for line in found["twins"]:
        ours, theirs = line["ptx_machine_s"]["median"], line["simulator_s"]["median"]
        assert line["ratio"]["median"] == pytest.approx(theirs / ours)
        assert line["threads"] > 0 < line["thread_instructions"]


def test_a_kernel_that_writes_something_else_has_another_digest() -> None:
    # else "equal results" would say nothing
    twin, device, seen = twins.twins("tiny")["add_bias"], PtxDevice(), set()
    kernel = numba_kernel(device, twin.function, "f32[:,:]", "f32[:,:]", "f32[:]")
    for change in (0, 1):
        arguments = twin.fresh()
        arguments[2][0] += change
        numba_launch(kernel, twin.grid, twin.block, arguments)
        seen.add(twins.digest(arguments[:1]))
    assert len(seen) == 2


def test_a_lost_simulator_is_said_with_its_last_words() -> None:
    with twins.Simulator("tiny") as simulator, pytest.raises(TinymoeError, match="KeyError"):
        simulator.run("no such kernel")


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(TinymoeError, match="expected a size of tiny, small and a round, got 'big'"):
        ptx_speed.measure("big", 1)


def test_steps_are_instructions_and_not_threads() -> None:
    device = ptx_speed.Clocked("80")
    words, job = ptx_speed.work("tiny")[0]
    job(device)
    ((count, steps, _),) = device.log.values()
    assert words == "4 tokens, 8 of 128 experts"
    assert count / 128 <= steps < count  # four warps: at most 128 threads a step
