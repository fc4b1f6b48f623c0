"""One timed run: B prompts of the same length prefilled in one step, then decoded step by step.

Two forms of the same work. `engine_run` times `Engine.step`: scheduling, the model, greedy
sampling. `model_run` repeats its very batches, token by token, and times `forward` alone. Their
difference is what the engine adds, less what it saves where logits need not be written. Lengths
are fixed: the end-of-sequence id ends nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from tinymoe.cache import PagedCache
from tinymoe.core import Array, ModelConfig, Numerics, Sampling
from tinymoe.engine import Engine
from tinymoe.engine.scheduler import build_batch
from tinymoe.measure.machine import Clock
from tinymoe.model.ops import DEFINITION, Ops
from tinymoe.model.params import Params
from tinymoe.model.transformer import forward, no_tap

Outputs = list[list[int]]  # of each request, its generated ids


class Subject(NamedTuple):
    """The model that is measured."""

    params: Params
    config: ModelConfig
    numerics: Numerics
    ops: Ops = DEFINITION


class Case(NamedTuple):
    """One row of the result: B requests of n prompt tokens that generate N tokens each."""

    batch: int  # B
    prompt: int  # n
    tokens: int  # N; the first comes from the prefill, so there are N - 1 decode steps

    @property
    def contexts(self) -> tuple[int, int]:
        """Keys that a token sees in the first and in the last decode step, itself included."""
        return self.prompt + 1, self.prompt + self.tokens - 1

    @property
    def mean_context(self) -> float:
        """Over the decode steps."""
        return sum(self.contexts) / 2

    @property
    def positions(self) -> int:
        """Of the cache, for all requests in whole pages."""
        return self.batch * (self.prompt + self.tokens + 16)


class Timing(NamedTuple):
    """Seconds of one run."""

    first: float  # prefill; for the engine: from submitting to the first token of every request
    steps: tuple[float, ...]  # N - 1 decode steps; each gives every request one token


def make_prompts(case: Case, vocab: int, seed: int) -> list[list[int]]:
    """B prompts of n token ids, uniform over the vocabulary, the same for a seed."""
    draw = np.random.default_rng(seed)
    rows: list[list[int]] = draw.integers(0, vocab, (case.batch, case.prompt)).tolist()
    return rows


def make_engine(subject: Subject, case: Case) -> Engine:
    """An engine that takes all prompts in one step, so that then every step is B decodes."""
    return Engine(
        subject.params,
        subject.config,
        subject.numerics,
        PagedCache.for_model(
            subject.config,
            subject.numerics,
            case.positions,
            sequences=case.batch,
            batch_tokens=case.batch * case.prompt,
        ),
        ops=subject.ops,
        max_batch_tokens=case.batch * case.prompt,
        max_running=case.batch,
    )


def engine_run(
    engine: Engine, case: Case, prompts: Sequence[Sequence[int]], clock: Clock
) -> tuple[Timing, Outputs]:
    """Submit, then step until all are done; a timestamp after each step."""
    sampling = _sampling(case)
    stamps = [clock()]
    requests = [engine.submit(prompt, sampling) for prompt in prompts]
    while engine.busy:
        given = engine.step()
        stamps.append(clock())
        if len(given) != case.batch:  # or tokens would be counted that no step gave
            raise AssertionError(f"a step gave {len(given)} tokens, expected {case.batch}")
    if len(stamps) != case.tokens + 1:
        raise AssertionError(f"{len(stamps) - 1} steps, expected {case.tokens}")
    gaps = [after - before for before, after in pairwise(stamps)]
    return Timing(gaps[0], tuple(gaps[1:])), [request.output_ids for request in requests]


def model_run(
    engine: Engine,
    case: Case,
    prompts: Sequence[Sequence[int]],
    outputs: Outputs,
    clock: Clock,
) -> Timing:
    """The batches of `engine_run` again, with the tokens it found; the clock runs in `forward`."""
    requests = [engine.submit(prompt, _sampling(case)) for prompt in prompts]
    seconds = []
    for step in range(case.tokens):
        pieces = engine.scheduler.pick()
        batch = build_batch(pieces)
        begin = clock()
        forward(
            engine.params, engine.config, batch, engine.cache, engine.numerics, engine.ops, no_tap
        )
        seconds.append(clock() - begin)
        engine.scheduler.done(pieces)
        for request, output in zip(requests, outputs, strict=True):
            request.output_ids.append(output[step])
    for request in requests:
        engine.cancel(request)
    return Timing(seconds[0], tuple(seconds[1:]))


def _sampling(case: Case) -> Sampling:
    return Sampling(max_tokens=case.tokens, temperature=0.0, ignore_eos=True)


class ExpertCount:
    """A tap that counts, call by call, how many experts of a layer a step touches."""

    def __init__(self) -> None:
        self._calls: list[int] = []

    def __call__(self, name: str, value: Array) -> None:
        """Looks at router ids (T, K)."""
        if name.endswith(".router.ids"):
            self._calls.append(len(np.unique(value)))

    def per_decode_step(self, moe_layers: int) -> list[float]:
        """Mean over a run's decode steps, for each layer with experts; the prefill left out."""
        return self.per_step(moe_layers, skip=1)

    def per_step(self, moe_layers: int, skip: int = 0) -> list[float]:
        """Mean over all steps but the first `skip`, for each layer with experts."""
        counts = np.array(self._calls[skip * moe_layers :], float).reshape(-1, moe_layers)  # (N, L)
        means: list[float] = counts.mean(axis=0).tolist()
        return means
