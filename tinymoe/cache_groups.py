"""What the layers of a model must remember of a sequence: groups of layers that keep the same.

A layer that sees everything keeps every position; one with a window or a chunk needs the last
few alone, and pages before them can go; a layer with a recurrent state needs no positions, but
one state for the whole sequence. Each group has pages of its own (`cache.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["all", "window", "chunk", "state"]

# Where a page was given back, the block table holds this. No cache has so many pages, so a read
# of it fails at once; -1 would read the last page without a word, as NumPy counts from behind.
GONE = 2**31 - 1


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """Layers that keep the same of a sequence, and hence share its block table."""

    kind: Kind
    span: int  # W of "window", C of "chunk"; 0 of "all" and "state"
    layers: tuple[int, ...]

    def first_kept(self, position: int) -> int:
        """The earliest position whose keys the token at `position` sees, or any after it.

        >>> CacheGroup("window", 4, (0,)).first_kept(9), CacheGroup("chunk", 4, (0,)).first_kept(9)
        (6, 8)
        """
        if self.kind == "window":
            return max(0, position - self.span + 1)
        return position // self.span * self.span if self.kind == "chunk" else 0

    def pages(self, start: int, stop: int, page_size: int) -> range:
        """Places in the block table that a run of positions start .. stop - 1 reads and writes.

        >>> CacheGroup("window", 4, (0,)).pages(9, 11, 2)  # positions 6 .. 10
        range(3, 6)
        >>> CacheGroup("state", 0, (0,)).pages(9, 11, 2)  # one slot for the whole sequence
        range(0, 1)
        """
        if self.kind == "state":
            return range(1)
        return range(self.first_kept(start) // page_size, -(-stop // page_size))

    def most_pages(self, length: int, run: int, page_size: int) -> int:
        """The most pages a sequence of up to `length` positions holds at once, run by run.

        `run`: the most positions of a run. A window or chunk holds what is before the run and
        the run itself, wherever the pages begin: that bounds it, whatever the length.
        """
        if self.kind == "state":
            return 1
        whole = -(-length // page_size)
        if self.kind == "all":
            return whole
        return min(whole, -(-(self.span + run - 2) // page_size) + 1)


def grouped(kinds: Sequence[tuple[Kind, int]]) -> tuple[CacheGroup, ...]:
    """One (kind, span) a layer to groups, in the order in which they first come.

    >>> [group.layers for group in grouped([("window", 8), ("all", 0), ("window", 8)])]
    [(0, 2), (1,)]
    """
    return tuple(
        CacheGroup(kind, span, tuple(i for i, other in enumerate(kinds) if other == (kind, span)))
        for kind, span in dict.fromkeys(kinds)
    )
