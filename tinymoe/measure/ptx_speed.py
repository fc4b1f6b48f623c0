"""How fast the PTX machine is: thread-instructions a second, kernel by kernel.

A step of the machine is one instruction, for all threads that stand before it. It costs about the
same for one thread and for hundreds, so what decides the rate is how many threads a step has.

Rounds go through all kernels in turn, so that a disturbance hits all of them; a rate is the median
of the rounds'. The checks for bounds, alignment, barriers and races are on, as in every test.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from tinymoe.core import NUMERICS, Array, RouterCard, TinymoeError
from tinymoe.kernels.cuda.devices import PtxDevice
from tinymoe.kernels.cuda.launch import Dim3, Kernel
from tinymoe.kernels.cuda.numba_launch import numba_cuda, numba_kernel, numba_launch
from tinymoe.kernels.cuda.ops_fp4_gemm import Fp4Gemm
from tinymoe.kernels.cuda.ops_model import ModelOps
from tinymoe.kernels.cuda.ops_routing import RoutingOps
from tinymoe.kernels.cuda.ops_sample import SampleOps
from tinymoe.measure.machine import describe
from tinymoe.measure.statistics import summary
from tinymoe.measure.twins import Simulator, Twin, digest, twins

FP32 = NUMERICS["fp32"]
TIMES = {"tiny": 1, "small": 16}  # tokens of most launches, in fours
Progress = Callable[[str, float], None]
# kernel -> thread-instructions, steps, seconds
Log = dict[str, tuple[int, int, float]]


class Clocked(PtxDevice):
    """The PTX machine, which keeps what each kernel did since `log` was emptied."""

    def __init__(self, arch: str) -> None:
        super().__init__(arch)
        self.log: Log = {}

    def run(self, kernel: Kernel, grid: Dim3, block: Dim3, args: list[Any], shared: int) -> None:
        """As `PtxDevice.run`, timed."""
        begin = perf_counter()
        super().run(kernel, grid, block, args, shared)
        seconds = perf_counter() - begin
        assert self.report is not None
        ran = self.report.thread_instructions, self.report.steps, seconds
        old = self.log.get(kernel.name, (0, 0, 0.0))
        self.log[kernel.name] = (old[0] + ran[0], old[1] + ran[1], old[2] + ran[2])


def router(experts: int) -> RouterCard:
    """Softmax, eight of `experts`, weights of sum 1."""
    return RouterCard(
        experts=experts, top_k=8, score="softmax", selection_bias=False, groups=1, groups_kept=1,
        group_score="none", dropped_group="none", weight_from="score", renormalise=True,
        renorm_epsilon=0.0, renorm_floor=0.0, scale=1.0, weight_on="output",
        logits_dtype="float32", bias_dtype="float32", tie_rule="lowest_index",
    )  # fmt: skip


def work(size: str) -> list[tuple[str, Callable[[Clocked], Any]]]:
    """(size in words, what to do with a device); `size`: a key of `TIMES`."""
    tokens, rng = 4 * TIMES[size], np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        return rng.normal(size=shape).astype(np.float32)

    logits, few, words = normal(tokens, 128), normal(tokens, 32), normal(8, 1024)
    ids = rng.integers(0, 128, (tokens, 8))
    x, weight = normal(tokens, 128), normal(128, 128)
    rows, shares = normal(tokens, 8, 256), rng.random((tokens, 8)).astype(np.float32)
    experts = normal(8, 128, 128) / 8, normal(8, 128, 64) / 8
    offsets = np.arange(9) * tokens // 8
    codes, scales = rng.integers(0, 256, (tokens, 64), np.uint8), np.full((tokens, 8), 56, np.uint8)
    fp4 = codes, scales, codes, scales, 1.0, FP32
    seeds = np.arange(8, dtype=np.uint64)
    routed = f"{tokens} tokens, 8 of 128 experts"
    return [
        (routed, lambda d: RoutingOps(d).route_logits(logits, None, router(128))),
        (routed, lambda d: RoutingOps(d, "steps").route_logits(logits, None, router(128))),
        (
            f"{tokens} tokens, 8 of 32 experts",
            lambda d: RoutingOps(d, "naive").route_logits(few, None, router(32)),
        ),
        (routed, lambda d: RoutingOps(d).permute(ids, 128)),
        (f"{tokens} tokens of 256, K = 8", lambda d: RoutingOps(d).combine(rows, shares, FP32)),
        (f"{tokens} x 128 x 128", lambda d: ModelOps(d).linear(x, weight, FP32)),
        (f"{tokens} x 128 x 128", lambda d: ModelOps(d, "naive").linear(x, weight, FP32)),
        (
            f"{tokens} rows, 8 experts, H = 128, I = 64",
            lambda d: ModelOps(d).expert_ffn(x, *experts, offsets, FP32),
        ),
        (f"{tokens} x {tokens} x 128", lambda d: Fp4Gemm(d, "mma").gemm_nvfp4_w4a4(*fp4)),
        ("8 rows of 1024", lambda d: SampleOps(d).gumbel(words, seeds, seeds)),
    ]


def measure(
    size: str = "small",
    rounds: int = 5,
    with_twins: bool = True,
    progress: Progress = lambda what, part: None,
) -> dict[str, Any]:
    """The report: every kernel's rate, and the twins' beside Numba's simulator."""
    if size not in TIMES or rounds < 1:
        names = ", ".join(TIMES)
        raise TinymoeError(f"expected a size of {names} and a round, got {size!r} and {rounds}")
    if with_twins:
        numba_cuda()  # says what to install, before the first minute is gone
    load = describe()
    return {
        "date": datetime.date.today().isoformat(),
        "machine": load,
        "rounds": rounds,
        "kernels": by_kernel(size, rounds, progress),
        "twins": by_twin(size, rounds, progress) if with_twins else None,
        "load_average_1min_after": describe()["load_average_1min"],
    }


