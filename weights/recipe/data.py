"""Training windows in a random order that can be resumed exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weights.recipe.corpus import DOMAINS, SAMPLING_WEIGHTS

Ids = NDArray[np.int64]


def load_split(folder: Path, split: str) -> dict[str, NDArray[np.uint16]]:
    """Token ids by domain, as `prepare_data` wrote them, without reading them into memory."""
    found: dict[str, NDArray[np.uint16]] = {}
    for domain in DOMAINS:
        path = folder / f"{domain}.{split}.u16"
        if path.exists():
            found[domain] = np.memmap(path, dtype=np.uint16, mode="r")
    if not found:
        raise FileNotFoundError(f"no *.{split}.u16 in {folder}")
    return found


class Stream:
    """Windows of one domain. An epoch is a permutation of adjoining windows from a random phase.

    The phase moves the cuts in each epoch; within one, no token is predicted twice, and only
    fewer than two windows' tokens at the ends are left out.
    """

    def __init__(self, ids: NDArray[np.uint16], seed: tuple[int, ...], context: int) -> None:
        """`seed` names the stream; every epoch's order follows from it alone."""
        if len(ids) <= 2 * context:
            raise ValueError(f"{len(ids)} tokens are too few for windows of {context}")
        self.ids, self.seed, self.context = ids, seed, context
        self.epoch, self.index = 0, 0
        self._starts = self.starts(0)

    def starts(self, epoch: int) -> Ids:
        """First token of every window of an epoch, in drawing order."""
        random = np.random.default_rng((*self.seed, epoch))
        phase = int(random.integers(self.context))
        count = (len(self.ids) - 1 - phase) // self.context
        return phase + self.context * random.permutation(count)

    def seek(self, epoch: int, index: int, context: int) -> None:
        """Go to window `index` of `epoch`; a new context begins an epoch of its own."""
        if context != self.context:
            epoch, index = epoch + 1, 0
        self.epoch, self.index, self.context = epoch, index, context
        self._starts = self.starts(epoch)

    def draw(self) -> Ids:
        """The next window: `context` inputs and, one further on, as many targets."""
        if self.index == len(self._starts):
            self.seek(self.epoch + 1, 0, self.context)
        start = self._starts[self.index]
        self.index += 1
        return self.ids[start : start + self.context + 1].astype(np.int64)


class Sampler:
    """Batches of windows from all domains by their sampling weights.

    The domains of batch number n follow from the seed and n; the windows from each stream's
    counter. `state` and `restore` carry these counters over a restart.
    """

    def __init__(self, folder: Path, seed: int, context: int) -> None:
        """Open the `train` split."""
        parts = load_split(folder, "train")
        usable = {d: ids for d, ids in parts.items() if len(ids) > 2 * context}
        self.seed, self.context, self.batch = seed, context, 0
        self.streams = {
            d: Stream(ids, (seed, DOMAINS.index(d)), context) for d, ids in usable.items()
        }
        weights = np.array([SAMPLING_WEIGHTS[d] for d in self.streams])
        self._shares = weights / weights.sum()

    def draw(self, rows: int) -> Ids:
        """The next batch, [rows, context + 1]."""
        random = np.random.default_rng((self.seed, len(DOMAINS), self.batch))
        self.batch += 1
        names = list(self.streams)
        picks = random.choice(len(names), size=rows, p=self._shares)
        return np.stack([self.streams[names[i]].draw() for i in picks])

    def set_context(self, context: int) -> None:
        """Change the window length, from the next batch on."""
        if context != self.context:
            self.context = context
            for stream in self.streams.values():
                stream.seek(stream.epoch, stream.index, context)

    def state(self) -> dict[str, Any]:
        """Counters to be saved."""
        streams = {d: (s.epoch, s.index) for d, s in self.streams.items()}
        return {"batch": self.batch, "context": self.context, "streams": streams}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.batch, self.context = state["batch"], state["context"]
        for domain, (epoch, index) in state["streams"].items():
            stream = self.streams[domain]
            stream.context = self.context
            stream.seek(epoch, index, self.context)


def evaluation_windows(ids: NDArray[np.uint16], context: int, count: int) -> Ids:
    """Up to `count` evenly spread windows that do not overlap, [n, context + 1]."""
    fitting = (len(ids) - 1) // context
    chosen = np.unique(np.linspace(0, fitting - 1, min(count, fitting)).astype(int))
    windows = [ids[c * context : c * context + context + 1] for c in chosen]
    return np.stack(windows).astype(np.int64)
