"""From a function on arrays to an instruction: read the sources, call it, write the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tinymoe.kernels.ptx.dispatch import Action, UnsupportedError
from tinymoe.kernels.ptx.kernel import Instruction, Kernel
from tinymoe.kernels.ptx.operands import TYPES, Array, DType, Reader, reader, writer

Function = Callable[..., Array]


def compute(
    kernel: Kernel, i: Instruction, function: Function, sources: Sequence[DType], out: DType
) -> Action:
    """`out = function(*sources)`: the first operand is written, the others are read."""
    if len(i.operands) != len(sources) + 1:
        raise UnsupportedError(f"expected {len(sources)} sources, got {len(i.operands) - 1}")
    return apply(
        function,
        [reader(kernel, name, dtype) for name, dtype in zip(i.operands[1:], sources, strict=True)],
        writer(kernel, i.operands[0], out),
    )


def apply(function: Function, sources: list[Reader], put: Callable[[Any, Array], None]) -> Action:
    """The same from readers and a writer; the usual numbers of sources without a loop."""
    if len(sources) == 1:
        (a,) = sources
        return lambda m: put(m, function(a(m)))
    if len(sources) == 2:
        a, b = sources
        return lambda m: put(m, function(a(m), b(m)))
    if len(sources) == 3:
        a, b, c = sources
        return lambda m: put(m, function(a(m), b(m), c(m)))
    return lambda m: put(m, function(*[read(m) for read in sources]))


def types(i: Instruction) -> list[str]:
    """The type modifiers of an opcode, in their order."""
    return [m for m in i.opcode[1:] if m in TYPES]


def modifiers(i: Instruction, *known: str) -> set[str]:
    """The modifiers that are not types; raises UnsupportedError for one that is not `known`."""
    found = {m for m in i.opcode[1:] if m not in TYPES}
    if found - set(known):
        raise UnsupportedError("instruction not supported")
    return found


def only_type(i: Instruction, kinds: str = "usbf") -> DType:
    """The one type of an opcode, of these kinds."""
    names = types(i)
    if len(names) != 1 or names[0][0] not in kinds:
        raise UnsupportedError("instruction not supported")
    return TYPES[names[0]]
