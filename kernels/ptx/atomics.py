"""`atom` and `red`: read, change and write a word as one.

The threads of one instruction that share an address go one after the other: by ascending slot, or
in an order drawn from the launch's seed (on a GPU in any order). Those at different addresses go
together, so the work is as many rounds as the most crowded address has threads, except for integer
sums, which are prefix sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinymoe.kernels.ptx.access import HINTS, SCOPES, STRONG, space_of
from tinymoe.kernels.ptx.arithmetic import REALS, canonical, flush, higher, lower
from tinymoe.kernels.ptx.dispatch import Action, UnsupportedError, decoder, elements
from tinymoe.kernels.ptx.kernel import Instruction, Kernel
from tinymoe.kernels.ptx.operands import TYPES, Array, DType, address, reader, writer

Change = Callable[..., Array]  # old value, operand(s) -> new value


def _swap(old: Array, b: Array, c: Array) -> Array:
    return np.where(old == b, c, old)


OPERATIONS: dict[str, Change] = {
    "add": lambda old, b: old + b,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "exch": lambda old, b: b,
    "inc": lambda old, b: np.where(old >= b, 0, old + 1).astype(old.dtype),
    "dec": lambda old, b: np.where((old == 0) | (old > b), b, old - 1).astype(old.dtype),
    "cas": _swap,
}
HALVES = {"f16", "bf16", "f16x2", "bf16x2"}


@decoder("atom", "red")
def atomic(kernel: Kernel, i: Instruction) -> Action:
    """`atom.space.op.type d, [a], b {, c}`; `red` is the same without d."""
    space = space_of(i)
    mods = {m for m in i.opcode[1:] if m.split("::")[0] not in ("global", "shared")}
    operation = mods & set(OPERATIONS)
    name = next((m for m in reversed(i.opcode) if m in TYPES or m in HALVES), "")
    left = mods - STRONG - SCOPES - HINTS - {name, "noftz", "ftz"} - operation
    if left or len(operation) != 1 or not name or any("cluster" in m for m in i.opcode):
        raise UnsupportedError("instruction not supported")
    op = operation.pop()
    dtype, change = _change(op, name)
    operands = list(i.operands)
    put = writer(kernel, operands.pop(0), dtype) if i.opcode[0] == "atom" else None
    at = address(kernel, operands.pop(0))
    if len(elements(operands[0])) > 1 or len(operands) != (2 if op == "cas" else 1):
        raise UnsupportedError("instruction not supported")
    sources = [reader(kernel, n, dtype) for n in operands]
    prefix = op == "add" and dtype.kind in "iu" and name in TYPES
    releases = bool({"release", "acq_rel"} & set(i.opcode))

    def run(m: Any) -> None:
        if releases:
            m.fenced[m.lanes] = True
        values = [m.spread(s(m)) for s in sources]
        for part, memory, index in m.touch(space, m.spread(at(m)), dtype.itemsize, "atomic"):
            mine = [v[part] for v in values]
            turns = _turns(m, index)
            old = (_sums if prefix else _rounds)(memory, index, dtype, mine, change, turns)
            if put and isinstance(part, slice):
                put(m, old)
            elif put:
                m.some(put, part, old)

    return run


def _change(op: str, name: str) -> tuple[DType, Change]:
    """The type the words are read as, and the operation on them."""
    if name in HALVES or name == "f32":
        real = REALS[name]
        float_ops: dict[str, Change] = {"add": lambda a, b: a + b, "min": lower, "max": higher}
        if op == "exch" and name == "f32":
            return TYPES["b32"], OPERATIONS["exch"]
        if op not in float_ops or (name == "f32" and op != "add"):
            raise UnsupportedError("instruction not supported")
        if name == "f32":
            # atom.add.f32 on global memory flushes subnormals; whether shared does is not said
            return TYPES["f32"], lambda a, b: flush(canonical(a + b))
        return real.stored, lambda a, b: real.lower(float_ops[op](real.lift(a), real.lift(b)))
    if TYPES[name].kind == "f" and op not in ("add", "exch"):
        raise UnsupportedError("instruction not supported")
    return TYPES[name], OPERATIONS[op]


def _turns(m: Any, index: Array) -> Array:
    """The threads (N,) sorted by address, and those at one address in the order they go."""
    if not m.card.seed:
        return np.argsort(index, kind="stable")
    drawn = m.random.permutation(len(index))
    return drawn[np.argsort(index[drawn], kind="stable")]


def _sums(
    memory: Any, index: Array, dtype: DType, values: list[Array], _: Change, order: Array
) -> Array:
    """Integer sums: what each thread finds is the word plus the operands before it."""
    at, add = index[order], values[0][order]
    start = np.flatnonzero(np.diff(at, prepend=-1))
    before = np.cumsum(add, dtype=dtype) - add
    size = np.diff(start, append=len(at))
    before = before - np.repeat(before[start], size)
    old = memory.load(at, dtype) + before
    last = start + size - 1
    memory.store(at[last], old[last] + add[last])
    out = np.empty_like(old)
    out[order] = old
    return out


def _rounds(
    memory: Any, index: Array, dtype: DType, values: list[Array], change: Change, order: Array
) -> Array:
    """Any operation: in round k the k-th thread of each address."""
    at = index[order]
    start = np.flatnonzero(np.diff(at, prepend=-1))
    size = np.diff(start, append=len(at))
    out = np.empty(len(at), dtype)
    for k in range(int(size.max())):
        turn = order[start[size > k] + k]
        old = memory.load(index[turn], dtype)
        out[turn] = old
        memory.store(index[turn], change(old, *[v[turn] for v in values]))
    return out
