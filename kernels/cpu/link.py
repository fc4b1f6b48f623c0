"""Machine code into this process's memory: LLVM's loader alone, no compiler."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

from llvmlite import binding

YIELD = "tinymoe_yield"  # int32 of nothing: give the CPU to who wants it
OUTSIDE = (YIELD,)  # functions that kernels call and this process has, beside the C library's

_kept: list[Any] = []  # code is there for as long as its engine is


def put_in_memory(codes: dict[str, bytes]) -> dict[str, int]:
    """The addresses of functions, by name; of each the object file that defines it is given.

    All together: to begin costs more than each of them.
    """
    engine = binding.create_mcjit_compiler(
        binding.parse_assembly(""), target().create_target_machine(jit=True)
    )
    for code in codes.values():
        engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    found = {symbol: engine.get_function_address(symbol) for symbol in codes}
    for symbol, address in found.items():
        if not address:
            raise RuntimeError(f"the machine code of {symbol} does not define it: delete the cache")
    _kept.append(engine)
    return found


@cache
def target() -> Any:
    """What LLVM calls this machine; from now on it knows what kernels call."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    if sys.platform == "win32":
        function = ctypes.WinDLL("kernel32").SwitchToThread
    else:
        function = ctypes.CDLL(None).sched_yield
    binding.add_symbol(YIELD, ctypes.cast(function, ctypes.c_void_p).value)
    return binding.Target.from_default_triple()
