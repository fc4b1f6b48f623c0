"""The same code in a process that compiles as for AVX512, and runs on the CPU that is here.

What the kernels decide by a CPU's features is decided as there: vectors of 64 bytes go through one
instruction instead of two, and two tiles' sums are held at once. LLVM cuts vectors into what this
CPU has. Only the instructions that are named are not here; each is a function made of what every
CPU can do, as Intel's manual defines it.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

from llvmlite import ir

from tests.kernels.plain_cpu import output_of

SCRIPT = """
import runpy, sys
from tests.kernels.wide_cpu import choose_as_on_avx512
choose_as_on_avx512()
sys.stdout.buffer.write(eval(sys.argv[2], runpy.run_path(sys.argv[1])))
"""
CHOSEN = "+avx2,+fma,+avx512f,+avx512bw"
BYTE, HALF, INT = ir.IntType(8), ir.IntType(16), ir.IntType(32)


def on_a_wide_cpu(file: str, expression: str) -> bytes:
    """What an expression of bytes gives there, in a test file's names."""
    return output_of([sys.executable, "-c", SCRIPT, file, expression], {})


def choose_as_on_avx512() -> None:
    """From now on, in this process."""
    from numba.core.registry import cpu_target

    from tinymoe.kernels.cpu import disk, lookup

    # nothing of this belongs into the folder of what was compiled for this CPU
    disk.load = lambda name: None
    disk.store = lambda name, code: False
    codegen = cpu_target.target_context.codegen()
    here = codegen._tm_features  # LLVM's own copy stays what it is: of this CPU
    codegen._tm_features = CHOSEN
    missing = ("llvm.x86.avx512.",) if "+avx2" in here else ("llvm.x86.",)
    numbas = lookup.cgutils

    def instruction(module: Any, kind: Any, name: str) -> Any:
        if name.startswith(missing):
            return modelled(module, kind, name)
        return numbas.get_or_insert_function(module, kind, name)

    lookup.cgutils = SimpleNamespace(get_or_insert_function=instruction)


def modelled(module: Any, kind: Any, name: str) -> Any:
    """An instruction as a function of the module."""
    mine = "model_of_" + name
    if mine not in module.globals:
        function = ir.Function(module, kind, mine)
        function.linkage = "linkonce_odr"  # parts that are linked together may each have it
        builder = ir.IRBuilder(function.append_basic_block())
        (of,) = (of for part, of in MODELS.items() if part in name)
        builder.ret(of(builder, *function.args))
    return module.globals[mine]


def _shuffled(builder: Any, table: Any, index: Any) -> Any:
    """PSHUFB: in each 16 bytes, the byte there that the index's low 4 bits say; 0 if bit 7 is on.

    One byte after the other, where the code under test works on vectors alone.
    """
    out = ir.Constant(table.type, [0] * table.type.count)
    for place in range(table.type.count):
        wanted = builder.extract_element(index, INT(place))
        at = builder.add(builder.zext(builder.and_(wanted, BYTE(15)), INT), INT(place // 16 * 16))
        value = builder.extract_element(table, at)
        cleared = builder.icmp_signed("<", wanted, BYTE(0))
        out = builder.insert_element(out, builder.select(cleared, BYTE(0), value), INT(place))
    return out


def _pairs(builder: Any, x: Any, y: Any, extend: tuple[str, str]) -> list[Any]:
    """x[2i] y[2i] + x[2i+1] y[2i+1], int32."""
    sums = []
    for first in range(0, x.type.count, 2):
        products = [
            builder.mul(
                *(
                    getattr(builder, how)(builder.extract_element(side, INT(place)), INT)
                    for side, how in zip((x, y), extend, strict=True)
                )
            )
            for place in (first, first + 1)
        ]
        sums.append(builder.add(*products))
    return sums


def _byte_pairs(builder: Any, unsigned: Any, signed: Any) -> Any:
    """PMADDUBSW: what 16 bits cannot hold is the nearest that they can."""
    low, high = INT(-(2**15)), INT(2**15 - 1)
    halves = []
    for each in _pairs(builder, unsigned, signed, ("zext", "sext")):
        at_least = builder.select(builder.icmp_signed("<", each, low), low, each)
        at_most = builder.select(builder.icmp_signed(">", at_least, high), high, at_least)
        halves.append(builder.trunc(at_most, HALF))
    return _together(builder, halves)


def _word_pairs(builder: Any, x: Any, y: Any) -> Any:
    """PMADDWD: what 32 bits cannot hold, (-2^15)^2 twice, goes round."""
    return _together(builder, _pairs(builder, x, y, ("sext", "sext")))


def _together(builder: Any, values: list[Any]) -> Any:
    out = ir.Constant(ir.VectorType(values[0].type, len(values)), ir.Undefined)
    for place, value in enumerate(values):
        out = builder.insert_element(out, value, INT(place))
    return out


MODELS = {
    "pshuf.b": _shuffled,
    "pmadd.ub.sw": _byte_pairs,
    "pmaddubs.w": _byte_pairs,
    "pmadd.wd": _word_pairs,
    "pmaddw.d": _word_pairs,
}
