"""Barriers of a block: `bar.sync`, `bar.arrive`, `bar.red`, with their 16 numbers and counts.

`__syncthreads()` is barrier 0 without a count: all threads of the block that have not left must
come, and to the same line, since in CUDA C a barrier in a branch that only some take is undefined.
With a count (PTX only) any that many threads meet at it, wherever they wait.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinymoe.kernels.ptx.dispatch import Action, UnsupportedError, decoder
from tinymoe.kernels.ptx.kernel import Instruction, Kernel
from tinymoe.kernels.ptx.machine import Machine
from tinymoe.kernels.ptx.operands import TYPES, U32, Array, Reader, Writer, reader, writer

NUMBERS = 16
REDUCE: dict[str, Callable[[Array], int]] = {
    "popc": lambda p: int(p.sum()),
    "and": lambda p: int(p.all()),
    "or": lambda p: int(p.any()),
}


@dataclass
class Call:
    """A decoded barrier instruction."""

    number: Reader
    count: Reader | None
    arrive: bool
    reduce: str = ""
    vote: Reader | None = None
    negated: bool = False
    out: Writer | None = None


@decoder("bar")
def bar(kernel: Kernel, i: Instruction) -> Action:
    """`bar` and `barrier`: the action leaves the decoded call on the machine."""
    mods = [m for m in i.opcode[1:] if m not in ("cta", "aligned")]
    operands = list(i.operands)
    call = Call(reader(kernel, "0", U32), None, arrive=mods == ["arrive"])
    if mods[:1] == ["red"] and len(mods) >= 2 and mods[1] in REDUCE:
        dtype = TYPES["pred" if mods[1] != "popc" else "u32"]
        call.reduce, call.out = mods[1], writer(kernel, operands.pop(0), dtype)
        vote = operands.pop()
        call.negated, call.vote = vote[0] == "!", reader(kernel, vote.lstrip("!"), TYPES["pred"])
    elif mods not in (["sync"], ["arrive"]):
        raise UnsupportedError("instruction not supported")
    if operands:
        call.number = reader(kernel, operands[0], U32)
    if len(operands) > 1:
        call.count = reader(kernel, operands[1], U32)
    return lambda machine: setattr(machine, "call", call)


class Barriers:
    """The threads held at barriers."""

    def __init__(self, machine: Machine, live: Array) -> None:
        self.machine, self.live = machine, live
        self.number = np.full(machine.size, -1)
        self.place, self.count = np.zeros((2, machine.size), np.int64)
        self.vote = np.zeros(machine.size, bool)
        self.arrived = np.zeros((machine.blocks, NUMBERS), np.int64)
        self.calls: dict[int, tuple[Instruction, Call]] = {}

    def arrive(self, i: Instruction, place: int, lanes: Array) -> int:
        """Hold `lanes`; or only count them, for `bar.arrive`, and give where they go on."""
        machine = self.machine
        call: Call = machine.call
        number = machine.spread(call.number(machine))
        if int(number.max()) >= NUMBERS:
            machine.fail(f"barrier {int(number.max())} of {NUMBERS}", int(lanes[np.argmax(number)]))
        count = machine.spread(call.count(machine)) if call.count else np.zeros(1, np.int64)
        if (count % 32).any():
            machine.fail(f"a count of {int(count[0])}, not a multiple of 32", int(lanes[0]))
        self.calls[place] = (i, call)
        self.count[lanes], self.place[lanes] = count, place
        if call.arrive:
            np.add.at(self.arrived, (machine.nth[lanes], number), 1)
            return place + 1
        self.number[lanes] = number
        if call.vote:
            self.vote[lanes] = machine.spread(call.vote(machine)) != call.negated
        return -1

    def open(self, push: Callable[[int, Array], None]) -> bool:
        """Release the barriers that are complete; whether there was one."""
        held = np.flatnonzero(self.number >= 0)
        if not len(held):
            return False
        first = held[0]
        simple = (self.number[held] == 0).all() and not self.count[held].any()
        if simple and (self.place[held] == self.place[first]).all():
            return self._open_all(held, push)
        opened = False
        for block in np.unique(self.machine.nth[held]):
            mine = held[self.machine.nth[held] == block]
            for number in np.unique(self.number[mine]):
                waiting = mine[self.number[mine] == number]
                if self._complete(int(block), int(number), waiting):
                    self._release(waiting, np.array([block]), push)
                    self.arrived[block, number] = 0
                    opened = True
        return opened

    def _open_all(self, held: Array, push: Callable[[int, Array], None]) -> bool:
        """Many blocks at one `__syncthreads()`: those whose live threads are all there go on."""
        nth, blocks = self.machine.nth, self.machine.blocks
        there = np.bincount(nth[held], minlength=blocks)
        alive = np.bincount(nth[self.live], minlength=blocks)
        ready = np.flatnonzero((there == alive) & (there > 0))
        if len(ready):
            lanes = held if len(ready) == blocks else held[np.isin(nth[held], ready)]
            self._release(lanes, ready, push)
        return bool(len(ready))

    def _complete(self, block: int, number: int, waiting: Array) -> bool:
        counts = self.count[waiting]
        lane = int(waiting[0])
        self.machine.now = self.calls[int(self.place[lane])][0]
        if (counts != counts[0]).any():
            other = int(waiting[np.argmax(counts != counts[0])])
            self.machine.fail(f"waits for {counts[0]} threads, another one differs", other)
        if counts[0]:
            there = len(waiting) + int(self.arrived[block, number])
            if there > counts[0]:
                self.machine.fail(f"{there} threads came to a barrier for {counts[0]}", lane)
            return there == counts[0]
        alive = np.flatnonzero(self.live & (self.machine.nth == block))
        if len(waiting) < len(alive):
            return False
        apart = self.place[waiting] != self.place[lane]
        if apart.any():
            self._apart(lane, int(waiting[np.argmax(apart)]))
        return True

    def _release(self, lanes: Array, blocks: Array, push: Callable[[int, Array], None]) -> None:
        self.number[lanes] = -1
        self.machine.barrier(blocks)
        for place in np.unique(self.place[lanes]):
            mine = lanes[self.place[lanes] == place]
            self._reduce(int(place), mine)
            push(int(place) + 1, mine)

    def _reduce(self, place: int, lanes: Array) -> None:
        call = self.calls[place][1]
        if call.out is None:
            return
        nth = self.machine.nth[lanes]
        for block in np.unique(nth):
            mine = lanes[nth == block]
            self.machine.use(mine)
            result = REDUCE[call.reduce](self.vote[mine])
            call.out(self.machine, np.array([result], "u4" if call.reduce == "popc" else bool))

    def _apart(self, lane: int, other: int) -> None:
        i, j = (self.calls[int(self.place[k])][0] for k in (lane, other))
        self.machine.now = i
        self.machine.fail(
            "threads of one block wait at different barriers: this one here, "
            f"{self.machine.who(other)} at {j.place}",
            lane,
        )

    def stuck(self) -> None:
        """Nobody can run: if threads are held here, name one and whom it waits for."""
        held = np.flatnonzero(self.number >= 0)
        if not len(held):
            return
        lane = int(held[0])
        self.machine.now = self.calls[int(self.place[lane])][0]
        block = self.machine.nth[lane]
        mates = held[self.machine.nth[held] == block]
        apart = (self.place[mates] != self.place[lane]) | (self.number[mates] != self.number[lane])
        if apart.any():
            self._apart(lane, int(mates[np.argmax(apart)]))
        need = int(self.count[lane]) or int((self.live & (self.machine.nth == block)).sum())
        got = len(mates) + int(self.arrived[block, self.number[lane]])
        self.machine.fail(f"barrier {self.number[lane]} waits for {need} threads, got {got}", lane)
