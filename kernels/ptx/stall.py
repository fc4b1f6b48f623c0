"""Waiting without end: threads that spin for what nobody will do.

Now and then the whole state is kept: who is where, all registers, all memory. If it comes back
within a few turns, the threads go in a circle. Others may still be about to break it, since who
runs next is partly drawn; so only several such circles on end are a finding.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinymoe.kernels.ptx.machine import Machine

Array = np.ndarray[Any, Any]
Ready = dict[int, list[Array]]  # place -> groups of slots
EVERY, LOOK, CIRCLES = 512, 128, 6  # turns between two looks, turns of a look, looks on end


class Stall:
    """Watches the turns of one machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.window = self.circles = 0
        self.back = False  # the state of this window was met again
        self.where: dict[int, bytes] = {}
        self.kept: list[Array] = []

    @staticmethod
    def looking(turn: int) -> bool:
        """Whether this turn is one of those that are compared."""
        return turn >= EVERY and turn % EVERY < LOOK

    def goes_in_circles(self, turn: int, ready: Ready) -> bool:
        """Look at the state at a turn; True if nothing has changed for long."""
        if not self.looking(turn):
            return False
        if turn // EVERY != self.window:
            self.circles = self.circles + 1 if self.back else 0
            self.window, self.back = turn // EVERY, False
            self.where = _places(ready)
            self.kept = [array.copy() for array in self._arrays()]
        elif not self.back and _places(ready) == self.where:
            now = self._arrays()
            self.back = len(now) == len(self.kept) and all(map(np.array_equal, now, self.kept))
        return self.circles >= CIRCLES

    def _arrays(self) -> list[Array]:
        memories = self.machine.memories
        return [*self.machine.registers.values(), *(m.data for m in memories.values())]


def _places(ready: Ready) -> dict[int, bytes]:
    return {place: np.sort(np.concatenate(groups)).tobytes() for place, groups in ready.items()}
