"""Who runs next: continuous batching with chunked prefill over a paged cache.

There is one kind of work. A request has `length` tokens, of which `cached` have keys and values
in the cache; the rest are pending. A prompt has many pending tokens, a decoding request one.
Every step takes all decodes, then fills up to `max_batch_tokens` with pieces of prompts, in
order of arrival (Orca, OSDI 2022; chunks: Sarathi-Serve, OSDI 2024).
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from tinymoe.cache import PagedCache, as_arrays
from tinymoe.core import Batch, Request, Run, TinymoeError


class Piece(NamedTuple):
    """What one request contributes to a step: its pending tokens up to position `stop`."""

    request: Request
    stop: int

    @property
    def tokens(self) -> int:
        """How many tokens of the batch are this request's."""
        return self.stop - self.request.cached

    @property
    def complete(self) -> bool:
        """Nothing is left pending, so the next token can be sampled."""
        return self.stop == self.request.length


class Scheduler:
    """Picks requests and pages for each step. It alone changes `cached` and `pages`."""

    def __init__(self, cache: PagedCache, *, max_batch_tokens: int, max_running: int) -> None:
        """At most `max_batch_tokens` tokens a step, at most `max_running` requests at once."""
        if max_batch_tokens < 1 or max_running < 1:
            raise TinymoeError(
                "a step needs at least one token and one request, got "
                f"max_batch_tokens={max_batch_tokens}, max_running={max_running}"
            )
        self.cache = cache
        self.max_batch_tokens, self.max_running = max_batch_tokens, max_running
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []  # in order of arrival
        self._preempted = False  # in this step

    def add(self, request: Request, limit: int) -> None:
        """Queue a request that may grow to `limit` positions."""
        for pool in self.cache.pools:
            needed = pool.group.most_pages(limit, self.max_batch_tokens, pool.page_size)
            if needed > pool.pages:
                raise TinymoeError(
                    f"request {request.request_id!r} may grow to {limit} positions ({needed} pages "
                    f"at once), the cache has {pool.pages} pages in all for layers "
                    f"{pool.group.layers} (they keep {pool.group.kind}): lower max_tokens, shorten "
                    "the prompt, or load the model with more cache positions"
                )
        self.waiting.append(request)

    def pick(self) -> list[Piece]:
        """Pieces of one step, decodes first. Their pages are allocated; nothing is marked done."""
        budget, self._preempted = self.max_batch_tokens, False
        pieces: list[Piece] = []
        for request in self._in_order():
            if budget == 0:
                break
            if request not in self.running and not self._admit(request):
                break  # nobody overtakes the head of the queue
            piece = Piece(request, min(request.length, request.cached + budget))
            if not self._grow(piece):
                break
            pieces.append(piece)
            budget -= piece.tokens
        if not self._preempted:
            return pieces
        return [piece for piece in pieces if piece.request in self.running]

    def _in_order(self) -> list[Request]:
        """Decodes, then prompts under way, then the queue."""
        decodes: list[Request] = []
        prompts: list[Request] = []
        for request in self.running:
            (decodes if request.length - request.cached == 1 else prompts).append(request)
        return [*decodes, *prompts, *self.waiting]

    def _admit(self, request: Request) -> bool:
        """Move the head of the queue to the running, if there is a place and a page for it."""
        if self._preempted:  # pages just taken from one must not go to another behind it
            return False
        if len(self.running) >= self.max_running or 0 in self.cache.free_pages:
            return False
        self.waiting.remove(request)
        self.running.append(request)
        return True

    def _grow(self, piece: Piece) -> bool:
        """Pages for the piece; if there are none, the youngest other request starts over."""
        request = piece.request
        if not request.pages:
            request.pages = [[] for _ in self.cache.pools]
        needed = self._missing(piece)
        if not any(needed):  # as nearly always: a page is for some positions
            return True
        while any(map(int.__gt__, needed, self.cache.free_pages)):
            youngest = self.running[-1]
            if youngest is request:
                # it waits for an older one to finish; `add` made sure that it fits alone
                self._preempt(request)
                return False
            self._preempt(youngest)
        for pool, table in zip(self.cache.pools, request.pages, strict=True):
            pool.hold(table, request.cached, piece.stop)
        return True

    def _missing(self, piece: Piece) -> list[int]:
        """Pages that the piece lacks, of every pool."""
        request, stop = piece
        return [
            pool.missing(table, request.cached, stop)
            for pool, table in zip(self.cache.pools, request.pages, strict=True)
        ]

    def _preempt(self, request: Request) -> None:
        """Take a request's pages; it keeps its output and will be computed again from the start."""
        self._preempted = True
        self.running.remove(request)
        self._release(request)
        self.waiting.appendleft(request)

    def _release(self, request: Request) -> None:
        if request.pages:
            for pool, table in zip(self.cache.pools, request.pages, strict=True):
                pool.release(table)
        request.pages, request.cached = [], 0

    def done(self, pieces: list[Piece]) -> None:
        """The model has run these pieces: their keys and values are in the cache.

        What is out of sight of the next token is given back at once.
        """
        for request, stop in pieces:
            request.cached = stop
            for pool, table in zip(self.cache.pools, request.pages, strict=True):
                pool.let_go(table, stop)

    def remove(self, request: Request) -> None:
        """A request has finished, or its owner lost interest: its pages are free again."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        self._release(request)

    def check_integrity(self) -> None:
        """Every page is owned once or free; see `PagedCache.check_integrity`."""
        self.cache.check_integrity(request.pages for request in self.running)


def _pending(request: Request, stop: int) -> list[int]:
    """Ids at positions cached .. stop - 1; a long sequence is not copied for its last token."""
    start, prompt = request.cached, len(request.prompt_ids)
    if start >= prompt:
        return request.output_ids[start - prompt : stop - prompt]
    return [*request.prompt_ids[start:stop], *request.output_ids[: max(0, stop - prompt)]]


def build_batch(pieces: list[Piece]) -> Batch:
    """Lay the pieces' tokens side by side in one flat run."""
    ids: list[int] = []
    positions: list[int] = []
    runs: list[Run] = []
    logit_rows: list[int] = []
    for request, stop in pieces:
        rows = slice(len(ids), len(ids) + stop - request.cached)
        ids += _pending(request, stop)
        positions += range(request.cached, stop)
        runs.append(Run(rows, request.cached, as_arrays(request.pages)))
        if stop == request.length:
            logit_rows.append(rows.stop - 1)  # only a sequence's last token predicts the next
    as_array = [np.array(values, np.int64) for values in (ids, positions, logit_rows)]
    return Batch(as_array[0], as_array[1], tuple(runs), as_array[2])
