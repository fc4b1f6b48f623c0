"""Tensor-core, tile and copy instructions inside kernels: CUDA C through NVRTC, and PTX by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kernels.ptx_by_hand import by_hand
from tinymoe.formats import e2m1, e4m3
from tinymoe.kernels.cuda.committed import NoCompilerError
from tinymoe.kernels.cuda.compile import build
from tinymoe.kernels.ptx import DefectError, PtxError, launch, parse
from tinymoe.kernels.ptx.fragments import TABLE, fragment_map
from tinymoe.kernels.ptx.ldmatrix import collect, spread

pytestmark = pytest.mark.kernels
Array = np.ndarray[Any, Any]
FOLDER = Path(__file__).parents[1] / "vectors" / "ptx"
SM80 = (FOLDER / "tensor_sm80.ptx").read_text("utf-8")
KERNELS = parse(SM80) | parse((FOLDER / "tensor_sm120a.ptx").read_text("utf-8"))


@pytest.mark.parametrize("arch", ["80", "120a"])
def test_the_committed_ptx_is_that_of_its_source(arch: str) -> None:
    source, ptx = (FOLDER / f"tensor_sm{arch}{suffix}" for suffix in (".cu", ".ptx"))
    try:
        made = build(source.read_text("utf-8"), arch).ptx
    except NoCompilerError as missing:
        pytest.skip(str(missing))
    assert re.findall(r"^\s+([a-z].*);", made, re.M) == re.findall(
        r"^\s+([a-z].*);", ptx.read_text("utf-8"), re.M
    )


def as_statement(opcode: str) -> str:
    """CUDA C that holds an mma and nothing else; its sums are in f[] or r[], the rest in a[]."""
    a, b, c, *scales = [f.row.shape[1] for f in fragment_map(opcode).values()]
    kind = "f" if opcode.count(".f32") == 2 else "r"
    number = iter(range(99))
    groups = [", ".join(f"%{next(number)}" for _ in range(n)) for n in (c, a, b, c, *scales)]
    operands = [f"{{{group}}}" for group in groups]
    for k in range(len(scales)):
        operands[4 + k] += ", {0, 0}"
    inputs = [f'"r"(a[{i}])' for i in range(a + b)]
    inputs += [f'"{kind}"({kind}[{i}])' for i in range(c)] + ['"r"(a[0])'] * len(scales)
    outputs = [f'"={kind}"({kind}[{i}])' for i in range(c)]
    text = f"{opcode} {', '.join(operands)};"
    return f'asm volatile("{text}" : {", ".join(outputs)} : {", ".join(inputs)});'


def test_ptxas_knows_every_mma_of_the_table() -> None:
    # this machine must not run what no assembler takes
    lines = "\n".join(as_statement(opcode) for family in TABLE for _, opcode in family.members())
    source = f"""extern "C" __global__ void all(float *f, unsigned *r, const unsigned *a) {{
{lines}
}}"""
    try:
        made = build(source, "120a")
    except NoCompilerError as missing:
        pytest.skip(str(missing))
    assert made.cubin
    assert made.ptx.count("mma.sync") == lines.count("\n") + 1


# ---- tiles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix_places_each_element_and_stmatrix_takes_it_back(
    count: int, transposed: bool
) -> None:
    tiles = np.arange(3 * count * 64, dtype=np.uint16).reshape(3, count, 8, 8)
    registers = spread(tiles, transposed)
    assert registers.shape == (3, 32, count)
    for lane in range(32):
        for half in range(2):
            row, col = lane // 4, 2 * (lane % 4) + half
            where = (col, row) if transposed else (row, col)
            got = registers[:, lane] >> (16 * half) & 0xFFFF
            assert np.array_equal(got, tiles[:, :, *where])
    assert np.array_equal(collect(registers, transposed), tiles)


def test_tiles_are_transposed_in_registers() -> None:
    tile = np.arange(64, dtype=np.uint16).reshape(8, 8)
    out = np.zeros(32, np.uint32)
    launch(KERNELS["transposed"], 1, 32, [out, tile.view(np.uint32)])
    assert np.array_equal(out.view(np.uint16).reshape(8, 8), tile.T)


def test_stmatrix_undoes_ldmatrix() -> None:
    rows, out = np.arange(128, dtype=np.uint32) * 2654435761, np.zeros(128, np.uint32)
    launch(KERNELS["stored"], 1, 32, [out, rows])
    assert np.array_equal(out, rows)


# ---- FP4, from registers ------------------------------------------------------------------------


def test_an_nvfp4_tile() -> None:
    rng = np.random.default_rng(4)
    codes = [rng.integers(0, 256, (rows, 32), np.uint8) for rows in (16, 8)]
    scales = [rng.integers(0x28, 0x48, (rows, 4), np.uint8) for rows in (16, 8)]
    # each product is a multiple of 2^-12 (elements 1/2, scales 2^-5) and below 36 * 16: exact
    a, b = (
        e2m1.decode_packed(c, code_8="-0").astype(np.float64)
        * np.repeat(e4m3.decode(s), 16, axis=1)
        for c, s in zip(codes, scales, strict=True)
    )
    d = np.full((16, 8), np.nan, np.float32)
    launch(KERNELS["nvfp4_tile"], 1, 32, [d, codes[0], scales[0], codes[1], scales[1]])
    assert np.array_equal(d, (a @ b.T).astype(np.float32))


# ---- by hand ------------------------------------------------------------------------------------

MMA = "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f0,%f1,%f2,%f3}, {%r0,%r1}, {%r2},"
SCALED = (
    "mma.sync.aligned.kind::mxf4.block_scale.scale_vec::2X.m16n8k64.row.col.f32.e2m1.e2m1.f32.ue8m0"
    " {%f0,%f1,%f2,%f3}, {%r0,%r0,%r1,%r1}, {%r2,%r2}, {%f0,%f1,%f2,%f3},"
)


def test_scales_may_come_from_other_lanes_and_bytes() -> None:
    # ones times ones, 64 of them; the scale of row 8 is byte 2 of lane 3, with selector {2, 1}
    ones, scale = "mov.u32 %r0, 0x22222222; mov.u32 %r1, %r0; mov.u32 %r2, %r0;", "0x81807f7f"
    selected = "mov.u32 %r4, 0x7f7f7f7f; setp.eq.u32 %p, %t, 3; @%p mov.u32 %r3, %r5;"
    got = by_hand(
        f"{ones} mov.u32 %r5, {scale}; mov.u32 %r3, 0x7f7f7f7f; {selected}"
        f"mov.u16 %h0, 2; mov.u16 %h1, 1; {SCALED} %r3, {{%h0, %h1}}, {{%r4}}, {{0, 3}};"
        "st.global.f32 [%q], %f2;"
    ).view(np.float32)
    # row 8 (lanes 0 to 3 hold it in %f2): 32 ones times 2, and 32 times 4
    assert got.tolist() == [192.0] * 4 + [64.0] * 28


@pytest.mark.parametrize(
    ("body", "threads", "error", "message"),
    [
        (f"{MMA} {{%f0,%f1,%f2,%f3}};", 48, DefectError, "needs all 32 lanes, and the warp has 16"),
        (
            f"setp.lt.u32 %p, %t, 31; @%p {MMA} {{%f0,%f1,%f2,%f3}};",
            32,
            DefectError,
            "waits for lane 31",
        ),
        (f"{SCALED} %r3, {{0, 0}}, %r4, {{0, 0}};".replace("%r3", "%r0").replace("%r4", "%r0")
         .replace("{0, 0};", "{1, 0};"), 32, PtxError, r"selector \{1, 0\}: with 2 scales"),
        (f"cvt.u16.u32 %h0, %t; {SCALED} %r0, {{%h0, 0}}, %r0, {{0, 0}};", 32, DefectError,
         "the scale selector .* differs between lanes"),
        (f"{SCALED} %r0, {{0, 0}}, %r0;", 32, PtxError, "7 operands, expected 8"),
        (f"{MMA} {{%f0,%f1}};", 32, PtxError, r"\{%f0,%f1\} has 2 registers, expected 4"),
        (f"{MMA.replace('m16n8k8', 'm16n8k4')} {{%f0,%f1,%f2,%f3}};", 32, PtxError,
         "m16n8k4.row.col.f32.f16.f16.f32 is not supported; m16n8 is, for f16  k"),
        ("ldmatrix.sync.aligned.m8n16.x1.shared.b8x16.b4x16_p64 {%r0}, [tiles];", 32, PtxError,
         "only .m8n8 with .x1, .x2 or .x4 and .b16"),
        ("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r0}, [tiles];", 32, PtxError,
         "expected 2 registers for 2 tiles, got 1"),
        ("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r0}, [tiles+8];", 32, DefectError,
         "not aligned to its 16 bytes"),
        ("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r0}, [tiles+512];", 32, DefectError,
         "outside"),
        ("ldmatrix.sync.aligned.m8n8.x1.b16 {%r0}, [%q];", 32, DefectError,
         "0x.* is not one of shared memory"),
        ("cp.async.bulk.commit_group;", 32, PtxError, "only the non-bulk cp.async"),
        ("cp.async.ca.shared.global [tiles], [%q], 12;", 32, PtxError, "of 4, 8 or 16 bytes"),
        ("cp.async.cg.shared.global [tiles], [%q], 8;", 32, PtxError, "or cp.async.cg of 16"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_named(
    body: str, threads: int, error: type[PtxError], message: str
) -> None:
    with pytest.raises(error, match=rf"kernel k.*PTX line \d+: .*{message}"):
        by_hand(body, threads)


def test_an_address_may_be_generic() -> None:
    got = by_hand(
        "mul.lo.u32 %r3, %t, 4; mov.u32 %r4, tiles; add.u32 %r3, %r3, %r4; st.shared.u32 [%r3], %t;"
        "bar.warp.sync 0xffffffff; mov.u64 %o, tiles; cvta.shared.u64 %o, %o;"
        "and.b32 %r5, %t, 7; mul.wide.u32 %w, %r5, 16; add.u64 %o, %o, %w;"
        "ldmatrix.sync.aligned.m8n8.x1.b16 {%r0}, [%o]; st.global.u32 [%q], %r0;"
    )
    assert got.tolist() == list(range(32))


def test_lanes_that_give_no_address_are_not_asked_for_one() -> None:
    # .x1 reads the addresses of lanes 0 to 7; kernels leave rubbish in the others
    got = by_hand(
        "mul.lo.u32 %r3, %t, 16; mov.u32 %r4, tiles; add.u32 %r3, %r3, %r4;"
        "setp.gt.u32 %p, %t, 7; @!%p st.shared.v4.u32 [%r3], {%t, %t, %t, %t};"
        "@%p mov.u32 %r3, 3; bar.warp.sync 0xffffffff;"
        "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r0}, [%r3]; st.global.u32 [%q], %r0;"
    )
    assert got.tolist() == [lane // 4 for lane in range(32)]
