"""What is timed, ours and the peers': lines of work, and ours of them step by step.

A prefill takes one prompt in, in one step. A decode step gives B sequences a token each, and the
keys before it are said to be there: the cache is filled with random numbers, which cost what real
ones cost. Tokens are random, as llama-bench's are: nothing is sampled. So every decode run is over
the same positions, and long contexts need no long prefill.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from tinymoe.cache import PagedCache, as_arrays
from tinymoe.core import Array, Batch, Run, Tap, TinymoeError
from tinymoe.formats import bf16
from tinymoe.measure.machine import Clock
from tinymoe.measure.runs import ExpertCount, Subject
from tinymoe.model.transformer import forward, no_tap

FILL = 4096  # positions that are given pages at once


class Line(NamedTuple):
    """One row of the result."""

    kind: Literal["prefill", "decode"]
    batch: int  # sequences
    context: int  # prefill: tokens of the prompt. decode: keys there before the first step
    steps: int  # decode: tokens of each sequence

    @property
    def name(self) -> str:
        """For a reader."""
        if self.kind == "prefill":
            return f"prefill {self.context}"
        return f"decode, batch {self.batch}"

    @property
    def tokens(self) -> int:
        """That one run counts."""
        return self.context if self.kind == "prefill" else self.batch * self.steps

    @property
    def mean_context(self) -> float:
        """Keys that a decoded token sees, itself too, on average over the steps."""
        return self.context + (self.steps + 1) / 2


def lines_of(prompt: int, context: int, steps: int, batches: Sequence[int]) -> list[Line]:
    """The usual set: one prefill, then a decode for each batch."""
    sizes = {"--prompt": prompt, "--context": context, "--tokens": steps}
    sizes["--batch"] = min(batches, default=0)
    for option, value in sizes.items():
        if value < 1:
            raise TinymoeError(f"{option} must be at least 1, got {value}")
    first = Line("prefill", 1, prompt, 0)
    return [first, *(Line("decode", batch, context, steps) for batch in batches)]


class Work:
    """A line set up for a model: its cache and its batches. Run it as often as you like."""

    def __init__(self, subject: Subject, line: Line, seed: int = 0) -> None:
        """Takes the memory of its cache."""
        longest = line.context + line.steps
        if longest > subject.config.max_positions:
            raise TinymoeError(
                f"{line.name} needs {longest} positions, the model has "
                f"{subject.config.max_positions}: lower --prompt, --context or --tokens"
            )
        self.line = line
        draw = np.random.default_rng(seed)
        pages = -(-longest // 16) * 16
        self.cache = PagedCache.for_model(
            subject.config,
            subject.numerics,
            line.batch * pages,
            sequences=line.batch,
            batch_tokens=line.batch * FILL if line.kind == "decode" else line.context,
        )
        vocab = subject.config.vocab_size
        if line.kind == "prefill":
            ids, tables = draw.integers(0, vocab, line.context), self.cache.take(line.context)
            rows = slice(0, line.context)
            last = np.array([line.context - 1])
            positions = np.arange(line.context)
            self.batches = [Batch(ids, positions, (Run(rows, 0, tables),), last)]
        else:
            self.batches = self._decodes(draw.integers(0, vocab, (line.steps, line.batch)))
            self._step(subject, self.batches[0])  # pages lie as its backend reads them from now on
            self._fill(draw)

    def run(self, subject: Subject, clock: Clock) -> float:
        """Seconds inside `forward` of all its steps; building batches is not in them."""
        seconds = 0.0
        for batch in self.batches:
            begin = clock()
            self._step(subject, batch)
            seconds += clock() - begin
        return seconds

    def _step(self, subject: Subject, batch: Batch, tap: Tap = no_tap) -> None:
        params, config, numerics, ops = (
            subject.params, subject.config, subject.numerics, subject.ops,
        )  # fmt: skip
        forward(params, config, batch, self.cache, numerics, ops, tap)

    def met(self, subject: Subject) -> list[float]:
        """Distinct experts of a step, by layer with a mixture, mean over the steps; not timed."""
        if "moe" not in subject.config.layers:
            return []
        count = ExpertCount()
        for batch in self.batches:
            self._step(subject, batch, count)
        return count.per_step(subject.config.layers.count("moe"))

    def _fill(self, draw: np.random.Generator) -> None:
        """Random keys and values, of the size that normed ones have."""
        for array in self.cache.arrays:
            values = draw.standard_normal(array.shape, dtype=np.float32)
            array[...] = bf16.encode(values) if array.dtype == np.uint16 else values

    def _decodes(self, ids: Array) -> list[Batch]:
        """A batch for every step: the next position of each sequence."""
        B, context = self.line.batch, self.line.context
        tables: list[list[list[int]]] = [[[] for _ in self.cache.pools] for _ in range(B)]
        for of_sequence in tables:
            for start in range(0, context, FILL):
                self._hold(of_sequence, start, min(context, start + FILL))
        batches = []
        for step, tokens in enumerate(ids):
            position, runs = context + step, []
            for row, of_sequence in enumerate(tables):
                self._hold(of_sequence, position, position + 1)
                runs.append(Run(slice(row, row + 1), position, as_arrays(of_sequence)))
            places = np.full(B, position)
            batches.append(Batch(tokens, places, tuple(runs), np.arange(B)))
        return batches

    def _hold(self, tables: list[list[int]], start: int, stop: int) -> None:
        """Pages for these positions; those that nobody will see again go back."""
        for pool, table in zip(self.cache.pools, tables, strict=True):
            pool.let_go(table, start)
            pool.hold(table, start, stop)
