"""What a request may ask of the sampler: one row a field, checked once, when it comes in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, TypeAlias

from tinymoe.core import Sampling, TinymoeError

Rule: TypeAlias = tuple[str, str, Callable[[Any], bool]]  # field, what is expected, is it so


def check_sampling(sampling: Sampling, vocab_size: int) -> None:
    """Raise TinymoeError, naming field, expected range and value, unless every field makes sense.

    vllm#718 and its like: a bad value that nobody refuses turns into text that nobody can explain.
    """
    for name, expected, good in rules(sampling, vocab_size):
        value = getattr(sampling, name)
        if not good(value):
            raise TinymoeError(
                f"Sampling.{name}: expected {expected}, got {value!r}; give {name} such a value"
            )


def rules(sampling: Sampling, vocab_size: int) -> tuple[Rule, ...]:
    """All fields but `ignore_eos`, in an order that checks `max_tokens` before its use."""
    is_id = integer(0, vocab_size - 1)
    ids = f"from 0 to {vocab_size - 1}"
    most = sampling.max_tokens
    return (
        ("max_tokens", "an integer of at least 1", integer(1)),
        (
            "min_tokens",
            f"an integer from 0 to max_tokens ({most})",
            lambda v: integer(0, most)(v),
        ),
        ("temperature", "a finite number of at least 0 (0: greedy)", real(lambda v: v >= 0)),
        ("top_k", "an integer of at least 0 (0: off)", integer(0)),
        ("top_p", "a number above 0, at most 1 (1: off)", real(lambda v: 0 < v <= 1)),
        ("min_p", "a number from 0 to 1 (0: off)", real(lambda v: 0 <= v <= 1)),
        ("repetition_penalty", "a finite number above 0 (1: off)", real(lambda v: v > 0)),
        ("presence_penalty", "a finite number (0: off)", real()),
        ("frequency_penalty", "a finite number (0: off)", real()),
        (
            "logit_bias",
            f"a mapping of token ids {ids} to finite numbers",
            lambda v: isinstance(v, Mapping) and all(is_id(i) and real()(b) for i, b in v.items()),
        ),
        (
            "stop",
            "a tuple of strings, none empty",  # "" would end every output before it begins
            lambda v: isinstance(v, tuple) and all(isinstance(t, str) and t for t in v),
        ),
        (
            "stop_ids",
            f"a tuple of token ids {ids}",
            lambda v: isinstance(v, tuple) and all(map(is_id, v)),
        ),
        ("seed", "an integer from 0 to 2**64 - 1", integer(0, 2**64 - 1)),
        (
            "logprobs",
            f"None or an integer from 0 to the vocabulary's size, {vocab_size}",
            lambda v: v is None or integer(0, vocab_size)(v),
        ),
        ("logprobs_of", "'raw' or 'processed'", lambda v: v in ("raw", "processed")),
        ("order", "'vllm' or 'transformers'", lambda v: v in ("vllm", "transformers")),
    )


def integer(least: int, most: float = math.inf) -> Callable[[Any], bool]:
    """Whether a value is an integer (NumPy's too, bool not) from `least` to `most`."""
    return lambda v: isinstance(v, Integral) and not isinstance(v, bool) and least <= int(v) <= most


def real(good: Callable[[float], bool] = lambda _: True) -> Callable[[Any], bool]:
    """Whether a value is a finite number (bool not) that is also `good`."""
    return lambda v: (
        isinstance(v, Real)
        and not isinstance(v, bool)
        and math.isfinite(float(v))
        and good(float(v))
    )
