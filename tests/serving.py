"""An engine under watch, for tests: what each request got, token by token, bit by bit."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from tests.tiny import tiny_config, tiny_params
from tinymoe.cache import PagedCache
from tinymoe.core import NUMERICS, Sampling
from tinymoe.engine import Engine

CONFIG = tiny_config()
PARAMS = {name: tiny_params(CONFIG, numerics) for name, numerics in NUMERICS.items()}


class Result(NamedTuple):
    tokens: tuple  # of TokenOut, without the request's name
    logits: tuple  # bytes of each token's row of logits


class Bench:
    """An engine whose unused cache is garbage, checked after every step."""

    def __init__(
        self, preset, *, pages, page_size, max_batch_tokens=512, max_running=64, model=None, **room
    ):
        """`model`: (config, params) in the preset's numerics; the tiny one without.

        `room`: of the cache, when it is made for other sequences and steps than the engine's.
        """
        n = NUMERICS[preset]
        config, params = (CONFIG, PARAMS[preset]) if model is None else model
        room = {"sequences": max_running, "batch_tokens": max_batch_tokens} | room
        self.cache = PagedCache.for_model(config, n, pages * page_size, page_size, **room)
        self.layers = [self.cache.layer(layer) for layer in range(config.num_layers)]
        for array in (array for arrays in self.layers for array in arrays):
            array[:] = np.nan
        self.rows = []
        self.engine = Engine(
            params,
            config,
            n,
            self.cache,
            end_ids=(7,),
            tap=self.look,
            max_batch_tokens=max_batch_tokens,
            max_running=max_running,
        )
        self.results = {}
        self.preemptions = 0
        self.batch_tokens = []

    def look(self, name, value):
        if name == "logits":
            self.rows = [row.tobytes() for row in value]
        if name == "tokens":
            self.batch_tokens.append(len(value))

    def submit(self, name, prompt, sampling):
        self.results[name] = Result((), ())
        return self.engine.submit(prompt, sampling, name)

    def step(self):
        before = list(self.engine.scheduler.running)
        cached = {id(request): request.cached for request in before}
        outs = self.engine.step()
        self.engine.scheduler.check_integrity()
        self.poison()
        self.preemptions += sum(not r.finish and r.cached < cached[id(r)] for r in before)
        for out, row in zip(outs, self.rows, strict=False):
            tokens, logits = self.results[out.request_id]
            self.results[out.request_id] = Result((*tokens, out[1:]), (*logits, row))
        return outs

    def poison(self):
        """NaN in every page that nobody owns: who reads what was given back shows it."""
        for number, pool in enumerate(self.cache.pools):
            running = self.engine.scheduler.running
            owned = {page for request in running if request.pages for page in request.pages[number]}
            free = sorted(set(range(pool.pages)) - owned)
            for layer in pool.group.layers:
                for array in self.layers[layer]:
                    array[free] = np.nan

    def finish(self, steps=2000):
        """Run to the end: no request waits for ever, no page is lost."""
        for _ in range(steps):
            if not self.engine.busy:
                break
            self.step()
        assert not self.engine.busy
        assert self.cache.free_pages == self.cache.pages
        return self.results


@cache
def alone(preset, prompt, temperature, max_tokens, seed):
    """What a request gets from an engine of its own, its prompt in one piece."""
    bench = Bench(preset, pages=1, page_size=64)
    bench.submit("it", prompt, sampling_of(temperature, max_tokens, seed))
    return bench.finish()["it"]


def sampling_of(temperature, max_tokens, seed):
    return Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed, logprobs=2)
