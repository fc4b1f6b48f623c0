"""Warp instructions of the PTX machine against loops over lanes; masks, order, and who waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.kernels.one_instruction import Array, one
from tinymoe.kernels.ptx import DefectError, launch, parse

pytestmark = pytest.mark.kernels
N = 96  # three warps
X = np.random.default_rng(7).integers(0, 2**32, N, np.uint32)
LANE = np.arange(N) % 32
PICK: dict[str, Callable[[int, int, int, int, int], tuple[int, bool]]] = {
    # PTX ISA 9.0, shfl.sync: the lane read, and whether it is in range
    "up": lambda lane, b, low, top, s: (lane - b, lane - b >= top),
    "down": lambda lane, b, low, top, s: (lane + b, lane + b <= top),
    "bfly": lambda lane, b, low, top, s: (lane ^ b, lane ^ b <= top),
    "idx": lambda lane, b, low, top, s: (low | (b & ~s), low | (b & ~s) <= top),
}


@pytest.mark.parametrize("mode", PICK)
@pytest.mark.parametrize("offset", [0, 1, 5, 16, 31])
@pytest.mark.parametrize("width", [32, 16, 4])
def test_shuffles(mode: str, offset: int, width: int) -> None:
    clamp = (32 - width) << 8 | (0 if mode == "up" else 31)  # what CUDA C passes for a width
    want, flags = [], []
    for t in range(N):
        lane, segment = t % 32, clamp >> 8 & 31
        low = lane & segment
        top = low | (clamp & 31 & ~segment)
        source, inside = PICK[mode](lane, offset, low, top, segment)
        want.append(int(X[t - lane + (source if inside else lane)]))
        flags.append(int(inside))
    text = f"shfl.sync.{mode}.b32 %d|%p, %x, {offset}, {clamp}, -1"
    assert one(text, 4, X).tolist() == want
    assert one(f"{text}; selp.u32 %d, 1, 0, %p", 4, X).tolist() == flags


def test_a_shuffle_by_a_value_of_each_lane() -> None:
    source = np.roll(np.arange(N) * 7 % 32, 3).astype("u4")
    got = one("shfl.sync.idx.b32 %d, %x, %y, 31, -1", 4, X, source)
    assert got.tolist() == X[np.arange(N) // 32 * 32 + source].tolist()


VOTES = (X % 3 == 0) & (np.arange(N) >= 32) | (np.arange(N) >= 64)
BALLOT = [int((VOTES[w : w + 32] * 2 ** np.arange(32)).sum()) for w in range(0, N, 32)]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("vote.sync.ballot.b32 %d, %p, -1", BALLOT),
        ("vote.sync.ballot.b32 %d, !%p, -1", [2**32 - 1 - b for b in BALLOT]),
        ("vote.sync.all.pred %q, %p, -1", [0, 0, 1]),
        ("vote.sync.any.pred %q, %p, -1", [0, 1, 1]),
        ("vote.sync.uni.pred %q, %p, -1", [1, 0, 1]),
    ],
)
def test_votes(text: str, want: list[int]) -> None:
    after = "" if "ballot" in text else "; selp.u32 %d, 1, 0, %q"
    got = one(f"setp.ne.u32 %p, %x, 0; {text}{after}", 4, VOTES.astype("u4"))
    assert got.tolist() == np.repeat(want, 32).tolist()


def test_matches() -> None:
    value = (X % 5).astype("u4")
    value[64:] = 9
    want = []
    for t in range(N):
        mates = value[t // 32 * 32 : t // 32 * 32 + 32]
        want.append(int(((mates == value[t]) * 2 ** np.arange(32)).sum()))
    assert one("match.any.sync.b32 %d, %x, -1", 4, value).tolist() == want
    every = [0] * 64 + [2**32 - 1] * 32
    assert one("match.all.sync.b32 %d|%p, %x, -1", 4, value).tolist() == every
    flag = "match.all.sync.b32 %e|%p, %x, -1; selp.u32 %d, 1, 0, %p"
    assert one(flag, 4, value).tolist() == [0] * 64 + [1] * 32


@pytest.mark.parametrize(
    ("op", "function"),
    [
        ("add.u32", lambda v: int(v.sum(dtype="u8")) % 2**32),
        ("min.u32", lambda v: int(v.min())),
        ("max.s32", lambda v: int(v.view("i4").max()) % 2**32),
        ("and.b32", lambda v: int(np.bitwise_and.reduce(v))),
        ("or.b32", lambda v: int(np.bitwise_or.reduce(v))),
        ("xor.b32", lambda v: int(np.bitwise_xor.reduce(v))),
    ],
)
def test_reductions(op: str, function: Callable[[Array], int]) -> None:
    want = np.repeat([function(X[w : w + 32]) for w in range(0, N, 32)], 32)
    assert one(f"redux.sync.{op} %d, %x, -1", 4, X).tolist() == want.tolist()


def test_two_groups_of_one_warp_reduce_apart() -> None:
    text = """setp.lt.u32 %p, %y, 16; mov.u32 %e, 0xffff; selp.u32 %e, %e, 0xffff0000, %p;
        redux.sync.add.u32 %d, %x, %e"""
    lanes = LANE.astype("u4")
    got = one(text, 4, X, lanes)
    want = [int(X[h : h + 16].sum(dtype="u8")) % 2**32 for h in range(0, N, 16)]
    assert got.tolist() == np.repeat(want, 16).tolist()


def kernel(body: str) -> Any:
    """A kernel of one argument, with some registers and `%o` the address of the thread's word."""
    return parse(
        f""".entry k(.param .u64 out) {{
        .reg .b32 %r<9>, %t, %l; .reg .pred %p<4>; .reg .b64 %o, %u;
        mov.u32 %t, %tid.x; mov.u32 %l, %laneid; ld.param.u64 %o, [out]; mul.wide.u32 %u, %t, 4;
        add.s64 %o, %o, %u; mov.u32 %r0, 7; {body} st.global.u32 [%o], %r0; ret; }}"""
    )["k"]


