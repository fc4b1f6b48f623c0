"""The training loop, as each of the processes runs it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weights.recipe.checkpoint import Progress, save_checkpoint
from weights.recipe.data import Sampler
from weights.recipe.evaluate import domain_results, load_windows, specialisation
from weights.recipe.network import MoeNetwork, RouterReport
from weights.recipe.optimiser import Optimiser, Slot
from weights.recipe.schedule import LONG_CONTEXT, Schedule
from weights.recipe.shape import Shape

# In each layer. A balance factor of 0.01 held the loads within 1% of even, and domains too
# became alike; 0.003 leaves them room.
BALANCE, Z_LOSS = 0.003, 1e-3
VALID_WINDOWS = 12  # of each domain, while training
SPEED, CONTEXT, GO = range(3)  # places in `Shared.control`
LOSS, BALANCE_AT, LOAD_MIN, LOAD_MAX = range(4)  # places in a row of `Shared.stats`


@dataclass(frozen=True)
class Plan:
    """Everything the command line decides."""

    data: Path
    out: Path
    shape: Shape
    schedule: Schedule
    rows: int  # windows of each process in a step, at the short context
    context: int
    seed: int
    compile: bool
    checkpoint_seconds: float
    evaluate_seconds: float


@dataclass
class Shared:
    """What lies in memory that all processes share."""

    slots: dict[str, Slot]
    control: Tensor  # the first process's orders for the next step
    squares: Tensor  # partial gradient norms
    stats: Tensor  # [processes, 4]
    barrier: Any


def follow_parent() -> None:
    """End this process when its parent is gone: a killed run must leave nothing behind."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Worker:
    """One process: computes the gradients of its rows and updates its part of the weights."""

    def __init__(self, rank: int, plan: Plan, shared: Shared, progress: Progress) -> None:
        """Ready to go on from `progress`."""
        torch.set_num_threads(1)
        self.rank, self.plan, self.shared, self.progress = rank, plan, shared, progress
        self.processes = len(shared.stats)
        self.network = MoeNetwork(plan.shape, torch.bfloat16)
        for name, weight in self.network.named_parameters():
            weight.data = shared.slots[name].working
            weight.grad = shared.slots[name].grads[rank]
        if plan.compile:
            self.network.compile()
        self.sampler = Sampler(plan.data, plan.seed, plan.context)
        if progress.sampler is not None:
            self.sampler.restore(progress.sampler)
        self.optimiser = Optimiser(shared.slots, rank, shared.squares, shared.barrier.wait)

    def step(self) -> float:
        """One update of all processes together; returns the gradient norm."""
        speed, context, _ = self.shared.control.tolist()
        self.sampler.set_context(int(context))
        rows = self.plan.rows * self.plan.context // int(context) * self.processes
        windows = torch.from_numpy(self.sampler.draw(rows)[self.rank :: self.processes].copy())
        loss, reports = self.network.loss(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())
        balance = torch.stack([r.balance for r in reports])
        z = torch.stack([r.z for r in reports])
        (loss + BALANCE * balance.sum() + Z_LOSS * z.sum()).backward()  # type: ignore[no-untyped-call]
        self._tell(loss, balance.mean(), reports)
        self.progress.updates += 1
        self.progress.tokens += rows * int(context)
        return self.optimiser.step(speed, self.progress.updates)

    def _tell(self, loss: Tensor, balance: Tensor, reports: list[RouterReport]) -> None:
        loads = torch.stack([r.load for r in reports])
        row = torch.stack((loss.detach(), balance.detach(), loads.min(), loads.max()))
        self.shared.stats[self.rank] = row


