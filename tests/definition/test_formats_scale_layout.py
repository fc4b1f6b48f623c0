"""The tiled layouts of block scales, against the offset formula, byte by byte.

Linear and tiled scales have the same size where nothing is padded, so an engine that tiles twice,
or not at all, runs on and is wrong by 10 to 80 % (vllm#50084, vllm#55976, modular#6600). Every
byte of these matrices differs from its neighbours, so any other permutation fails.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from tinymoe.core import TinymoeError
from tinymoe.formats import scale_layout as layout

pytestmark = pytest.mark.definition

LAYOUTS = {
    "128x4": (layout.swizzle_128x4, layout.unswizzle_128x4, layout.offset_128x4, 128),
    "8x4": (layout.swizzle_8x4, layout.unswizzle_8x4, layout.offset_8x4, 8),
}
SHAPES = [(1, 1), (7, 3), (8, 4), (33, 5), (128, 4), (129, 4), (128, 8), (200, 9), (256, 12)]


def distinct(rows: int, columns: int) -> np.ndarray:
    """1..255 in an order that no tile repeats; never 0, which is the padding's."""
    return (np.arange(rows * columns) * 89 % 255 + 1).astype(np.uint8).reshape(rows, columns)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_the_offset_formula(name: str, shape: tuple[int, int]) -> None:
    swizzle, unswizzle, offset, tile = LAYOUTS[name]
    scales = distinct(*shape)
    expected = np.zeros(math.ceil(shape[0] / tile) * tile * math.ceil(shape[1] / 4) * 4, np.uint8)
    for (m, k), byte in np.ndenumerate(scales):
        expected[offset(m, k, shape[1])] = byte
    assert np.array_equal(swizzle(scales), expected)
    assert np.array_equal(unswizzle(expected, *shape), scales)


def test_worked_offsets() -> None:
    # row 33, block 5 of 8: second tile along K, line 1, word 1, byte 1
    assert layout.offset_128x4(33, 5, 8) == 512 + 16 + 4 + 1
    assert layout.offset_128x4(128, 0, 8) == 2 * 512
    assert layout.offset_8x4(9, 5, 8) == 3 * 32 + 4 + 1


def test_a_second_swizzle_is_not_the_first() -> None:
    # modular#6600: already tiled scales tiled again; same size, other bytes
    scales = distinct(128, 8)
    once = layout.swizzle_128x4(scales)
    assert once.size == scales.size
    assert not np.array_equal(once, scales.ravel())
    assert not np.array_equal(layout.swizzle_128x4(once.reshape(128, 8)), once)


def test_the_buffer_may_have_any_shape() -> None:
    # torchao says [32*ceil(M/128), 16*ceil(Ks/4)], vLLM [Mpad, Kpad]: the same bytes
    scales = distinct(130, 6)
    flat = layout.swizzle_128x4(scales)
    for shape in ((64, 32), (256, 8)):
        assert np.array_equal(layout.unswizzle_128x4(flat.reshape(shape), 130, 6), scales)


def test_bad_input_is_named() -> None:
    with pytest.raises(TinymoeError, match="expected 512 bytes.*got 12"):
        layout.unswizzle_128x4(np.zeros(12, np.uint8), 3, 4)
    with pytest.raises(TinymoeError, match="expert stack one by one"):
        layout.swizzle_128x4(np.zeros((2, 3, 4), np.uint8))
    with pytest.raises(TinymoeError, match="float8 array"):
        layout.swizzle_8x4(np.zeros((3, 4), np.float32))
