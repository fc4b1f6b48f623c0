"""State spaces, addresses and atomics of the PTX machine, and the checks on them."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from tests.kernels.one_kernel import HEAD, run
from tinymoe.kernels.ptx import DefectError, PtxError, launch, parse

pytestmark = pytest.mark.kernels


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_vectors_of_every_width(width: int) -> None:
    x = np.arange(32 * width, dtype="u4")
    names = ", ".join(f"%r{k}" for k in range(width))
    v = f".v{width}" if width > 1 else ""
    braces = f"{{{names}}}" if width > 1 else names
    out = np.zeros_like(x)
    body = f"""ld.param.u64 %a0, [p0]; mul.lo.u64 %u, %u, {width}; add.s64 %a0, %a0, %u;
        ld.param.u64 %o, [out]; add.s64 %o, %o, %u;
        ld.global.nc.L1::no_allocate{v}.b32 {braces}, [%a0]; st.global{v}.b32 [%o], {braces}"""
    run(body, out, x)
    assert np.array_equal(out, x)


@pytest.mark.parametrize(
    ("kind", "want"), [("u8", 0xF0), ("s8", 0xFFFFFFF0), ("u16", 0xFEF0), ("s16", 0xFFFFFEF0)]
)
def test_small_loads_are_extended(kind: str, want: int) -> None:
    x, out = np.array([0xFEF0] * 32, "u4"), np.zeros(32, "u4")
    body = f"ld.param.u64 %a0, [p0]; ld.global.{kind} %r0, [%a0]; st.global.u32 [%o], %r0"
    run(body, out, x)
    assert set(out.tolist()) == {want}


def test_generic_addresses_reach_every_space() -> None:
    # half the threads go to shared memory and half to global, by one instruction
    x, out = np.arange(32, dtype="u4") + 100, np.zeros(32, "u4")
    body = """.shared .align 4 .b8 box[128]; mov.u64 %a1, box; add.s64 %a1, %a1, %u;
        st.shared.u32 [%a1], %t; cvta.shared.u64 %a2, %a1; ld.param.u64 %a3, [p0];
        add.s64 %a3, %a3, %u; and.b32 %r1, %t, 1; setp.eq.u32 %p0, %r1, 1;
        selp.b64 %a4, %a2, %a3, %p0; ld.u32 %r0, [%a4]; isspacep.shared %p1, %a4;
        selp.u32 %r2, 1000, 0, %p1; add.u32 %r0, %r0, %r2; cvta.to.shared.u64 %a5, %a2;
        ld.shared.u32 %r3, [%a5]; sub.u32 %r3, %r3, %t; add.u32 %r0, %r0, %r3;
        st.global.u32 [%o], %r0"""
    run(body, out, x)
    assert out.tolist() == [k + 1000 if k % 2 else k + 100 for k in range(32)]


def test_local_memory_is_each_threads_own() -> None:
    out = np.zeros(32, "u4")
    body = """.local .align 8 .b8 depot[16]; mov.u64 %a1, depot; cvta.local.u64 %a2, %a1;
        st.local.u32 [%a1+8], %t; ld.u32 %r0, [%a2+8]; st.global.u32 [%o], %r0"""
    run(body, out)
    assert out.tolist() == list(range(32))


MODULE = """.const .align 4 .u32 table[4] = {10, 20, 0x1E, -2};
    .global .align 1 .b8 letters[4] = {1, 2, 3, 4};
    .visible .global .align 4 .f32 half = 0f3F000000; .global .align 4 .u32 counter;"""


def test_variables_of_the_module_have_their_first_values() -> None:
    out = np.zeros(32, "u4")
    body = """and.b32 %r1, %t, 3; mul.wide.u32 %a1, %r1, 4; mov.u64 %a2, table;
        add.s64 %a2, %a2, %a1; ld.const.u32 %r0, [%a2]; ld.global.u32 %r2, [letters];
        ld.global.u32 %r3, [half]; add.u32 %r0, %r0, %r2; add.u32 %r0, %r0, %r3;
        atom.global.add.u32 %r4, [counter], 1; st.global.u32 [%o], %r0"""
    run(body, out, module=MODULE)
    table = [10, 20, 30, 2**32 - 2]
    want = [(table[k % 4] + 0x04030201 + 0x3F000000) % 2**32 for k in range(32)]
    assert out.tolist() == want


def test_constants_cannot_be_written() -> None:
    with pytest.raises(DefectError, match="read only"):
        run("cvta.const.u64 %a1, table; st.u32 [%a1], %t", np.zeros(32, "u4"), module=MODULE)


def test_a_struct_by_value() -> None:
    text = f""".entry k(.param .u64 out, .param .align 8 .b8 s[24]) {{ {HEAD}
        ld.param.u64 %o, [out]; ld.param.u32 %r0, [s]; ld.param.u64 %a1, [s+8];
        mov.b64 %a2, s; ld.param.u16 %h0, [%a2+16]; cvt.u32.u16 %r1, %h0; cvt.u32.u64 %r2, %a1;
        st.global.u32 [%o], %r0; st.global.u32 [%o+4], %r1; st.global.u32 [%o+8], %r2; ret; }}"""
    out = np.zeros(3, "u4")
    launch(parse(text)["k"], 1, 1, [out, struct.pack("<I4xQH6x", 5, 6, 7)])
    assert out.tolist() == [5, 7, 6]
    kind = np.dtype([("a", "u4"), ("b", "u8"), ("c", "u2")], align=True)
    launch(parse(text)["k"], 1, 1, [out, np.array((8, 9, 10), kind)[()]])
    assert out.tolist() == [8, 10, 9]


def test_dynamic_shared_memory_lies_behind_the_static() -> None:
    module = ".extern .shared .align 16 .b8 more[]; .shared .align 4 .b8 own[128];"
    body = """mov.u64 %a1, more; add.s64 %a1, %a1, %u; mov.u64 %a2, own; add.s64 %a2, %a2, %u;
        st.shared.u32 [%a2], 5; st.shared.u32 [%a1], %t; ld.shared.u32 %r0, [%a1];
        mov.u32 %r1, %dynamic_smem_size; add.u32 %r0, %r0, %r1; st.global.u32 [%o], %r0"""
    out = np.zeros(32, "u4")
    run(body, out, module=module, shared_bytes=128)
    assert out.tolist() == [k + 128 for k in range(32)]
    with pytest.raises(DefectError, match="past the end of more .64 bytes"):
        run(body, out, module=module, shared_bytes=64)
    with pytest.raises(PtxError, match="shared memory: a block can have"):
        run(body, out, module=module, shared_bytes=300_000)


def test_three_dimensions() -> None:
    names = ["%tid", "%ntid", "%ctaid", "%nctaid"]
    body = "mov.u32 %r1, 0;"
    for name in names:
        for axis in "xyz":
            body += f"mov.u32 %r2, {name}.{axis}; mad.lo.u32 %r1, %r1, 7, %r2;"
    body += """mov.u32 %r3, %tid.y; mov.u32 %r4, %tid.z; mad.lo.u32 %r3, %r4, 2, %r3;
        mad.lo.u32 %r3, %r3, 3, %t; mov.u32 %r5, %ctaid.x; mov.u32 %r6, %ctaid.y;
        mad.lo.u32 %r5, %r6, 2, %r5; mad.lo.u32 %r3, %r5, 12, %r3; mul.wide.u32 %u, %r3, 4;
        ld.param.u64 %o, [out]; add.s64 %o, %o, %u; st.global.u32 [%o], %r1"""
    out = np.zeros(72, "u4")
    run(body, out, grid=(2, 3), block=(3, 2, 2))
    want = []
    for b in range(6):
        for t in range(12):
            number = 0
            at = (t % 3, t // 3 % 2, t // 6, 3, 2, 2, b % 2, b // 2, 0, 2, 3, 1)
            for v in at:
                number = (number * 7 + v) % 2**32
            want.append(number)
    assert out.tolist() == want


def test_flags_that_are_volatile_or_released_do_not_race() -> None:
    # block 1 waits for what block 0 releases; a plain load there would be a race, and is
    flag, out = np.zeros(1, "u4"), np.zeros(32, "u4")
    body = """ld.param.u64 %a0, [p0]; mov.u32 %r1, %ctaid.x; setp.ne.u32 %p0, %r1, 0;
        setp.ne.u32 %p1, %t, 0; @%p1 bra END; @%p0 bra WAIT; st.release.gpu.global.u32 [%a0], 1;
        bra END; WAIT: ld.acquire.gpu.global.u32 %r2, [%a0]; setp.eq.u32 %p2, %r2, 0;
        @%p2 bra WAIT; st.global.u32 [%o], 9; END:"""
    run(body, out, flag, grid=2)
    assert out[0] == 9
    with pytest.raises(DefectError, match="race in global memory"):
        run(body.replace("ld.acquire.gpu", "ld"), out, np.zeros(1, "u4"), grid=2)
    run(body.replace("ld.acquire.gpu", "ld"), out, np.zeros(1, "u4"), grid=2, races=False)


def test_bytes_of_one_word_by_two_warps_do_not_race() -> None:
    # a detector of whole words would see a race where each warp stores its own byte
    out = np.zeros(66, "u1")
    body = (
        "add.u32 %r1, %t, 1; ld.param.u64 %a0, [p0]; cvt.u64.u32 %a1, %r1; add.s64 %a0, %a0, %a1;"
    )
    run(body + "st.global.u8 [%a0], %r1", np.zeros(64, "u4"), out, block=64)
    assert out.tolist() == [0, *range(1, 65), 0]


@pytest.mark.parametrize("bad", [0, 8, 1 << 32, (1 << 40) + 64, 2**64 - 4])
def test_addresses_that_belong_to_nobody(bad: int) -> None:
    with pytest.raises(DefectError, match="outside every buffer"):
        run(f"mov.u64 %a0, {bad}; ld.u32 %r0, [%a0]", np.zeros(32, "u4"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"grid": 0}, "grid 0: expected"),
        ({"grid": (1, 2, 3, 4)}, "expected a number or up to three"),
        ({"block": 1025}, "1024 threads"),
        ({"block": (1, 1, 65)}, "64 along z"),
    ],
)
def test_impossible_launches(given: dict[str, Any], said: str) -> None:
    with pytest.raises(PtxError, match=said):
        run("", np.zeros(32, "u4"), **given)


def test_launch_bounds_are_kept() -> None:
    text = ".entry k() .maxntid 64, 1, 1 { ret; } .entry j() .reqntid 32 { ret; }"
    kernels = parse(text)
    launch(kernels["k"], 1, 64, [])
    with pytest.raises(PtxError, match="__launch_bounds__ allows 64"):
        launch(kernels["k"], 1, 96, [])
    with pytest.raises(PtxError, match="the kernel wants"):
        launch(kernels["j"], 1, 64, [])


def test_arrays_must_be_contiguous() -> None:
    with pytest.raises(PtxError, match="contiguous"):
        run("", np.zeros((32, 2), "u4")[:, 0])


def test_a_read_only_array_may_be_read_but_not_written() -> None:
    x = np.arange(32, dtype="u4")
    x.flags.writeable = False
    out = np.zeros(32, "u4")
    read = "ld.param.u64 %a0, [p0]; ld.global.u32 %r0, [%a0+4]; st.global.u32 [%o], %r0"
    run(read, out, x)
    assert set(out.tolist()) == {1}
    with pytest.raises(DefectError, match="read only"):
        run("ld.param.u64 %a0, [p0]; st.global.u32 [%a0], 1", out, x)
