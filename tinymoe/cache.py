"""The paged key/value cache: memory in pages of P positions, handed to sequences as they grow.

A sequence owns a list of pages, its block table; its position i lives in page i // P of that
list. Nothing moves when a sequence grows, and a finished one gives its pages back whole. Kwon
et al. 2023 (arXiv:2309.06180).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain

import numpy as np

from tinymoe.core import Array, ModelConfig, Numerics, TinymoeError

PAGE_SIZE = 16


class PagedCache:
    """Pages of keys and values for every layer, and which of them are free.

    Memory, taken at once: for every layer pages * P * Nk * (D of keys + D of values) * itemsize
    bytes; for latent attention in its absorbed form pages * P * (R + Dr) * itemsize.

    >>> cache = PagedCache.for_shape(layers=1, kv_heads=1, head_dim=4, pages=3)
    >>> first, second = cache.allocate(2)
    >>> cache.free_pages
    1
    >>> cache.release([first, second]); cache.free_pages
    3
    """

    def __init__(self, keys: list[Array], values: list[Array]) -> None:
        """keys[l], values[l]: (pages, P, Nk, D), all layers with the same number of pages."""
        self._keys, self._values = keys, values
        self.pages, self.page_size = keys[0].shape[:2]
        self._free = list(range(self.pages - 1, -1, -1))  # a stack: lowest page handed out first

    @classmethod
    def for_shape(
        cls,
        *,
        layers: int,
        kv_heads: int,
        head_dim: int,
        pages: int,
        page_size: int = PAGE_SIZE,
        dtype: np.dtype[np.floating] | type = np.float32,
    ) -> PagedCache:
        """An empty cache. bf16 values are held in float32, as everywhere in the definition."""
        shape = (pages, page_size, kv_heads, head_dim)
        return cls(
            [np.zeros(shape, dtype) for _ in range(layers)],
            [np.zeros(shape, dtype) for _ in range(layers)],
        )

    @classmethod
    def for_model(
        cls, config: ModelConfig, numerics: Numerics, positions: int, page_size: int = PAGE_SIZE
    ) -> PagedCache:
        """A cache with room for `positions` positions, rounded up to whole pages."""
        keys, values = [], []
        for layer in range(config.num_layers):
            of_keys, of_values = config.cached(layer)
            lead = (-(-positions // page_size), page_size)
            keys.append(np.zeros((*lead, *of_keys), numerics.dtype))
            latent = config.attention[layer].latent
            if of_values is not None:
                values.append(np.zeros((*lead, *of_values), numerics.dtype))
            elif latent is not None:  # the latent vector is key and value: held once, seen twice
                values.append(keys[-1][..., : latent.rank])
        return cls(keys, values)

    def layer(self, index: int) -> tuple[Array, Array]:
        """Key and value pages of one layer, (pages, P, Nk, D) each, to read and write."""
        return self._keys[index], self._values[index]

    @property
    def free_pages(self) -> int:
        """Pages that `allocate` can still hand out."""
        return len(self._free)

    def pages_for(self, positions: int) -> int:
        """Pages that so many positions of one sequence fill, the last one perhaps in part."""
        return -(-positions // self.page_size)

    def allocate(self, count: int) -> list[int]:
        """Take `count` free pages. Their contents are whatever the last owner left."""
        if count > len(self._free):
            raise TinymoeError(
                f"the key/value cache has {len(self._free)} free pages of {self.page_size} "
                f"positions, {count} were asked for: give it more positions or send fewer prompts"
            )
        return [self._free.pop() for _ in range(count)]

    def release(self, pages: Iterable[int]) -> None:
        """Give pages back, last page first, so that the lowest is handed out next."""
        self._free.extend(sorted(pages, reverse=True))

    def check_integrity(self, block_tables: Iterable[Iterable[int]]) -> None:
        """Raise if a page is both owned and free, owned twice, lost, or out of range.

        The engine calls it whenever it falls idle; a leak or a double free shows there, near
        its cause, and not as another user's text in the output.
        """
        owned = list(chain.from_iterable(block_tables))
        seen = owned + self._free
        strange = [page for page in seen if not 0 <= page < self.pages]
        twice = sorted(page for page, times in Counter(seen).items() if times > 1)
        lost = sorted(set(range(self.pages)) - set(seen))
        if strange or twice or lost:
            raise AssertionError(
                f"key/value cache: pages out of range {strange}, held twice {twice}, "
                f"lost {lost}; {len(owned)} owned, {len(self._free)} free, {self.pages} in all"
            )
