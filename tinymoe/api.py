"""What Python users touch: `tinymoe.load(...)` and the `Model` it returns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from tinymoe.cache import BATCH_TOKENS, SEQUENCES, PagedCache
from tinymoe.cards import in_form
from tinymoe.checkpoint import Checkpoint
from tinymoe.core import (
    NUMERICS,
    Array,
    ModelConfig,
    Numerics,
    Sampling,
    Tap,
    TinymoeError,
)
from tinymoe.engine import Engine
from tinymoe.engine.text import Token as Token
from tinymoe.engine.text import push
from tinymoe.families import load_params, read_config, stored_matrices
from tinymoe.kernels import ops
from tinymoe.model.on_demand import Reads
from tinymoe.model.ops import DEFINITION, Ops
from tinymoe.model.params import Params
from tinymoe.model.transformer import no_tap
from tinymoe.oracle.trace import forward_alone, trace
from tinymoe.sampler import check_sampling
from tinymoe.tokenizer import TextStream, Tokenizer

Prompt = str | Sequence[int]
Latent = Literal["absorbed", "expanded"]


def shipped_model() -> Path:
    """The folder of the model that comes with tinymoe."""
    return Path(str(resources.files("tinymoe.weights")))


def load(
    path: str | Path | None = None,
    *,
    backend: str = "numpy",
    numerics: str | Numerics | None = None,
    memory: str | int | None = None,
    on_demand: bool = False,
    latent: Latent | None = None,
    positions: int | None = None,
    threads: int | None = None,
    repack_cache: bool = False,
) -> Model:
    """Open a model folder (None: the shipped model) and read its weights.

    `numerics` is "fp32" (the default), "exact", "bf16", "checkpoint", or a `Numerics` value.
    "checkpoint" is bf16 with the inputs of quantised weights, and the cache, quantised as the
    checkpoint's scheme says an engine would; for a checkpoint that is not quantised it is bf16.

    `backend` computes: "numpy" is the definition; "numba" is compiled and uses all cores; "ptx"
    runs the CUDA kernels on the CPU, every access checked, some thousand times slower; "cuda" runs
    them on a GPU. `threads`: of "numba"; None: the physical cores this process may use.

    `repack_cache`: of "numba": keep the weights, in the form that it lays them out in, in the
    folder `.tinymoe` of the model's, and take them from there if they are still the model's.

    `memory`: bytes for weights, as "3GB" (None: what is available). Weights that do not fit are
    read when they are used, with the same results; with `on_demand` they are so even if they fit.

    `latent`: the form of latent attention (DeepSeek), two orders of the same sums, whose last bits
    differ. "absorbed" caches the latent vector alone; "expanded" caches every head's keys and
    values. None: absorbed to generate, where the cache counts; expanded for logits and traces,
    which then hold every head's keys. Other models are the same in both.

    `positions`: of the longest sequence wanted. Phi-3.5-MoE turns all its queries and keys by other
    angles if that is beyond 4,096; other models are the same for every number they have.

    >>> import tinymoe
    >>> model = tinymoe.load()
    >>> model.config.router.top_k
    4
    """
    if latent not in (None, "absorbed", "expanded"):
        raise TinymoeError(f"latent must be 'absorbed' or 'expanded', got {latent!r}")
    checkpoint, chosen = Checkpoint.open(path or shipped_model()), pick_numerics(numerics)
    computed_by = ops(backend, threads, kept_beside=checkpoint if repack_cache else None)
    return Model(
        checkpoint,
        chosen,
        computed_by,
        memory=memory,
        on_demand=on_demand,
        latent=latent,
        positions=positions,
    )


def pick_numerics(numerics: str | Numerics | None) -> Numerics:
    """A preset by name, or the value itself. None is fp32: the widest that is still fast."""
    if isinstance(numerics, Numerics):
        return numerics
    name = numerics or "fp32"
    if name not in NUMERICS:
        raise TinymoeError(f"numerics must be one of {', '.join(NUMERICS)}; got {name!r}")
    return NUMERICS[name]


class Model:
    """A checkpoint ready to run: call it for logits, `generate` text, `trace` every activation."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        numerics: Numerics,
        ops: Ops = DEFINITION,
        *,
        memory: str | int | None = None,
        on_demand: bool = False,
        latent: Latent | None = None,
        positions: int | None = None,
    ) -> None:
        """`memory`, `on_demand`, `latent`: see `load`."""
        self.checkpoint, self.numerics, self.ops = checkpoint, numerics, ops
        read = read_config(checkpoint.config, positions)
        self.config: ModelConfig = in_form(read, latent or "expanded")  # of logits and traces
        self.generating: ModelConfig = in_form(read, latent or "absorbed")
        # a step that holds weights in a form of its own reads them once, layer by layer
        quantises = numerics.activations == "checkpoint"
        known = stored_matrices(checkpoint, self.generating, numerics) if quantises else None
        self._packs = ops.step is not None and ops.step.covers(self.generating, numerics, known)
        self.params: Params = load_params(
            checkpoint, self.config, numerics, memory, on_demand, as_stored=self._packs
        )
        self._tokenizer: Tokenizer | None = None

    @property
    def reads(self) -> Reads | None:
        """What was read so far of weights that are read on demand; None: they are in memory."""
        return None if self._packs else self.params.reads

    def prepare(self, report: Callable[[str, int, int], None] | None = None) -> None:
        """What else would be done at the first token: the backend's own form of the weights.

        `report` is told what is done, how much of it, and of how much.
        """
        if self.ops.step is not None:
            self.ops.step.prepare(self.params, self.generating, self.numerics, report)

    @property
    def tokenizer(self) -> Tokenizer:
        """Opened when first needed: raw token ids need none."""
        if self._tokenizer is None:
            self._tokenizer = Tokenizer.open(self.checkpoint.path)
        return self._tokenizer

    def __call__(self, ids: Sequence[int]) -> Array:
        """Logits (T, V) of token ids (T,); row t predicts token t + 1.

        >>> import tinymoe
        >>> tinymoe.load()([5, 6, 7]).shape
        (3, 4096)
        """
        return forward_alone(self.params, self.config, ids, self.numerics, ops=self.ops)

    def trace(
        self,
        ids: Sequence[int] = (),
        taps: Sequence[str] = (),
        *,
        layers: tuple[int, int | None] | None = None,
        hidden: Array | None = None,
        into: Tap | None = None,
    ) -> dict[str, Array]:
        """Every activation of ids (T,): tap name to array, in execution order.

        `taps`: shell patterns of the names to keep; none means all but the expert outputs.
        `layers=(3, 5), hidden=x`: layers 3 and 4 alone, from x (T, H) that enters layer 3.
        `layers=(0, 2)`: the embedding of ids and two layers; `(46, None)`: to the logits.
        `into`: given each tap as it comes, so that a long trace needs no memory for all.

        >>> import tinymoe
        >>> tinymoe.load().trace([5, 6, 7], ["layers.0.router.ids"])["layers.0.router.ids"].shape
        (3, 4)
        """
        return trace(
            self.params,
            self.config,
            ids,
            self.numerics,
            ops=self.ops,
            patterns=taps,
            layers=layers,
            hidden=hidden,
            into=into,
        )

    def default_sampling(self, **settings: Any) -> Sampling:
        """The checkpoint's own sampling (generation_config.json), with `settings` on top."""
        known = {field.name for field in fields(Sampling)}
        unknown = sorted(set(settings) - known)
        if unknown:
            raise TinymoeError(f"unknown sampling settings {unknown}; known: {sorted(known)}")
        file = self.checkpoint.generation
        names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        chosen = {name: file[name] for name in names if file.get(name) is not None}
        if file.get("do_sample") is False:
            chosen["temperature"] = 0.0
        return replace(Sampling(**chosen), **settings)

    def engine(
        self,
        *,
        positions: int,
        tap: Tap = no_tap,
        max_batch_tokens: int = BATCH_TOKENS,
        max_running: int = SEQUENCES,
    ) -> Engine:
        """An engine with cache for `positions` positions over all its requests."""
        return Engine(
            self.params,
            self.generating,
            self.numerics,
            PagedCache.for_model(
                self.generating,
                self.numerics,
                positions,
                sequences=max_running,
                batch_tokens=max_batch_tokens,
            ),
            end_ids=self.end_ids,
            ops=self.ops,
            tap=tap,
            max_batch_tokens=max_batch_tokens,
            max_running=max_running,
        )

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The checkpoint's end-of-sequence ids: its own, or else its tokenizer's."""
        stated = self.checkpoint.end_ids
        return stated or (self.tokenizer.eos_ids if self.checkpoint.has_tokenizer else ())

    def generate(
        self, prompt: Prompt, sampling: Sampling | None = None, **settings: Any
    ) -> Iterator[Token]:
        """Continue `prompt` (text, or token ids), token by token.

        `sampling` replaces the checkpoint's defaults; `settings` are single fields of it.

        >>> import tinymoe
        >>> tokens = list(tinymoe.load().generate("Once upon a time", max_tokens=4, temperature=0))
        >>> len(tokens)
        4
        """
        chosen = replace(sampling, **settings) if sampling else self.default_sampling(**settings)
        for _, token in self.generate_many([prompt], [chosen]):
            yield token

    def generate_many(
        self,
        prompts: Sequence[Prompt],
        samplings: Sequence[Sampling],
        *,
        tap: Tap = no_tap,
        max_batch_tokens: int = BATCH_TOKENS,
    ) -> Iterator[tuple[int, Token]]:
        """Continue several prompts together: (number of the prompt, its next token), as they come.

        Each gives what it would give alone, bit for bit. Text prompts are encoded with the
        checkpoint's rules; a stop string ends its own prompt only.
        """
        encoded = [self.encode(prompt) for prompt in prompts]
        for sampling in samplings:  # before max_tokens becomes the size of a cache
            check_sampling(sampling, self.config.vocab_size)
        wishes = [
            min(len(ids) + s.max_tokens, self.config.max_positions) + 16  # whole pages
            for ids, s in zip(encoded, samplings, strict=True)
        ]
        engine = self.engine(
            positions=sum(wishes),
            tap=tap,
            max_batch_tokens=max_batch_tokens,
            max_running=max(1, min(len(prompts), SEQUENCES)),
        )
        requests = [
            engine.submit(ids, sampling, str(number))
            for number, (ids, sampling) in enumerate(zip(encoded, samplings, strict=True))
        ]
        streams = [self._stream(s) for s in samplings]
        while engine.busy:
            for out in engine.step():
                number, now = int(out.request_id), time.perf_counter()
                text, finish = push(streams[number], out.token_id, out.finish)
                if finish == "stop" and out.finish is None:
                    engine.cancel(requests[number])
                yield number, Token(out.token_id, text, out.logprob, out.top_logprobs, finish, now)

    def encode(self, prompt: Prompt) -> list[int]:
        """Text to token ids by the checkpoint's rules; token ids as they are."""
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        return list(prompt)

    def _stream(self, sampling: Sampling) -> TextStream | None:
        """A stream that turns ids into text, unless the folder has no tokenizer to do it."""
        if not self.checkpoint.has_tokenizer and not sampling.stop:
            return None
        return TextStream(self.tokenizer, sampling.stop)
