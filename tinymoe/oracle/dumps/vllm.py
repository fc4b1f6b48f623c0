"""What vLLM says of a request in its own answer: log-probabilities of the prompt, and the routing.

`prompt_logprobs` (a list, null first, then {"token id": {"logprob", "rank", "decoded_token"}})
and `routed_experts` (base64 of a .npy file, (tokens - 1, layers, K), uint8 or uint16) with
`prompt_token_ids` and `token_ids`, those it wrote: the JSON of `/v1/completions`, whole or one of
its `choices`. Tokens are both kinds together; the last one written was never run. Of 0.30.0 (and,
without routing, 0.32.0) there are recordings in `tests/vectors/dumps`.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinymoe.core import Array, TinymoeError
from tinymoe.strict_json import read_object

NO_CHANCE = -9999.0  # vLLM sends -inf as this number


class Answer(NamedTuple):
    """What one answer holds; None for what it does not."""

    tokens: tuple[int, ...] | None  # of the prompt
    written: tuple[int, ...]  # by the engine, after the prompt
    # for each position after the first: token id -> log-probability given what came before
    logprobs: tuple[Mapping[int, float], ...] | None
    routed: Array | None  # (len(tokens) + len(written) - 1, L, K): the last one was never run


def read_answer(path: Path) -> Answer:
    """From a file with the JSON of an answer."""
    return parse_answer(read_object(path), str(path))


def parse_answer(answer: Mapping[str, Any], where: str) -> Answer:
    """Fields may stand in the answer or in its only choice."""
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else {}
    if isinstance(choices, list) and len(choices) != 1:
        raise TinymoeError(f"{where}: expected one choice, found {len(choices)}")
    found = {**answer, **choice}
    tokens, logprobs = found.get("prompt_token_ids"), found.get("prompt_logprobs")
    routed, written = found.get("routed_experts"), found.get("token_ids")
    if logprobs is None and routed is None:
        raise TinymoeError(
            f"{where}: expected prompt_logprobs or routed_experts of vLLM, found "
            f"{', '.join(sorted(found))}"
        )
    return Answer(
        None if tokens is None else _ids(tokens, f"{where}: prompt_token_ids"),
        () if written is None else _ids(written, f"{where}: token_ids"),
        None if logprobs is None else parse_prompt_logprobs(logprobs, where),
        None if routed is None else decode_routed_experts(routed, where),
    )


def _ids(tokens: Any, where: str) -> tuple[int, ...]:
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise TinymoeError(f"{where}: expected a list of numbers, found {tokens!r}")
    return tuple(tokens)


def parse_prompt_logprobs(entries: Any, where: str) -> tuple[Mapping[int, float], ...]:
    """Of each position after the first, the tokens that were listed."""
    if not isinstance(entries, Sequence) or not entries or entries[0] is not None:
        raise TinymoeError(f"{where}: prompt_logprobs: expected a list that begins with null")
    positions = []
    for number, entry in enumerate(entries[1:], 1):
        try:
            listed = {int(token): float(at["logprob"]) for token, at in entry.items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise TinymoeError(
                f"{where}: prompt_logprobs[{number}]: expected token ids with a logprob each, "
                f"found {entry!r}"
            ) from error
        positions.append({t: -math.inf if p == NO_CHANCE else p for t, p in listed.items()})
    return tuple(positions)


def decode_routed_experts(text: Any, where: str) -> Array:
    """(tokens - 1, L, K) int64. No pickle: an array of objects is refused."""
    try:
        raw = base64.b64decode(text, validate=True)
        routed = np.load(io.BytesIO(raw), allow_pickle=False)
    except (TypeError, ValueError, EOFError, binascii.Error) as error:
        raise TinymoeError(
            f"{where}: routed_experts: expected base64 of a .npy file: {error}"
        ) from error
    if not isinstance(routed, np.ndarray) or routed.ndim != 3 or routed.dtype.kind not in "ui":
        raise TinymoeError(
            f"{where}: routed_experts: expected whole numbers (tokens - 1, layers, K), found "
            f"{getattr(routed, 'dtype', type(routed))} {getattr(routed, 'shape', '')}"
        )
    return routed.astype(np.int64)


def read_routing(path: Path) -> dict[str, Array]:
    """`tokens` that were run, all but the last, and `routed_experts.{layer}` (T - 1, K) of each.

    What a token is routed by does not depend on those after it.
    """
    answer = read_answer(path)
    if answer.routed is None or answer.tokens is None:
        raise TinymoeError(
            f"{path}: expected routed_experts and prompt_token_ids (start vLLM with "
            "--enable-return-routed-experts and ask with return_token_ids: true); for its "
            "log-probabilities see check-endpoint"
        )
    tokens = answer.tokens + answer.written
    if len(answer.routed) != len(tokens) - 1:
        raise TinymoeError(
            f"{path}: expected routed_experts of {len(tokens) - 1} tokens, all of the prompt and "
            f"of what was written but the last, found {len(answer.routed)}: ask from the first "
            "token on (routed_experts_prompt_start 0)"
        )
    columns = {f"routed_experts.{i}": answer.routed[:, i] for i in range(answer.routed.shape[1])}
    return {"tokens": np.array(tokens[:-1], np.int64), **columns}


def routing_taps(routed: Array, moe_layers: Sequence[int]) -> dict[str, Array]:
    """`layers.{l}.router.ids` of each MoE layer. Engines number either all layers or those alone.

    The order inside a row is the engine's and need not be by weight: compare as sets.
    """
    count = routed.shape[1]
    if count == len(moe_layers):
        columns = dict(zip(moe_layers, range(count), strict=True))
    elif count > max(moe_layers):
        columns = {layer: layer for layer in moe_layers}
    else:
        raise TinymoeError(
            f"routed_experts has {count} layers, the model {len(moe_layers)} with experts, the "
            f"last of them number {max(moe_layers)}"
        )
    return {f"layers.{layer}.router.ids": routed[:, column] for layer, column in columns.items()}
