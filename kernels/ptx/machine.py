"""The state of the threads that run together: registers, memories, and access to both.

Every register is an array with one element for each thread of a batch of blocks. A thread's place
in these arrays is its slot, 32 * warp + lane; the slots of a partial last warp stay empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from tinymoe.kernels.ptx import race
from tinymoe.kernels.ptx.counters import Traffic, banks, sectors
from tinymoe.kernels.ptx.fences import Fences
from tinymoe.kernels.ptx.kernel import DefectError, Instruction, Kernel, PtxError
from tinymoe.kernels.ptx.memory import Memory
from tinymoe.kernels.ptx.operands import U32, U64, Array, DType, address, reader, writer

# Generic addresses: a window of 4 GiB for each space below global memory
WINDOW = {"shared": 1 << 32, "local": 2 << 32, "const": 3 << 32, "param": 4 << 32}
GLOBAL = 1 << 40
Shape = tuple[int, int, int]
ALL = slice(None)


@dataclass
class Card:
    """What the blocks of a launch share, whichever batch they run in."""

    kernel: Kernel
    grid: Shape
    block: Shape
    memories: dict[str, Memory]  # "global", "const", "param"
    places: dict[str, int]  # variable or parameter -> offset in its space
    layouts: dict[str, Memory]  # "shared" and "local" for one block or thread
    races: bool
    strict: bool
    counting: bool
    seed: int
    dynamic_bytes: int = 0
    fences: Fences = field(default_factory=lambda: Fences(0))

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.block[0] * self.block[1] * self.block[2]


class Machine:
    """Blocks `first` to `first + count` of a launch; `dispatch.Threads` is what handlers use."""

    def __init__(self, card: Card, first: int, count: int) -> None:
        self.card, self.kernel = card, card.kernel
        self.warps = -(-card.threads // 32)  # of a block
        self.size = count * self.warps * 32
        slots = np.arange(self.size)
        self.thread = slots % (self.warps * 32)
        self.exists = self.thread < card.threads
        self.nth = slots // (self.warps * 32)  # which block of the batch
        self.block = first + self.nth
        self.blocks = count
        self.lanes, self.select = slots, slice(0, self.size)  # type: Array, slice | Array
        self.random = np.random.default_rng((card.seed, first))  # orders that are free
        self.registers: dict[str, Array] = {}
        self.state: dict[str, Any] = {}
        self.watchers: list[Callable[[str, Array, int, Array], None]] = []
        self.specials: dict[str, Array] = {}
        self.memories = dict(card.memories)
        for space, copies in (("shared", count), ("local", self.size)):
            self.memories[space] = card.layouts[space].again(copies)
        self.part = {"shared": self.nth, "local": slots}
        self.stamp = (self.block << race.BLOCK) | (self.thread >> 5)
        self.fenced = np.zeros(self.size, bool)  # threads that have called __threadfence()
        self.order = race.Order(self.size // 32 if card.strict else 0)
        if card.strict:
            for memory in self.memories.values():
                if memory.shadow:
                    memory.shadow.watch_lanes(self.order)
        self.now: Instruction = card.kernel.code[0]
        self.traffic: dict[str, dict[int, Traffic]] = {"shared": {}, "global": {}}
        self.chosen = slots  # of `brx.idx`: which target each thread takes
        self.call: Any = None  # of a barrier instruction: its decoded operands
        self.readers: dict[tuple[str, DType], Any] = {}

    # -- the running threads ------------------------------------------------------------------

    def use(self, lanes: Array) -> None:
        """Make `lanes` (ascending slots) the running threads."""
        self.lanes = lanes
        low, high = int(lanes[0]), int(lanes[-1]) + 1
        # neighbours are read and written through a slice: no copies
        self.select = slice(low, high) if high - low == len(lanes) else lanes

    def place(self, lane: int) -> tuple[Shape, Shape]:
        """The block and the thread in a slot, each as (x, y, z)."""
        card = self.card
        block = _coordinates(int(self.block[lane]), card.grid)
        return block, _coordinates(int(self.thread[lane]), card.block)

    def who(self, lane: int) -> str:
        """A thread, for a message."""
        block, thread = self.place(lane)
        return f"block {_short(block, self.card.grid)} thread {_short(thread, self.card.block)}"

    def fail(self, what: str, lane: int | None = None) -> NoReturn:
        """Raise a finding, with the thread where there is one."""
        who = "" if lane is None else f" {self.who(lane)}"
        i = self.now
        message = f"kernel {self.kernel.name}{who}, {i.place}: {what}: `{i.text}`"
        raise DefectError(message, i, *(() if lane is None else self.place(lane)))

    def refuse(self, what: str) -> NoReturn:
        """Raise for what this machine cannot do."""
        i = self.now
        raise PtxError(f"kernel {self.kernel.name}, {i.place}: {what}: `{i.text}`")

    # -- operands -----------------------------------------------------------------------------

    def special(self, name: str) -> Array:
        """A special register of the running threads, (N,) or (1,) uint64."""
        if name not in self.specials:
            self.specials[name] = self._special(name).astype(np.uint64)
        held = self.specials[name]
        return held[self.select] if len(held) > 1 else held

    def _special(self, name: str) -> Array:
        base, _, axis = name.partition(".")
        card, lane = self.card, np.arange(self.size) & 31
        if axis:
            k = "xyz".index(axis)
            which = {"%tid": self.thread, "%ctaid": self.block}
            shape = card.block if base in ("%tid", "%ntid") else card.grid
            if base in which:
                return which[base] // int(np.prod(shape[:k])) % shape[k]
            return np.array([shape[k]])
        bit = np.uint64(1) << lane.astype(np.uint64)
        masks = {
            "eq": bit,
            "lt": bit - 1,
            "le": 2 * bit - 1,
            "gt": 2**32 - 2 * bit,
            "ge": 2**32 - bit,
        }
        arrays = {"%laneid": lane, "%warpid": self.thread >> 5}
        numbers = {"%nwarpid": self.warps, "WARP_SZ": 32, "%nsmid": 1}
        numbers["%dynamic_smem_size"] = card.dynamic_bytes
        numbers["%total_smem_size"] = self.kernel.shared_bytes + card.dynamic_bytes
        if name.startswith("%lanemask_"):
            return masks[name[-2:]]
        return arrays[name] if name in arrays else np.array([numbers.get(name, 0)])

    def symbol(self, name: str) -> int:
        """The address of a variable in its own space; of a global one, the generic address."""
        variable = self.kernel.variables.get(name)
        base = GLOBAL if variable and variable.space == "global" else 0
        return self.card.places[name] + base

    def read(self, operand: str, dtype: DType) -> Array:
        """(N,) of `dtype`: a register's low bits, an immediate, a special register, a symbol."""
        key = (operand, dtype)
        if key not in self.readers:
            self.readers[key] = reader(self.kernel, operand, dtype)
        return self.spread(self.readers[key](self))

    def write(self, operand: str, values: Array) -> None:
        """Set a register from (N,) values; wider registers are extended as the dtype says."""
        writer(self.kernel, operand, values.dtype)(self, values)

    def address(self, operand: str) -> Array:
        """(N,) uint64: the value of `[%rd1+16]`, `[name+4]` or `[%r2]`."""
        return self.spread(address(self.kernel, operand)(self))

    def spread(self, values: Array) -> Array:
        """(N,) from (N,) or (1,)."""
        return np.repeat(values, len(self.lanes)) if len(values) < len(self.lanes) else values

    # -- memory -------------------------------------------------------------------------------

    def load(
        self, space: str, at: Array, dtype: DType, count: int = 1, lanes: Array | None = None
    ) -> Array:
        """(N, count) values at addresses `at` (N,); see `dispatch.Threads`."""
        size = dtype.itemsize
        out = np.empty((len(at), count), f"u{size}")
        for part, memory, index in self.touch(space, at, size * count, "read", lanes):
            for k in range(count):
                out[part, k] = memory.load(index + k * size, out.dtype)
        return out.view(dtype)

    def store(self, space: str, at: Array, values: Array, lanes: Array | None = None) -> None:
        """Write `values` (N, count) at `at` (N,); see `dispatch.Threads`."""
        size = values.dtype.itemsize
        for part, memory, index in self.touch(space, at, values[0].nbytes, "write", lanes):
            for k in range(values.shape[1]):
                memory.store(index + k * size, np.ascontiguousarray(values[part, k]))

    def touch(
        self, space: str, at: Array, size: int, kind: str, lanes: Array | None = None
    ) -> Sequence[tuple[slice | Array, Memory, Array]]:
        """Check and record one access of `size` bytes a thread; where the bytes are.

        Gives, for each state space among the addresses, which threads (of N) reach it, its memory,
        and the byte offsets there. `kind` is "read", "write" or "atomic", or "atomic read" and
        "atomic write" for what `volatile` and its kin do.
        """
        lanes = self.lanes if lanes is None else lanes
        at = at.astype(np.uint64, copy=False)
        if space:
            inside = at - np.uint64(GLOBAL) if space == "global" else at
            return [(ALL, self.memories[space], self._touch(space, inside, size, kind, lanes))]
        found = []
        for name, start in (*WINDOW.items(), ("global", GLOBAL)):
            mine = at >= GLOBAL if name == "global" else at >> np.uint64(32) == start >> 32
            some = np.flatnonzero(mine)
            if len(some):
                inside = at[some] - np.uint64(start)
                index = self._touch(name, inside, size, kind, lanes[some])
                found.append((some, self.memories[name], index))
        if sum(len(part) for part, _, _ in found) < len(at):
            lost = at >> np.uint64(32) == 0
            lane = int(lanes[np.argmax(lost)])
            self.fail(f"the address {int(at[np.argmax(lost)]):#x} is outside every buffer", lane)
        return found

    def some(self, put: Callable[[Any, Array], None], part: Array, values: Array) -> None:
        """Write a register of the `part` of the running threads."""
        lanes = self.lanes
        self.use(lanes[part])
        put(self, values)
        self.use(lanes)

    def _touch(self, space: str, at: Array, size: int, kind: str, lanes: Array) -> Array:
        memory = self.memories[space]
        bad = memory.fault(at, size)
        if bad is None and memory.fixed and "read" not in kind:
            bad = memory.locked(at)
        if bad:
            value = int(at[bad[0]])
            self.fail(f"the {space} address {value:#x} {bad[1]}", int(lanes[bad[0]]))
        index = at.view(np.int64)
        if space in self.part:
            index = index + self.part[space][lanes] * memory.stride
        for watch in self.watchers:  # e.g. copies under way: (space, offsets, bytes, lanes)
            watch(space, index, size, lanes)
        if memory.shadow is not None:
            self._race(memory.shadow, space, index, size, kind, lanes)
            if kind[0] == "a" and space == "global":
                reads, writes = kind != "atomic write", kind != "atomic read"
                fenced = self.fenced[lanes]
                self.card.fences.meet(index, self.stamp[lanes], fenced, reads, writes)
        if self.card.counting and space in self.traffic:
            count = banks if space == "shared" else sectors
            seen = self.traffic[space].get(self.now.line, Traffic())
            self.traffic[space][self.now.line] = seen + count(index, size, lanes)
        return index

    def _race(
        self, shadow: race.Shadow, space: str, index: Array, size: int, kind: str, lanes: Array
    ) -> None:
        words = shadow.words(index, size)
        per = len(words) // len(index)
        slots = lanes if per == 1 else np.repeat(lanes, per)
        stamp = self.stamp[slots]
        kind = kind.split()[0]
        clash = shadow.access(kind, words, stamp)
        if clash is None and shadow.within is not None:
            clash = shadow.within.access(kind, words, stamp, slots)
        if clash:
            lane = int(slots[clash[0]])
            self.fail(f"race in {space} memory: this {kind} and {clash[1]}", lane)

    def barrier(self, blocks: Array) -> None:
        """All threads of these blocks (of the batch) passed a barrier together."""
        passed = np.zeros(self.blocks, np.int64)
        passed[blocks] = 1 << race.WARP
        self.stamp += passed[self.nth]


def _coordinates(k: int, shape: Shape) -> Shape:
    return k % shape[0], k // shape[0] % shape[1], k // (shape[0] * shape[1])


def _short(at: Shape, shape: Shape) -> str:
    return str(at[0]) if shape[1] == shape[2] == 1 else str(at)


__all__ = ["GLOBAL", "U32", "U64", "WINDOW", "Card", "Machine", "Shape"]
