"""`cp.async`: copies from global to shared memory that are under way until somebody waits.

A thread issues copies and closes a group of them with `commit_group`; `wait_group N` waits until
at most its N latest groups are still under way. Between issue and wait the bytes may arrive at
any moment, so this machine

- reads the source at once, and marks the destination as written at once and again at the wait: a
  warp that reads a buffer while another one refills it is a race, and so is reading what another
  warp copied without a barrier after that warp's wait;
- holds the bytes back until the wait, and reports any access to their destination until then: a
  missing, early or too generous `wait_group` does not go unseen.

A thread waits for its own copies only. Source: PTX ISA 9.0, non-bulk asynchronous copies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinymoe.core import Array
from tinymoe.kernels.ptx.dispatch import HANDLERS
from tinymoe.kernels.ptx.kernel import Instruction

U8, U32 = np.dtype(np.uint8), np.dtype(np.uint32)
HINTS = {"shared", "shared::cta", "global", "L2::cache_hint", "L2::64B", "L2::128B", "L2::256B"}


@dataclass(frozen=True)
class Batch:
    """The copies of one executed instruction, one a thread; all arrays have its N threads first."""

    instruction: Instruction
    lanes: Array  # slots of the threads
    group: Array  # which of the thread's groups it belongs to
    at: Array  # destination, as the thread names it
    words: Array  # where that is, in words of the machine's shared memory (N, size / 4)
    values: Array  # (N, size / 4) uint32

    def part(self, some: Array) -> Batch:
        """The copies of the threads `some` (N,) bool."""
        names = ("lanes", "group", "at", "words", "values")
        return replace(self, **{name: getattr(self, name)[some] for name in names})


class Copies:
    """The copies under way on one machine."""

    def __init__(self, machine: Any) -> None:
        self.machine = machine
        self.committed = np.zeros(machine.size, np.int64)  # groups closed so far, of each thread
        self.batches: list[Batch] = []
        self.held = np.zeros(len(machine.memories["shared"].data) // 4, bool)
        machine.watchers.append(self.watch)

    def issue(self, i: Instruction, at: Array, values: Array) -> None:
        """Start one copy for every running thread: `values` (N, words) to `at` (N,)."""
        lanes = self.machine.lanes
        ((_, _, index),) = self.machine.touch("shared", at, values[0].nbytes, "write")
        words = (index >> 2)[:, None] + np.arange(values.shape[1])
        self.held[words] = True
        self.batches.append(Batch(i, lanes, self.committed[lanes], at, words, values))

    def commit(self) -> None:
        """Close the running threads' groups."""
        self.committed[self.machine.lanes] += 1

    def wait(self, under_way: int) -> None:
        """Finish the running threads' groups, but for the latest `under_way` of each."""
        waiting = np.zeros(len(self.committed), bool)
        waiting[self.machine.lanes] = True
        left = []
        for batch in self.batches:
            before = self.committed[batch.lanes] - under_way
            done = waiting[batch.lanes] & (batch.group < before)
            if done.all():
                self._finish(batch)
                continue
            if done.any():
                self._finish(batch.part(done))
            left.append(batch.part(~done))
        self.batches = left

    def _finish(self, batch: Batch) -> None:
        self.held[batch.words] = False
        card = self.machine.card
        counting, card.counting = card.counting, False  # its banks were counted when it was issued
        self.machine.store("shared", batch.at, batch.values, batch.lanes)
        card.counting = counting

    def watch(self, space: str, index: Array, size: int, lanes: Array) -> None:
        """Called for every access: one that meets a copy under way is a defect."""
        if space != "shared" or not self.batches:
            return
        words = (index >> 2)[:, None] + np.arange(max(1, size // 4))
        met = self.held[words].any(axis=1)
        if met.any():
            k = int(np.argmax(met))
            self.machine.fail(self._story(words[k]), int(lanes[k]))

    def _story(self, words: Array) -> str:
        hits = ((b, np.isin(b.words, words).any(axis=1)) for b in self.batches)
        batch, hit = next((b, hit) for b, hit in hits if hit.any())
        who = self.machine.who(int(batch.lanes[np.argmax(hit)]))
        return (
            f"these bytes of shared memory are still on their way: {who} copies there with the "
            f"cp.async of {batch.instruction.place} and has not waited for it (cp.async.wait_group)"
        )


def _copy(machine: Any, i: Instruction) -> None:
    mods = i.opcode[2:]
    size = _number(machine, i.operands[2])
    legal = (16,) if "cg" in mods else (4, 8, 16)
    if not {"ca", "cg"} & set(mods) or set(mods) - {"ca", "cg"} - HINTS or size not in legal:
        machine.refuse("expected cp.async.ca of 4, 8 or 16 bytes, or cp.async.cg of 16")
    given = i.operands[3 : len(i.operands) - ("L2::cache_hint" in mods)]
    taken = np.full(len(machine.lanes), size)
    if given and machine.kernel.registers.get(given[0]) == 1:  # a predicate: ignore the source
        taken = np.where(machine.read(given[0], np.dtype(bool)), 0, size)
    elif given:
        taken = machine.read(given[0], U32).astype(np.int64)
    if (taken > size).any():
        lane = int(machine.lanes[np.argmax(taken > size)])
        machine.fail(f"src-size {int(taken.max())} is more than the {size} bytes copied", lane)
    source = machine.address(i.operands[1])
    _copies(machine).issue(i, machine.address(i.operands[0]), _bytes(machine, source, taken, size))


def _bytes(machine: Any, source: Array, taken: Array, size: int) -> Array:
    """The first `taken` (N,) bytes at `source` (N,), then zeros: (N, size / 4) uint32.

    Memory beyond `taken` is not read: kernels give any address at all with a count of 0.
    """
    lanes = machine.lanes
    crooked = (source.astype(np.int64) % size != 0) & (taken > 0)
    if crooked.any():
        k = int(np.argmax(crooked))
        what = f"the source address {int(source[k]):#x} is not aligned to its {size} bytes"
        machine.fail(what, int(lanes[k]))
    values = np.zeros((len(lanes), size), np.uint8)
    full = taken == size
    if full.any():
        words = machine.load("global", source[full], U32, size // 4, lanes[full])
        values[full] = np.ascontiguousarray(words).view(np.uint8)
    for k in range(int(taken[~full].max(initial=0))):
        some = ~full & (taken > k)
        byte = machine.load("global", source[some] + np.uint64(k), U8, 1, lanes[some])
        values[some, k] = byte[:, 0]
    return values.view(np.uint32)


def _number(machine: Any, operand: str) -> int:
    return int(machine.read(operand, U32)[0])


def _copies(machine: Any) -> Copies:
    if "copies" not in machine.state:
        machine.state["copies"] = Copies(machine)
    copies: Copies = machine.state["copies"]
    return copies


def _cp(machine: Any, i: Instruction) -> None:
    """Every `cp`: the copies, and the three ways to close or to await a group."""
    if i.opcode[1:] == ("async", "commit_group"):
        _copies(machine).commit()
    elif i.opcode[1:] == ("async", "wait_group"):
        _copies(machine).wait(_number(machine, i.operands[0]))
    elif i.opcode[1:] == ("async", "wait_all"):
        _copies(machine).commit()
        _copies(machine).wait(0)
    elif i.opcode[1:2] == ("async",) and len(i.operands) >= 3 and "global" in i.opcode[3:]:
        _copy(machine, i)
    else:
        machine.refuse("of cp, only the non-bulk cp.async to shared memory is supported")


HANDLERS["cp"] = _cp
