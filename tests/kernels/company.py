"""One sequence in pieces, beside others: its logits, to be the same bits in any company."""

from __future__ import annotations

import numpy as np

import tinymoe
from tinymoe.cache import PagedCache
from tinymoe.core import Batch, Run
from tinymoe.model.transformer import forward

IDS = [int(i) for i in np.random.default_rng(0).integers(0, 64, 23)]
PAGES, PAGE = 4, 16  # of each sequence


def logits_in_company(model: tinymoe.Model, pieces: list[int], others: int) -> bytes:
    """Logits of all of IDS, the prompt cut in pieces, `others` sequences of other tokens beside."""
    config = model.config
    assert sum(pieces) == len(IDS) <= PAGES * PAGE
    cache = PagedCache.for_model(config, model.numerics, (others + 1) * PAGES * PAGE)
    groups = len(config.cache_groups)
    tables = [np.arange(PAGES) * (others + 1) + n for n in range(others + 1)]  # pages interleaved
    tables = [np.array(table[::-1]) for table in tables]
    logits, start = [], 0
    for piece in pieces:
        ids, positions, runs = [], [], []
        for n in range(others + 1):
            rows = slice(len(ids), len(ids) + piece)
            ids += [(i + 7 * n) % 64 for i in IDS[start : start + piece]]
            positions += range(start, start + piece)
            runs.append(Run(rows, start, (tables[n],) * groups))
        batch = Batch(
            np.array(ids), np.array(positions), tuple(runs), np.arange(piece)  # of the first
        )  # fmt: skip
        logits.append(forward(model.params, config, batch, cache, model.numerics, model.ops))
        start += piece
    return np.concatenate(logits).tobytes()
