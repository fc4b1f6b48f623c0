"""Bit instructions: logic, shifts, fields, counts, permutes, and small dot products of bytes."""

from __future__ import annotations

import numpy as np

from tinymoe.kernels.ptx.compute import Function, compute, modifiers, only_type, types
from tinymoe.kernels.ptx.dispatch import Action, UnsupportedError, decoder
from tinymoe.kernels.ptx.integers import unsigned
from tinymoe.kernels.ptx.kernel import Instruction, Kernel
from tinymoe.kernels.ptx.operands import TYPES, U32, Array, DType, immediate

S32 = TYPES["s32"]
LOGIC: dict[str, Function] = {
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "not": lambda a: ~a,
}


def bits_of(dtype: DType) -> int:
    """The width of a type."""
    return dtype.itemsize * 8


@decoder("and", "or", "xor", "not", "cnot")
def logic(kernel: Kernel, i: Instruction) -> Action:
    """Bitwise logic of integers and predicates; `cnot` is C's `!`."""
    base, names = i.opcode[0], types(i)
    modifiers(i)
    if len(names) != 1 or (names[0] != "pred" and names[0][0] != "b"):
        raise UnsupportedError("instruction not supported")
    dtype = TYPES[names[0]]
    function = LOGIC.get(base, lambda a: (a == 0).astype(dtype))
    return compute(kernel, i, function, [dtype] * (len(i.operands) - 1), dtype)


def shift_left(a: Array, n: Array) -> Array:
    """A shift by the width or more gives 0; it does not wrap, as x86's does."""
    last = bits_of(a.dtype) - 1
    return np.where(n > last, a.dtype.type(0), a << np.minimum(n, last).astype(a.dtype))


def shift_right(a: Array, n: Array) -> Array:
    """The same; a signed number is filled with its sign."""
    last = bits_of(a.dtype) - 1
    out = a >> np.minimum(n, last).astype(a.dtype)
    return out if a.dtype.kind == "i" else np.where(n > last, a.dtype.type(0), out)


@decoder("shl", "shr")
def shift(kernel: Kernel, i: Instruction) -> Action:
    """`shl.b32`, `shr.u32` (zeros enter), `shr.s32` (the sign enters)."""
    dtype = only_type(i, "b" if i.opcode[0] == "shl" else "usb")
    modifiers(i)
    function = shift_left if i.opcode[0] == "shl" else shift_right
    return compute(kernel, i, function, [dtype, U32], dtype)


@decoder("shf")
def funnel(kernel: Kernel, i: Instruction) -> Action:
    """`shf.l` / `shf.r`: 32 bits out of the 64 of b:a; `.wrap` takes the count modulo 32."""
    mods = modifiers(i, "l", "r", "wrap", "clamp")
    only_type(i, "b")

    def run(a: Array, b: Array, c: Array) -> Array:
        n = (c & 31 if "wrap" in mods else np.minimum(c, 32)).astype("u8")
        pair = (b.astype("u8") << np.uint64(32)) | a
        if "l" in mods:
            return ((pair << n) >> np.uint64(32)).astype("u4")
        return (pair >> n).astype("u4")

    return compute(kernel, i, run, [U32] * 3, U32)


def leading_zeros(a: Array) -> Array:
    """Zeros above the highest set bit; the width for 0."""
    out = np.full(a.shape, bits_of(a.dtype), "u4")
    rest = a.copy()
    step = bits_of(a.dtype) // 2
    while step:  # binary search: does anything lie in the upper part?
        upper = rest >> a.dtype.type(step)
        some = upper != 0
        out = np.where(some, out - np.uint32(step), out)
        rest = np.where(some, upper, rest)
        step //= 2
    return out - rest.astype("u4")


@decoder("popc", "clz", "brev")
def count(kernel: Kernel, i: Instruction) -> Action:
    """Set bits, leading zeros, or the bits in reverse order."""
    dtype = only_type(i, "b")
    modifiers(i)
    if i.opcode[0] == "brev":
        return compute(kernel, i, reverse, [dtype], dtype)
    function: Function = leading_zeros
    if i.opcode[0] == "popc":
        function = lambda a: np.bitwise_count(a).astype("u4")  # noqa: E731
    return compute(kernel, i, function, [dtype], U32)


def reverse(a: Array) -> Array:
    """The bits in reverse order."""
    octets = a.byteswap().view("u1")
    for n, mask in ((4, 0x0F), (2, 0x33), (1, 0x55)):
        octets = ((octets >> n) & mask) | ((octets & mask) << n)
    return octets.view(a.dtype)


@decoder("bfind")
def find(kernel: Kernel, i: Instruction) -> Action:
    """The place of the highest bit that is not the sign; 0xffffffff if there is none."""
    dtype, mods = only_type(i, "us"), modifiers(i, "shiftamt")
    width = bits_of(dtype)

    def run(a: Array) -> Array:
        raw = np.where(a < 0, ~a, a).view(unsigned(dtype))
        zeros = leading_zeros(raw)
        place = zeros if "shiftamt" in mods else np.uint32(width - 1) - zeros
        return np.where(raw == 0, np.uint32(0xFFFFFFFF), place)

    return compute(kernel, i, run, [dtype], U32)


