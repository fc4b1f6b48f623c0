"""The engine: requests go in, tokens come out, `step` is one pass of the model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

from tinymoe.cache import BATCH_TOKENS, SEQUENCES, PagedCache
from tinymoe.core import (
    Array,
    ModelConfig,
    Numerics,
    Request,
    Sampling,
    Tap,
    TinymoeError,
    TokenOut,
)
from tinymoe.engine.scheduler import Scheduler, build_batch
from tinymoe.model.ops import DEFINITION, Ops
from tinymoe.model.params import Params
from tinymoe.model.transformer import forward, no_tap
from tinymoe.sampler import Sampled, check_sampling, sample, takes_largest


class Engine:
    """Serves many requests with one model and one cache.

    A request's tokens depend on its prompt, its sampling and the model: not on what else is in
    the batch, how the prompt was cut, or when it came (vllm#53257; the property tests hold it).
    """

    def __init__(
        self,
        params: Params,
        config: ModelConfig,
        numerics: Numerics,
        cache: PagedCache,
        *,
        end_ids: Sequence[int] = (),
        ops: Ops = DEFINITION,
        tap: Tap = no_tap,
        max_batch_tokens: int = BATCH_TOKENS,
        max_running: int = SEQUENCES,
    ) -> None:
        """`end_ids`: the checkpoint's end-of-sequence ids. `tap` sees every activation."""
        self.params, self.config, self.numerics, self.cache = params, config, numerics, cache
        self.end_ids, self.ops, self.tap = tuple(end_ids), ops, tap
        self.scheduler = Scheduler(
            cache, max_batch_tokens=max_batch_tokens, max_running=max_running
        )
        self._numbers = count()

    def submit(
        self, prompt_ids: Sequence[int], sampling: Sampling, request_id: str | None = None
    ) -> Request:
        """Queue a prompt. It is checked here, before it can stop others half-way."""
        self._check_prompt(prompt_ids)
        check_sampling(sampling, self.config.vocab_size)
        name = request_id if request_id is not None else f"request-{next(self._numbers)}"
        request = Request(name, tuple(int(i) for i in prompt_ids), sampling)
        self.scheduler.add(request, self.limit(request))
        return request

    def step(self) -> list[TokenOut]:
        """Schedule, run, sample, finish: everyone who is ready gets one more token."""
        pieces = self.scheduler.pick()
        if not pieces:
            self.scheduler.check_integrity()
            return []
        batch = build_batch(pieces)
        ready = [piece.request for piece in pieces if piece.complete]
        given = (self.params, self.config, batch, self.cache, self.numerics)
        ids = self._largest(given, ready)
        if ids is not None:
            self.scheduler.done(pieces)
            found = [Sampled(token, None, ()) for token in ids]
        else:
            logits = forward(*given, self.ops, self.tap)
            self.scheduler.done(pieces)
            found = [self._sample(*each) for each in zip(ready, logits, strict=True)]
        return [self._extend(*each) for each in zip(ready, found, strict=True)]

    def cancel(self, request: Request) -> None:
        """Forget a request: stop strings end requests this way, and users who leave."""
        self.scheduler.remove(request)

    @property
    def busy(self) -> bool:
        """Some request is not finished."""
        return bool(self.scheduler.running or self.scheduler.waiting)

    def limit(self, request: Request) -> int:
        """The most positions a request may reach."""
        asked = len(request.prompt_ids) + request.sampling.max_tokens
        return min(asked, self.config.max_positions)

    def _largest(self, given: Any, ready: Sequence[Request]) -> list[int] | None:
        """Ids (R,) of a step whose logits nobody looks at; None: by way of logits.

        A row without a finite largest logit is run again: what it writes to the cache is the same,
        and the sampler says what is wrong with it.
        """
        step, alone = self.ops.step, self.tap is no_tap
        if step is None or not alone:
            return None
        if not all(takes_largest(one.sampling, len(one.output_ids)) for one in ready):
            return None
        ids = step.greedy(*given)
        if ids is None:
            return None
        chosen: list[int] = ids.tolist()  # plain numbers: there are few, and NumPy's take longer
        return None if min(chosen, default=0) < 0 else chosen

    def _ends(self, request: Request) -> tuple[int, ...]:
        return () if request.sampling.ignore_eos else self.end_ids

    def _sample(self, request: Request, logits: Array) -> Sampled:
        """A request's next token, from its row of logits (V,)."""
        ends, sampling = self._ends(request), request.sampling
        return sample(logits, sampling, request.prompt_ids, request.output_ids, end_ids=ends)

    def _extend(self, request: Request, sampled: Sampled) -> TokenOut:
        """Append a token, and finish the request if it was the last one."""
        (token, logprob, top), sampling = sampled, request.sampling
        request.output_ids.append(token)
        if token in self._ends(request):
            request.finish = "eos"
        elif token in sampling.stop_ids:
            request.finish = "stop"
        elif request.length >= self.limit(request):
            request.finish = "length"
        if request.finish:
            self.scheduler.remove(request)
        return TokenOut(request.request_id, token, logprob, top, request.finish)

    def _check_prompt(self, prompt_ids: Sequence[int]) -> None:
        vocab, most = self.config.vocab_size, self.config.max_positions
        if not len(prompt_ids):
            raise TinymoeError("the prompt is empty: the model needs at least one token to go on")
        wrong = [i for i in prompt_ids if not 0 <= i < vocab]
        if wrong:
            raise TinymoeError(
                f"token ids must be from 0 to {vocab - 1} (this model's vocabulary), "
                f"got {wrong[:5]}"
            )
        if len(prompt_ids) >= most:
            raise TinymoeError(
                f"the prompt has {len(prompt_ids)} tokens, the model has "
                f"{self.config.positions_said} and needs one for its answer: shorten the prompt "
                f"to at most {most - 1} tokens"
            )
