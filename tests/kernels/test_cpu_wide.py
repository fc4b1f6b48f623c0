"""AVX512 without such a CPU: what it chooses gives the same bits, and LLVM makes what was meant.

Prevents: products that are wrong on newer CPUs alone, where no machine of ours would show it. A
wide vector's parts put together in another order, a tile's sums in another's place, an instruction
with another type than LLVM gives it, a 64-byte move that wants an aligned address of a buffer that
is not.
"""

from __future__ import annotations

import platform
import re
import sys
from typing import Any

import numpy as np
import pytest
from llvmlite import ir

from tests.kernels import test_cpu_fixed, test_cpu_multiply, test_cpu_w4a4
from tests.kernels.plain_cpu import output_of
from tests.kernels.wide_cpu import on_a_wide_cpu
from tinymoe.core import Array
from tinymoe.kernels.cpu.kernel import Kernel, helper
from tinymoe.kernels.cpu.lazily import operation, types
from tinymoe.kernels.cpu.lookup import by_register, features

pytestmark = pytest.mark.kernels
X86 = platform.machine() in ("x86_64", "AMD64")
BYTE, HALF, INT = (ir.IntType(width) for width in (8, 16, 32))

# ------------------------------------------------------------------- the instructions themselves

NAMED = {  # by bytes of a register; the elements that come out, and that go in
    "look_up": ("avx2.pshuf.b", "avx512.pshuf.b.512", BYTE, BYTE),
    "byte_pairs": ("avx2.pmadd.ub.sw", "avx512.pmaddubs.w.512", HALF, BYTE),
    "word_pairs": ("avx2.pmadd.wd", "avx512.pmaddw.d.512", INT, HALF),
}
SIZE = 128  # bytes: four registers of AVX2, two of AVX512


