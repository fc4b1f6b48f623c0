"""Integer and bit instructions of the PTX machine against Python's whole numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.kernels.one_instruction import one, pairs, signed
from tinymoe.kernels.ptx import PtxError, launch, parse

pytestmark = pytest.mark.kernels
EDGES = {
    bits: [0, 1, -1, 7, -7, 31, 2 ** (bits - 1) - 1, -(2 ** (bits - 1)), 0x5A5A5A5A5A5A5A5A, 100]
    for bits in (16, 32, 64)
}


def trunc(a: int, b: int) -> int:
    """a / b toward zero."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


BINARY: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul.lo": lambda a, b: a * b,
    "min": min,
    "max": max,
    "div": lambda a, b: trunc(a, b) if b else -1,
    "rem": lambda a, b: a - trunc(a, b) * b,
}


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("name", BINARY)
def test_arithmetic_wraps_like_the_hardware(name: str, kind: str) -> None:
    bits, exact = int(kind[1:]), BINARY[name]
    a, b = pairs(EDGES[bits], bits)
    if name == "rem":
        a, b = a[b != 0], b[b != 0]  # undefined by zero
    read: Callable[[Any], int] = (lambda v: signed(v, bits)) if kind[0] == "s" else int
    want = [exact(read(x), read(y)) % 2**bits for x, y in zip(a, b, strict=True)]
    assert one(f"{name}.{kind} %d, %x, %y", bits // 8, a, b).tolist() == want


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
def test_products_high_and_wide(kind: str) -> None:
    # 16-bit mul.hi and the signed upper half of 64 bits have been wrong before
    bits = int(kind[1:])
    a, b = pairs(EDGES[bits], bits)
    read: Callable[[Any], int] = (lambda v: signed(v, bits)) if kind[0] == "s" else int
    exact = [read(x) * read(y) for x, y in zip(a, b, strict=True)]
    got = one(f"mul.hi.{kind} %d, %x, %y", bits // 8, a, b)
    assert got.tolist() == [(p >> bits) % 2**bits for p in exact]
    if bits < 64:
        got = one(f"mul.wide.{kind} %d, %x, %y", bits // 4, a, b)
        assert got.tolist() == [p % 2 ** (2 * bits) for p in exact]
        got = one(f"mad.wide.{kind} %d, %x, %y, -5", bits // 4, a, b)
        assert got.tolist() == [(p - 5) % 2 ** (2 * bits) for p in exact]


A, B = pairs(EDGES[32], 32)
C = np.roll(A, 7)


def field(a: int, place: int, length: int, sign: bool) -> int:
    """bfe as the manual describes it, bit by bit."""
    msb = 31
    top = min(place + length - 1, msb)
    fill = 0 if not sign or length == 0 else a >> top & 1
    out = 0
    for k in range(32):
        inside = k < length and place + k <= msb
        out |= (a >> (place + k) & 1 if inside else fill) << k
    return out


def inserted(a: int, b: int, place: int, length: int) -> int:
    """bfi, bit by bit."""
    for k in range(length):
        if place + k <= 31:
            b = b & ~(1 << (place + k)) | (a >> k & 1) << (place + k)
    return b


def top_bit(v: int) -> int:
    """bfind.u32."""
    return v.bit_length() - 1 if v else 2**32 - 1


def permuted(a: int, b: int, selector: int) -> int:
    """prmt, byte by byte."""
    both, out = b << 32 | a, 0
    for k in range(4):
        s = selector >> 4 * k & 15
        octet = both >> 8 * (s & 7) & 255
        out |= (0xFF * (octet >> 7) if s & 8 else octet) << 8 * k
    return out


def s32(v: int) -> int:
    """Raw bits as s32."""
    return signed(v, 32)


def lo24(v: int) -> int:
    """The low 24 bits, signed."""
    return signed(v & 0xFFFFFF, 24)


def by_table(table: int) -> Callable[[int, int, int], int]:
    """lop3, bit by bit."""

    def run(a: int, b: int, c: int) -> int:
        bit = (table >> ((a >> k & 1) << 2 | (b >> k & 1) << 1 | c >> k & 1) & 1 for k in range(32))
        return sum(v << k for k, v in enumerate(bit))

    return run


WORDS: list[tuple[str, Callable[..., int]]] = [
    ("and.b32 %d, %x, %y", lambda a, b, c: a & b),
    ("or.b32 %d, %x, %y", lambda a, b, c: a | b),
    ("xor.b32 %d, %x, %y", lambda a, b, c: a ^ b),
    ("not.b32 %d, %x", lambda a, b, c: ~a),
    ("cnot.b32 %d, %x", lambda a, b, c: int(a == 0)),
    ("neg.s32 %d, %x", lambda a, b, c: -a),
    ("abs.s32 %d, %x", lambda a, b, c: abs(s32(a))),
    # a count of the width or more must not wrap to a small shift, as x86's does
    ("shl.b32 %d, %x, %y", lambda a, b, c: a << b if b < 32 else 0),
    ("shr.u32 %d, %x, %y", lambda a, b, c: a >> min(b, 32)),
    ("shr.s32 %d, %x, %y", lambda a, b, c: s32(a) >> min(b, 31)),
    ("shf.l.wrap.b32 %d, %x, %y, %z", lambda a, b, c: ((b << 32 | a) << (c & 31)) >> 32),
    ("shf.r.wrap.b32 %d, %x, %y, %z", lambda a, b, c: (b << 32 | a) >> (c & 31)),
    ("shf.l.clamp.b32 %d, %x, %y, %z", lambda a, b, c: ((b << 32 | a) << min(c, 32)) >> 32),
    ("shf.r.clamp.b32 %d, %x, %y, %z", lambda a, b, c: (b << 32 | a) >> min(c, 32)),
    ("popc.b32 %d, %x", lambda a, b, c: a.bit_count()),
    ("clz.b32 %d, %x", lambda a, b, c: 32 - a.bit_length()),
    ("brev.b32 %d, %x", lambda a, b, c: int(f"{a:032b}"[::-1], 2)),
    ("bfind.u32 %d, %x", lambda a, b, c: top_bit(a)),
    ("bfind.s32 %d, %x", lambda a, b, c: top_bit(a if s32(a) >= 0 else ~a % 2**32)),
    (
        "bfind.shiftamt.u32 %d, %x",
        lambda a, b, c: 31 - top_bit(a) if a else 2**32 - 1,
    ),
    ("bfe.u32 %d, %x, %y, %z", lambda a, b, c: field(a, b & 255, c & 255, sign=False)),
    ("bfe.s32 %d, %x, %y, %z", lambda a, b, c: field(a, b & 255, c & 255, sign=True)),
    ("bfe.s32 %d, %x, 4, 7", lambda a, b, c: field(a, 4, 7, sign=True)),
    ("bfi.b32 %d, %x, %y, %z, 9", lambda a, b, c: inserted(a, b, c & 255, 9)),
    ("bfi.b32 %d, %x, %y, 5, %z", lambda a, b, c: inserted(a, b, 5, c & 255)),
    ("prmt.b32 %d, %x, %y, %z", permuted),
    ("prmt.b32 %d, %x, %y, 0x7610", lambda a, b, c: permuted(a, b, 0x7610)),
    ("prmt.b32 %d, %x, %y, 0xfa50", lambda a, b, c: permuted(a, b, 0xFA50)),
    ("lop3.b32 %d, %x, %y, %z, 0xE8", by_table(0xE8)),
    ("lop3.b32 %d, %x, %y, %z, 0x3C", by_table(0x3C)),
    ("sad.s32 %d, %x, %y, %z", lambda a, b, c: c + abs(s32(a) - s32(b))),
    ("sad.u32 %d, %x, %y, %z", lambda a, b, c: c + abs(a - b)),
    ("mul24.lo.u32 %d, %x, %y", lambda a, b, c: (a & 0xFFFFFF) * (b & 0xFFFFFF)),
    ("mul24.hi.u32 %d, %x, %y", lambda a, b, c: (a & 0xFFFFFF) * (b & 0xFFFFFF) >> 16),
    ("mul24.lo.s32 %d, %x, %y", lambda a, b, c: lo24(a) * lo24(b)),
    ("mad24.lo.s32 %d, %x, %y, %z", lambda a, b, c: lo24(a) * lo24(b) + c),
    ("mad.lo.s32 %d, %x, %y, %z", lambda a, b, c: a * b + c),
    ("mad.hi.u32 %d, %x, %y, %z", lambda a, b, c: (a * b >> 32) + c),
    ("add.sat.s32 %d, %x, %y", lambda a, b, c: max(min(s32(a) + s32(b), 2**31 - 1), -(2**31))),
    ("sub.sat.s32 %d, %x, %y", lambda a, b, c: max(min(s32(a) - s32(b), 2**31 - 1), -(2**31))),
    (
        "dp4a.s32.s32 %d, %x, %y, %z",
        lambda a, b, c: c + sum(signed(a >> k & 255, 8) * signed(b >> k & 255, 8) for k in BYTES),
    ),
    (
        "dp4a.u32.s32 %d, %x, %y, %z",
        lambda a, b, c: c + sum((a >> k & 255) * signed(b >> k & 255, 8) for k in BYTES),
    ),
    (
        "dp2a.lo.u32.u32 %d, %x, %y, %z",
        lambda a, b, c: c + (a & 65535) * (b & 255) + (a >> 16) * (b >> 8 & 255),
    ),
    (
        "dp2a.hi.u32.u32 %d, %x, %y, %z",
        lambda a, b, c: c + (a & 65535) * (b >> 16 & 255) + (a >> 16) * (b >> 24),
    ),
    ("add.u16x2 %d, %x, %y", lambda a, b, c: (a + b) % 65536 | ((a >> 16) + (b >> 16) << 16)),
    ("slct.u32.s32 %d, %x, %y, %z", lambda a, b, c: a if s32(c) >= 0 else b),
    ("bmsk.clamp.b32 %d, %x, %y", lambda a, b, c: 2 ** min(b, 32) - 1 << a if a < 32 else 0),
    ("szext.clamp.s32 %d, %x, 5", lambda a, b, c: signed(a & 31, 5)),
    ("mov.b32 %d, {%h, %h}", lambda a, b, c: (a & 65535) * 65537),
]
BYTES = (0, 8, 16, 24)


@pytest.mark.parametrize(("text", "exact"), WORDS, ids=[t for t, _ in WORDS])
def test_words_against_python(text: str, exact: Callable[..., int]) -> None:
    if "%h" in text:
        text = f".reg .b16 %h; cvt.u16.u32 %h, %x; {text}"
    want = [exact(*map(int, v)) % 2**32 for v in zip(A, B, C, strict=True)]
    assert one(text, 4, A, B, C).tolist() == want


LONG, LONG2 = pairs(EDGES[64], 64)


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("shl.b64 %d, %x, %e", lambda a, n: a << n if n < 64 else 0),
        ("shr.u64 %d, %x, %e", lambda a, n: a >> n),
        ("shr.s64 %d, %x, %e", lambda a, n: signed(a, 64) >> min(n, 63)),
    ],
)
def test_long_shifts(text: str, exact: Callable[[int, int], int]) -> None:
    counts = np.arange(100, dtype="u4")
    want = [exact(int(a), int(n)) % 2**64 for a, n in zip(LONG, counts, strict=True)]
    assert one(f"mov.u32 %e, %y; {text}", 8, LONG, counts).tolist() == want


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("popc.b64 %d, %x", lambda a: a.bit_count()),
        ("clz.b64 %d, %x", lambda a: 64 - a.bit_length()),
        ("bfind.u64 %d, %x", top_bit),
    ],
)
def test_long_counts(text: str, exact: Callable[[int], int]) -> None:
    assert one(text, 4, LONG).tolist() == [exact(int(a)) for a in LONG]


