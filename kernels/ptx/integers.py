"""Integer arithmetic: it wraps, but for `.sat`, and hands a carry on with `.cc`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinymoe.kernels.ptx.compute import compute, modifiers, only_type
from tinymoe.kernels.ptx.dispatch import Action, UnsupportedError, decoder
from tinymoe.kernels.ptx.kernel import Instruction, Kernel
from tinymoe.kernels.ptx.operands import TYPES, U32, Array, DType, reader, writer

CARRY = "%cc"  # the condition code: the carry of the last `.cc` instruction


def unsigned(dtype: DType) -> DType:
    """The unsigned type of the same width."""
    return np.dtype(f"u{dtype.itemsize}")


def divide(a: Array, b: Array) -> Array:
    """a / b truncated toward zero; by zero all bits are set, and INT_MIN / -1 wraps."""
    if a.dtype.kind == "u":
        return np.where(b == 0, ~a.dtype.type(0), a // np.where(b == 0, a.dtype.type(1), b))
    kind = unsigned(a.dtype)
    top, low = np.abs(a).view(kind), np.abs(b).view(kind)  # |INT_MIN| is right as unsigned
    q = divide(top, low).view(a.dtype)
    return np.where(b == 0, a.dtype.type(-1), np.where((a < 0) != (b < 0), -q, q))


def remainder(a: Array, b: Array) -> Array:
    """a - (a / b) * b, with the sign of a."""
    return a - divide(a, b) * b


def high(a: Array, b: Array) -> Array:
    """The upper half of the product."""
    bits = a.dtype.itemsize * 8
    if bits < 64:
        wide = np.dtype(f"{a.dtype.kind}{bits // 4}")
        return ((a.astype(wide) * b.astype(wide)) >> wide.type(bits)).astype(a.dtype)
    x, y = a.view("u8"), b.view("u8")
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    x0, x1, y0, y1 = x & low, x >> half, y & low, y >> half
    middle = x1 * y0 + ((x0 * y0) >> half)
    other = x0 * y1 + (middle & low)
    out = x1 * y1 + (middle >> half) + (other >> half)
    if a.dtype.kind == "i":
        out = out - np.where(a < 0, y, 0).astype("u8") - np.where(b < 0, x, 0).astype("u8")
    return out.view(a.dtype)


def wide(a: Array, b: Array) -> Array:
    """The whole product, twice as wide."""
    to = np.dtype(f"{a.dtype.kind}{a.dtype.itemsize * 2}")
    return a.astype(to) * b.astype(to)


def _low(a: Array, b: Array) -> Array:
    return a * b


PRODUCT: dict[str, Callable[[Array, Array], Array]] = {"lo": _low, "hi": high, "wide": wide}


def _saturated(function: Callable[..., Array]) -> Callable[..., Array]:
    """An s32 function computed in 64 bits and clamped."""
    limits = np.iinfo("i4")
    return lambda *v: np.clip(
        function(*[x.astype("i8") for x in v]), limits.min, limits.max
    ).astype("i4")


SIMPLE: dict[str, tuple[int, Callable[..., Array]]] = {
    "add": (2, lambda a, b: a + b),
    "sub": (2, lambda a, b: a - b),
    "div": (2, divide),
    "rem": (2, remainder),
    "min": (2, np.minimum),
    "max": (2, np.maximum),
    "neg": (1, lambda a: -a),
    "abs": (1, np.abs),
}


def decode(kernel: Kernel, i: Instruction) -> Action:
    """An arithmetic instruction whose type is an integer."""
    base, kind = i.opcode[0], i.opcode[-1]
    if base in ("add", "sub", "min", "max") and kind in ("u16x2", "s16x2"):
        return _paired(kernel, i)
    if base in ("mul", "mad") or "cc" in i.opcode:
        return multiply(kernel, i) if "cc" not in i.opcode else carrying(kernel, i)
    dtype, mods = only_type(i, "us"), modifiers(i, "sat", "relu")
    if base not in SIMPLE:
        raise UnsupportedError("instruction not supported")
    count, function = SIMPLE[base]
    if "sat" in mods:
        if dtype != np.int32 or base not in ("add", "sub"):
            raise UnsupportedError("instruction not supported")
        function = _saturated(function)
    if "relu" in mods:
        clamp = function
        return compute(kernel, i, lambda *v: np.maximum(clamp(*v), 0), [dtype] * count, dtype)
    return compute(kernel, i, function, [dtype] * count, dtype)


def _paired(kernel: Kernel, i: Instruction) -> Action:
    """Two 16-bit numbers in one register, each for itself."""
    if len(i.opcode) != 2:
        raise UnsupportedError("instruction not supported")
    half, function = np.dtype(i.opcode[1][0].replace("s", "i") + "2"), SIMPLE[i.opcode[0]][1]
    sources = [reader(kernel, name, U32) for name in i.operands[1:]]

    def run(m: Any) -> None:
        a, b = (m.spread(s(m)).view(half) for s in sources)
        put(m, function(a, b).view("u4"))

    put = writer(kernel, i.operands[0], U32)
    return run


def multiply(kernel: Kernel, i: Instruction) -> Action:
    """`mul` and `mad` of integers: the low or high half of the product, or all of it."""
    dtype, mods = only_type(i, "us"), modifiers(i, "lo", "hi", "wide", "sat")
    which = mods & set(PRODUCT)
    if len(which) != 1:
        raise UnsupportedError("expected one of .lo, .hi, .wide")
    name = which.pop()
    product = PRODUCT[name]
    out = np.dtype(f"{dtype.kind}{dtype.itemsize * 2}") if name == "wide" else dtype
    if i.opcode[0] == "mul":
        return compute(kernel, i, product, [dtype, dtype], out)
    if "sat" in mods:  # mad.hi.sat.s32
        add = _saturated(lambda p, c: p + c)
        return compute(kernel, i, lambda a, b, c: add(product(a, b), c), [dtype] * 3, out)
    return compute(kernel, i, lambda a, b, c: product(a, b) + c, [dtype, dtype, out], out)


def _signed24(x: Array) -> Array:
    low = x.astype("i8") & 0xFFFFFF
    return np.where((x.dtype.kind == "i") & (low >> 23 == 1), low - (1 << 24), low)


@decoder("mul24", "mad24")
def product24(kernel: Kernel, i: Instruction) -> Action:
    """The low or high 32 of the 48 bits that two 24-bit numbers give."""
    dtype, mods = only_type(i, "us"), modifiers(i, "lo", "hi")
    shift = 16 if "hi" in mods else 0

    def run(a: Array, b: Array, c: Array | None = None) -> Array:
        out = ((_signed24(a) * _signed24(b)) >> shift).astype(dtype)
        return out if c is None else out + c

    return compute(kernel, i, run, [dtype] * (len(i.operands) - 1), dtype)


@decoder("sad")
def sad(kernel: Kernel, i: Instruction) -> Action:
    """c + |a - b|."""
    dtype = only_type(i, "us")
    modifiers(i)
    return compute(kernel, i, lambda a, b, c: c + np.where(a < b, b - a, a - b), [dtype] * 3, dtype)


@decoder("addc", "subc", "madc")
def carrying(kernel: Kernel, i: Instruction) -> Action:
    """`add.cc`, `addc`, `sub.cc`, `subc`, `mad.lo.cc`, `madc.hi` ...: arithmetic in long chains."""
    base, dtype = i.opcode[0], unsigned(only_type(i, "us"))
    mods = modifiers(i, "cc", "lo", "hi")
    takes, gives = base.endswith("c"), "cc" in mods
    sources = [reader(kernel, name, dtype) for name in i.operands[1:]]
    signed = TYPES[next(m for m in i.opcode if m in TYPES)]
    put = writer(kernel, i.operands[0], dtype)
    product = PRODUCT["hi" if "hi" in mods else "lo"]

    def run(m: Any) -> None:
        values = [m.spread(s(m)) for s in sources]
        if base.startswith("mad"):
            a, b = (v.view(signed) for v in values[:2])
            values = [product(a, b).view(dtype), values[2]]
        a, b = values
        carry = np.zeros(len(a), dtype)
        if takes:
            if CARRY not in m.registers:
                m.refuse("no instruction has set the carry")
            carry = m.registers[CARRY][m.select].astype(dtype)
        if base.startswith("sub"):
            out = a - b - carry
            over = (a < b) | ((a == b) & (carry > 0))
        else:
            out = a + b + carry
            over = (out < a) | ((out == a) & ((carry > 0) & (b == ~dtype.type(0))))
        if gives:
            m.registers.setdefault(CARRY, np.zeros(m.size, bool))[m.select] = over
        put(m, out)

    return run
