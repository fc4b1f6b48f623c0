"""cp.async in a pipelined GEMM and by hand: right results, and every way to wait too little."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kernels.ptx_by_hand import by_hand
from tinymoe.kernels.ptx import DefectError, launch, parse

pytestmark = pytest.mark.kernels
Array = np.ndarray[Any, Any]
FOLDER = Path(__file__).parents[1] / "vectors" / "ptx"
SM80 = (FOLDER / "tensor_sm80.ptx").read_text("utf-8")
KERNELS = parse(SM80)


def pipelined(text: str = SM80, depth: int = 80) -> tuple[Array, Array]:
    """D of the kernel, and the exact one."""
    rng = np.random.default_rng(depth)
    a, b = rng.integers(-9, 10, (16, depth)), rng.integers(-9, 10, (depth, 16))
    d = np.full((16, 16), np.nan, np.float32)
    args = [d, a.astype(np.float16), b.astype(np.float16), np.int32(depth)]
    launch(parse(text)["pipelined"], 1, 64, args)
    return d, a @ b


@pytest.mark.parametrize("depth", [0, 16, 32, 80])
def test_copies_ldmatrix_and_mma_make_a_gemm(depth: int) -> None:
    got, want = pipelined(depth=depth)
    assert np.array_equal(got, want)


def test_banks_are_counted_once_a_copy_and_eight_rows_at_a_time() -> None:
    # tiles with rows of 32 bytes: eight rows of 16 bytes lie in half of the banks, two in each
    rows = np.zeros((16, 16), np.float16)
    args = [np.zeros((16, 16), np.float32), rows, rows, np.int32(16)]
    report = launch(KERNELS["pipelined"], 1, 64, args, counters=True)
    found = [(".".join(i.opcode[:3]), report.shared.get(i.line)) for i in report.code]
    passes = [(name, t.accesses, t.needed, t.used) for name, t in found if t]
    assert passes == [
        ("cp.async.cg", 2, 8, 8),  # one pass for 128 bytes
        ("ldmatrix.sync.aligned", 2, 8, 16),
        ("ldmatrix.sync.aligned", 2, 4, 8),
    ]


ON_THEIR_WAY = "still on their way: block 0 thread .* copies there with the cp.async of PTX line"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # results would be right on a GPU most of the time: none of these may go unseen
        (r"cp.async.wait_group 1;", "", ON_THEIR_WAY),
        (r"cp.async.wait_group 1;", "cp.async.wait_group 2;", ON_THEIR_WAY),
        (r"cp.async.commit_group;", "", ON_THEIR_WAY),
        (
            r"(wait_group 1;[^;]*)bar.sync \t0;",
            r"\1",
            "race in shared memory: this read and",
        ),
        (
            r"(\{%f[^;{]*\};[^;]*)bar.sync \t0;",
            r"\1",
            "race in shared memory: this write and an ear",
        ),
        (
            r"cp.async.wait_group 1;([^;]*)bar.sync \t0;",
            r"bar.sync 0;\1cp.async.wait_group 1;",
            "race in shared memory: this read and an earlier write by another warp",
        ),
    ],
)
def test_a_broken_pipeline_is_found(old: str, new: str, message: str) -> None:
    spoiled, count = re.subn(old, new, SM80)
    assert count
    with pytest.raises(DefectError, match=f"kernel pipelined block 0 thread .*{message}"):
        pipelined(spoiled)


def test_a_copy_reads_no_more_than_it_is_told_and_fills_with_zeros() -> None:
    take = np.array([16, 0, 4, 3, 12, 15, 16, 8] * 4, np.int32)
    take[31] = 0  # the buffer ends before the last thread's bytes
    source, out = np.arange(1, 125, dtype=np.uint32) * 0x01010101, np.full(128, 7, np.uint32)
    launch(KERNELS["filled"], 1, 32, [out, source, take])
    want = np.zeros((32, 16), np.uint8)
    want[:31] = source.view(np.uint8).reshape(31, 16)
    want[np.arange(16) >= take[:, None]] = 0
    assert np.array_equal(out.view(np.uint8).reshape(32, 16), want)
    take[31] = 4
    with pytest.raises(DefectError, match="thread 31, .*outside"):
        launch(KERNELS["filled"], 1, 32, [out, source, take])
    take[5] = 17
    with pytest.raises(DefectError, match="thread 5, .*src-size 17 is more than the 16 bytes"):
        launch(KERNELS["filled"], 1, 32, [out, source, take])


def test_a_misaligned_source_of_a_copy_is_found() -> None:
    text = SM80[SM80.index(".visible .entry filled") :]
    spoiled = ".version 8.8\n" + re.sub(
        r"(cp.async.cg.shared.global \[%r\d+\], \[%rd\d+)\]", r"\1+4]", text, count=1
    )
    source, out = np.zeros(256, np.uint32), np.zeros(128, np.uint32)
    with pytest.raises(DefectError, match="thread 0, .*not aligned to its 16 bytes"):
        launch(parse(spoiled)["filled"], 1, 32, [out, source, np.full(32, 16, np.int32)])


def test_a_predicate_ignores_the_source_of_a_copy() -> None:
    got = by_hand(
        "mul.lo.u32 %r3, %t, 4; mov.u32 %r4, tiles; add.u32 %r3, %r3, %r4; mov.u32 %r5, 9;"
        "st.global.u32 [%q], %r5; setp.lt.u32 %p, %t, 5;"
        "cp.async.ca.shared.global.L2::128B [%r3], [%q], 4, %p; cp.async.wait_all;"
        "ld.shared.u32 %r0, [%r3]; st.global.u32 [%q], %r0;"
    )
    assert got.tolist() == [0] * 5 + [9] * 27


# ---- by hand: every thread copies its own word of `out`, 9, into `tiles` -------------------------

START = (
    "mul.lo.u32 %r3, %t, 4; mov.u32 %r4, tiles; add.u32 %r3, %r3, %r4; mov.u32 %r5, 9;"
    "st.global.u32 [%q], %r5; cp.async.ca.shared.global [%r3], [%q], 4;"
)
READ = "ld.shared.u32 %r0, [%r3]; st.global.u32 [%q], %r0;"


def test_a_thread_waits_for_its_own_copies_alone() -> None:
    assert by_hand(f"{START} cp.async.wait_all; {READ}").tolist() == [9] * 32
    half = "cp.async.commit_group; setp.lt.u32 %p, %t, 16; @%p cp.async.wait_group 0;"
    with pytest.raises(DefectError, match="thread 16, .*block 0 thread 16 copies there .* line 8"):
        by_hand(f"{START} {half} {READ}")


@pytest.mark.parametrize(
    "access",
    [
        "ld.shared.u8 %r0, [tiles+127];",
        "st.shared.u32 [tiles+124], %r5;",
        # of these sixteen bytes the last four alone are under way
        "setp.eq.u32 %p, %t, 0; @%p ld.shared.v4.u32 {%r0, %r1, %r2, %r3}, [tiles+112];",
        "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r0}, [tiles+112];",
        "cp.async.ca.shared.global [tiles+124], [%q], 4;",  # two copies to one place
    ],
)
def test_no_access_to_bytes_under_way(access: str) -> None:
    waiting = "setp.lt.u32 %p, %t, 31; @%p cp.async.wait_all; bar.sync 0;"
    with pytest.raises(DefectError, match="thread 31 copies there with the cp.async of PTX line"):
        by_hand(f"{START} {waiting} {access}")


def test_groups_end_in_the_order_they_were_closed() -> None:
    second = "cp.async.commit_group; cp.async.ca.shared.global [%r3+128], [%q], 4;"
    waiting = "cp.async.commit_group; cp.async.wait_group 1;"
    assert by_hand(f"{START} {second} {waiting} {READ}").tolist() == [9] * 32
    with pytest.raises(DefectError, match="still on their way"):
        by_hand(f"{START} {second} {waiting} {READ}".replace("[%r3];", "[%r3+128];"))


def test_the_source_of_a_copy_of_nothing_may_be_anywhere() -> None:
    copy = "cp.async.ca.shared.global [%r3], [%q+1000001], 4, 0; cp.async.wait_all;"
    assert by_hand(f"{START} cp.async.wait_all; {copy} {READ}").tolist() == [0] * 32
