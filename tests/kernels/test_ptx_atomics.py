"""Atomic updates of the PTX machine, one thread after the other, in every space."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.kernels.one_kernel import HEAD, run
from tinymoe.kernels.ptx import launch, parse

pytestmark = pytest.mark.kernels
ATOMICS: list[tuple[str, str, Callable[[int, int], int]]] = [
    ("u32", "add", lambda old, new: (old + new) % 2**32),
    ("u64", "add", lambda old, new: (old + new) % 2**64),
    ("u32", "min", min),
    ("s32", "max", lambda old, new: max(old - (old >> 31 << 32), new - (new >> 31 << 32)) % 2**32),
    ("b32", "and", lambda old, new: old & new),
    ("b64", "or", lambda old, new: old | new),
    ("b32", "xor", lambda old, new: old ^ new),
    ("b32", "exch", lambda old, new: new),
    ("u32", "inc", lambda old, new: 0 if old >= new else old + 1),
    ("u32", "dec", lambda old, new: new if old == 0 or old > new else old - 1),
]


@pytest.mark.parametrize(("kind", "op", "change"), ATOMICS, ids=[f"{o}.{k}" for k, o, _ in ATOMICS])
@pytest.mark.parametrize("space", ["global", "shared", ""])
def test_atomics_one_after_another(
    kind: str, op: str, change: Callable[[int, int], int], space: str
) -> None:
    # 64 threads on 3 words: what each found and what is left, as if they had come in order
    size = int(kind[1:]) // 8
    rng = np.random.default_rng(1)
    given = rng.integers(0, 2 ** (8 * size), 64, f"u{size}") >> np.array(8 * size - 9, f"u{size}")
    words = np.array([5, 250, 2 ** (8 * size) - 1], f"u{size}")
    found, left = np.zeros(64, f"u{size}"), words.copy()
    s, bits = f".{space}" if space else "", 8 * size
    first, last = "", "@!%p0 ld.b{bits} %d0, [%a2];"
    if space == "shared":  # the words go there first, and come back
        first = "@!%p0 ld.global.b{bits} %d0, [%a2]; @!%p0 st.shared.b{bits} [%a3], %d0;"
        first += "bar.sync 0; mov.u64 %a2, %a3;"
        last = "@!%p0 ld.shared.b{bits} %d0, [%a2];"
    text = f""".entry k(.param .u64 out, .param .u64 p0, .param .u64 p1) {{ {HEAD}
        .reg .b{bits} %d<3>; .shared .align 8 .b8 box[24];
        mul.wide.u32 %u, %t, {size}; rem.u32 %r0, %t, 3; mul.wide.u32 %a0, %r0, {size};
        ld.param.u64 %a2, [p0]; add.s64 %a2, %a2, %a0; mov.u64 %a3, box; add.s64 %a3, %a3, %a0;
        ld.param.u64 %o, [out]; add.s64 %o, %o, %u; ld.param.u64 %a4, [p1]; add.s64 %a4, %a4, %u;
        ld.global.b{bits} %d1, [%a4]; setp.ge.u32 %p0, %t, 3; {first.format(bits=bits)}
        atom{s}.{op}.{kind} %d2, [%a2], %d1; st.global.b{bits} [%o], %d2; bar.sync 0;
        {last.format(bits=bits)} ld.param.u64 %a2, [p0]; add.s64 %a2, %a2, %a0;
        @!%p0 st.global.b{bits} [%a2], %d0; ret; }}"""
    launch(parse(text)["k"], 1, 64, [found, left, given])
    state, want = [int(w) for w in words], []
    for t in range(64):
        want.append(state[t % 3])
        state[t % 3] = change(state[t % 3], int(given[t]))
    assert found.tolist() == want
    assert left.tolist() == state


def test_compare_and_swap_takes_one_winner() -> None:
    word, out = np.zeros(1, "u4"), np.zeros(32, "u4")
    body = """ld.param.u64 %a0, [p0]; add.u32 %r1, %t, 1; atom.global.cas.b32 %r0, [%a0], 0, %r1;
        st.global.u32 [%o], %r0"""
    run(body, out, word)
    assert word[0] == 1
    assert out.tolist() == [0] + [1] * 31


def test_a_seed_draws_who_comes_first() -> None:
    # places taken by atomicAdd: a kernel whose result depends on them must not be called stable
    body = """ld.param.u64 %a0, [p0]; atom.global.add.u32 %r0, [%a0], 1;
        st.global.u32 [%o], %r0"""
    taken = []
    for seed in (0, 1, 2, 1):
        out = np.zeros(32, "u4")
        run(body, out, np.zeros(1, "u4"), seed=seed)
        assert sorted(out) == list(range(32))
        taken.append(out.tolist())
    assert taken[0] == list(range(32))
    assert taken[1] == taken[3]
    assert taken[1] != taken[2]


def test_float_atomics_are_sums_in_order() -> None:
    total = np.zeros(1, "f4")
    values = np.random.default_rng(2).standard_normal(32).astype("f4")
    run(
        """ld.param.u64 %a0, [p0]; ld.param.u64 %a1, [p1]; add.s64 %a1, %a1, %u;
        ld.global.f32 %r1, [%a1]; red.global.add.f32 [%a0], %r1""",
        np.zeros(32, "u4"),
        total,
        values,
    )
    want = np.float32(0)
    for v in values:
        want += v
    assert total[0] == want


def test_pairs_of_halves_add_atomically() -> None:
    pair = np.zeros(2, "f2")
    body = "ld.param.u64 %a0, [p0]; mov.u32 %r1, 0x40003c00;"  # (1, 2)
    run(body + "atom.global.add.noftz.f16x2 %r0, [%a0], %r1", np.zeros(32, "u4"), pair)
    assert pair.tolist() == [32.0, 64.0]
