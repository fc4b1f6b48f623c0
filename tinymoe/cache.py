"""The paged cache: memory in pages of P positions, handed to sequences as they grow.

A sequence owns a list of pages, its block table; its position i lives in page i // P of that
list. Nothing moves when a sequence grows, and a finished one gives its pages back whole. Kwon
et al. 2023 (arXiv:2309.06180).

Layers that keep the same share a block table: `ModelConfig.cache_groups`. Each group has a pool
of pages: as many as its layers need, which for a window does not grow with the sequence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TypeAlias

import numpy as np

from tinymoe.cache_groups import GONE, CacheGroup
from tinymoe.core import Array, ModelConfig, Numerics, TinymoeError

PAGE_SIZE = 16
SEQUENCES = 64  # that run at once, and ...
BATCH_TOKENS = 512  # ... tokens of a step, where nobody says otherwise

# Empty pages of keys and values of a layer: (config, layer, pages, page size, numerics)
Layout: TypeAlias = Callable[[ModelConfig, int, int, int, Numerics], tuple[Array, Array]]


class PagePool:
    """The pages (or, for layers with a state, slots) of one group: which of them are free.

    >>> pool = PagePool(CacheGroup("window", 3, (0,)), pages=4, page_size=2)
    >>> table = []
    >>> pool.hold(table, 0, 5); table  # positions 0 .. 4 are about to be written
    [0, 1, 2]
    >>> pool.let_go(table, 5); table[0] == GONE, table[1:]  # position 5 sees 3, 4 and itself
    (True, [1, 2])
    >>> pool.release(table); pool.free_pages
    4
    """

    def __init__(self, group: CacheGroup, pages: int, page_size: int) -> None:
        self.group, self.pages, self.page_size = group, pages, page_size
        self._free = list(range(pages - 1, -1, -1))  # a stack: lowest page handed out first

    @property
    def free_pages(self) -> int:
        """Pages that `hold` can still hand out."""
        return len(self._free)

    def missing(self, table: Sequence[int], start: int, stop: int) -> int:
        """Pages that a sequence lacks to run positions start .. stop - 1."""
        return max(0, self.group.pages(start, stop, self.page_size).stop - len(table))

    def hold(self, table: list[int], start: int, stop: int) -> None:
        """Extend a block table to run these positions. New pages hold what their last owner left.

        A table that is new begins with what its first position sees: nothing is before position 0.
        """
        count = self.missing(table, start, stop)
        if count > len(self._free):
            raise TinymoeError(
                f"the cache has {len(self._free)} free pages of {self.page_size} positions for "
                f"layers that keep {self.group}, {count} were asked for: give it more positions "
                "or send fewer prompts"
            )
        table += [self._free.pop() for _ in range(count)]

    def let_go(self, table: list[int], position: int) -> None:
        """Give back the pages that neither the token at `position` nor any after it sees."""
        place = min(self.group.pages(position, position, self.page_size).start, len(table))
        while place > 0 and table[place - 1] != GONE:  # what is before the last gone one is gone
            place -= 1
            self._give_back([table[place]])
            table[place] = GONE

    def release(self, table: list[int]) -> None:
        """Give all of a sequence's pages back."""
        self._give_back(page for page in table if page != GONE)
        table.clear()

    def _give_back(self, pages: Iterable[int]) -> None:
        """Last page first, so that the lowest is handed out next."""
        self._free.extend(sorted(pages, reverse=True))

    def check_integrity(self, tables: Iterable[Iterable[int]]) -> None:
        """Raise if a page is both owned and free, owned twice, lost, or out of range."""
        owned = [page for page in chain.from_iterable(tables) if page != GONE]
        seen = owned + self._free
        strange = [page for page in seen if not 0 <= page < self.pages]
        twice = sorted(page for page, times in Counter(seen).items() if times > 1)
        lost = sorted(set(range(self.pages)) - set(seen))
        if strange or twice or lost:
            raise AssertionError(
                f"cache of {self.group}: pages out of range {strange}, held twice {twice}, "
                f"lost {lost}; {len(owned)} owned, {len(self._free)} free, {self.pages} in all"
            )


