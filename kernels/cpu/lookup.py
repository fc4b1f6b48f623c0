"""Looking up 32 or 64 bytes at once, by a CPU's own instruction where it has one."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from tinymoe.kernels.cpu.lazily import cgutils
from tinymoe.kernels.cpu.simd import lanes_of

BYTE = ir.IntType(8)


def features() -> str:
    """What the CPU that is compiled for has beyond its family's least: "+avx2,+fma,..."."""
    from numba.core.registry import cpu_target

    return str(getattr(cpu_target.target_context.codegen(), "_tm_features", ""))


def by_register(builder: Any, names: dict[int, str], element: Any, values: list[Any]) -> Any:
    """An instruction of x86 on vectors of any size, as many bytes at a time as the CPU has.

    names: of LLVM's intrinsics, by bytes of a register. element: of the result, whose vectors are
    as many bytes as those that go in.
    """
    size = values[0].type.count * values[0].type.element.width // 8
    width = 64 if size >= 64 and "+avx512bw" in features() else 32
    result = ir.VectorType(element, 8 * width // element.width)
    parts = []
    for number in range(size // width):
        cut = [
            lanes_of(builder, value, number * count, count) if size > width else value
            for value in values
            for count in (value.type.count * width // size,)
        ]
        kind = ir.FunctionType(result, [each.type for each in cut])
        call = cgutils.get_or_insert_function(builder.module, kind, names[width])
        parts.append(builder.call(call, cut))
    return concatenated(builder, parts)


def concatenated(builder: Any, parts: list[Any]) -> Any:
    """Vectors of one type, an even number of them or one, as one."""
    while len(parts) > 1:
        lanes = list(range(2 * parts[0].type.count))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [builder.shuffle_vector(low, high, mask) for low, high in pairs]
    return parts[0]


def byte_table(builder: Any, table: list[int], index: Any) -> Any:
    """32 or 64 bytes of a 16-entry table, by indices 0 .. 15: for builders of LLVM instructions.

    x86 and Arm have an instruction that looks up 16 bytes at once, and two or four times that;
    elsewhere LLVM makes a sum of comparisons, which is slow and gives the same bytes.
    """
    module, kind, size = builder.module, index.type, index.type.count
    if "+avx2" in features():
        names = {32: "llvm.x86.avx2.pshuf.b", 64: "llvm.x86.avx512.pshuf.b.512"}
        entries = ir.Constant(kind, table * (size // 16))
        return by_register(builder, names, BYTE, [entries, index])
    if module.triple.startswith(("aarch64", "arm64")):
        half = ir.VectorType(BYTE, 16)
        of_two = ir.FunctionType(half, [half, half])
        look = cgutils.get_or_insert_function(module, of_two, "llvm.aarch64.neon.tbl1.v16i8")
        parts = [
            builder.call(look, [ir.Constant(half, table), lanes_of(builder, index, start, 16)])
            for start in range(0, size, 16)
        ]
        return concatenated(builder, parts)
    out = ir.Constant(kind, [0] * size)
    for place, value in enumerate(table):
        here = builder.icmp_unsigned("==", index, ir.Constant(kind, [place] * size))
        out = builder.select(here, ir.Constant(kind, [value] * size), out)
    return out
