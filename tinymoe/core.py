"""The nouns of tinymoe, on one page: how a model routes, how it rounds, what is asked of it.

One alphabet, everywhere: T tokens, H hidden, E experts, K chosen per token, I expert
intermediate, G groups, V vocabulary, Nq/Nk query/key heads, D head size, L layers, P page.

Nothing here computes. What a checkpoint defines stands in `cards.py`, whose names are handed on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from tinymoe.cache_groups import CacheGroup as CacheGroup
from tinymoe.cards import AttentionCard as AttentionCard
from tinymoe.cards import ExpertCard as ExpertCard
from tinymoe.cards import GatedDeltaCard as GatedDeltaCard
from tinymoe.cards import LatentCard as LatentCard
from tinymoe.cards import LayerCard as LayerCard
from tinymoe.cards import LightningCard as LightningCard
from tinymoe.cards import ModelConfig as ModelConfig
from tinymoe.cards import Multipliers as Multipliers
from tinymoe.cards import RopeCard as RopeCard
from tinymoe.cards import RouterCard as RouterCard

Array: TypeAlias = npt.NDArray[Any]
Storage: TypeAlias = Literal["float64", "float32", "bfloat16"]


class TinymoeError(Exception):
    """A wrong call or a wrong input. The message says what was expected, what came, what to do."""


# ------------------------------------------------------------------------------- the routing


class Routing(NamedTuple):
    """Where the router sends T tokens. Rows of ids and weights: by weight descending, then id."""

    logits: Array  # (T, E)
    scores: Array  # (T, E) after the score step, before any bias
    ids: Array  # (T, K) int64, distinct in a row
    weights: Array  # (T, K) every factor included
    margin: Array  # (T,) selection score of the last chosen minus that of the best left out


class Permutation(NamedTuple):
    """The T*K (token, choice) slots, sorted by expert; inside an expert by token, then choice."""

    order: Array  # (T*K,) slot t*K + k of each row, in expert order
    offsets: Array  # (E + 1,) rows offsets[e]:offsets[e + 1] belong to expert e


# ------------------------------------------------------------------------------- the numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Numerics:
    """In which type each thing is kept and each sum is taken.

    The order of sums is written where the sum is: see the docstrings in `tinymoe/model`.
    """

    name: str
    storage: Storage  # every tensor that passes from one op to the next
    accumulate: Literal["float64", "float32"]  # every product and sum inside an op
    router_logits: Storage | Literal["card"]  # "card": as RouterCard.logits_dtype says
    weights: Literal["checkpoint"]  # weights as stored, widened exactly to `accumulate`
    # as they enter a product: as they are stored, or quantised as the checkpoint's scheme says an
    # engine would, where its weights are; keys and values then lie in the cache's format, too
    activations: Literal["storage", "checkpoint"]
    # matrices that share their input (q/k/v, gate/up) share its scale, the loudest calibration's.
    # Experts each have their own, or, as in engines that quantise a token once for all of them,
    # the largest of a layer's
    expert_inputs: Literal["own", "largest"] = "own"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy type that holds all values (bf16 values are kept in float32 arrays)."""
        return np.dtype(self.accumulate)


def _preset(
    name: str,
    storage: Storage,
    accumulate: Literal["float64", "float32"],
    router_logits: Storage | Literal["card"],
    activations: Literal["storage", "checkpoint"] = "storage",
) -> Numerics:
    return Numerics(
        name=name,
        storage=storage,
        accumulate=accumulate,
        router_logits=router_logits,
        weights="checkpoint",
        activations=activations,
    )


