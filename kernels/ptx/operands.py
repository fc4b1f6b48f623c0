"""Operands of instructions, looked up once: a name in the PTX text becomes a function to call.

A register is an unsigned array with one element a thread, a predicate a bool array. Types are
views of it: reading a wider register takes its low bits, writing one extends by sign or zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from tinymoe.kernels.ptx.dispatch import UnsupportedError
from tinymoe.kernels.ptx.kernel import Kernel

Array = np.ndarray[Any, Any]
DType = np.dtype[Any]
KIND = {"u": "u", "s": "i", "b": "u", "f": "f"}
TYPES: dict[str, DType] = {
    **{k + str(b): np.dtype(f"{KIND[k]}{b // 8}") for k in "usb" for b in (8, 16, 32, 64)},
    **{f"f{b}": np.dtype(f"f{b // 8}") for b in (16, 32, 64)},
    "pred": np.dtype(bool),
}
U8, U16, U32, U64 = (TYPES[f"u{b}"] for b in (8, 16, 32, 64))


class Lanes(Protocol):
    """The part of the machine that operands need."""

    registers: dict[str, Array]  # by name, over all slots
    select: slice | Array  # the running threads' slots
    size: int  # slots in all

    def refuse(self, what: str) -> Any:
        """Raise PtxError."""


Reader = Callable[[Any], Array]
Writer = Callable[[Any, Array], None]
SPECIAL = frozenset(
    [f"%{n}.{axis}" for n in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"]
    + [f"%lanemask_{c}" for c in ("eq", "lt", "le", "gt", "ge")]
    + ["%laneid", "%warpid", "%nwarpid", "%smid", "%nsmid", "%gridid", "WARP_SZ"]
    + ["%clock", "%clock64", "%clock_hi", "%globaltimer", "%dynamic_smem_size"]
    + ["%total_smem_size"]
)


def reader(kernel: Kernel, name: str, dtype: DType) -> Reader:
    """A function giving operand `name` of the running threads as `dtype`: (N,), or (1,) for all."""
    if name in kernel.registers:
        return _register(name, kernel.registers[name], dtype)
    if name in SPECIAL:
        return lambda m: m.special(name).astype(dtype)
    if name[:1].isdigit() or name[:2] in {f"-{d}" for d in range(10)}:
        value = immediate(name, dtype)
        return lambda m: value
    symbol, _, offset = name.partition("+")
    if symbol in kernel.variables or symbol in kernel.params:
        extra = int(offset or "0", 0)
        return lambda m: np.array([m.symbol(symbol) + extra], U64).astype(dtype)
    if name[:1] == "%":
        raise UnsupportedError(f"register {name} is not declared, or not one of this machine's")
    raise UnsupportedError(f"there is no such name as {name}")


def _register(name: str, bits: int, dtype: DType) -> Reader:
    stored = storage(bits)

    def raw(m: Lanes) -> Array:
        try:
            return m.registers[name][m.select]
        except KeyError:
            return m.refuse(f"register {name} was never written")

    if dtype == stored:
        return raw
    if dtype.itemsize == stored.itemsize:
        return lambda m: raw(m).view(dtype)
    narrow = np.dtype(f"u{dtype.itemsize}")
    return lambda m: raw(m).astype(narrow).view(dtype)


def storage(bits: int) -> DType:
    """How a register of so many bits is kept."""
    return TYPES["pred"] if bits == 1 else np.dtype(f"u{bits // 8}")


def immediate(text: str, dtype: DType) -> Array:
    """A number of the PTX text, as one element of `dtype`."""
    try:
        if text[:2] in ("0f", "0F"):
            single = np.array([int(text[2:], 16)], U32).view("f4")
            return single.astype(dtype) if dtype.kind == "f" else single.view(U32).astype(dtype)
        if text[:2] in ("0d", "0D"):
            double = np.array([int(text[2:], 16)], U64).view("f8")
            return double.astype(dtype) if dtype.kind == "f" else double.view(U64).astype(dtype)
        if dtype.kind == "f":
            return np.array([float(text)], dtype)
        negative, digits = text.startswith("-"), text.lstrip("-").rstrip("U")
        octal = len(digits) > 1 and digits.isdigit() and digits[0] == "0"
        value = int(digits, 8 if octal else 0)
    except ValueError as error:
        raise UnsupportedError(f"not a number: {text}") from error
    if dtype.kind == "b":
        return np.array([value != 0])
    whole = (-value if negative else value) & (1 << 8 * dtype.itemsize) - 1
    return np.array([whole], f"u{dtype.itemsize}").view(dtype)


def writer(kernel: Kernel, name: str, dtype: DType) -> Writer:
    """A function setting register `name` of the running threads from values of `dtype`."""
    if name == "_":
        return lambda m, values: None
    if name not in kernel.registers:
        raise UnsupportedError(f"register {name} is not declared")
    stored = storage(kernel.registers[name])

    def put(m: Lanes, values: Array) -> None:
        try:
            m.registers[name][m.select] = values
        except KeyError:
            m.registers[name] = np.zeros(m.size, stored)
            m.registers[name][m.select] = values

    if dtype == stored:
        return put
    if dtype.itemsize == stored.itemsize and stored.kind != "b":
        return lambda m, values: put(m, values.view(stored))
    if dtype.kind == "i":
        signed = np.dtype(f"i{stored.itemsize}")
        return lambda m, values: put(m, values.astype(signed).view(stored))
    raw = np.dtype(f"u{dtype.itemsize}") if dtype.kind == "f" else dtype
    return lambda m, values: put(m, values.view(raw).astype(stored))


def address(kernel: Kernel, operand: str) -> Reader:
    """A function giving the addresses `[%rd1+16]`, `[name+4]` or `[64]` as uint64."""
    inside = operand.strip("[]").replace(" ", "")
    name, sign, offset = inside.partition("+")
    if not sign and "-" in inside[1:]:
        name, _, offset = inside.partition("-")
        offset = "-" + offset
    base = reader(kernel, name, U64)
    if not offset:
        return base
    extra = immediate(offset, U64)
    return lambda m: base(m) + extra