def test_carries_make_longer_numbers() -> None:
    # 96-bit sums and differences out of 32-bit parts: the carry passes through 0xffffffff + 0 + 1
    parts = [0, 1, 0xFFFFFFFF, 0x80000000]
    numbers = [x | y << 32 | z << 64 for x in parts for y in parts for z in parts]
    left, right = (np.array(v, object).ravel() for v in np.meshgrid(numbers, numbers))
    words = [((v >> 32 * k) % 2**32).astype("u4") for v in (left, right) for k in range(3)]
    for base, sign in (("add", 1), ("sub", -1)):
        text = f""".entry k({", ".join(f".param .u64 p{k}" for k in range(7))}) {{
            .reg .b64 %a<7>, %o; .reg .b32 %x<6>, %d<3>, %t, %b;
            mov.u32 %t, %tid.x; mov.u32 %b, %ctaid.x; mad.lo.u32 %t, %b, 256, %t;
            mul.wide.u32 %o, %t, 4; """
        for k in range(7):
            text += f"ld.param.u64 %a{k}, [p{k}];"
            text += f"add.s64 %a{k}, %a{k}, %o; ld.global.u32 %x{k}, [%a{k}];" if k < 6 else ""
        text += f"""{base}.cc.u32 %d0, %x0, %x3; {base}c.cc.u32 %d1, %x1, %x4;
            {base}c.u32 %d2, %x2, %x5; mul.wide.u32 %o, %t, 12; add.s64 %a6, %a6, %o;
            st.global.u32 [%a6], %d0; st.global.u32 [%a6+4], %d1; st.global.u32 [%a6+8], %d2;
            ret; }}"""
        out = np.zeros((4096, 3), "u4")
        launch(parse(text)["k"], 16, 256, [*words, out])
        want = (left + sign * right) % 2**96
        got = out.astype(object)
        assert (got[:, 0] | got[:, 1] << 32 | got[:, 2] << 64).tolist() == want.tolist()


