"""Every CUDA kernel on the device that is there: against the definition, and the PTX machine.

    check_device("cuda").as_json()                          a GPU
    check_device("ptx", ops=("permute",), cases=5)          the same run without one

For whoever has a GPU for an hour and will not have it again: no kernel's fault takes another one's
result away. Kernels run in child processes (`check_worker.py`), on a GPU one for each rung, so that
a wild write of one cannot be blamed on another; whenever a rung is done the report is saved.

No GPU has run this yet: tests hold `device="ptx"`, and "cuda" with a stand-in for CuPy.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from tinymoe.core import TinymoeError
from tinymoe.kernels.contracts import contract
from tinymoe.kernels.cuda.check_beyond import SUITE
from tinymoe.kernels.cuda.check_case import Outcome
from tinymoe.kernels.cuda.check_report import DeviceReport, Row, row_of
from tinymoe.kernels.cuda.check_worker import Begun, Done, Ended, Job, Opened, Order, told
from tinymoe.kernels.cuda.compile import build
from tinymoe.kernels.cuda.launch import parameters
from tinymoe.kernels.cuda.source import names, source

MOST_LOSSES = 3  # processes that a rung may take down before the rest of its cases is given up
Progress = Callable[[str, int, int], None]  # what is running, rungs done, rungs to do


def check_device(
    device: str,
    *,
    ops: Sequence[str] = (),
    cases: int = 20,
    seed: int = 0,
    progress: Progress = lambda name, done, of: None,
    save: Callable[[DeviceReport], None] = lambda report: None,
    order: Order | None = None,
) -> DeviceReport:
    """All rungs of `ops` (none named: of the whole suite: `check_beyond.py`) on a device.

    `device`: "cuda", the current GPU; "ptx" or "ptx:120a", the PTX machine, of sm_80 or another
    chip. `cases`: of each rung, drawn with `seed` by its op's own strategy. `save` is handed the
    report so far at the beginning, and whenever a rung is done. `order`: how children work, if not
    as usual (`Order`).

    Raises TinymoeError for a name that is not known, for what a GPU lacks, and if nothing is left
    that the device can run; what a kernel does wrong is in the report.
    """
    chosen = _chosen(ops)
    contract("linear").inputs()  # hypothesis is missing: say so before a GPU is opened
    asked = replace(order or Order(device=device), device=device, cases=cases, seed=seed)
    opened = _open(asked)
    jobs = [Job(op, rung) for op in chosen for rung in SUITE[op]]
    left_out = [job for job in jobs if (job.op, job.rung) in opened.lacks]
    able = [job for job in jobs if job not in left_out]
    if not able:
        why = "; ".join(dict.fromkeys(opened.lacks[job.op, job.rung] for job in jobs))
        raise TinymoeError(f"{opened.device['name']} can run nothing of {', '.join(chosen)}: {why}")
    run = _Run(asked, opened, able, left_out, progress, save)
    run.all()
    return run.report(finished=True, whole=set(chosen) == set(SUITE))


def _chosen(ops: Sequence[str]) -> list[str]:
    for op in ops:
        if op not in SUITE:
            raise TinymoeError(f"unknown op {op!r}: expected one of {', '.join(SUITE)}")
    return [op for op in SUITE if not ops or op in ops]


def _open(order: Order) -> Opened:
    """What a child says of the device; TinymoeError if it cannot be opened, or kills the child."""
    for message in told(order):
        if isinstance(message, Opened):
            return message
        if isinstance(message, Ended):
            what = message.why
            raise TinymoeError(what if message.refused else f"opening {order.device!r}: {what}")
    raise TinymoeError(f"opening {order.device!r}: no answer")


@dataclass
class _Known:
    """What is known of a job."""

    cases: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    running: Outcome | None = None
    processes: int = 0
    launched: set[str] = field(default_factory=set)


@dataclass
class _Run:
    """A run under way."""

    order: Order
    opened: Opened
    jobs: list[Job]
    left_out: list[Job]
    progress: Progress
    save: Callable[[DeviceReport], None]

    def __post_init__(self) -> None:
        self.known = {(job.op, job.rung): _Known() for job in self.jobs}
        self.began, self.clock = datetime.now(UTC), time.perf_counter()
        self.current: Job | None = None

    def all(self) -> None:
        """Lots of jobs, a process for each lot: of a GPU's, one job; of the PTX machine's, all."""
        self.save(self.report(finished=False))  # what cannot be written is known before anything
        waiting = deque(self.jobs)
        while waiting:
            lot = [waiting.popleft()]
            if not self.opened.silicon:  # the PTX machine checks every access: nothing is lost
                lot += waiting
                waiting.clear()
            waiting.extendleft(reversed(self._run(lot)))
            self.save(self.report(finished=False))

    def _run(self, lot: list[Job]) -> list[Job]:
        """Run a lot; what is left of it if its process was lost."""
        self.current = lot[0]
        self.known[lot[0].op, lot[0].rung].processes += 1
        ended = Ended()
        for message in told(replace(self.order, jobs=tuple(lot))):
            if isinstance(message, Begun):
                self._begun(message)
            elif isinstance(message, Done):
                known = self.known[message.job.op, message.job.rung]
                known.outcomes.append(message.outcome)
                known.launched.update(message.launched)
                known.running = None
            elif isinstance(message, Ended):
                ended = message
        if not ended.why:
            return []
        return self._after_loss(lot, ended.why)

    def _begun(self, message: Begun) -> None:
        job = message.job
        if self.current is not None and (job.op, job.rung) != (self.current.op, self.current.rung):
            self.save(self.report(finished=False))
        self.current = job
        known = self.known[job.op, job.rung]
        known.cases, known.running = message.of, message.outcome
        done = [(j.op, j.rung) for j in self.jobs].index((job.op, job.rung))
        self.progress(f"{job.op} ({job.rung})", done, len(self.jobs))

    def _after_loss(self, lot: list[Job], why: str) -> list[Job]:
        """Put the blame on the case that ran, and say what comes next."""
        assert self.current is not None
        lost = next(j for j in lot if (j.op, j.rung) == (self.current.op, self.current.rung))
        known, rest = self.known[lost.op, lost.rung], lot[lot.index(lost) + 1 :]
        if known.running is not None:
            known.running.failure = why
            known.outcomes.append(known.running)
            known.running = None
        elif not known.outcomes or known.outcomes[-1].number < lost.first:  # not even a case
            known.cases = known.cases or self.order.cases
            known.outcomes.append(Outcome(lost.first, 0, failure=f"before its first case: {why}"))
            return rest
        done = known.outcomes[-1].number + 1
        if known.processes >= MOST_LOSSES or done >= known.cases:
            return rest
        return [replace(lost, first=done), *rest]

    def report(self, *, finished: bool, whole: bool = False) -> DeviceReport:
        """What is known by now."""
        rows = tuple(self._row(job) for job in self.jobs if self.known[job.op, job.rung].outcomes)
        ran = {kernel for row in rows for kernel in row.launched}
        return DeviceReport(
            silicon=self.opened.silicon,
            device=self.opened.device,
            versions=self.opened.versions,
            began=self.began.isoformat(timespec="seconds"),
            seconds=round(time.perf_counter() - self.clock, 1),
            seed=self.order.seed,
            cases=self.order.cases,
            finished=finished,
            rows=rows,
            left_out=tuple(
                {"op": j.op, "rung": j.rung, "why": self.opened.lacks[j.op, j.rung]}
                for j in self.left_out
            ),
            never_launched=_entries(self.opened.device["arch"], ran) if whole else None,
        )

    def _row(self, job: Job) -> Row:
        known = self.known[job.op, job.rung]
        return row_of(
            job.op,
            job.rung,
            SUITE[job.op][job.rung].files,
            cases=known.cases,
            outcomes=known.outcomes,
            processes=max(1, known.processes),
            launched=sorted(known.launched),
        )


def _entries(arch: str, ran: set[str]) -> tuple[str, ...]:
    """The kernels of all sources for a chip that are not among those that ran."""
    chip, found = arch.removeprefix("sm_"), []
    for name in names():
        if chip in source(name).arches or not source(name).only:
            try:
                entries = parameters(build(name, chip).ptx)
            except TinymoeError:  # not for this chip: `left_out` names its rungs
                continue
            found += [f"{name}:{entry}" for entry in entries if f"{name}:{entry}" not in ran]
    return tuple(found)