@decoder("bfe")
def extract(kernel: Kernel, i: Instruction) -> Action:
    """`bfe d, a, place, length`: a field, filled with its sign (or that of a, past the end)."""
    dtype = only_type(i, "us")
    modifiers(i)
    width = bits_of(dtype)

    def run(a: Array, place: Array, length: Array) -> Array:
        raw = a.view(unsigned(dtype))
        place, length = place & 0xFF, length & 0xFF
        field = shift_right(raw, place) & ~shift_left(~raw.dtype.type(0) + 0 * raw, length)
        if dtype.kind == "u":
            return field
        top = np.minimum(place + length - 1, width - 1).astype(raw.dtype)
        sign = np.where(length == 0, 0, (raw >> top) & 1).astype(raw.dtype)
        inside = np.minimum(length, np.maximum(width - place.astype("i8"), 0)).astype("u4")
        fill = shift_left(~raw.dtype.type(0) + 0 * raw, inside)
        return (field | np.where(sign == 1, fill, 0).astype(raw.dtype)).view(dtype)

    return compute(kernel, i, run, [dtype, U32, U32], dtype)


@decoder("bfi")
def insert(kernel: Kernel, i: Instruction) -> Action:
    """`bfi d, a, b, place, length`: b with a field of it taken from the low bits of a."""
    dtype = only_type(i, "b")
    modifiers(i)

    def run(a: Array, b: Array, place: Array, length: Array) -> Array:
        place, length = place & 0xFF, length & 0xFF
        mask = shift_left(~shift_left(~dtype.type(0) + 0 * (a | b), length), place)
        return (shift_left(a, place) & mask) | (b & ~mask)

    return compute(kernel, i, run, [dtype, dtype, U32, U32], dtype)


@decoder("bmsk", "szext")
def mask(kernel: Kernel, i: Instruction) -> Action:
    """`bmsk`: `b` ones from bit `a` on. `szext`: the low `b` bits of a, extended."""
    dtype, mods = only_type(i, "bus"), modifiers(i, "clamp", "wrap")

    def run(a: Array, b: Array) -> Array:
        a, b = np.broadcast_arrays(a, b)
        n = np.minimum(b, 32) if "clamp" in mods else b & 31
        if i.opcode[0] == "bmsk":
            start = a if "clamp" in mods else a & 31
            return shift_left(~shift_left(np.full(a.shape, 0xFFFFFFFF, "u4"), n), start)
        room = np.uint32(32) - n
        return shift_right(shift_left(a, room).view(dtype), room).view("u4")

    return compute(kernel, i, run, [U32, U32], U32)


@decoder("prmt")
def permute(kernel: Kernel, i: Instruction) -> Action:
    """Four bytes picked from the eight of b:a, or their signs; only the default mode."""
    if i.opcode != ("prmt", "b32"):
        raise UnsupportedError("only prmt.b32 in its default mode is supported")

    def run(a: Array, b: Array, selector: Array) -> Array:
        if len(selector) == 1:  # a constant, as compilers write it
            return _permuted(a, b, int(selector[0]))
        pair = (b.astype("u8") << np.uint64(32)) | a
        out = np.zeros(np.broadcast_shapes(pair.shape, selector.shape), "u4")
        for k in range(4):
            nibble = (selector >> np.uint32(4 * k)) & np.uint32(15)
            octet = ((pair >> (8 * (nibble & 7)).astype("u8")) & np.uint64(0xFF)).astype("u4")
            octet = np.where(nibble & 8, (octet >> np.uint32(7)) * np.uint32(0xFF), octet)
            out |= octet << np.uint32(8 * k)
        return out

    return compute(kernel, i, run, [U32] * 3, U32)


def _permuted(a: Array, b: Array, selector: int) -> Array:
    """`prmt` by one selector for all threads."""
    out = np.zeros(np.broadcast_shapes(a.shape, b.shape), "u4")
    for k in range(4):
        nibble = selector >> 4 * k & 15
        source = b if nibble & 4 else a
        octet = (source >> np.uint32(8 * (nibble & 3))) & np.uint32(0xFF)
        if nibble & 8:  # the sign of the byte, eight times
            octet = (octet >> np.uint32(7)) * np.uint32(0xFF)
        out |= octet << np.uint32(8 * k)
    return out


@decoder("lop3")
def lookup(kernel: Kernel, i: Instruction) -> Action:
    """Any logic of three words: bit (a, b, c) of the table, 8 bits, is the result's bit."""
    if i.opcode != ("lop3", "b32") or len(i.operands) != 5:
        raise UnsupportedError("only lop3.b32 with its table is supported")
    table = int(immediate(i.operands[4], U32)[0])
    terms = [k for k in range(8) if table >> k & 1]

    def run(a: Array, b: Array, c: Array, _: Array) -> Array:
        out = np.zeros(np.broadcast_shapes(a.shape, b.shape, c.shape), "u4")
        for k in terms:
            out |= (a if k & 4 else ~a) & (b if k & 2 else ~b) & (c if k & 1 else ~c)
        return out

    return compute(kernel, i, run, [U32] * 4, U32)


@decoder("dp4a", "dp2a")
def dot(kernel: Kernel, i: Instruction) -> Action:
    """c + the products of 4 bytes of a with 4 of b (dp2a: 2 halves of a with 2 bytes of b)."""
    base, names = i.opcode[0], types(i)
    mods = modifiers(i, "lo", "hi")
    if len(names) != 2 or any(n not in ("u32", "s32") for n in names):
        raise UnsupportedError("instruction not supported")
    signed = [n == "s32" for n in names]
    out = S32 if any(signed) else U32

    def field(x: Array, k: int, width: int, sign: bool) -> Array:
        part = (x >> np.uint32(k * width)).astype("i8") & ((1 << width) - 1)
        return np.where(sign & (part >> (width - 1) == 1), part - (1 << width), part)

    def run(a: Array, b: Array, c: Array) -> Array:
        count, width, skip = (4, 8, 0) if base == "dp4a" else (2, 16, 2 * ("hi" in mods))
        total = c.astype("i8")
        for k in range(count):
            total = total + field(a, k, width, signed[0]) * field(b, k + skip, 8, signed[1])
        return total.astype(out)

    return compute(kernel, i, run, [U32, U32, out], out)
