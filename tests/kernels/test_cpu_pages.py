"""Pages as the compiled step lays them out: nothing is lost, misplaced, or seen by others."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinymoe
from tests.kernels.company import IDS, logits_in_company
from tests.tiny import tiny_attention, tiny_config
from tinymoe.cache import PagedCache, by_position
from tinymoe.core import NUMERICS, Array, Batch, Run, TinymoeError
from tinymoe.formats import bf16
from tinymoe.kernels.cpu import pages
from tinymoe.kernels.cpu.batch import Header, aligned
from tinymoe.kernels.cpu.pages import held_as, tiled, tiles, write_keys, write_values
from tinymoe.kernels.cpu.program import Program
from tinymoe.kernels.cpu.team import Team
from tinymoe.model.transformer import forward

pytestmark = pytest.mark.kernels
ROOT = Path(__file__).parents[1] / "vectors" / "parity"


def loaded(case: str, numerics: str) -> tinymoe.Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of checkpoints' own oddities: tested elsewhere
        return tinymoe.load(ROOT / case, backend="numba", numerics=numerics, threads=2)


model = cache(loaded)


def written(x: Array, first: int, page_size: int, dtype: Any, threads: int) -> tuple[Array, Array]:
    """Tiles that the kernels write: of x (T, Nk, D), as keys and as values, in page order."""
    tokens, heads, dim = x.shape
    count = -(-(first + tokens) // page_size)
    table = np.random.default_rng(0).permutation(count)
    keys = pages.empty_keys(count * page_size // 16, heads, dim, dtype)
    values = pages.empty_values(count * page_size // 16, heads, dim, dtype)
    positions = np.arange(first, first + tokens)
    batch = Batch(positions, positions, (Run(slice(0, tokens), first, (table,)),), positions[:0])
    header = Header(batch, 1, page_size, aligned(16 * threads), threads)
    program = Program()
    for kernel, to in ((write_keys, keys), (write_values, values)):
        program.add(
            kernel,
            x=x,
            x_stride=heads * dim,
            x_head=dim,
            heads=heads,
            width=dim,
            pages=to,
            group=0,
            item=to.itemsize,
        )
    Team(threads).run(program.code, header.address)
    place = (table[:, None] * (page_size // 16) + np.arange(page_size // 16)).reshape(-1)
    return keys[place], values[place]


def widened(rows: Array) -> Array:
    """Rows of 16 in BF16 as float32: word i holds number i and number 8 + i."""
    return bf16.decode(np.concatenate([rows[..., ::2], rows[..., 1::2]], axis=-1))


@pytest.mark.parametrize("page_size", [16, 48])
def test_kernels_write_what_tiles_are_said_to_be(page_size: int) -> None:
    """A dimension that is not a multiple of 16, a first position inside a tile, three threads."""
    x = np.random.default_rng(1).normal(size=(70, 3, 20)).astype(np.float32)
    x = bf16.round_to_bf16(x)
    keys, values = tiled(x, x, first=37)
    for dtype in (np.float32, np.uint16):
        got = written(x, 37, page_size, dtype, threads=3)
        for mine, want in zip(got, (keys, values), strict=True):
            mine = mine if dtype is np.float32 else widened(mine)
            np.testing.assert_array_equal(mine[2 : 2 + len(want)], want)


@pytest.mark.parametrize("case", ["qwen3_moe", "gpt_oss", "deepseek_v3"])
def test_keys_in_bf16_give_the_same_bits_as_in_float32(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is cached was rounded to BF16 before: if not, pages would lose something."""
    narrow = logits_in_company(loaded(case, "bf16"), [20, 1, 2], 1)
    monkeypatch.setattr(pages, "held_as", lambda *_: np.float32)
    assert logits_in_company(loaded(case, "bf16"), [20, 1, 2], 1) == narrow


