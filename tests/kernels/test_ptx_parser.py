"""What the PTX parser reads: scopes, labels, tables, lines; and what it refuses, by name."""

from __future__ import annotations

import numpy as np
import pytest

from tinymoe.kernels.ptx import DefectError, Kernel, PtxError, launch, parse

pytestmark = pytest.mark.kernels


def one(text: str) -> Kernel:
    """The only kernel of a text."""
    (kernel,) = parse(text).values()
    return kernel


def stored(body: str, block: int = 4) -> list[int]:
    """What `body` leaves in %r0, of each thread."""
    text = f""".entry k(.param .u64 out) {{ .reg .b32 %r<4>, %t; .reg .b64 %o, %u;
        .reg .pred %p; mov.u32 %t, %tid.x; ld.param.u64 %o, [out]; mul.wide.u32 %u, %t, 4;
        add.s64 %o, %o, %u; {body} st.global.u32 [%o], %r0; ret; }}"""
    out = np.zeros(block, "u4")
    launch(one(text), 1, block, [out])
    return out.tolist()


def test_names_in_an_inner_scope_are_local() -> None:
    # headers' inline assembly declares the same register name again and again
    body = """mov.u32 %r0, 1; { .reg .b32 tmp, %r0; mov.u32 tmp, 5; mov.u32 %r0, tmp; }
        { .reg .b64 tmp; mov.u64 tmp, 9; { .reg .b16 tmp; mov.u16 tmp, 3; } cvt.u32.u64 %r1, tmp; }
        add.u32 %r0, %r0, %r1;"""
    assert stored(body) == [10] * 4


def test_labels_in_an_inner_scope_are_local() -> None:
    loop = """{ .reg .b32 n; .reg .pred p; mov.u32 n, 0; AGAIN: add.u32 n, n, 1;
        add.u32 %r0, %r0, 2; setp.lt.u32 p, n, 3; @p bra AGAIN; }"""
    assert stored(f"mov.u32 %r0, 0; {loop} {loop}") == [12] * 4


def test_a_table_of_branch_targets() -> None:
    body = """and.b32 %r1, %t, 3; mov.u32 %r0, 0; brx.idx %r1, TABLE;
        TABLE: .branchtargets A, B, C, A; A: mov.u32 %r0, 10; bra.uni END;
        B: mov.u32 %r0, 20; bra.uni END; C: mov.u32 %r0, 30; END:"""
    assert stored(body, 8) == [10, 20, 30, 10] * 2
    with pytest.raises(DefectError, match="index 5 of 4 targets"):
        stored(body.replace("and.b32 %r1, %t, 3", "mov.u32 %r1, 5"))


def test_statements_on_many_lines_keep_their_first() -> None:
    kernel = one(".entry k()\n{\n  .reg .b32 %r;\n  mov.u32\n    %r,\n 1;\n\n  ret;\n}\n")
    assert [i.line for i in kernel.code] == [4, 8]
    assert kernel.code[0].text == "mov.u32 %r, 1"


def test_comments_do_not_move_lines() -> None:
    kernel = one("/* one\n two */ .entry k() {\n // ret;\n /* ;\n; */ ret; // }\n }")
    assert [i.line for i in kernel.code] == [5]


def test_places_in_cuda_c() -> None:
    kernel = one('.entry k() {\n .loc 2 7 3\n ret;\n}\n.file 1 "a.cu"\n.file 2 "b.cu"\n')
    assert (kernel.code[0].file, kernel.code[0].source, kernel.code[0].column) == ("b.cu", 7, 3)


def test_each_kernel_gets_the_shared_memory_it_uses() -> None:
    text = """.shared .align 4 .b8 a[100]; .shared .align 16 .f32 b[8];
        .entry k() { .reg .b64 %u; mov.u64 %u, a; ret; }
        .entry j() { .reg .b64 %u; mov.u64 %u, a; mov.u64 %u, b; ret; } .entry i() { ret; }"""
    assert {n: k.shared_bytes for n, k in parse(text).items()} == {"k": 100, "j": 144, "i": 0}


def test_device_functions_are_passed_over_and_their_calls_refused() -> None:
    text = """.func (.param .b32 r) f(.param .b32 x) { ret; }
        .entry k() { call.uni (r), f, (x); ret; }"""
    with pytest.raises(PtxError, match=r"not inlined.*`call.uni \(r\), f, \(x\)`"):
        launch(one(text), 1, 1, [])


def test_what_is_never_reached_may_be_unsupported() -> None:
    text = ".entry k() { bra END; tcgen05.fence; END: ret; }"
    report = launch(one(text), 1, 1, [])
    assert [i.text for i in report.missed] == ["tcgen05.fence"]
    with pytest.raises(PtxError, match="not supported: `tcgen05.fence`"):
        launch(one(text.replace("bra END; ", "")), 1, 1, [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (".entry k() { add.u32 %r }", "statement without its ;"),
        (".entry k() { ret;", "closing brace is missing"),
        (".entry k(.param .texref t) { ret; }", "parameter not supported"),
        (".entry k() { .reg .b256 %r; ret; }", "declaration not supported"),
        (".global .surfref s; .entry k() { ret; }", "declaration not supported"),
        (".global .u32 x = y; .entry k() { ret; }", "initial value not supported: 'y'"),
        (".entry k() { .shared .b77 x; ret; }", "77 bits"),
        (".entry k() { 7up; ret; }", "not supported: '7up'"),
        ("nothing", "no .entry in this text"),
    ],
)
def test_text_that_cannot_be_read(text: str, said: str) -> None:
    with pytest.raises(PtxError, match=said):
        parse(text)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("mov.u32 %nobody, 1", "register %nobody is not declared"),
        ("mov.u32 %r0, %nobody", "register %nobody is not declared"),
        ("mov.u32 %r0, nothing", "there is no such name as nothing"),
        ("mov.u32 %r0, 12ab", "not a number: 12ab"),
        ("add.u32 %r0, %r1, %r2", "register %r1 was never written"),
        ("add.u32 %r0, %t", "expected 2 sources, got 1"),
        ("add.sat.u32 %r0, %t, %t", "instruction not supported"),
        ("cvt.rn.u32.u32 %r0, %t", "not rounded"),
        ("cvt.s32.f32 %r0, %t", "wants .rni"),
        ("ld.global.v2.u32 %r0, [%o]", "expected 2 registers"),
        ("shfl.up.b32 %r0, %t, 1, 0", "instruction not supported"),
        ("lop3.or.b32 %r0|%p, %t, %t, %t, 5, %p", "only lop3.b32"),
        ("bra nowhere", "there is no such label as nowhere"),
        ("st.async.global.u32 [%o], %t", "instruction not supported"),
        ("trap", "the kernel stopped itself"),
        ("call.uni __assertfail, (a, b)", "an assertion failed"),
    ],
)
def test_instructions_that_cannot_run_are_named(line: str, said: str) -> None:
    with pytest.raises(PtxError, match=f"PTX line 4.*{said}.*{line.split()[0]}"):
        stored(f"\n{line};")
