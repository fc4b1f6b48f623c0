"""Kernels: compiled functions that are called by their address, each compiled when first needed.

A kernel takes whole numbers alone: addresses, sizes, flags. So all kernels have one type, a step
is a list of (address, arguments), and the loop that runs it need not know what they compute.
"""

from __future__ import annotations

import ctypes
import hashlib
import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core.caching import FunctionCache, IndexDataCacheFile, NullCache
from numba.core.ccallback import CFunc
from numba.extending import intrinsic

WORD = ir.IntType(64)
told: Callable[[str], None] | None = None  # given the name of each kernel that is compiled


@cache
def source_digest() -> str:
    """Of all kernels' source. Numba's own cache looks at one file and misses what it imports."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


class _Files(IndexDataCacheFile):
    """A file for each entry, named after its key.

    Numba numbers the files, and keeps in another which number is whose. Of two processes that save
    two formats' products at once both may take number 1, and then one is given the other's code.
    """

    def _entry(self, key: Any) -> str:
        digest = hashlib.sha256(repr((key, self._source_stamp)).encode()).hexdigest()
        name: str = self._index_name.removesuffix("nbi")
        return f"{name}{digest[:24]}.nbc"

    def save(self, key: Any, data: Any) -> None:
        self._save_data(self._entry(key), data)  # written aside, then renamed: whole or not there

    def load(self, key: Any) -> Any:
        try:
            return self._load_data(self._entry(key))
        except OSError:
            return None


class _Cache(FunctionCache):
    """Numba's cache on disk, whose entries end with any change of any kernel."""

    def __init__(self, function: Callable[..., None]) -> None:
        super().__init__(function)
        self._cache_file = _Files(
            self._cache_path, self._impl.filename_base, self._impl.locator.get_source_stamp()
        )

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        # not Numba's own, which holds a hash of the closure: a kernel that is made by a function
        # has intrinsics in it, whose names are new in each process
        return sig, codegen.magic_tuple(), self._py_func.__name__, source_digest()


class Kernel:
    """A function of `arity` whole numbers, in machine code.

    `compiled` is where it was compiled: by us just now ("fresh") or earlier ("cache").
    """

    def __init__(self, function: Callable[..., None], fields: tuple[str, ...], arity: int) -> None:
        self.function, self.fields, self.arity = function, fields, arity
        self.name = function.__name__
        self.__doc__ = function.__doc__
        self._made: Any = None
        self._callable: Any = None

    @property
    def ready(self) -> bool:
        """Compiled in this process."""
        return self._made is not None

    @property
    def address(self) -> int:
        """Of the machine code; compiles or reads the cache at first."""
        if self._made is None:
            signature = types.void(*[types.int64] * self.arity)
            options = {"error_model": "numpy", "nopython": True}
            made: Any = CFunc(self.function, (signature.args, signature.return_type), {}, options)
            try:
                made._cache = _Cache(self.function)
            except RuntimeError:  # no folder to write to: compile every time
                made._cache = NullCache()
            if told is not None:
                told(self.name)
            made.compile()
            self._made = made
        return int(self._made.address)

    def __call__(self, *numbers: int) -> None:
        """Call it from Python; other Python threads run meanwhile."""
        if self._callable is None:
            kind = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * self.arity)
            self._callable = kind(self.address)
        self._callable(*numbers)


def kernel(fields: str) -> Callable[[Callable[..., None]], Kernel]:
    """Make `f(args, batch, thread, threads)` a step's kernel; `fields` names what `args` holds.

    The function reads them in that order: `x, weight = arguments(args, 2)`.
    """
    return lambda function: Kernel(function, tuple(fields.split()), 4)


def helper(function: Callable[..., None]) -> Kernel:
    """Make a function of whole numbers one that kernels call by address."""
    return Kernel(function, (), len(inspect.signature(function).parameters))


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
    def typed(typingctx: Any, *given: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            kind = ir.FunctionType(ir.VoidType(), [WORD] * arity)
            function = builder.inttoptr(values[0], kind.as_pointer())
            builder.call(function, values[1:])
            return context.get_dummy_value()

        return types.void(*[types.int64] * (arity + 1)), codegen

    names = ", ".join(f"a{i}" for i in range(arity + 1))
    space: dict[str, Any] = {"typed": typed}
    exec(f"def call(typingctx, {names}):\n    return typed(typingctx, {names})", space)
    made: Callable[..., Any] = intrinsic(space["call"])
    return made


call_kernel = _caller(4)  # (address, args, batch, thread, threads)
call_helper = _caller(6)  # (address, six numbers)


@intrinsic(prefer_literal=True)
def arguments(typingctx: Any, args: Any, count: Any) -> Any:
    """The first `count` (a literal) numbers at address `args`, as a tuple."""
    if not isinstance(count, types.IntegerLiteral):
        return None  # Numba tries this, too
    number = count.literal_value

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = builder.inttoptr(values[0], WORD.as_pointer())
        words = [builder.load(builder.gep(pointer, [WORD(i)])) for i in range(number)]
        return context.make_tuple(builder, signature.return_type, words)

    return types.UniTuple(types.int64, number)(types.int64, count), codegen
