"""From the engine's token ids to text, as soon as it is safe to show."""

from __future__ import annotations

from typing import Literal, NamedTuple

from tinymoe.tokenizer import TextStream


class Token(NamedTuple):
    """One step of a generation."""

    id: int
    text: str  # what may be shown now; may be empty, or hold several tokens' letters
    logprob: float | None
    top_logprobs: tuple[tuple[int, float], ...]
    finish: Literal["eos", "stop", "length"] | None  # set on the last token
    time: float  # seconds, time.perf_counter() when the token was ready


def push(
    stream: TextStream | None, token_id: int, finish: Literal["eos", "stop", "length"] | None
) -> tuple[str, Literal["eos", "stop", "length"] | None]:
    """New text to show, and why the generation ends, if it does."""
    if stream is None:
        return "", finish
    text = stream.push(token_id)
    if stream.stopped:
        return text, "stop"
    return (text + stream.finish() if finish else text), finish
