"""The engine: requests go in, tokens come out, `step` is one pass of the model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

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
from tinymoe.sampler import check_sampling, sample


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
        logits = forward(
            self.params, self.config, batch, self.cache, self.numerics, self.ops, self.tap
        )
        self.scheduler.done(pieces)
        ready = [piece.request for piece in pieces if piece.complete]
        return [self._extend(request, row) for request, row in zip(ready, logits, strict=True)]

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

    def _extend(self, request: Request, logits: Array) -> TokenOut:
        """Sample one token, append it, and finish the request if it was the last one."""
        sampling = request.sampling
        ends = () if sampling.ignore_eos else self.end_ids
        token, logprob, top = sample(
            logits, sampling, request.prompt_ids, request.output_ids, end_ids=ends
        )
        request.output_ids.append(token)
        if token in ends:
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
