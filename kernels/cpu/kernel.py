"""Kernels: compiled functions that are called by their address, each compiled when first needed.

A kernel takes whole numbers alone: addresses, sizes, flags. So all kernels have one type, a step
is a list of (address, arguments), and the loop that runs it need not know what they compute.

A file of kernels imports nothing of Numba: `lazily.py` says why, and what it takes instead.
"""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import re
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from llvmlite import ir

from tinymoe.kernels.cpu import disk
from tinymoe.kernels.cpu.lazily import intrinsic, njit, operation, types
from tinymoe.kernels.cpu.link import put_in_memory

WORD = ir.IntType(64)
HERE = "tinymoe.kernels.cpu."
NEVER, ALWAYS = -1, 1 << 62  # tokens up to which a kernel goes token by token


class Kernel:
    """A function of `arity` whole numbers, in machine code."""

    def __init__(
        self,
        make: Callable[[], Callable[..., None]],
        name: str,
        module: str,
        fields: tuple[str, ...],
        arity: int,
        by_token: int = NEVER,
    ) -> None:
        """`make` gives the Python function, once it must be compiled; `by_token`: see `kernel`."""
        self.by_token = by_token
        self._make, self.name, self.module = make, name, module
        self.fields, self.arity = fields, arity
        self._address = 0
        self._callable: Any = None

    @cached_property
    def function(self) -> Callable[..., None]:
        """In Python."""
        return self._make()

    @property
    def ready(self) -> bool:
        """It need not be compiled any more: it is in memory or on disk."""
        return bool(self._address) or disk.has(self.file)

    @property
    def address(self) -> int:
        """Of the machine code, which is taken from the disk, or else compiled, at first."""
        if not self._address:
            put_all_in_memory([self])
        return self._address

    def compile(self) -> bytes:
        """Machine code, new; and kept on disk, where that can be."""
        from tinymoe.kernels.cpu.compile import machine_code

        code = machine_code(self.function, self.arity, self.symbol)
        disk.store(self.file, code)
        return code

    @property
    def symbol(self) -> str:
        """What the function is called in its object file."""
        return "tinymoe_" + re.sub(r"\W", "_", self.file)

    @cached_property
    def file(self) -> str:
        """Its name on disk. `disk.key` knows the sources here; others are part of the name."""
        if self.module.startswith(HERE):
            return f"{self.module.removeprefix(HERE)}.{self.name}"
        source = Path(self.function.__code__.co_filename).read_bytes()
        return f"{self.module}.{self.name}-{hashlib.sha256(source).hexdigest()[:24]}"

    def __call__(self, *numbers: int) -> None:
        """Call it from Python; other Python threads run meanwhile."""
        if self._callable is None:
            kind = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * self.arity)
            self._callable = kind(self.address)
        self._callable(*numbers)


def put_all_in_memory(kernels: Iterable[Kernel]) -> None:
    """From the disk, or else compiled."""
    missing = {kernel.symbol: kernel for kernel in kernels if not kernel._address}
    if not missing:
        return
    codes = {each: disk.load(k.file) or k.compile() for each, k in missing.items()}
    for symbol, address in put_in_memory(codes).items():
        missing[symbol]._address = address


def kernel(fields: str, *, by_token: int = NEVER) -> Callable[[Callable[..., None]], Kernel]:
    """Make `f(args, batch, thread, threads)` a step's kernel; `fields` names what `args` holds.

    The function reads them in that order: `x, weight = arguments(args, 2)`. `by_token` is a
    promise: in steps of up to so many tokens, a thread reads and writes rows of the tokens alone
    that `batch.share_tokens` gives it, of all that a step's kernels write. Between two such kernels
    threads need not wait for each other.
    """
    return lambda function: _kernel(function, tuple(fields.split()), 4, by_token)


def helper(function: Callable[..., None]) -> Kernel:
    """Make a function of whole numbers one that kernels call by address."""
    return _kernel(function, (), len(inspect.signature(function).parameters))


def _kernel(
    function: Callable[..., None], fields: tuple[str, ...], arity: int, by_token: int = NEVER
) -> Kernel:
    name, module = function.__name__, function.__module__
    made = Kernel(lambda: function, name, module, fields, arity, by_token)
    made.__doc__ = function.__doc__
    return made


# A function that kernels call, compiled together with them: it has no door to Python, and divides
# as they do, without a look at the divisor.
part: Callable[[Callable[..., Any]], Any] = njit(
    error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True
)
# One that LLVM puts where it is called: compiled once, and not, as with Numba's `inline="always"`,
# read from Python's bytecode and typed anew at each place: a seventh of all compilation.
inlined: Callable[[Callable[..., Any]], Any] = njit(
    error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True
)


def _caller(arity: int) -> Callable[..., Any]:
    """`f(address, *numbers)`: call the kernel there with so many numbers."""

    def build(builder: Any, address: Any, *values: Any) -> None:
        kind = ir.FunctionType(ir.VoidType(), [WORD] * arity)
        builder.call(builder.inttoptr(address, kind.as_pointer()), values)

    made: Callable[..., Any] = operation(types.void, (types.int64,) * (arity + 1), build)
    return made


call_kernel = _caller(4)  # (address, args, batch, thread, threads)
call_helper = _caller(6)  # (address, six numbers)


@intrinsic(prefer_literal=True)
def arguments(typingctx: Any, args: Any, count: Any) -> Any:
    """The first `count` (a literal) numbers at address `args`, as a tuple."""
    from numba import types as numba_types

    if not isinstance(count, numba_types.IntegerLiteral):
        return None  # Numba tries this, too
    number, word = count.literal_value, numba_types.int64

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = builder.inttoptr(values[0], WORD.as_pointer())
        words = [builder.load(builder.gep(pointer, [WORD(i)])) for i in range(number)]
        return context.make_tuple(builder, signature.return_type, words)

    return numba_types.UniTuple(word, number)(word, count), codegen
