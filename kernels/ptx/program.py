"""A kernel made ready to run: each instruction looked up once and turned into a function.

What an instruction cannot do here is reported when a thread reaches it, not before: a kernel may
hold code for another chip behind a branch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinymoe.kernels.ptx import instructions
from tinymoe.kernels.ptx.dispatch import DECODERS, HANDLERS, Action, UnsupportedError
from tinymoe.kernels.ptx.kernel import Instruction, Kernel, PtxError
from tinymoe.kernels.ptx.operands import TYPES, U32, Reader, immediate, reader

assert instructions  # the import fills the tables

# What a thread does at an instruction, besides its action
BRANCH, EXIT, TRAP, BARRIER, WARP = "branch", "exit", "trap", "barrier", "warp"
CONTROL = {
    **{"bra": BRANCH, "brx": BRANCH, "ret": EXIT, "exit": EXIT, "trap": TRAP, "brkpt": TRAP},
    **{"bar": BARRIER, "barrier": BARRIER},
}


@dataclass
class Step:
    """One instruction: its guard, its action, and how it steers (`control`; "": it does not)."""

    instruction: Instruction
    action: Action
    guard: Reader | None = None
    wanted: bool = True  # the guard's value for which the instruction runs
    control: str = ""
    targets: tuple[int, ...] = ()  # places a branch may go to
    mask: Reader | None = None  # the lanes a warp operation waits for; None: all 32


def program(kernel: Kernel) -> list[Step]:
    """The steps of a kernel, in the order of its text; looked up at its first launch."""
    if not kernel.steps:
        kernel.steps = [_step(kernel, i) for i in kernel.code]
    return kernel.steps


def _step(kernel: Kernel, i: Instruction) -> Step:
    step = Step(i, _nothing)
    try:
        if i.guard:
            step.guard = reader(kernel, i.guard.lstrip("!"), TYPES["pred"])
            step.wanted = i.guard[0] != "!"
        step.control = _control(i)
        if step.control == BRANCH:
            step.targets = _targets(kernel, i)
        if step.control == WARP:
            step.mask = _mask(kernel, i)
        if i.opcode[0] == "brx":
            step.action = _chooser(kernel, i)
        elif step.control in ("", WARP):
            step.action = _action(kernel, i)
        elif step.control == BARRIER:
            step.action = DECODERS["bar"](kernel, i)
    except PtxError as error:
        step.action, step.control = _refusal(str(error)), ""
    return step


def _control(i: Instruction) -> str:
    base = i.opcode[0]
    if base == "bar" and i.opcode[1:2] == ("warp",):
        return WARP
    if base in CONTROL:
        return CONTROL[base]
    # cp.async and friends hold no `.sync`; an instruction that does is one of a whole warp
    return WARP if "sync" in i.opcode else ""


def _action(kernel: Kernel, i: Instruction) -> Action:
    base = "bar.warp" if i.opcode[:2] == ("bar", "warp") else i.opcode[0]
    if base in HANDLERS:
        handler = HANDLERS[base]
        return lambda machine: handler(machine, i)
    if base in DECODERS:
        return DECODERS[base](kernel, i)
    raise UnsupportedError("instruction not supported")


def _targets(kernel: Kernel, i: Instruction) -> tuple[int, ...]:
    names = i.operands if i.opcode[0] == "bra" else kernel.tables.get(i.operands[1], ())
    missing = [n for n in names if n not in kernel.labels]
    if missing or not names:
        raise UnsupportedError(
            f"there is no such label as {missing[0] if missing else i.operands[-1]}"
        )
    return tuple(kernel.labels[n] for n in names)


def _chooser(kernel: Kernel, i: Instruction) -> Action:
    index = reader(kernel, i.operands[0], U32)

    def choose(machine: Any) -> None:
        machine.chosen = machine.spread(index(machine))

    return choose


def _mask(kernel: Kernel, i: Instruction) -> Reader | None:
    """The operand that names the lanes: the last one, of instructions that have it."""
    base = i.opcode[0]
    if base in ("shfl", "vote", "match", "redux") or i.opcode[:2] == ("bar", "warp"):
        return reader(kernel, i.operands[-1], U32)
    full = immediate("0xffffffff", U32)
    return lambda machine: full


def _refusal(what: str) -> Action:
    return lambda machine: machine.refuse(what)


def _nothing(machine: Any) -> None:
    pass
