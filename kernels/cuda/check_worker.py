"""A process of its own for kernels that may take it down.

After an illegal address, every CUDA call of a process fails; a kernel may also write where another
one's array lies, crash the driver, or never end. So the process that asks never opens the GPU. Its
child runs cases and tells of each before and after; when it dies, hangs, or says that its device is
lost, what it told stands, and another child goes on with the next case.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import IO, Any

from tinymoe.core import TinymoeError
from tinymoe.kernels.cuda.check_beyond import SUITE, inputs_of, row_of, suite_on
from tinymoe.kernels.cuda.check_case import Outcome, Pair, begun, run_case
from tinymoe.kernels.cuda.timed_devices import Timed, TimedPtx, described, open_device, versions

PATIENCE = 300.0  # seconds for one case; and to open the device, to draw cases, to say the end
Implementations = dict[str, Callable[..., Any]]  # by rung
Rungs = Callable[[str, Timed], Implementations]


@dataclass(frozen=True, slots=True)
class Job:
    """One rung of one op, from a case on."""

    op: str
    rung: str
    first: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a child shall do. `opens` and `rungs` are functions of a module: they go by name."""

    device: str
    jobs: tuple[Job, ...] = ()
    cases: int = 0
    seed: int = 0
    patience: float = PATIENCE
    opens: Callable[[str], Timed] = open_device
    rungs: Rungs = suite_on


@dataclass(frozen=True, slots=True)
class Opened:
    """The device is there; `lacks`: rungs that it cannot run, and why."""

    silicon: bool
    device: dict[str, str]
    versions: dict[str, str]
    lacks: dict[tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class Begun:
    """A case is about to run, of so many."""

    job: Job
    outcome: Outcome
    of: int


@dataclass(frozen=True, slots=True)
class Done:
    """A case has run; `launched`: the kernels that the job has launched so far."""

    job: Job
    outcome: Outcome
    launched: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """A child is gone. `why`: empty if it had done all of its order. `refused`: it said so."""

    why: str = ""
    refused: bool = False


Message = Opened | Begun | Done | Ended


# ------------------------------------------------------------------------------- the one who asks


def told(order: Order) -> Iterator[Message]:
    """Start a child on an order and pass on what it tells; `Ended` comes last."""
    program = f"from {__name__} import main; main()"  # with -m, its messages were of __main__
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    heard: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
    Thread(target=_listen, args=(child.stdout, heard), daemon=True).start()
    try:
        with suppress(BrokenPipeError):  # it died at once; `heard` says so
            pickle.dump(sys.path, child.stdin)  # before what is found by it
            pickle.dump(order, child.stdin)
            child.stdin.close()
        patience = PATIENCE
        while True:
            try:
                message = heard.get(timeout=patience)
            except queue.Empty:
                message = Ended(f"no word for {patience:g} s: the process was stopped")
            if message is None:
                message = Ended(_end_of(child.wait(10)))
            yield message
            if isinstance(message, Ended):
                return
            patience = order.patience if isinstance(message, Begun) else PATIENCE
    finally:
        child.kill()  # one in a driver's call does not hear a gentler word
        with suppress(subprocess.TimeoutExpired):
            child.wait(10)


def _listen(stream: IO[bytes], heard: queue.SimpleQueue[Message | None]) -> None:
    """Message by message; None where the stream ends, be it in the middle of one."""
    with stream, suppress(EOFError, pickle.UnpicklingError):
        while True:
            heard.put(pickle.load(stream))
    heard.put(None)


def _end_of(code: int) -> str:
    if code < 0:
        with suppress(ValueError):
            return f"the process was ended by {signal.Signals(-code).name}"
    return f"the process ended with code {code}"


# ------------------------------------------------------------------------------- the child


def main() -> None:
    """Do the order that comes in; the last word is `Ended`, unless the process dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asks
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no message

    def tell(message: Message) -> None:
        pickle.dump(message, out)
        out.flush()

    with suppress(BrokenPipeError):
        try:
            sys.path = pickle.load(sys.stdin.buffer)
            order: Order = pickle.load(sys.stdin.buffer)
            device = order.opens(order.device)
            tell(_opened(device))
            losses = (_job(tell, order, device, job) for job in order.jobs)
            tell(Ended(next(filter(None, losses), "")))
        except TinymoeError as error:
            tell(Ended(str(error), refused=True))
        except Exception as error:
            tell(Ended(f"{type(error).__name__}: {error}"))


def _opened(device: Timed) -> Opened:
    lacks = {
        (op, name): why
        for op, rungs in SUITE.items()
        for name, rung in rungs.items()
        if (why := rung.lacks(device))
    }
    silicon = not isinstance(device, TimedPtx)
    return Opened(silicon, described(device), versions(device), lacks)


def _job(tell: Callable[[Message], None], order: Order, device: Timed, job: Job) -> str:
    """All cases of a job; why the device is lost, if it is."""
    reference = None if isinstance(device, TimedPtx) else TimedPtx(device.arch)
    pair = Pair(
        row_of(job.op),
        device,
        order.rungs(job.op, device)[job.rung],
        reference,
        None if reference is None else suite_on(job.op, reference)[job.rung],
    )
    device.launched.clear()
    inputs = inputs_of(job.op, job.rung, order.cases, order.seed)
    for number, case in list(enumerate(inputs))[job.first :]:
        tell(Begun(job, begun(number, case), len(inputs)))
        outcome = run_case(pair, number, case)
        tell(Done(job, outcome, tuple(sorted(device.launched))))
        if outcome.lost:
            return outcome.failure
    return ""
