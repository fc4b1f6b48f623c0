"""Compile small GEMMs with Triton, for the PTX machine to run. No GPU needed; see triton_README.md.

    pip install triton==3.9.0 && python triton_make.py

The tests read the PTX that lies beside this file; they do not need Triton.
"""

import os
import re
from pathlib import Path
from typing import Any

os.environ["TRITON_DEFAULT_FP_FUSION"] = "1"  # the default of 3.9, said aloud

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

HERE = Path(__file__).parent


@triton.jit
def gemm(a, b, d, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, T: tl.constexpr):
    """D (M, N) = A (M, K) @ B (K, N), rows in memory; T is the type of the sums."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)[:, None]
    n = tl.program_id(1) * BN + tl.arange(0, BN)[None, :]
    total = tl.zeros((BM, BN), T)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        left = tl.load(a + m * K + k[None, :], mask=(m < M) & (k[None, :] < K), other=0.0)
        right = tl.load(b + k[:, None] * N + n, mask=(k[:, None] < K) & (n < N), other=0.0)
        total = tl.dot(left, right, total, out_dtype=T)
    tl.store(d + m * N + n, total, mask=(m < M) & (n < N))


@triton.jit
def gemm_scaled(
    a, sa, b, sb, d, M, N, K,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    EA: tl.constexpr, EB: tl.constexpr, PACK: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """D (M, N) = A (M, K) @ B (N, K)^T, both with a scale to SIZE values along K.

    EA, EB: the formats of A and B; PACK: values to a byte, low nibble first.
    """
    m = tl.program_id(0) * BM + tl.arange(0, BM)[:, None]
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    total = tl.zeros((BM, BN), tl.float32)
    for start in range(0, K, BK):
        k = start // PACK + tl.arange(0, BK // PACK)
        s = start // SIZE + tl.arange(0, BK // SIZE)[None, :]
        width, blocks = K // PACK, K // SIZE
        left = tl.load(a + m * width + k[None, :], mask=(m < M) & (k[None, :] < width), other=0.0)
        inside = (n[None, :] < N) & (k[:, None] < width)
        right = tl.load(b + n[None, :] * width + k[:, None], mask=inside, other=0.0)
        left_scale = tl.load(sa + m * blocks + s, mask=(m < M) & (s < blocks), other=0.0)
        inside = (n[:, None] < N) & (s < blocks)
        right_scale = tl.load(sb + n[:, None] * blocks + s, mask=inside, other=0.0)
        total = tl.dot_scaled(left, left_scale, EA, right, right_scale, EB, total)
    tl.store(d + m * N + n[None, :], total, mask=(m < M) & (n[None, :] < N))


def compiled(
    kernel: Any, chip: int, types: str, constants: dict[str, Any], stages: int, warps: int = 4
) -> str:
    """The PTX of `kernel` for sm_`chip`; pointers and K are promised to be multiples of 16."""
    names = list(kernel.arg_names)
    given = [*types.split(), "i32", "i32", "i32"]
    signature = dict(zip(names, given + ["constexpr"] * len(constants), strict=True))
    aligned = [n for n, t in signature.items() if t[0] == "*"] + ["K"]
    if kernel is gemm:
        aligned += ["N"]  # rows of B, which is read along n
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(n),): value for n, value in constants.items()},
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n in aligned},
    )
    options = {"num_warps": warps, "num_stages": stages}
    made = triton.compile(source, target=GPUTarget("cuda", chip, 32), options=options)
    text = made.asm["ptx"]
    text = text[: text.index("\t.file")]  # what follows describes this file to a debugger
    shared = f"// dynamic shared memory: {made.metadata.shared} bytes; threads: {32 * warps}\n"
    return f"// Triton {triton.__version__}, triton_make.py\n{shared}" + re.sub(
        r"[ \t]+// triton_make", " // triton_make", text
    )


def tiles(m: int, n: int, k: int, **more: Any) -> dict[str, Any]:
    return {"BM": m, "BN": n, "BK": k, **more}


def formats(a: str, b: str, pack: int, size: int) -> dict[str, Any]:
    return {"EA": a, "EB": b, "PACK": pack, "SIZE": size}


KERNELS: dict[str, Any] = {
    "f16_sm80": (gemm, 80, "*fp16 *fp16 *fp32", tiles(32, 64, 32, T=tl.float32), 3),
    "bf16_sm120": (gemm, 120, "*bf16 *bf16 *fp32", tiles(32, 64, 32, T=tl.float32), 3),
    "tf32_sm80": (gemm, 80, "*fp32 *fp32 *fp32", tiles(32, 32, 16, T=tl.float32), 2),
    "s8_sm80": (gemm, 80, "*i8 *i8 *i32", tiles(32, 32, 64, T=tl.int32), 2),
    "e4m3_sm89": (gemm, 89, "*fp8e4nv *fp8e4nv *fp32", tiles(32, 32, 64, T=tl.float32), 2),
    "nvfp4_sm120": (
        gemm_scaled, 120, "*u8 *fp8e4nv *u8 *fp8e4nv *fp32",
        tiles(128, 64, 128, **formats("e2m1", "e2m1", 2, 16)), 2,
    ),
    "mxfp4_sm120": (
        gemm_scaled, 120, "*u8 *u8 *u8 *u8 *fp32",
        tiles(32, 32, 64, **formats("e2m1", "e2m1", 2, 32)), 2,
    ),
    "mxfp8_sm120": (
        gemm_scaled, 120, "*fp8e4nv *u8 *fp8e5 *u8 *fp32",
        tiles(32, 32, 64, **formats("e4m3", "e5m2", 1, 32)), 2,
    ),
    # chips without FP4: Triton decodes to bf16 in registers
    "nvfp4_sm89": (
        gemm_scaled, 89, "*u8 *fp8e4nv *u8 *fp8e4nv *fp32",
        tiles(16, 32, 64, **formats("e2m1", "e2m1", 2, 16)), 2,
    ),
    "mxfp4_sm80": (
        gemm_scaled, 80, "*u8 *u8 *u8 *u8 *fp32",
        tiles(16, 32, 64, **formats("e2m1", "e2m1", 2, 32)), 2,
    ),
}  # fmt: skip

if __name__ == "__main__":
    for name, arguments in KERNELS.items():
        text = compiled(*arguments)
        (HERE / f"triton_{name}.ptx").write_text(text, encoding="utf-8")
        print(name, len(text), sorted(set(re.findall(r"mma\.sync\S+", text))))
