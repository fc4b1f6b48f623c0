"""Numba when something must be compiled, and not before: most starts compile nothing.

Kernels are compiled once and kept on disk (`disk.py`); later a process needs their addresses, for
which LLVM's loader is enough. To import Numba would take longer than all the rest of that start.
So what a decorator gives here is not Numba's object but a promise of it:

    Later       a function that compiled code calls: Python source, or LLVM's instructions
    NumbaType   a type of Numba's, by its name
    Vector      a type that Numba is told about: see `vector_types.py`

Numba redeems a promise by itself. When it compiles a function and meets an object that it does not
know, it asks for the attribute `_numba_type_`; here that is a property, and computing it imports
Numba and makes the object that was promised.

A new file of kernels keeps to one rule: it imports nothing of Numba. It takes `kernel`, `helper`,
`part` and `inlined` from `kernel.py`; `njit`, `intrinsic`, `types`, `cgutils` and `operation` from
here; and `llvmlite.ir`, which is small, as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from typing import Any

from llvmlite import ir


@dataclass(frozen=True)
class NumbaType:
    """`numba.types.NAME`."""

    name: str

    @cached_property
    def _numba_type_(self) -> Any:
        return getattr(import_module("numba.types"), self.name)


@dataclass(frozen=True)
class Vector:
    """A type whose values are LLVM vectors: so many numbers of one kind."""

    name: str
    llvm: ir.VectorType

    @property
    def _numba_type_(self) -> Any:
        return numba_knows().TYPES[self.name]


class types:  # noqa: N801  (it stands where `numba.types` would)
    """Types of Numba's that kernels have."""

    int32, int64 = NumbaType("int32"), NumbaType("int64")
    float32, float64 = NumbaType("float32"), NumbaType("float64")
    void = NumbaType("void")


class Later:
    """A function for compiled code, made by `make(function)` when Numba first meets it.

    Called from Python it is the Python function: what computes sizes serves both sides.
    """

    def __init__(
        self, function: Callable[..., Any], make: Callable[..., Any], **options: Any
    ) -> None:
        self.py_func, self._make = function, make
        self.targetoptions = options  # where Numba looks whether to put the source at each call
        self.__name__, self.__doc__ = function.__name__, function.__doc__

    def __call__(self, *arguments: Any) -> Any:
        """In Python."""
        return self.py_func(*arguments)

    def __deepcopy__(self, memo: Any) -> Later:
        """Itself: Numba copies code together with the functions in it."""
        return self

    @cached_property
    def _numba_type_(self) -> Any:
        numba_knows()
        target = import_module("numba.core.registry").cpu_target
        self._made = self._make(self.py_func, **self.targetoptions)  # its type holds it weakly
        target.typing_context.refresh()
        return target.typing_context.resolve_value_type(self._made)


@cache
def numba_knows() -> Any:
    """The module that tells Numba of vectors: imported once something is compiled with them."""
    return import_module("tinymoe.kernels.cpu.vector_types")


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit(**options)`, later, and for kernels alone: see `parts.py`."""

    def make(function: Callable[..., Any], **options: Any) -> Any:
        return import_module("tinymoe.kernels.cpu.parts").part(function, **options)

    return lambda function: Later(function, make, **options)


def intrinsic(*, prefer_literal: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """`numba.extending.intrinsic(...)`, later."""

    def make(function: Callable[..., Any]) -> Any:
        return import_module("numba.extending").intrinsic(prefer_literal=prefer_literal)(function)

    return lambda function: Later(function, make)


def operation(
    result: Any, arguments: tuple[Any, ...], build: Callable[..., Any], doc: str = ""
) -> Any:
    """A function for compiled code: argument types, and how LLVM is told to compute it.

    `build(builder, *values)` gives the value, or None where `result` is void.
    """

    def typed(typingctx: Any, *given: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            cast = [
                context.cast(builder, value, is_type, must._numba_type_)
                for value, is_type, must in zip(values, signature.args, arguments, strict=True)
            ]
            out = build(builder, *cast)
            return context.get_dummy_value() if out is None else out

        return result._numba_type_(*given), codegen

    listed = ", ".join(f"a{i}" for i in range(len(arguments)))  # Numba wants so many names
    space: dict[str, Any] = {"typed": typed}
    exec(f"def op(typingctx, {listed}):\n    return typed(typingctx, {listed})", space)
    space["op"].__doc__ = doc
    return intrinsic()(space["op"])


class _Module:
    """A module that is imported when something of it is used: in builders of instructions."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)


cgutils: Any = _Module("numba.core.cgutils")
