"""Who runs next: every thread has its own place in the code, and some wait for others.

The threads at the smallest place that anybody is ready to run go first, all together, until they
reach a place where others are: branches come together again by themselves. That order would
starve a thread that another one spins for, so every 64th turn picks a random place instead.
"""

from __future__ import annotations

import numpy as np

from tinymoe.kernels.ptx.barriers import Barriers
from tinymoe.kernels.ptx.machine import Machine
from tinymoe.kernels.ptx.operands import Array
from tinymoe.kernels.ptx.program import BARRIER, BRANCH, EXIT, TRAP, Step
from tinymoe.kernels.ptx.stall import Stall
from tinymoe.kernels.ptx.warp_wait import WarpWait

END = 1 << 60
FAIR = 64  # turns between two random ones


class Schedule:
    """Runs a program on the threads of one machine, until all have left."""

    def __init__(self, machine: Machine, program: list[Step], max_steps: int) -> None:
        self.machine, self.program = machine, program
        self.steps, self.max_steps, self.turns = 0, max_steps, 0
        self.counts = [0] * len(program)  # thread-instructions of each place
        self.live = machine.exists.copy()
        self.ready: dict[int, list[Array]] = {0: [np.flatnonzero(machine.exists)]}
        self.barriers = Barriers(machine, self.live)
        self.stall = Stall(machine)
        self.warps = WarpWait(machine, program, self.live)

    def run(self) -> None:
        """Raise DefectError where the threads cannot go on."""
        while True:
            self.turns += 1
            if not self.ready:
                if not self._release(idle=True):
                    return
                continue
            fair = self.turns % FAIR == 0
            if fair:
                self._release(idle=False)
            places = sorted(self.ready)
            if self.stall.goes_in_circles(self.turns, self.ready):
                self.machine.now = self.program[places[0]].instruction
                lane = int(self.ready[places[0]][0][0])
                self.machine.fail("waits without end: nothing changes any more", lane)
            place = int(self.machine.random.choice(places)) if fair else places[0]
            groups = self.ready.pop(place)
            lanes = groups[0] if len(groups) == 1 else np.sort(np.concatenate(groups))
            self._straight(place, lanes, min((p for p in self.ready if p > place), default=END))

    def push(self, place: int, lanes: Array) -> None:
        """Let `lanes` run from `place` when its turn comes."""
        if len(lanes):
            self.ready.setdefault(place, []).append(lanes)

    def _straight(self, place: int, lanes: Array, limit: int) -> None:
        """Run `lanes` from `place`, until they part, wait, leave, or others are where they are."""
        machine, program, counts = self.machine, self.program, self.counts
        machine.use(lanes)
        while place < len(program):
            step = program[place]
            machine.now = step.instruction
            self.steps += 1
            if self.steps > self.max_steps:
                machine.fail(f"still running after {self.max_steps} steps", int(lanes[0]))
            if step.control:
                before, place = place, self._control(step, place, lanes)
                if place < 0:
                    return
                if before < place < limit:
                    continue
                self.turns += 1
                if self.turns % FAIR == 0:
                    self._release(idle=False)
                # others may be there already, or starve
                if self.ready or self.stall.looking(self.turns):
                    self.push(place, lanes)
                    return
                continue
            if step.guard is None:
                counts[place] += len(lanes)
                step.action(machine)
            else:
                self._guarded(step, place, lanes)
            place += 1
            if place >= limit:
                self.push(place, lanes)
                return
        self._leave(lanes)

    def _guarded(self, step: Step, place: int, lanes: Array) -> None:
        held = self._held(step)
        many = int(np.count_nonzero(held))
        self.counts[place] += many
        if many == len(lanes):
            step.action(self.machine)
        elif many:
            self.machine.use(lanes[held])
            step.action(self.machine)
            self.machine.use(lanes)

    def _held(self, step: Step) -> Array:
        assert step.guard is not None
        held: Array = self.machine.spread(step.guard(self.machine))
        return held if step.wanted else ~held

    def _control(self, step: Step, place: int, lanes: Array) -> int:
        """Where all `lanes` go on together; -1 if they part or wait (and are pushed or kept)."""
        self.counts[place] += len(lanes)
        if step.guard is not None:
            held = self._held(step)
            many = np.count_nonzero(held)
            if not many:
                return place + 1
            if many < len(lanes):
                self.push(place + 1, lanes[~held])
                lanes = lanes[held]
                self.machine.use(lanes)
                after = self._steer(step, place, lanes)
                if after >= 0:
                    self.push(after, lanes)
                return -1
        return self._steer(step, place, lanes)

    def _steer(self, step: Step, place: int, lanes: Array) -> int:
        if step.control == BRANCH:
            return self._branch(step, lanes)
        if step.control == EXIT:
            self._leave(lanes)
        elif step.control == TRAP:
            self.machine.fail("the kernel stopped itself", int(lanes[0]))
        elif step.control == BARRIER:
            step.action(self.machine)
            return self.barriers.arrive(step.instruction, place, lanes)
        else:
            return self.warps.arrive(step, place, lanes, self.push)
        return -1

    def _branch(self, step: Step, lanes: Array) -> int:
        if len(step.targets) == 1 and step.instruction.opcode[0] == "bra":
            return step.targets[0]
        step.action(self.machine)
        chosen = self.machine.chosen
        if int(chosen.max()) >= len(step.targets):
            lane = int(lanes[np.argmax(chosen)])
            self.machine.fail(f"index {int(chosen.max())} of {len(step.targets)} targets", lane)
        for k in np.unique(chosen):
            self.push(step.targets[int(k)], lanes[chosen == k])
        return -1

    def _leave(self, lanes: Array) -> None:
        self.live[lanes] = False

    def _release(self, idle: bool) -> bool:
        """Open the barriers that are complete. With nobody ready, false if all have left."""
        opened = self.barriers.open(self.push)
        if not opened and idle:
            self.warps.stuck()
            self.barriers.stuck()
        return opened


def run(machine: Machine, program: list[Step], max_steps: int) -> tuple[list[int], int]:
    """Run all threads of `machine`; the thread-instructions of each place, and the steps taken."""
    schedule = Schedule(machine, program, max_steps)
    with np.errstate(all="ignore"):
        schedule.run()
    return schedule.counts, schedule.steps