def run(body: str, block: int = 32, **options: Any) -> list[int]:
    """What each thread stores."""
    out = np.zeros(block, "u4")
    launch(kernel(body), 1, block, [out], **options)
    return out.tolist()


def test_lanes_wait_for_those_that_come_later() -> None:
    # half the warp takes a detour before the ballot that names all
    body = """setp.lt.u32 %p0, %l, 16; @%p0 bra JOIN; mov.u32 %r0, 100; add.u32 %r0, %r0, %l;
        JOIN: shfl.sync.bfly.b32 %r0, %r0, 16, 31, -1;"""
    assert run(body) == [116 + k for k in range(16)] + [7] * 16


def test_syncwarps_at_two_places_meet() -> None:
    # since Volta __syncwarp is a barrier by its mask, not by its place in the code
    body = """setp.lt.u32 %p0, %l, 16; @%p0 bra LOW; bar.warp.sync -1; mov.u32 %r0, 1; bra END;
        LOW: bar.warp.sync -1; mov.u32 %r0, 2; END:"""
    assert run(body) == [2] * 16 + [1] * 16


def test_activemask_names_those_that_run_together() -> None:
    body = "setp.lt.u32 %p0, %l, 5; @!%p0 bra END; activemask.b32 %r0; END:"
    assert run(body) == [31] * 5 + [7] * 27


def test_a_partial_warp_votes_with_the_lanes_it_has() -> None:
    body = "setp.lt.u32 %p0, %t, 99; vote.sync.ballot.b32 %r0, %p0, -1;"
    assert run(body, 40) == [2**32 - 1] * 32 + [255] * 8
    with pytest.raises(DefectError, match="reads lane 8, which takes no part"):
        run("shfl.sync.down.b32 %r0, %t, 1, 31, -1;", 40)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("mov.u32 %r1, 1; shl.b32 %r1, %r1, %l; or.b32 %r1, %r1, 1; bar.warp.sync %r1;", "another"),
        ("setp.eq.u32 %p0, %l, 3; @%p0 ret; bar.warp.sync -1;", "names lane 3, which exited"),
        ("bar.warp.sync 0xfe;", "does not name the lane itself"),
        (
            "setp.eq.u32 %p0, %l, 3; @%p0 bra B; bar.warp.sync -1; B: bar.sync 0;",
            "lane 3, which wait elsewhere",
        ),
    ],
)
def test_masks_that_do_not_fit(body: str, said: str) -> None:
    with pytest.raises(DefectError, match=said):
        run(body)


SPECIAL = {
    "%laneid": LANE,
    "%warpid": np.arange(N) // 32,
    "%tid.x": np.arange(N),
    "%ntid.x": np.full(N, N),
    "%nctaid.y": np.ones(N),
    "%lanemask_eq": 1 << LANE,
    "%lanemask_lt": (1 << LANE) - 1,
    "%lanemask_le": (2 << LANE) - 1,
    "%lanemask_gt": 2**32 - (2 << LANE),
    "%lanemask_ge": 2**32 - (1 << LANE),
    "WARP_SZ": np.full(N, 32),
    "%clock": np.zeros(N),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_registers(name: str) -> None:
    assert one(f"mov.u32 %d, {name}", 4, X).tolist() == SPECIAL[name].tolist()


@pytest.mark.parametrize(
    ("op", "want"), [("popc.u32 %r0", 40), ("and.pred %p1", 0), ("or.pred %p1", 1)]
)
def test_barriers_that_count(op: str, want: int) -> None:
    kind, target = op.split()
    body = f"setp.lt.u32 %p0, %t, 40; bar.red.{kind} {target}, 0, %p0;"
    body += "" if target == "%r0" else " selp.u32 %r0, 1, 0, %p1;"
    assert run(body, 64) == [want] * 64


def test_producers_arrive_and_consumers_wait() -> None:
    # bar.arrive does not wait: warp 0 goes on, warp 1 gets what it wrote
    body = """.shared .b32 box; setp.ge.u32 %p0, %t, 32; @%p0 bra TAKE; setp.ne.u32 %p1, %t, 0;
        @!%p1 st.shared.u32 [box], 42; bar.arrive 1, 64; bra END;
        TAKE: bar.sync 1, 64; ld.shared.u32 %r0, [box]; END:"""
    assert run(body, 64) == [7] * 32 + [42] * 32