def applied(name: str) -> Kernel:
    """`f(x, y, out)`: the instruction on all bytes of x and y."""
    narrow, wide, element, of = NAMED[name]
    names = {32: f"llvm.x86.{narrow}", 64: f"llvm.x86.{wide}"}

    def build(builder: Any, x: Any, y: Any, out: Any) -> None:
        kind = ir.VectorType(of, SIZE * 8 // of.width).as_pointer()
        given = [builder.load(builder.inttoptr(at, kind), align=1) for at in (x, y)]
        made = by_register(builder, names, element, given)
        builder.store(made, builder.inttoptr(out, made.type.as_pointer()), align=1)

    op = operation(types.void, (types.int64,) * 3, build)

    def call(x: Any, y: Any, out: Any) -> None:
        op(x, y, out)

    call.__name__ = name
    return helper(call)


def registers() -> bytes:
    """Each instruction on bytes of every size and sign, and on the extremes of all of them."""
    rng = np.random.default_rng(1)
    given = rng.integers(0, 256, (40, 2, SIZE), np.uint8)
    given[0], given[1] = 0x80, 0x7F
    given[2, 0], given[2, 1] = 0xFF, 0x80  # 255 * -128, twice: below 16 bits
    given[3, 0], given[3, 1] = 0xFF, 0x7F
    given[4].view(np.int16)[:] = -(2**15)  # its square, twice: above 32 bits
    out: Array = np.zeros((len(NAMED), *given[:, 0].shape), np.uint8)
    for name, rows in zip(NAMED, out, strict=True):
        call = applied(name)
        for (x, y), row in zip(given, rows, strict=True):
            call(x.ctypes.data, y.ctypes.data, row.ctypes.data)
    return out.tobytes()


@pytest.mark.skipif(not X86, reason="the instructions are x86's")
def test_a_wide_instruction_is_two_narrow_ones() -> None:
    """This CPU's own instructions, of 32 bytes, against the definition of those of 64."""
    if "+avx2" not in features():
        pytest.skip("this CPU has not even the narrow ones")
    assert on_a_wide_cpu(__file__, "registers()") == registers()


# ------------------------------------------------------------------- products

BYTES = {
    test_cpu_fixed: "all_bytes()",
    test_cpu_multiply: "all_bytes()",
    test_cpu_w4a4: "b''.join(made.tobytes() for made in large_products())",
}


@pytest.mark.parametrize("module", BYTES, ids=lambda module: module.__name__.split("_")[-1])
def test_products_as_avx512_chooses_them_have_the_same_bits(module: Any) -> None:
    expression = BYTES[module]
    here = eval(expression, vars(module))
    assert on_a_wide_cpu(str(module.__file__), expression) == here


# ------------------------------------------------------------------- what LLVM makes for real ones

COMMON = "+avx2,+fma,+f16c,+bmi,+bmi2,+popcnt,+lzcnt,+movbe"
AVX512 = f"{COMMON},+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl"
VNNI = f"{AVX512},+avx512vnni,+avx512vbmi,+avx512vbmi2,+avx512bitalg,+avx512ifma"
ASSEMBLY = """
import sys
from tests.kernels.test_cpu_wide import assembly
print(assembly())
"""


def assembly() -> str:
    """Of kernels that multiply, for this process's CPU."""
    from tinymoe.kernels.cpu import compile as compiling
    from tinymoe.kernels.cpu.fixed import multiply_fixed
    from tinymoe.kernels.cpu.multiply import multiply
    from tinymoe.kernels.cpu.w4a4 import multiply_codes

    texts = []
    machine = compiling.context().codegen()._tm

    class Written:
        """LLVM's machine, and what it wrote."""

        def __getattr__(self, name: str) -> Any:
            return getattr(machine, name)

        def emit_object(self, module: Any) -> Any:
            texts.append(machine.emit_assembly(module))
            return machine.emit_object(module)

    compiling.context().codegen()._tm = Written()
    for kernel in (multiply_fixed("nvfp4"), multiply("nvfp4"), multiply_codes("mxfp4")):
        compiling.machine_code(kernel.function, kernel.arity, kernel.symbol)
    return "\n".join(texts)


def made_for(cpu: str, wanted: str) -> list[str]:
    """Lines of assembly."""
    variables = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": wanted}
    return output_of([sys.executable, "-c", ASSEMBLY], variables).decode().splitlines()


def aligned_moves(lines: list[str]) -> list[str]:
    """Those that stop the process unless an address is a multiple of a register's bytes.

    Not the stack's own, nor constants, which LLVM puts where they must be.
    """
    constants, found = set(), []
    for line in lines:
        move = re.search(r"vmov(?:ap[sd]|dqa\d*|nt\w+)\s.*\((%\w+)", line)
        if move and move[1] not in {"%rsp", "%rbp", "%rip", *constants}:
            found.append(line)
        if to := re.search(r"(%r\w+)$", line):
            (constants.add if "$.LCPI" in line else constants.discard)(to[1])
    return found


def counted(lines: list[str], pattern: str) -> int:
    return sum(bool(re.search(pattern, line)) for line in lines)


@pytest.mark.skipif(not X86, reason="LLVM here makes code for another family of CPUs")
@pytest.mark.parametrize(
    ("cpu", "wanted", "wide"),
    [
        ("skylake-avx512", AVX512, True),
        ("znver4", VNNI, True),
        ("knl", f"{COMMON},+avx512f,+avx512cd", False),
        ("icelake-server", f"{COMMON},-avx512f,-avx512bw", False),  # what a virtual machine hides
    ],
)
def test_code_for_a_cpu_uses_what_it_has_and_no_aligned_move(
    cpu: str, wanted: str, wide: bool
) -> None:
    lines = made_for(cpu, wanted)
    for name in ("vpshufb", "vpmaddubsw", "vpmaddwd|vpdpwssd"):
        assert bool(counted(lines, rf"({name}).*%zmm")) == wide, name
        assert bool(counted(lines, rf"({name}).*%ymm")) or wide, name
    assert bool(counted(lines, "vfmadd.*%zmm")) == ("+avx512f" in wanted)
    if "+avx512vnni" not in wanted:
        assert not counted(lines, "vpdp")
    if "+avx512f" not in wanted:
        assert not counted(lines, r"%zmm|%k[0-7]|%[xy]mm(1[6-9]|2\d|3[01])")
    assert not aligned_moves(lines)
