"""Looking up 32 bytes at once, by a CPU's own instruction where it has one."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from tinymoe.kernels.cpu.lazily import cgutils
from tinymoe.kernels.cpu.simd import U8, lanes_of

BYTE = ir.IntType(8)


def features() -> str:
    """What the CPU that is compiled for has beyond its family's least: "+avx2,+fma,..."."""
    from numba.core.registry import cpu_target

    return str(getattr(cpu_target.target_context.codegen(), "_tm_features", ""))


def byte_table(builder: Any, table: list[int], index: Any) -> Any:
    """32 bytes of a 16-entry table, by indices 0 .. 15: for builders of LLVM instructions.

    AVX2 and Arm have an instruction that looks up 16 bytes at once; elsewhere LLVM makes a sum of
    comparisons, which is slow and gives the same bytes.
    """
    module = builder.module
    if "+avx2" in features():
        kind = ir.FunctionType(U8.llvm, [U8.llvm, U8.llvm])
        look = cgutils.get_or_insert_function(module, kind, "llvm.x86.avx2.pshuf.b")
        return builder.call(look, [ir.Constant(U8.llvm, table * 2), index])
    if module.triple.startswith(("aarch64", "arm64")):
        half = ir.VectorType(BYTE, 16)
        kind = ir.FunctionType(half, [half, half])
        look = cgutils.get_or_insert_function(module, kind, "llvm.aarch64.neon.tbl1.v16i8")
        parts = [
            builder.call(look, [ir.Constant(half, table), lanes_of(builder, index, start, 16)])
            for start in (0, 16)
        ]
        joined = ir.Constant(ir.VectorType(ir.IntType(32), 32), list(range(32)))
        return builder.shuffle_vector(*parts, joined)
    out = ir.Constant(U8.llvm, [0] * 32)
    for place, value in enumerate(table):
        here = builder.icmp_unsigned("==", index, ir.Constant(U8.llvm, [place] * 32))
        out = builder.select(here, ir.Constant(U8.llvm, [value] * 32), out)
    return out
