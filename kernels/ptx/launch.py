"""A launch: the grid cut into batches of blocks, arguments placed in memory, results read back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinymoe.kernels.ptx.fences import Fences
from tinymoe.kernels.ptx.kernel import Instruction, Kernel, PtxError
from tinymoe.kernels.ptx.machine import GLOBAL, Card, Machine, Shape
from tinymoe.kernels.ptx.memory import GAP, Memory, Owned
from tinymoe.kernels.ptx.operands import Array
from tinymoe.kernels.ptx.program import program
from tinymoe.kernels.ptx.report import Report
from tinymoe.kernels.ptx.schedule import run

LANES = 8192
SHARED_LIMIT = 227 * 1024  # bytes a block may have on sm_90 and sm_100; the most there is


def launch(
    kernel: Kernel,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    args: Sequence[Any],
    max_steps: int = 1_000_000,
    *,
    shared_bytes: int = 0,
    races: bool = True,
    strict: bool = False,
    counters: bool = False,
    together: int = LANES,
    seed: int = 0,
) -> Report:
    """Run `kernel` on `grid` blocks of `block` threads; arrays among `args` are written in place.

    `grid` and `block` are numbers or up to three of them (x, y, z). An argument is a contiguous
    NumPy array (a pointer), a NumPy scalar of the parameter's size, or `bytes` or a structured
    scalar (a struct by value). `shared_bytes` is the size of `extern __shared__`.

    `races` looks for races between warps, `strict` for those within a warp too, `counters` for bank
    conflicts and uncoalesced accesses. About `together` threads run at the same time: blocks that
    wait for one another have to be among them. `seed` draws who goes first where that is free:
    among the threads that update one word, and now and then among those at different places.
    Raises DefectError (kernel, block, thread, lines) for a defect, PtxError for a bad call.
    """
    card, buffers = _card(kernel, _shape(grid, "grid"), _shape(block, "block"), args, shared_bytes)
    card.races, card.strict, card.counting, card.seed = races, strict, counters, seed
    card.fences = Fences(int(np.prod(card.grid)))
    _check_block(kernel, card)
    _layouts(card, kernel)
    steps = program(kernel)
    blocks = card.grid[0] * card.grid[1] * card.grid[2]
    batch = max(1, together // (-(-card.threads // 32) * 32))
    report = Report.empty(kernel)
    for first in range(0, blocks, batch):
        machine = Machine(card, first, min(batch, blocks - first))
        report = report + Report.of(machine, *run(machine, steps, max_steps))
    for start, array in buffers:
        if not array.flags.writeable:
            continue
        raw = card.memories["global"].data[start : start + array.nbytes]
        array[...] = raw.view(array.dtype).reshape(array.shape)
    return report


def _shape(given: int | Sequence[int], what: str) -> Shape:
    sizes = [given] if isinstance(given, (int, np.integer)) else list(given)
    if not 1 <= len(sizes) <= 3 or any(int(n) != n or n < 1 for n in sizes):
        raise PtxError(f"{what} {given!r}: expected a number or up to three, each at least 1")
    x, y, z = (*(int(n) for n in sizes), 1, 1)[:3]
    return x, y, z


def _check_block(kernel: Kernel, card: Card) -> None:
    if card.threads > 1024 or card.block[2] > 64:
        raise PtxError(f"block {card.block}: expected at most 1024 threads, and 64 along z")
    if kernel.required_threads and card.block != _shape(kernel.required_threads, "reqntid"):
        raise PtxError(f"block {card.block}: the kernel wants {kernel.required_threads}")
    limit = int(np.prod(kernel.max_threads)) if kernel.max_threads else 1024
    if card.threads > limit:
        raise PtxError(f"block {card.block}: __launch_bounds__ allows {limit} threads")


def _card(
    kernel: Kernel, grid: Shape, block: Shape, args: Sequence[Any], shared_bytes: int
) -> tuple[Card, list[tuple[int, Array]]]:
    """The memories all blocks share, with the arguments in them."""
    if len(args) != len(kernel.params):
        raise PtxError(f"{kernel.name} takes {len(kernel.params)} arguments, not {len(args)}")
    if kernel.shared_bytes + shared_bytes > SHARED_LIMIT:
        total = kernel.shared_bytes + shared_bytes
        raise PtxError(f"{total} bytes of shared memory: a block can have {SHARED_LIMIT}")
    places: dict[str, int] = {}
    space = _Space()
    for name, v in kernel.variables.items():
        if v.space == "global":
            places[name] = space.add(v.size, name, v.data)
    buffers: list[tuple[int, Array]] = []
    packed = bytearray()
    for number, (name, (offset, size)) in enumerate(kernel.params.items()):
        raw = _argument(args[number], f"argument {number}", space, buffers)
        if len(raw) != size:
            raise PtxError(
                f"argument {number} ({name}): the kernel reads {size} bytes, got {len(raw)}"
            )
        packed[offset:] = b"\0" * (offset - len(packed)) + raw
        places[name] = offset
    memories = {"global": space.memory(_grain(kernel, "global"))}
    whole = _Space(start=0)
    whole.add(len(packed), "the parameters", bytes(packed), fixed=True)
    memories["param"] = whole.memory(None)
    constants = _Space(start=0)
    for name, v in kernel.variables.items():
        if v.space == "const":
            places[name] = constants.add(v.size, name, v.data, fixed=True)
    memories["const"] = constants.memory(None)
    card = Card(kernel, grid, block, memories, places, {}, True, False, False, 0, shared_bytes)
    return card, buffers


class _Space:
    """A state space being filled: variables with gaps between them."""

    def __init__(self, start: int = GAP) -> None:
        self.end, self.owned = start, list[Owned]()
        self.data: list[tuple[int, bytes]] = []

    def add(self, size: int, name: str, data: bytes, fixed: bool = False) -> int:
        """Place a variable; where."""
        start = self.end
        self.owned.append(Owned(start, size, name, fixed))
        self.data.append((start, data))
        self.end += -(-size // GAP) * GAP + GAP
        return start

    def memory(self, grain: int | None) -> Memory:
        """The memory with everything in it."""
        memory = Memory(self.owned, grain)
        for start, data in self.data:
            memory.data[start : start + len(data)] = np.frombuffer(data, np.uint8)
        return memory


def _argument(arg: Any, name: str, space: _Space, buffers: list[tuple[int, Array]]) -> bytes:
    """The bytes of a parameter; an array is placed, once however often it is given."""
    if isinstance(arg, np.ndarray):
        known = [start for start, array in buffers if array is arg]
        if not known:
            if not arg.flags.c_contiguous:
                raise PtxError(f"{name}: expected a contiguous array")
            label, fixed = f"{name} {arg.dtype}{list(arg.shape)}", not arg.flags.writeable
            known = [space.add(arg.nbytes, label, arg.tobytes(), fixed)]
            buffers.append((known[0], arg))
        return int(known[0] + GLOBAL).to_bytes(8, "little")
    if isinstance(arg, np.generic):
        return arg.tobytes()
    if isinstance(arg, bytes):
        return arg
    raise PtxError(
        f"{name}: expected a NumPy array or scalar, got {type(arg).__name__}: a Python number "
        "becomes 8 bytes on a GPU, whatever the kernel reads"
    )


def _layouts(card: Card, kernel: Kernel) -> None:
    """Where shared variables lie in a block and local ones in a thread.

    Each is moved a whole number of 256 bytes further, which keeps its bank and leaves a gap.
    """
    for space in ("shared", "local"):
        owned, shift = [], 0
        mine = [(n, v) for n, v in kernel.variables.items() if v.space == space]
        for name, v in sorted(mine, key=lambda item: (item[1].dynamic, item[1].offset)):
            start = v.offset + shift
            card.places[name] = start
            owned.append(Owned(start, card.dynamic_bytes if v.dynamic else v.size, name))
            shift += 0 if v.dynamic else GAP
        grain = _grain(kernel, space) if card.races and space == "shared" else None
        card.layouts[space] = Memory(owned, grain, private=True)
    shadow = card.memories["global"].shadow
    if shadow is not None:
        shadow.pardon = card.fences.ordered
    if not card.races:
        card.memories["global"].shadow = None


def _grain(kernel: Kernel, space: str) -> int:
    """The narrowest access to a space in bytes: no two of them share a part of that size."""
    if space not in kernel.grains:
        widths = [_width(i) for i in kernel.code if _reaches(i, space)]
        kernel.grains[space] = min(widths, default=4)
    return kernel.grains[space]


def _reaches(i: Instruction, space: str) -> bool:
    if i.opcode[0] not in ("ld", "ldu", "st", "atom", "red"):
        return i.opcode[0] == "cp"
    named = {m.split("::")[0] for m in i.opcode} & {"global", "shared", "local", "const", "param"}
    return not named or space in named


def _width(i: Instruction) -> int:
    if i.opcode[0] == "cp":
        return 4
    bits = next((m for m in reversed(i.opcode) if m[-1].isdigit() and m[0] in "usbf"), "b8")
    bits = {"f16x2": "b32", "bf16x2": "b32", "bf16": "b16"}.get(bits, bits)
    count = next((int(m[1]) for m in i.opcode if m in ("v2", "v4", "v8")), 1)
    return min(16, int(bits[1:]) // 8 * count)