def by_kernel(size: str, rounds: int, progress: Progress) -> list[dict[str, Any]]:
    """Kernels of the CUDA C files, in the order of their rate."""
    device, jobs = Clocked("80"), work(size)
    logs: list[dict[str, tuple[str, int, int, float]]] = []
    for number in range(rounds + 1):
        progress("kernels on the PTX machine", number / (rounds + 1))
        logs.append({})
        for words, job in jobs:
            device.log = {}
            job(device)
            logs[-1] |= {name: (words, *ran) for name, ran in device.log.items()}
    lines = []
    for name in logs[0]:  # the first round is left out: it compiles
        ran = [log[name] for log in logs[1:]]
        words, count, steps, _ = ran[0]
        rate = summary([count / seconds for *_, seconds in ran])
        lines.append({
            "kernel": name, "size": words, "thread_instructions": count,
            "threads_per_step": count / steps, "thread_instructions_per_s": rate,
            "seconds_per_step": summary([seconds / steps for *_, seconds in ran]),
        })  # fmt: skip
    return sorted(lines, key=lambda line: -line["thread_instructions_per_s"]["median"])


def by_twin(size: str, rounds: int, progress: Progress) -> list[dict[str, Any]]:
    """The same launch on the PTX machine and on the simulator, one after the other, each round."""
    device, every = Clocked("80"), twins(size)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in every}
    count: dict[str, int] = {}
    with Simulator(size) as simulator:
        for number in range(rounds + 1):
            for name, twin in every.items():
                progress(f"{name}, simulated by Numba", number / (rounds + 1))
                seconds, ours = _launched(device, twin)
                theirs, result = simulator.run(name)
                if result != ours:
                    raise TinymoeError(
                        f"{name}: the PTX machine and Numba's simulator gave different results: a "
                        "defect of one of them, so their speeds mean nothing"
                    )
                taken[name].append((seconds, theirs))
                assert device.report is not None
                count[name] = device.report.thread_instructions
    return [
        {
            "kernel": name, "size": twin.size, "threads": twin.threads,
            "thread_instructions": count[name],
            "ptx_machine_s": summary([ours for ours, _ in taken[name][1:]]),
            "simulator_s": summary([theirs for _, theirs in taken[name][1:]]),
            "ratio": summary([theirs / ours for ours, theirs in taken[name][1:]]),
        }
        for name, twin in every.items()
    ]  # fmt: skip


def _launched(device: Clocked, twin: Twin) -> tuple[float, str]:
    """Seconds of a launch on the PTX machine, and the digest of its results."""
    arguments = twin.fresh()
    kinds = [f"{a.dtype.kind}{8 * a.itemsize}[{','.join(':' * a.ndim)}]" for a in arguments]
    kernel = numba_kernel(device, twin.function, *kinds)
    begin = perf_counter()
    numba_launch(kernel, twin.grid, twin.block, arguments)
    return perf_counter() - begin, digest(arguments)
