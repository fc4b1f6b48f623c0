"""What kernels are made of, as far as LLVM's instructions: machine code comes once, of the whole.

Numba treats every function as one that Python may call: it is optimised, made into machine code and
put into memory. A part of a kernel is never called from Python; its instructions go into the
kernel, and are optimised there. So here parts are left as they are but for what makes them small.
That is a quarter of all compilation. Imported once something is compiled, as it needs Numba.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba.core.codegen import AOTCodeLibrary, JITCPUCodegen
from numba.core.registry import CPUDispatcher, CPUTarget, cpu_target


class Library(AOTCodeLibrary):
    """The instructions of a function and, linked in, of those that it calls."""

    whole = False  # of a kernel, which all optimisation is for

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        if self.whole:
            super()._optimize_final_module()
            return
        passes, builder = self._codegen._module_pass_manager(
            opt=0, cost="cheap", loop_vectorize=False, slp_vectorize=False
        )
        passes.run(self._final_module, builder)

    def get_pointer_to_function(self, name: str) -> int:
        """None: it is nowhere in memory."""
        self._ensure_finalized()
        return 0


class Codegen(JITCPUCodegen):
    """For this process's CPU, as Numba's own, `NUMBA_CPU_NAME` and all; nothing goes to memory."""

    _library_class = Library

    def _add_module(self, module: Any) -> None:
        pass

    def set_env(self, env_name: str, env: Any) -> None:
        """Of functions in memory."""


class _Target(CPUTarget):
    """Numba's CPU with another end."""

    @property
    def typing_context(self) -> Any:
        return cpu_target.typing_context

    @property
    def target_context(self) -> Any:
        return context()


@cache
def context() -> Any:
    """Of compilation: everything that Numba knows of the CPU, and `Codegen` at the end."""
    return cpu_target.target_context.subtarget(_internal_codegen=Codegen("tinymoe"))


class Part(CPUDispatcher):
    """As `numba.njit` makes one."""

    targetdescr = _Target("cpu")


def part(function: Any, **options: Any) -> Part:
    """`numba.njit(**options)(function)`, for kernels alone."""
    return Part(function, targetoptions={"nopython": True, "boundscheck": None, **options})