class PagedCache:
    """The memory of every layer, and a pool of pages for every group of layers.

    Pages are made when somebody first asks for a layer's, and lie as that one reads them: `layer`
    gives them position by position, as the definition has them; a backend whose kernels want them
    otherwise asks for `laid_out` with a layout of its own. A cache serves one of them.

    Memory, of `layer`: for every layer pages of its group * P * Nk * (D of keys + D of values) *
    itemsize bytes; for latent attention in its absorbed form pages * P * (R + Dr) * itemsize; for a
    state its size times the sequences that may run at once.

    A sequence's block tables are one list of page numbers for every pool, in their order.
    """

    def __init__(
        self, pools: Sequence[PagePool], config: ModelConfig, numerics: Numerics, page_size: int
    ) -> None:
        self.pools, self.page_size = tuple(pools), page_size
        self._config, self._numerics = config, numerics
        self._layout: Layout | None = None
        self._layers: list[tuple[Array, Array]] = []

    @classmethod
    def for_model(
        cls,
        config: ModelConfig,
        numerics: Numerics,
        positions: int,
        page_size: int = PAGE_SIZE,
        *,
        sequences: int = SEQUENCES,
        batch_tokens: int = BATCH_TOKENS,
    ) -> PagedCache:
        """A cache with room for `positions` positions, rounded up to whole pages.

        `sequences` that run at once and `batch_tokens` of a step, over all of them, bound what
        windows, chunks and states need. More of either is slower, not wrong: requests wait.
        """
        pools = [
            PagePool(g, _pages_of(g, positions, page_size, sequences, batch_tokens), page_size)
            for g in config.cache_groups
        ]
        return cls(pools, config, numerics, page_size)

    @property
    def arrays(self) -> list[Array]:
        """All pages and states as they lie now; none before somebody has asked for a layer's.

        Values that are a part of the keys are not there a second time.
        """
        return [
            array
            for keys, values in self._layers
            for array in ((keys,) if np.may_share_memory(keys, values) else (keys, values))
        ]

    @property
    def itemsize(self) -> int:
        """Bytes of a cached number as pages hold it now, or as the definition would."""
        stateless = (i for i in range(len(self._layers)) if self._config.state(i) is None)
        held = next((self._layers[layer][0].itemsize for layer in stateless), None)
        return held or np.dtype(self._numerics.dtype).itemsize

    @property
    def free_pages(self) -> tuple[int, ...]:
        """Of every pool."""
        return tuple(pool.free_pages for pool in self.pools)

    @property
    def pages(self) -> tuple[int, ...]:
        """Of every pool, free and owned."""
        return tuple(pool.pages for pool in self.pools)

    def layer(self, index: int) -> tuple[Array, Array]:
        """Key and value pages of one layer, (pages, P, Nk, D) each, to read and write.

        Of a layer with a state: its two arrays, (slots, *shape).
        """
        return self.laid_out(index, by_position)

    def laid_out(self, index: int, layout: Layout) -> tuple[Array, Array]:
        """Pages of one layer as `layout` makes them; a state's arrays are always the same.

        TinymoeError where another layout was asked for before: its values would be misread.
        """
        if self._layout is None:
            self._layers = [self._made(each, layout) for each in range(self._config.num_layers)]
            self._layout = layout
        if self._layout is not layout:
            raise TinymoeError(
                f"this cache's pages were made for {self._layout.__module__} and cannot be read by "
                f"{layout.__module__}: expected one backend for all steps of a cache; make another "
                "cache with PagedCache.for_model"
            )
        return self._layers[index]

    def _made(self, layer: int, layout: Layout) -> tuple[Array, Array]:
        config, numerics = self._config, self._numerics
        state, pages = config.state(layer), self.pools[config.group_of(layer)].pages
        if state is None:
            return layout(config, layer, pages, self.page_size, numerics)
        first, second = (np.zeros((pages, *shape), numerics.dtype) for shape in state)
        return first, second

    def take(self, positions: int) -> tuple[Array, ...]:
        """Block tables (pages,) of one new sequence that runs so many positions in one piece."""
        tables: list[list[int]] = [[] for _ in self.pools]
        for pool, table in zip(self.pools, tables, strict=True):
            pool.hold(table, 0, positions)
        return as_arrays(tables)

    def check_integrity(self, sequences: Iterable[Sequence[Iterable[int]]]) -> None:
        """Raise if a page of any pool is both owned and free, owned twice, lost, or out of range.

        The engine calls it whenever it falls idle; a leak or a double free shows there, near
        its cause, and not as another user's text in the output. `sequences`: their block tables.
        """
        running = [tables for tables in sequences if tables]
        for number, pool in enumerate(self.pools):
            pool.check_integrity(tables[number] for tables in running)


def as_arrays(tables: Iterable[Iterable[int]]) -> tuple[Array, ...]:
    """Block tables as `Run.pages` holds them."""
    return tuple(np.array(list(table), np.int64) for table in tables)


def _pages_of(group: CacheGroup, positions: int, page_size: int, sequences: int, run: int) -> int:
    """Pages of a pool: of a window or chunk no more than `sequences` can ever hold at once."""
    whole = -(-positions // page_size)
    if group.kind == "all":
        return whole
    # every sequence: what is before its run, whose pages begin and end anywhere; then the runs
    bound = sequences * (-(-group.span // page_size) + 2) + -(-run // page_size)
    if sequences == 1:
        bound = group.most_pages(positions, run, page_size)
    return min(whole, sequences if group.kind == "state" else bound)


def by_position(
    config: ModelConfig, layer: int, pages: int, page_size: int, numerics: Numerics
) -> tuple[Array, Array]:
    """The definition's layout: (pages, P, Nk, D). bf16 values are held in float32."""
    of_keys, of_values = config.cached(layer)
    keys = np.zeros((pages, page_size, *of_keys), numerics.dtype)
    if of_values is not None:
        return keys, np.zeros((pages, page_size, *of_values), numerics.dtype)
    # the latent vector is key and value: held once, seen twice
    return keys, keys[..., : config.value_dim(layer)]
