"""Waiting for the other lanes of a warp: shuffles, votes, `__syncwarp`, tensor-core instructions.

A lane waits until every lane its mask names is there. PTX lets exited lanes be; here a mask that
names one is an error, because the value read from it is undefined and the mask most likely
wrong (an early `return` before a shuffle). Lanes that a partial last warp never had do not count.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinymoe.kernels.ptx.machine import Machine
from tinymoe.kernels.ptx.operands import Array
from tinymoe.kernels.ptx.program import Step

BIT = np.uint32(1) << np.arange(32, dtype=np.uint32)


class WarpWait:
    """The lanes parked at warp operations."""

    def __init__(self, machine: Machine, program: list[Step], live: Array) -> None:
        self.machine, self.program, self.live = machine, program, live
        self.parked: dict[int, Array] = {}  # key -> slots; a key is a place, or -1: __syncwarp
        self.place = np.zeros(machine.size, np.int64)
        self.mask = np.zeros(machine.size, np.uint32)

    def arrive(
        self, step: Step, place: int, lanes: Array, push: Callable[[int, Array], None]
    ) -> int:
        """Run the operation for those whose mask is complete; where all lanes go on, or -1."""
        machine = self.machine
        assert step.mask is not None
        mask = step.mask(machine)
        named = step.instruction.opcode[:2] == ("bar", "warp")
        key = -1 if named else place  # any __syncwarp meets any other one, wherever it is written
        whole = isinstance(machine.select, slice) and len(lanes) % 32 == 0 and lanes[0] % 32 == 0
        if whole and key not in self.parked and int(mask.min()) == 0xFFFFFFFF:
            if machine.card.strict:
                self.mask[lanes] = mask
            self._run(step, lanes, named)
            return place + 1
        self.mask[lanes], self.place[lanes] = mask, place
        if not (self.mask[lanes] & BIT[lanes & 31]).all():
            lane = int(lanes[np.argmin(self.mask[lanes] & BIT[lanes & 31])])
            machine.fail(f"the mask {self.mask[lane]:#x} does not name the lane itself", lane)
        here = np.sort(np.concatenate([self.parked.pop(key, lanes[:0]), lanes]))
        done = self._complete(here)
        if not done.all():
            self.parked[key] = here[~done]
        if done.any():
            ready = here[done]
            machine.use(ready)
            self._run(step, ready, named)
            for at in np.unique(self.place[ready]):
                push(int(at) + 1, ready[self.place[ready] == at])
        return -1

    def _run(self, step: Step, lanes: Array, named: bool) -> None:
        step.action(self.machine)
        if not (named and self.machine.card.strict):
            return
        masks = self.mask[lanes]
        for mask in np.unique(masks):
            members = np.zeros(self.machine.size, bool)
            members[lanes[masks == mask]] = True
            warps = np.unique(lanes[masks == mask] >> 5)
            self.machine.order.sync(warps, members.reshape(-1, 32)[warps])

    def _complete(self, here: Array) -> Array:
        """Which of the slots `here` have all lanes of their mask with them, agreeing on it."""
        machine, warp, mask = self.machine, here >> 5, self.mask[here]
        present = self._bits(here)
        alive = self._bits(np.flatnonzero(self.live))
        exist = self._bits(np.flatnonzero(machine.exists))
        gone = mask & exist[warp] & ~alive[warp]
        if gone.any():
            k = int(np.argmax(gone != 0))
            machine.fail(f"the mask names {_lanes(gone[k])}, which exited before", int(here[k]))
        done = (mask & exist[warp] & ~present[warp]) == 0
        for value in np.unique(mask[done]):
            agree = self._bits(here[mask == value])
            apart = done & (mask == value) & ((value & exist[warp] & ~agree[warp]) != 0)
            if apart.any():
                lane = int(here[np.argmax(apart)])
                lost = value & exist[lane >> 5] & ~agree[lane >> 5]
                machine.fail(f"{_lanes(lost)} of the mask {value:#x} came with another mask", lane)
        return np.asarray(done)

    def _bits(self, slots: Array) -> Array:
        there = np.zeros(self.machine.size, bool)
        there[slots] = True
        return np.packbits(there.reshape(-1, 32), axis=1, bitorder="little").view("<u4")[:, 0]

    def stuck(self) -> None:
        """Nobody can run: if lanes wait here, name one and what it waits for."""
        for lanes in self.parked.values():
            lane = int(lanes[0])
            self.machine.now = self.program[int(self.place[lane])].instruction
            mates = (lane & ~31) | np.flatnonzero(self.mask[lane] & BIT)
            missing = np.setdiff1d(mates[self.machine.exists[mates]], lanes)
            left = missing[~self.live[missing]]
            story = "exited" if len(left) else "wait elsewhere and never come"
            mask = np.bitwise_or.reduce(BIT[(left if len(left) else missing) & 31])
            self.machine.fail(f"waits for {_lanes(mask)}, which {story}", lane)


def _lanes(mask: np.uint32) -> str:
    found = [str(k) for k in range(32) if int(mask) >> k & 1]
    return ("lane " if len(found) == 1 else "lanes ") + ", ".join(found)
