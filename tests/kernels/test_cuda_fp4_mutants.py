"""The tests of the FP4 kernels, tested: each kernel here has one bug, and the hard cases see it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest

from tests.kernels.fp4_cases import cases
from tests.kernels.model_kernels import machine
from tinymoe.kernels.contracts import contract
from tinymoe.kernels.cuda.compile import build
from tinymoe.kernels.cuda.devices import PtxDevice
from tinymoe.kernels.cuda.ops_fp4 import Fp4Ops
from tinymoe.kernels.cuda.ops_fp4_gemm import Fp4Gemm
from tinymoe.kernels.cuda.source import source
from tinymoe.kernels.ptx import DefectError

pytestmark = pytest.mark.kernels


@dataclass(frozen=True)
class Mutant:
    """A kernel file in which `right` reads `wrong`, an op that uses it, and what says so."""

    name: str
    file: str
    right: str
    wrong: str
    op: str = "expert_ffn_nvfp4_w4a4"
    rung: str = "mma"
    found: str = "value"  # or "defect": the machine stops it, whatever the values


QUANTISE, SWIZZLE = "quantize_nvfp4", "swizzle_scales"
FUSED, SHARED, FP4 = "fused_gate_up", "gemm_shared_nvfp4", "fused_gate_up_sm120"
W4A4, GROUPED = "gemm_nvfp4_w4a4", "grouped_gemm_nvfp4_w4a4"
DECODE = "dequantize_nvfp4"
CONVENTIONS = ("modelopt", "te_2d", "kernel", "modelopt_tensor", "deepgemm", "deepseek_act")

MUTANTS = (
    # ------------------------------------------------------------------------- formats
    Mutant("E2M1 half as large", "decode_nvfp4", "0x74007400u", "0x70007000u", DECODE),
    Mutant("NaN scale is 480", "decode_nvfp4", "(byte & 0x7f) == 0x7f ?", "false ?", DECODE),
    Mutant("sign of a scale lost", "decode_nvfp4", " | ((byte & 0x80) << 8)", "", DECODE),
    Mutant("E4M3 ties away", QUANTISE, "0x7ffffu + ((bits >> 20) & 1)", "0x80000u", QUANTISE),
    Mutant("E2M1 ties to odd", QUANTISE, "&& i % 2 == 1", "&& i % 2 == 0", QUANTISE),
    Mutant("fabsf flushes", QUANTISE, "return __uint_as_float(magnitude_bits(x))",
           "return fabsf(x)", QUANTISE),
    Mutant("products flush", QUANTISE, '"mul.rn.f32', '"mul.rn.ftz.f32', QUANTISE),
    Mutant("1/0 of a zero scale", QUANTISE, "byte ? div_rn(1, step) : 0", "div_rn(1, step)",
           QUANTISE),
    Mutant("amax of half a block", QUANTISE, "  return larger(x, __shfl_xor_sync(ALL, x, 2));",
           "  return x;", QUANTISE),
    Mutant("nibbles swapped", QUANTISE, "code_of(v.x, s, rule) | code_of(v.y, s, rule) << 4",
           "code_of(v.y, s, rule) | code_of(v.x, s, rule) << 4", QUANTISE),
    Mutant("threads past the end write", QUANTISE, "if (!mine) return;", "block += !mine;",
           QUANTISE, found="defect"),
    Mutant("tile begins at its block", QUANTISE, "block / blocks % SHARING", "0", QUANTISE,
           found="defect"),
    Mutant("words of a line in order", "swizzle", "word % 4 * 32 + line", "line * 4 + word % 4",
           SWIZZLE),
    Mutant("ragged scales", "swizzle", "if (first + i < columns)", "", SWIZZLE, found="defect"),
    # ------------------------------------------------------------------ shared memory
    Mutant("read before the copy", SHARED, "__syncthreads();  // the copy is complete", "", W4A4,
           "shared", "defect"),
    Mutant("copy before all have read", SHARED, "__syncthreads();  // and used by all", "", W4A4,
           "shared", "defect"),
    Mutant("no tail along k", SHARED, "&& k0 + k < m.K", "", W4A4, "shared", "defect"),
    # ---------------------------------------------------------------------- fragments
    Mutant("fragment rows swapped", FUSED, "[half + 2 * (p % 2)] = pairs[p]",
           "[1 - half + 2 * (p % 2)] = pairs[p]"),
    Mutant("pairs of A in another order", FUSED, "a[0][p / 2][half + 2 * (p % 2)]",
           "a[0][p % 2][half + 2 * (p / 2)]"),
    Mutant("no tail along k, portable", FUSED, "if (k < m.K) word", "word", found="defect"),
    Mutant("rows past the last", FUSED, "return min(row, end - 1)", "return row", found="defect"),
    Mutant("sums of the other row", FUSED, "alpha * d[i / 2][2 * half + i % 2]",
           "alpha * d[i / 2][2 - 2 * half + i % 2]"),
    Mutant("up is the gate's neighbour", FUSED, "column, I + column,", "column, column + 16,"),
    Mutant("bytes of a block in order", FUSED, "MEMBER + 2 * i]", "2 * MEMBER + i / 2]"),
    Mutant("first expert's scale for all", FUSED, "hidden_scales[group.expert]",
           "hidden_scales[0]"),
    Mutant("first expert's weight for all", FUSED, "(i64)expert * N", "(i64)0 * N"),
    Mutant("blocks behind the list stay", FUSED, "group.expert < 0 || ", "", found="defect"),
    # ------------------------------------------------------------------ FP4 tensor core
    Mutant("scales of A in lanes 2 and 3", FP4, "8 * (MEMBER % 2)", "8 * (MEMBER / 2)",
           rung="sm120"),
    Mutant("scales of the stretch before", FP4, "scales_of<Format>(w, row, k0)",
           "scales_of<Format>(w, row, 0)", rung="sm120"),
    Mutant("halves of k swapped in A", FP4, "k + 32 * (r / 2)", "k + 32 - 32 * (r / 2)",
           rung="sm120"),
    Mutant("no tail along k, FP4", FP4, "return k < m.K ?", "return true ?", rung="sm120",
           found="defect"),
)  # fmt: skip


class Spoiled(PtxDevice):
    """A machine that runs one file with a bug in it."""

    def __init__(self, mutant: Mutant) -> None:
        super().__init__("120a" if mutant.rung == "sm120" else "80")
        self.mutant = mutant

    def kernel(self, name: str, entry: str, defines: tuple[str, ...] = ()) -> Any:
        if name != self.mutant.file:
            return machine(self.arch).kernel(name, entry, defines)
        text = source(name).text
        assert self.mutant.right in text
        ptx = build(kept(text.replace(self.mutant.right, self.mutant.wrong)), self.arch).ptx
        return self.from_ptx(ptx, entry, name)


def kept(text: str) -> str:
    """Quantisers without the kernels of the conventions that no mutant needs: seconds less."""
    return re.sub(rf"^CONVENTION\((?!({'|'.join(CONVENTIONS)}),).*$", "", text, flags=re.M)


def judge(mutant: Mutant) -> None:
    """The op's hard cases, on the kernel with its bug."""
    device = Spoiled(mutant)
    formats = mutant.op in (QUANTISE, SWIZZLE, DECODE)
    ops: Any = Fp4Ops(device) if formats else Fp4Gemm(device, mutant.rung)  # type: ignore[arg-type]
    for case in cases(mutant.op):
        if case.get("convention", "kernel") not in CONVENTIONS:
            continue
        contract(mutant.op).judge(getattr(ops, mutant.op), case)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_bug_is_seen(mutant: Mutant) -> None:
    with pytest.raises(AssertionError if mutant.found == "value" else DefectError):
        judge(mutant)