def test_a_carry_nobody_set_is_refused() -> None:
    with pytest.raises(PtxError, match="no instruction has set the carry"):
        one("addc.u32 %d, %x, %x", 4, A[:1])


def test_long_products_by_carries() -> None:
    # mad.lo.cc and madc.hi, as NVRTC makes of 128-bit products
    text = """mad.lo.cc.u32 %e, %x, %y, %z; madc.hi.u32 %d, %x, %y, 0"""
    want = [(int(a) * int(b) + int(c)) >> 32 for a, b, c in zip(A, B, C, strict=True)]
    assert one(text, 4, A, B, C).tolist() == [w % 2**32 for w in want]


UNSIGNED = ["lo", "ls", "hi", "hs"]
SIGNED = ["eq", "ne", "lt", "le", "gt", "ge"]


@pytest.mark.parametrize(
    ("test", "kind"),
    [(t, k) for k in ("u32", "s32") for t in SIGNED] + [(t, "u32") for t in UNSIGNED],
)
def test_comparisons(test: str, kind: str) -> None:
    plain = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}.get(test, test)
    read = s32 if kind == "s32" else int
    want = [int(getattr(read(a), f"__{plain}__")(read(b))) for a, b in zip(A, B, strict=True)]
    choose = "selp.u32 %d, 1, 0,"
    test_both = f"setp.{test}.{kind} %p|%q, %x, %y;"
    assert one(f"{test_both} {choose} %p", 4, A, B).tolist() == want
    assert one(f"{test_both} {choose} %q", 4, A, B).tolist() == [1 - w for w in want]
    combined = f"setp.gt.u32 %q, %x, 7; setp.{test}.and.{kind} %p, %x, %y, !%q; {choose} %p"
    both = [w & int(int(a) <= 7) for w, a in zip(want, A, strict=True)]
    assert one(combined, 4, A, B).tolist() == both
    assert one(f"set.{test}.u32.{kind} %d, %x, %y", 4, A, B).tolist() == [-w % 2**32 for w in want]