def follow(rank: int, plan: Plan, shared: Shared, progress: Progress) -> None:
    """A process after the first: steps as long as the first one says so."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the first process decides when to end
    follow_parent()
    worker = Worker(rank, plan, shared, progress)
    while True:
        shared.barrier.wait()
        if not shared.control[GO]:
            return
        worker.step()


class Leader:
    """The first process's extra duties: schedule, log, evaluation and checkpoints."""

    def __init__(self, plan: Plan, shared: Shared, progress: Progress) -> None:
        """Opens the log where the checkpoint left it."""
        self.worker = Worker(0, plan, shared, progress)
        self.plan, self.shared, self.progress = plan, shared, progress
        self.windows = load_windows(plan.data, "valid", plan.context, VALID_WINDOWS)
        self.log_path = plan.out / "log.jsonl"
        with self.log_path.open("ab") as file:
            file.truncate(progress.log_bytes)
        self.saved = self.evaluated = time.monotonic()
        self.tokens_evaluated = -1

    def run(self, stopping: Callable[[], bool]) -> bool:
        """Train until the schedule's end (True) or until `stopping` says so (False)."""
        schedule = self.plan.schedule
        while True:
            now = schedule.progress(time.time(), self.progress.tokens)
            ended, stopped = now >= 1.0, stopping()
            context = self.plan.context * (2 if now >= 1.0 - LONG_CONTEXT else 1)
            speed = schedule.speed(now, self.progress.updates)
            go = not (ended or stopped)
            self.shared.control.copy_(torch.tensor([speed, context, go], dtype=torch.float64))
            self.shared.barrier.wait()
            if not go:
                break
            began, before = time.monotonic(), self.progress.tokens
            norm = self.worker.step()
            rate = (self.progress.tokens - before) / (time.monotonic() - began)
            self._log_step(norm, speed, int(context), rate, now)
            self._regular_duties()
        if ended and self.tokens_evaluated != self.progress.tokens:
            self.evaluate()
        self.save()
        return ended

    def _regular_duties(self) -> None:
        if time.monotonic() - self.evaluated >= self.plan.evaluate_seconds:
            self.evaluate()
            self.evaluated = time.monotonic()
        if time.monotonic() - self.saved >= self.plan.checkpoint_seconds:
            self.save()
            self.saved = time.monotonic()

    def _log_step(self, norm: float, speed: float, context: int, rate: float, now: float) -> None:
        loss, balance = self.shared.stats[:, (LOSS, BALANCE_AT)].mean(0).tolist()
        self.log(
            {
                "step": self.progress.updates,
                "tokens": self.progress.tokens,
                "loss": round(loss, 4),
                "balance": round(balance, 4),
                "least_load": round(float(self.shared.stats[:, LOAD_MIN].min()), 4),
                "most_load": round(float(self.shared.stats[:, LOAD_MAX].max()), 4),
                "norm": round(norm, 3),
                "speed": round(speed, 4),
                "context": context,
                "tokens_per_second": round(rate),
                "progress": round(now, 4),
            }
        )

    def evaluate(self) -> None:
        """Log the loss of every domain on `valid`."""
        self.tokens_evaluated = self.progress.tokens
        results = domain_results(self.worker.network, self.windows, self.plan.rows)
        distances = specialisation({d: load.mean(0) for d, (_, load) in results.items()})
        self.log(
            {
                "tokens": self.progress.tokens,
                "valid": {d: round(float(loss.mean()), 4) for d, (loss, _) in results.items()},
                "specialisation": [round(d, 3) for d in distances],
            }
        )

    def log(self, entry: dict[str, Any]) -> None:
        """One line; what stands in the log before a checkpoint is kept on a restart."""
        entry["time"] = time.strftime("%H:%M:%S")
        with self.log_path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def save(self) -> None:
        """Checkpoint to the run's folder."""
        self.progress.sampler = self.worker.sampler.state()
        self.progress.log_bytes = self.log_path.stat().st_size if self.log_path.exists() else 0
        save_checkpoint(
            self.plan.out / "checkpoint.pt",
            self.shared.slots,
            self.progress,
            self.plan.shape,
            self.plan.schedule,
        )
