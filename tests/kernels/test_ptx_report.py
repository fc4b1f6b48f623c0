"""Counts of the PTX machine: lines reached, banks, sectors; and kernels of another compiler."""

from __future__ import annotations

import warnings
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from tinymoe.kernels.ptx import PtxError, launch, parse
from tinymoe.kernels.ptx.counters import banks, sectors

pytestmark = pytest.mark.kernels
LANES = np.arange(64)


def passes(at: list[int], size: int) -> int:
    """Shared memory, counted by hand: groups of 128 bytes asked for, then the busiest bank."""
    total = 0
    together = 32 if size <= 4 else 128 // size
    for start in range(0, len(at), together):
        words: dict[int, set[int]] = defaultdict(set)
        for a in at[start : start + together]:
            for w in range(a // 4, (a + size - 1) // 4 + 1):
                words[w % 32].add(w)
        total += max(map(len, words.values()))
    return total


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("stride", [0, 1, 2, 3, 8, 17, 32, 33])
def test_bank_conflicts_by_hand(size: int, stride: int) -> None:
    at = (LANES * stride * size) % 4096
    traffic = banks(at, size, LANES)
    assert traffic.used == passes(at.tolist(), size)
    assert traffic.accesses == 2
    assert traffic.needed == 2 * max(1, size // 4)


@pytest.mark.parametrize(
    ("stride", "needed", "used"),
    [(4, 8, 8), (8, 8, 16), (32, 8, 64), (128, 8, 64), (0, 2, 2)],
)
def test_sectors_by_hand(stride: int, needed: int, used: int) -> None:
    # two warps of 32 words each: 4 sectors a warp where they are neighbours
    traffic = sectors(LANES * stride, 4, LANES)
    assert (traffic.needed, traffic.used) == (needed, used)


def test_an_access_across_sectors_counts_both() -> None:
    assert sectors(np.array([16]), 32, LANES[:1]).used == 2


TRANSPOSE = """.entry k(.param .u64 out, .param .u32 pitch) {{
    .reg .b32 %r<9>, %t; .reg .b64 %a<5>, %o; .reg .pred %p;
    .shared .align 4 .b8 tile[4224]; mov.u32 %t, %tid.x; ld.param.u32 %r1, [pitch];
    mul.lo.u32 %r2, %t, %r1; mul.wide.u32 %a1, %r2, 4; mov.u64 %a2, tile; add.s64 %a1, %a1, %a2;
    st.shared.u32 [%a1], %t; ld.param.u64 %o, [out]; mul.wide.u32 %a3, %t, 4;
    add.s64 %o, %o, %a3; setp.eq.u32 %p, %r1, 33; @%p bra END;
    st.global.u32 [%o], 1; END: ret; }}""".format()


def test_padding_takes_the_conflicts_away() -> None:
    # a column of a 32 x 32 tile lies in one bank; a row of 33 words spreads it
    kernel, out = parse(TRANSPOSE)["k"], np.zeros(32, "u4")
    bad = launch(kernel, 1, 32, [out, np.int32(32)], counters=True)
    good = launch(kernel, 1, 32, [out, np.int32(33)], counters=True)
    assert (bad.bank_conflicts.used, bad.bank_conflicts.efficiency) == (32, 1 / 32)
    assert (good.bank_conflicts.used, good.bank_conflicts.efficiency) == (1, 1.0)
    assert bad.coalescing.used == 4


def test_reports_of_several_launches_add_up() -> None:
    kernel, out = parse(TRANSPOSE)["k"], np.zeros(32, "u4")
    first, second = (launch(kernel, 1, 32, [out, np.int32(n)], counters=True) for n in (33, 32))
    assert [i.text for i in first.missed] == ["st.global.u32 [%o], 1"]
    both = first + second
    assert both.missed == []
    assert both.executed == both.instructions == len(kernel.code)
    assert both.thread_instructions == first.thread_instructions + second.thread_instructions
    assert both.bank_conflicts.used == 33
    assert sum(both.kinds.values()) == both.thread_instructions
    assert both.kinds["st.shared.u32"] == 64
    with pytest.raises(PtxError, match="different kernels"):
        first + launch(parse(".entry j() { ret; }")["j"], 1, 1, [])


def test_a_guarded_instruction_counts_for_whom_it_runs() -> None:
    text = """.entry k() { .reg .b32 %r, %t; .reg .pred %p; mov.u32 %t, %tid.x;
        setp.lt.u32 %p, %t, 5; @%p mov.u32 %r, 1; @!%p mov.u32 %r, 2; ret; }"""
    report = launch(parse(text)["k"], 2, 32, [])
    assert report.counts == (64, 64, 10, 54, 64)


def test_many_blocks_run_in_batches_with_one_result() -> None:
    text = """.entry k(.param .u64 out) { .reg .b32 %r<4>; .reg .b64 %o;
        mov.u32 %r0, %ctaid.x; mov.u32 %r1, %tid.x; add.u32 %r2, %r0, %r1;
        ld.param.u64 %o, [out]; red.global.add.u32 [%o], %r2; ret; }"""
    kernel, want = parse(text)["k"], sum(b + t for b in range(50) for t in range(40))
    for together in (1, 100, 1 << 20):
        out = np.zeros(1, "u4")
        launch(kernel, 50, 40, [out], together=together)
        assert out[0] == want


def test_a_reduction_that_numba_compiled() -> None:
    # another compiler: shuffles in a scope of inline assembly, arrays as seven parameters
    cuda = pytest.importorskip("numba.cuda")
    numba = pytest.importorskip("numba")

    def total(x: Any, out: Any) -> None:
        i = cuda.grid(1)
        s = numba.float32(0)
        while i < x.size:
            s += x[i]
            i += cuda.gridsize(1)
        for d in (16, 8, 4, 2, 1):
            s += cuda.shfl_down_sync(0xFFFFFFFF, s, d)
        part = cuda.shared.array(8, numba.float32)
        if cuda.threadIdx.x % 32 == 0:
            part[cuda.threadIdx.x // 32] = s
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            for k in range(1, cuda.blockDim.x // 32):
                s += part[k]
            out[cuda.blockIdx.x] = s

    array = numba.float32[::1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text, _ = cuda.compile_ptx(total, (array, array), cc=(9, 0))
    except Exception as error:  # NVVM is in another wheel
        pytest.skip(f"Numba cannot compile for CUDA here: {type(error).__name__}")
    (kernel,) = parse(text).values()
    x = np.random.default_rng(4).integers(-50, 50, 1000).astype("f4")  # sums are exact
    out = np.zeros(2, "f4")

    def flat(a: np.ndarray[Any, Any]) -> list[Any]:
        return [*[np.uint64(0)] * 2, *map(np.uint64, (a.size, 4)), a, *map(np.uint64, (a.size, 4))]

    report = launch(kernel, 2, 256, [*flat(x), *flat(out)], strict=True)
    assert out.sum() == x.sum()
    assert report.executed > 40