def test_pages_hold_float32_where_a_clip_rounds_to_nothing() -> None:
    """A value that was clipped is the limit itself, which may be no BF16 number."""
    kinds = {"fp32": None, "bf16": 8.0, "bf16 ": 7.3}
    held = [
        held_as(tiny_config(attention=(tiny_attention(clip=c),) * 2), 0, NUMERICS[n.strip()])
        for n, c in kinds.items()
    ]
    assert held == [np.float32, np.uint16, np.float32]


@pytest.mark.parametrize("numerics", ["fp32", "bf16"])
def test_what_others_left_in_a_page_is_not_seen(numerics: str) -> None:
    """Pages are handed on as they are: a NaN of another sequence, times a weight of 0, is NaN."""
    m = model("gpt_oss", numerics)
    results = []
    for garbage in (0, 0xFF):
        cache = PagedCache.for_model(m.config, m.numerics, 64)
        for layer in range(m.config.num_layers):
            cache.laid_out(layer, tiles)
        for array in cache.arrays:
            array.view(np.uint8)[...] = garbage
        results.append(run(m, cache))
    assert results[0] == results[1]


def run(m: Any, cache: PagedCache) -> bytes:
    """Logits of a prompt and of one more token."""
    tables, both = cache.take(len(IDS)), b""
    for start, stop in ((0, len(IDS) - 1), (len(IDS) - 1, len(IDS))):
        positions = np.arange(start, stop)
        runs = (Run(slice(0, stop - start), start, tables),)
        batch = Batch(np.array(IDS[start:stop]), positions, runs, positions - start)
        both += forward(m.params, m.config, batch, cache, m.numerics, m.ops).tobytes()
    return both


def test_the_size_of_pages_changes_no_bit() -> None:
    m = model("gpt_oss", "fp32")
    whole = [run(m, PagedCache.for_model(m.config, m.numerics, 96, size)) for size in (16, 48)]
    assert whole[0] == whole[1]


def test_pages_that_are_no_tiles_are_read_op_by_op() -> None:
    """Pages of 5 positions cannot be tiles of 16: slower, not wrong."""
    m = model("gpt_oss", "fp32")
    cache = PagedCache.for_model(m.config, m.numerics, 40, 5)
    got = run(m, cache)
    assert cache.layer(0)[0].shape[1] == 5  # as the definition has them, or this would raise
    other = run(m, PagedCache.for_model(m.config, m.numerics, 40, 20))
    assert got == other


def test_a_cache_of_another_backend_is_refused() -> None:
    """Its values would be read in another order: other text, and nobody would be told."""
    m = model("gpt_oss", "fp32")
    cache = PagedCache.for_model(m.config, m.numerics, 64)
    cache.laid_out(0, by_position)
    with pytest.raises(TinymoeError, match="one backend for all steps"):
        run(m, cache)


def test_a_window_s_pages_can_go() -> None:
    """Tables then say `GONE` of pages before the window: a tile listed there would be anywhere."""
    texts = []
    for backend in ("numpy", "numba"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            m = tinymoe.load(ROOT / "gpt_oss", backend=backend, numerics="fp32")
        assert [group.span for group in m.config.cache_groups] == [16, 0]
        wish = m.default_sampling(max_tokens=60, temperature=0.0, ignore_eos=True)
        texts.append([token.id for token in m.generate(list(range(5, 26)), wish)])
    assert texts[0] == texts[1]


def test_many_pages_begin_at_a_huge_page_and_few_at_a_cache_line() -> None:
    # of pages that begin anywhere, the system holds both ends in small ones: 7 % more time
    for make in (pages.empty_keys, pages.empty_values):
        for count, boundary in ((2047, 64), (2048, pages.HUGE), (2049, pages.HUGE)):
            made = [make(count, 1, 64, np.uint16) for _ in range(3)]
            assert [each.ctypes.data % boundary for each in made] == [0, 0, 0]
            assert {each.size for each in made} == {count * 64 * 16}
    # what a last piece has besides is there: the system makes a huge page whole or not at all
    buffer = aligned(5, np.uint8, 4096).base
    while buffer.base is not None:
        buffer = buffer.base
    assert buffer.nbytes == 2 * 4096
