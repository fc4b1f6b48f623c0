"""Who is in order with whom: lanes by `__syncwarp`, warps by barriers, blocks by fences."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.one_kernel import run
from tinymoe.kernels.ptx import DefectError
from tinymoe.kernels.ptx.operands import Array
from tinymoe.kernels.ptx.race import Order, Shadow

pytestmark = pytest.mark.kernels
BOX = """.shared .align 4 .b8 box[512]; mov.u64 %a1, box; add.s64 %a1, %a1, %u;
    mov.u32 %r8, %laneid; setp.lt.u32 %p0, %r8, 16; """
SYNC_HALF = "mov.u32 %r7, 0xffff0000; @%p0 mov.u32 %r7, 0xffff; bar.warp.sync %r7; "
READ = "xor.b32 %r1, %t, {}; mul.wide.u32 %a3, %r1, 4; mov.u64 %a4, box; add.s64 %a3, %a3, %a4; "
READ += "ld.shared.u32 %r0, [%a3]; st.global.u32 [%o], %r0"


def strict(body: str, block: int = 32) -> list[int]:
    """What each thread stores, in strict mode."""
    out = np.zeros(block, "u4")
    run(BOX + body, out, block=block, strict=True)
    return out.tolist()


def test_half_a_warp_may_sync_on_its_own() -> None:
    body = "st.shared.u32 [%a1], %t; " + SYNC_HALF
    assert strict(body + READ.format(1)) == [k ^ 1 for k in range(32)]
    with pytest.raises(DefectError, match="another lane of this warp"):
        strict(body + READ.format(16))  # the other half has not been waited for


def test_what_a_lane_has_waited_for_it_hands_on() -> None:
    # halves first, then pairs across the halves: lane 16 knows through lane 0 what lane 1 wrote
    pairs = "and.b32 %r6, %r8, 15; mov.u32 %r5, 0x10001; shl.b32 %r5, %r5, %r6; bar.warp.sync %r5; "
    body = "st.shared.u32 [%a1], %t; " + SYNC_HALF + pairs
    assert strict(body + READ.format(17)) == [k ^ 17 for k in range(32)]
    with pytest.raises(DefectError, match="another lane of this warp"):
        strict("st.shared.u32 [%a1], %t; " + pairs + READ.format(17))


def test_a_write_after_a_read_needs_the_order_too() -> None:
    body = "st.shared.u32 [%a1], %t; bar.warp.sync -1; " + READ.format(1) + "; "
    again = "st.shared.u32 [%a1], 5"
    assert strict(body + "bar.warp.sync -1; " + again) == [k ^ 1 for k in range(32)]
    with pytest.raises(DefectError, match="this write and an earlier read"):
        strict(body + again)


def test_a_lane_is_always_in_order_with_itself() -> None:
    body = "st.shared.u32 [%a1], 3; ld.shared.u32 %r0, [%a1]; add.u32 %r0, %r0, %t; "
    body += "st.shared.u32 [%a1], %r0; ld.shared.u32 %r0, [%a1]; st.global.u32 [%o], %r0"
    assert strict(body, 64) == [k + 3 for k in range(64)]


def test_a_barrier_of_the_block_orders_lanes_as_well() -> None:
    body = "st.shared.u32 [%a1], %t; bar.sync 0; " + READ.format(1)
    assert strict(body, 64) == [k ^ 1 for k in range(64)]


def test_readers_that_all_waited_are_forgotten() -> None:
    # everybody reads lane 0's word; after a sync of all, half a warp may sync alone and write it
    body = f"""st.shared.u32 [%a1], %t; bar.warp.sync -1; ld.shared.u32 %r0, [box];
        bar.warp.sync -1; setp.eq.u32 %p1, %r8, 0; @%p1 ld.shared.u32 %r0, [box]; {SYNC_HALF}
        setp.eq.u32 %p2, %r8, 5; @%p2 st.shared.u32 [box], 9; st.global.u32 [%o], %r0"""
    assert strict(body) == [0] * 32


def test_an_order_is_known_to_members_only() -> None:
    order, members = Order(2), np.zeros((1, 32), bool)
    members[0, [3, 4]] = True
    order.sync(np.array([1]), members)
    assert order.known[1, 3, 4] == order.known[1, 4, 3] == 1
    assert order.known[1, 5, 3] == order.known[0, 3, 4] == 0


def stamp(block: int, barriers: int, warp: int) -> Array:
    """As the machine makes it."""
    return np.array([block << 34 | barriers << 6 | warp])


ALONE, OTHER, LATER, ELSEWHERE = stamp(1, 4, 2), stamp(1, 4, 3), stamp(1, 5, 3), stamp(2, 9, 2)


@pytest.mark.parametrize(
    ("first", "second", "kinds", "races"),
    [
        (ALONE, ALONE, "read write", False),
        (ALONE, OTHER, "read read", False),
        (ALONE, OTHER, "read write", True),
        (ALONE, OTHER, "write read", True),
        (ALONE, OTHER, "atomic atomic", False),
        (ALONE, OTHER, "atomic read", True),
        (ALONE, OTHER, "write atomic", True),
        (ALONE, LATER, "write write", False),
        (ALONE, ELSEWHERE, "write read", True),
        (ELSEWHERE, ALONE, "read write", True),
        (ELSEWHERE, ALONE, "read read", False),
    ],
)
def test_pairs_of_accesses(first: Array, second: Array, kinds: str, races: bool) -> None:
    shadow, word = Shadow(64, 4, private=False), np.array([3])
    one, two = kinds.split()
    assert shadow.access(one, word, first) is None
    assert (shadow.access(two, word, second) is not None) == races


def test_a_word_of_several_readers_remembers_them_all() -> None:
    shadow, word = Shadow(64, 4, private=False), np.array([3])
    for reader in (ALONE, OTHER, ALONE):
        assert shadow.access("read", word, reader) is None
    assert shadow.access("write", word, ALONE) is not None  # OTHER read it too
    shadow = Shadow(64, 4, private=False)
    both = np.concatenate([ALONE, ELSEWHERE, OTHER])
    assert shadow.access("read", np.array([3, 3, 3]), both) is None
    for writer in (LATER, ELSEWHERE):
        assert shadow.access("write", word, writer) is not None
