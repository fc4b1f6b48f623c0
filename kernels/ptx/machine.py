"""All threads of a launch at once: a register is an array with one element a thread.

Every thread has its own place in the code. A step runs the instruction at the smallest place
anybody waits to run, for all threads there, so that branches come together again by themselves.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from tinymoe.kernels.ptx.arithmetic import ALU, COMPARE, QUIET, TYPES, Array, convert, flush
from tinymoe.kernels.ptx.dispatch import HANDLERS
from tinymoe.kernels.ptx.memory import ATOMIC, GAP, Memory
from tinymoe.kernels.ptx.parser import DefectError, Instruction, Kernel, PtxError

RUN, BARRIER, EXITED = range(3)


@dataclass(frozen=True)
class Report:
    """What a run executed: instructions reached, of how many, and thread-instructions in all."""

    executed: int
    instructions: int
    thread_instructions: int


def launch(
    kernel: Kernel, grid: int, block: int, args: list[Any], max_steps: int = 1_000_000
) -> Report:
    """Run `kernel` on `grid` blocks of `block` threads; arrays among `args` are written in place.

    An argument is a contiguous NumPy array (a pointer) or a NumPy scalar of the parameter's size.
    Raises DefectError (kernel, block, thread, lines) for a defect, PtxError for a bad call.
    """
    machine = _Machine(kernel, grid, block)
    buffers = machine.bind(args)
    machine.run(max_steps)
    for start, array in buffers:
        raw = machine.memory["global"].data[start : start + array.nbytes]
        array[...] = raw.view(array.dtype).reshape(array.shape)
    return Report(int(machine.seen.sum()), len(kernel.code), machine.count)


class _Machine:
    def __init__(self, kernel: Kernel, grid: int, block: int) -> None:
        if grid < 1 or not 1 <= block <= 1024:
            raise PtxError(f"grid {grid}, block {block}: expected grid >= 1 and block 1 to 1024")
        self.kernel, self.grid, self.block = kernel, grid, block
        n = grid * block
        self.blocks, self.thread = np.divmod(np.arange(n), block)
        self.warp = self.blocks * -(-block // 32) + self.thread // 32
        self.pc, self.state = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.epoch = np.zeros(grid, np.int64)
        self.registers: dict[str, Array] = {}
        self.seen, self.count = np.zeros(len(kernel.code), bool), 0
        self.stride = -(-(kernel.shared_bytes + GAP) // GAP) * GAP
        shared = Memory(self.stride * grid)
        for b in range(grid):
            shared.exists[b * self.stride : b * self.stride + kernel.shared_bytes] = True
        self.memory = {"shared": shared}
        self.params = b""
        self.now, self.lanes = kernel.code[0], np.arange(0)

    def bind(self, args: list[Any]) -> list[tuple[int, Array]]:
        """Place the arrays in global memory and pack the parameters."""
        if len(args) != len(self.kernel.params):
            raise PtxError(f"{self.kernel.name} takes {len(self.kernel.params)}, not {len(args)}")
        end, packed = GAP, bytearray()
        buffers: list[tuple[int, Array]] = []
        for (name, (offset, size)), arg in zip(self.kernel.params.items(), args, strict=True):
            if isinstance(arg, np.ndarray):
                known = [start for start, array in buffers if array is arg]
                raw = struct.pack("<Q", known[0] if known else end)
                if not known:
                    buffers.append((end, arg))
                    end += -(-arg.nbytes // GAP) * GAP + GAP
            elif isinstance(arg, np.generic):
                raw = arg.tobytes()
            else:
                raise PtxError(f"{name}: expected a NumPy array or scalar, got {type(arg)}")
            if len(raw) != size:
                raise PtxError(
                    f"{name}: the kernel reads {size} bytes, the argument has {len(raw)}"
                )
            packed[offset:] = b"\0" * (offset - len(packed)) + raw
        memory = self.memory["global"] = Memory(end)
        for start, array in buffers:
            place = slice(start, start + array.nbytes)
            memory.data[place] = np.frombuffer(array.tobytes(), np.uint8)
            memory.exists[place] = True
        self.params = bytes(packed)
        return buffers

    def fail(self, what: str, lane: int | None = None) -> NoReturn:
        """Raise a finding, with the thread where there is one."""
        who = "" if lane is None else f" block {self.blocks[lane]} thread {self.thread[lane]}"
        raise DefectError(
            f"kernel {self.kernel.name}{who}, {self.place()}: {what}: `{self.now.text}`"
        )

    def refuse(self, what: str) -> NoReturn:
        """Raise for what this machine cannot do."""
        raise PtxError(f"kernel {self.kernel.name}, {self.place()}: {what}: `{self.now.text}`")

    def place(self) -> str:
        """Where the running instruction is written."""
        source = f", source line {self.now.source}" if self.now.source else ""
        return f"PTX line {self.now.line}{source}"

    def run(self, max_steps: int) -> None:
        """Until every thread has left."""
        code = self.kernel.code
        for _ in range(max_steps):
            ready = self.state == RUN
            if not ready.any():
                if (self.state == EXITED).all():
                    return
                self.release()
                continue
            place = int(self.pc[ready].min())
            lanes = np.flatnonzero(ready & (self.pc == place))
            if place >= len(code):
                self.state[lanes] = EXITED
                continue
            self.now, self.seen[place] = code[place], True
            self.count += len(lanes)
            self.pc[lanes] += 1
            if self.now.guard:
                self.lanes = lanes
                held = self.read(self.now.guard.lstrip("!"), TYPES["u8"]) != 0
                lanes = lanes[~held if self.now.guard[0] == "!" else held]
            if len(lanes):
                self.lanes = lanes
                with np.errstate(all="ignore"):
                    self.step(self.now)
        self.fail(f"still running after {max_steps} steps")

    def release(self) -> None:
        """Nobody can run, so all that live wait: open each block's barrier, if it is one."""
        for b in range(self.grid):
            live = np.flatnonzero((self.blocks == b) & (self.state != EXITED))
            if not len(live):
                continue
            self.now = self.kernel.code[int(self.pc[live].min()) - 1]
            if (self.pc[live] != self.pc[live[0]]).any():
                self.fail("threads of one block wait at different barriers", int(live[0]))
            self.state[live] = RUN
            self.epoch[b] += 1

    def step(self, i: Instruction) -> None:
        """One instruction, for the threads `self.lanes`."""
        base, mods = i.opcode[0], set(i.opcode[1:])
        if base in ("ret", "exit"):
            self.state[self.lanes] = EXITED
        elif base == "bra":
            if i.operands[0] not in self.kernel.labels:
                self.refuse("there is no such label")
            self.pc[self.lanes] = self.kernel.labels[i.operands[0]]
        elif base in ("bar", "barrier") and "sync" in mods and i.operands == ("0",):
            self.state[self.lanes] = BARRIER
        elif base in ("ld", "st", "atom", "red"):
            self.access(i, base, mods)
        elif base == "cvta" and mods <= {"to", "global", "u64"}:
            self.write(i.operands[0], self.read(i.operands[1], TYPES["u64"]))
        elif base in HANDLERS:
            HANDLERS[base](self, i)
        else:
            self.compute(i, base, mods)

    def compute(self, i: Instruction, base: str, mods: set[str]) -> None:
        """Arithmetic, comparison, conversion and moves."""
        out, *sources = i.operands
        kinds = [m for m in i.opcode[1:] if m in TYPES]
        rest = mods - set(kinds) - {"pred"}
        if "pred" in mods:
            kinds = ["u8"]
        if not kinds:
            self.refuse("instruction not supported")
        dtype = TYPES[kinds[-1]]
        values = [self.read(s, dtype) for s in sources[: 2 if base in ("selp", "shl") else 3]]
        ftz = "ftz" in rest and dtype == np.float32
        if ftz:
            values = [flush(v) for v in values]
        if base == "mov" and not rest and not out.startswith("{"):
            result = values[0]
        elif base == "selp" and not rest:
            result = np.where(self.read(sources[2], TYPES["u8"]) != 0, values[0], values[1])
        elif base == "setp" and len(left := rest - {"ftz"}) == 1 and left <= set(COMPARE):
            result = COMPARE[left.pop()](*values).astype("u1")
        elif base == "cvt" and rest <= {"rn", "ftz", "rni", "rzi", "rmi", "rpi"}:
            result = self.converted(values[0], TYPES[kinds[0]], rest - {"ftz"})
        elif base in ALU and rest <= QUIET and not self.twice(base, dtype):
            if base in ("shl", "shr"):
                values[1] = self.read(sources[1], TYPES["u32"])
            if base == "mad" and "wide" in rest:
                values[2] = self.read(sources[2], TYPES[kinds[0][0] + str(dtype.itemsize * 16)])
            result = ALU[base](*values, rest)
            if base == "not" and "pred" in mods:
                result = result & 1
        else:
            self.refuse("instruction not supported")
        self.write(out, flush(result) if ftz and result.dtype == np.float32 else result)

    def twice(self, base: str, dtype: np.dtype[Any]) -> bool:
        """Whether our product and sum would round twice where the hardware rounds once."""
        return dtype.kind == "f" and (base == "mad" or (base == "fma" and dtype != np.float32))

    def converted(self, value: Array, to: np.dtype[Any], how: set[str]) -> Array:
        """`cvt`, where the type pair and the rounding are ones we can do exactly."""
        to_integer = value.dtype.kind == "f" and to.kind != "f"
        whole = {"rni", "rzi", "rmi", "rpi"}
        if to_integer != bool(how & whole) or (to_integer and to.itemsize > 4):
            self.refuse("conversion not supported")
        return convert(value, to, next(iter(how), "rn"))

    def read(self, name: str, dtype: np.dtype[Any]) -> Array:
        """Operand `name` of the running threads, its low bits as `dtype`."""
        n = len(self.lanes)
        special = {
            **{"%tid.x": self.thread, "%ctaid.x": self.blocks, "%laneid": self.thread % 32},
            **{"%ntid.x": self.block, "%nctaid.x": self.grid},
            **dict.fromkeys(("%tid.y", "%tid.z", "%ctaid.y", "%ctaid.z"), 0),
        }
        if name in special:
            found = special[name]
            raw = found[self.lanes] if isinstance(found, np.ndarray) else np.full(n, found)
        elif name in self.registers:
            raw = self.registers[name][self.lanes]
        elif name in self.kernel.shared:
            raw = np.full(n, self.kernel.shared[name])
        elif name[:2] in ("0f", "0F", "0d", "0D"):
            raw = np.full(n, int(name[2:], 16), "u8")
        elif name.lstrip("-")[:1].isdigit():
            raw = np.full(n, int(name.rstrip("U"), 0) & (2**64 - 1), "u8")
        else:
            self.refuse(f"operand {name} was never written, or is not supported")
        bits = np.dtype(f"u{dtype.itemsize}")
        return raw.astype("u8").astype(bits).view(dtype)

    def write(self, name: str, value: Array) -> None:
        """Set a register of the running threads."""
        if value.dtype.kind == "i":
            raw = value.astype("i8").view("u8")
        else:
            raw = value.view(f"u{value.dtype.itemsize}").astype("u8")
        held = self.registers.setdefault(name, np.zeros(len(self.pc), "u8"))
        held[self.lanes] = raw

    def access(self, i: Instruction, base: str, mods: set[str]) -> None:
        """Loads, stores and atomics: address, checks, races, then the values."""
        place = next(o for o in i.operands if o[0] == "[")[1:-1].replace(" ", "")
        name, _, offset = place.partition("+")
        dtype = TYPES[next(m for m in i.opcode[::-1] if m in TYPES)]
        if base == "ld" and "param" in mods:
            if name not in self.kernel.params:
                self.refuse("there is no such parameter")
            start = self.kernel.params[name][0] + int(offset or 0)
            raw = np.frombuffer(self.params, dtype, 1, start)
            self.write(i.operands[0], np.repeat(raw, len(self.lanes)))
            return
        space = next((m for m in ("global", "shared") if m in mods), None)
        other = mods - {"global", "shared", "nc", "v2", "v4", "relaxed", "gpu"} - set(TYPES)
        if space is None or (base in ("ld", "st") and other):
            self.refuse("instruction not supported")
        width = 4 if "v4" in mods else 2 if "v2" in mods else 1
        at = self.read(name, TYPES["u64"]).astype("i8") + int(offset or 0)
        if space == "shared":
            at = at + self.blocks[self.lanes] * self.stride
        memory, size = self.memory[space], dtype.itemsize
        bad = memory.check(at, size * width)
        if bad:
            address = int(at[bad[0]])
            self.fail(f"the {space} address {address:#x} {bad[1]}", int(self.lanes[bad[0]]))
        kind = {"ld": "read", "st": "write"}.get(base, "atomic")
        for warp in np.unique(self.warp[self.lanes]):
            mine = np.flatnonzero(self.warp[self.lanes] == warp)
            b = int(self.blocks[self.lanes[mine[0]]])
            step = np.arange(0, size * width, min(4, size * width))
            words = ((at[mine][:, None] + step) // 4).ravel()
            clash = memory.race(kind, words, int(warp), b, int(self.epoch[b]))
            if clash:
                lane = int(self.lanes[mine[clash[0] // len(step)]])
                self.fail(
                    f"race in {space} memory: this {kind} and {clash[1]} by another warp", lane
                )
        if kind == "atomic":
            self.atomic(i, memory, at, dtype, other)
            return
        vector = i.operands[0 if base == "ld" else 1].strip("{}").replace(" ", "").split(",")
        for k, register in enumerate(vector):
            if base == "ld":
                self.write(register, memory.load(at + k * size, dtype))
            else:
                memory.store(at + k * size, self.read(register, dtype))

    def atomic(
        self, i: Instruction, memory: Memory, at: Array, dtype: np.dtype[Any], mods: set[str]
    ) -> None:
        """Read, change and write, as one."""
        if len(mods) != 1 or not mods <= set(ATOMIC):
            self.refuse("instruction not supported")
        old = memory.update(at, self.read(i.operands[-1], dtype), ATOMIC[next(iter(mods))])
        if i.opcode[0] == "atom":
            self.write(i.operands[0], old)