NUMERICS: Mapping[str, Numerics] = {
    "exact": _preset("exact", "float64", "float64", "float64"),
    "fp32": _preset("fp32", "float32", "float32", "float32"),
    "bf16": _preset("bf16", "bfloat16", "float32", "card"),  # what engines do
    # what engines do with a quantised checkpoint; with any other, the same as bf16
    "checkpoint": _preset("checkpoint", "bfloat16", "float32", "card", "checkpoint"),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantTensor:
    """A quantised matrix (N, K), or a stack of them (..., N, K), in the bytes of a checkpoint.

    Blocks run along K, the axis of the sum in a matrix product. Its format's `decode` reads it.
    """

    format: Literal["nvfp4", "mxfp4", "fp8"]
    convention: str  # who made it: a row of that format's table in `formats/conventions.py`
    codes: Array  # uint8: (..., N, K/2), low nibble first, or (..., N, K) in FP8
    scales: Array  # one a block, row-major: E4M3 bytes, E8M0 bytes, or float32 multipliers
    block: tuple[int, int]  # rows and columns that share a scale
    tensor_scale: np.floating[Any] | None  # float32, the second level of NVFP4
    # value = code * scale * tensor_scale, or / tensor_scale; the wrong one is off by its square,
    # some 1e-9 (modular#6600). "amax": the tensor's largest magnitude, 2688 times the multiplier
    tensor_scale_is: Literal["multiplier", "divisor", "amax", "none"]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the values it stands for."""
        values_per_byte = 1 if self.format == "fp8" else 2
        return (*self.codes.shape[:-1], self.codes.shape[-1] * values_per_byte)


# ------------------------------------------------------------------------------- the work


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """What a request asks of the sampler. Meanings, formulas and order: `tinymoe/sampler.py`."""

    max_tokens: int = 128
    temperature: float = 1.0  # below 1e-5 is greedy
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    min_p: float = 0.0  # 0: off
    repetition_penalty: float = 1.0  # 1: off; over prompt and output
    presence_penalty: float = 0.0  # 0: off; over the output
    frequency_penalty: float = 0.0  # 0: off; over the output
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # token id -> added logit
    stop: tuple[str, ...] = ()  # text that ends the output; not part of it
    stop_ids: tuple[int, ...] = ()  # token ids that end the output
    min_tokens: int = 0  # no end of sequence and no stop id before so many
    ignore_eos: bool = False  # the checkpoint's end-of-sequence ids do not end the output
    seed: int = 0  # the draw of token n depends on (seed, n) alone, never on the batch
    logprobs: int | None = None  # None: none; n: of the chosen token and of the n best
    logprobs_of: Literal["raw", "processed"] = "raw"  # before or after penalties and masks
    order: Literal["vllm", "transformers"] = "vllm"  # when min_p comes: before or after top_p


class TokenOut(NamedTuple):
    """One generated token."""

    request_id: str
    token_id: int
    logprob: float | None  # natural log; None when not asked for
    top_logprobs: tuple[tuple[int, float], ...]  # (id, logprob), best first; empty if not asked
    finish: Literal["eos", "stop", "length"] | None  # why this token is the last one


@dataclass(slots=True, eq=False)  # two requests may say the same: each is itself
class Request:
    """One prompt on its way. The scheduler alone changes it, after the caller has made it."""

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    output_ids: list[int] = field(default_factory=list)  # appended by Engine.step
    cached: int = 0  # positions whose keys and values are in the cache; set by the scheduler
    pages: list[list[int]] = field(default_factory=list)  # block table of each cache group,
    # none before it runs; set by the scheduler
    finish: Literal["eos", "stop", "length"] | None = None  # set by Engine.step or the caller

    @property
    def length(self) -> int:
        """Prompt and output so far, in tokens."""
        return len(self.prompt_ids) + len(self.output_ids)


class Run(NamedTuple):
    """A stretch of consecutive positions of one sequence inside a batch."""

    rows: slice  # of the batch
    start: int  # position of its first token
    # (pages,) block table of each cache group: page p holds positions p*P .. p*P + P - 1; of
    # layers with a state, the one page is the slot of the sequence
    pages: tuple[Array, ...]

    @property
    def stop(self) -> int:
        """Position after its last token: the number of keys its last token sees."""
        return self.start + self.rows.stop - self.rows.start


class Batch(NamedTuple):
    """One flat run of T tokens, of any mix of sequences, prompts and decodes."""

    ids: Array  # (T,) int64
    positions: Array  # (T,) int64
    runs: tuple[Run, ...]  # cover the rows in order
    logit_rows: Array  # (R,) rows whose logits are wanted


class PagedKeysValues(Protocol):
    """What the model needs of a cache: the pages of one layer, to read and to write."""

    @property
    def page_size(self) -> int:
        """P, in positions."""
        ...

    def layer(self, index: int) -> tuple[Array, Array]:
        """Key pages (pages, P, Nk, D) and value pages (pages, P, Nk, D), writable.

        Of a layer with a state: (slots, *shape) of its two arrays, see `ModelConfig.state`.
        """
        ...


# Looks on as the model runs: called with each activation's name and value. The value must not
# be changed, and must be copied to be kept.
Tap: TypeAlias = Callable[[str, Array], None]
