"""From a kernel in Python to machine code that stands alone: it needs neither Numba nor Python.

Numba compiles a function with a way out for exceptions; the door that is added here has none, for
a kernel has nobody to tell. A kernel that raises all the same stops the process at once: to go on
with half a result would be worse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core.compiler import Flags, compile_extra
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from tinymoe.kernels.cpu.link import OUTSIDE, target
from tinymoe.kernels.cpu.parts import context

WORD = ir.IntType(64)


def machine_code(function: Callable[..., None], arity: int, symbol: str) -> bytes:
    """An object file that defines `symbol`: void of `arity` int64, which calls `function`.

    TypeError, if it calls what only a process with Numba in it has, as a kernel that makes arrays
    or prints does.
    """
    flags = Flags()
    cpu_target.options.parse_as_flags(flags, {"nopython": True, "error_model": "numpy"})
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    target()  # Numba's own loader has to find what is outside as well
    with global_compiler_lock:
        made = compile_extra(
            cpu_target.typing_context,
            context(),
            function,
            [types.int64] * arity,
            types.void,
            flags,
            {},
        )
        made.library.add_ir_module(_door(made, arity, symbol))
        made.library.whole = True
        _, _, bitcode = made.library.serialize_using_bitcode()  # after all optimisation
    module = binding.parse_bitcode(bitcode)
    _check(module, function)
    machine = context().codegen()._tm
    _hide(module, symbol, machine)
    return bytes(machine.emit_object(module))


def _hide(module: binding.ModuleRef, symbol: str, machine: Any) -> None:
    """Leave one name to be found from outside.

    Numba numbers functions from 1 in every process, so names in two files may well be equal. And
    what was put where it is called, and is asked for by nobody else, goes.
    """
    for each in (*module.functions, *module.global_variables):
        if not each.is_declaration and each.name != symbol:
            each.linkage = "internal"
    passes = binding.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    tuning = binding.create_pipeline_tuning_options(speed_level=0)
    passes.run(module, binding.create_pass_builder(machine, tuning))


def _door(made: Any, arity: int, symbol: str) -> ir.Module:
    """The function that is called from outside, by C's rules for calls."""
    context, inner = made.target_context, made.fndesc
    calls = context.call_conv
    module = context.create_module("door")
    callee = ir.Function(
        module, calls.get_function_type(inner.restype, inner.argtypes), inner.llvm_func_name
    )
    kind = ir.FunctionType(ir.VoidType(), [WORD] * arity)
    door = ir.Function(module, kind, symbol)
    builder = ir.IRBuilder(door.append_basic_block())
    status, _ = calls.call_function(builder, callee, inner.restype, inner.argtypes, door.args)
    with builder.if_then(status.is_error, likely=False):
        trap = ir.Function(module, ir.FunctionType(ir.VoidType(), []), "llvm.trap")
        builder.call(trap, [])
    builder.ret_void()
    return module


def _check(module: binding.ModuleRef, function: Callable[..., None]) -> None:
    declared = {each.name for each in module.functions if each.is_declaration}
    foreign = {name for name in declared - set(OUTSIDE) if not name.startswith("llvm.")}
    if foreign:
        raise TypeError(
            f"{function.__name__} calls {', '.join(sorted(foreign))}: a kernel may call other "
            "kernels and parts alone, and make nothing that Numba's runtime would have to free"
        )
