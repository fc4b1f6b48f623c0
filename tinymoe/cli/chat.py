"""Conversations: messages into a prompt, and the loop of `generate --chat`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from tinymoe.cli.report import Style, describe
from tinymoe.cli.show import Screen
from tinymoe.core import TinymoeError
from tinymoe.sampler import check_sampling

if TYPE_CHECKING:
    from tinymoe.api import Model
    from tinymoe.core import Sampling

Message = dict[str, str]

HELP = "/quit or Ctrl-D ends it, /new forgets what was said, Ctrl-C stops an answer"


def first_message(system: str | None, text: str) -> list[Message]:
    """A conversation of one user message, after the system's if there is one."""
    begin = [{"role": "system", "content": system}] if system is not None else []
    return [*begin, {"role": "user", "content": text}]


def wrap(model: Model, messages: list[Message]) -> list[int]:
    """Token ids of a conversation, up to where the model's answer begins."""
    return model.tokenizer.encode(model.tokenizer.chat(messages), special=False)


def converse(
    model: Model,
    sampling: Sampling,
    system: str | None,
    faster: Callable[[], Model | None] = lambda: None,
) -> None:
    """Ask and answer until /quit. The model sees the whole conversation, as far as it fits.

    `faster` is asked before each answer: the same model on a faster backend, once there is one.
    Never within an answer: backends differ in last bits, and an answer is one backend's.
    """
    check_sampling(sampling, model.config.vocab_size)  # now, not after the first message
    wrap(model, first_message(system, "Hello"))
    style, screen = Style(sys.stdout), Screen()
    print(style.dim(f"a conversation; {HELP}"))
    said: list[Message] = []
    turn = 0
    while (line := _ask(style)) is not None:
        if line in ("/new", "/help"):
            said = [] if line == "/new" else said
            print(style.dim("a new conversation" if line == "/new" else HELP))
            continue
        asked = [*said, {"role": "user", "content": line}]
        try:
            if (found := faster()) is not None:
                model, faster = found, lambda: None
                print("(compiled kernels compute from here on)", file=sys.stderr)
            ids, asked = _fit(model, sampling, system, asked)
            answer = _answer(model, replace(sampling, seed=_seed(sampling, turn)), ids, screen)
        except TinymoeError as error:  # a message too long: the conversation goes on without it
            print(f"error: {describe(error)}", file=sys.stderr)
            continue
        said = [*asked, {"role": "assistant", "content": answer}]
        turn += 1


def _ask(style: Style) -> str | None:
    """The user's next line, empty ones skipped; None to end."""
    with suppress(ImportError):  # Windows has its own
        import readline  # noqa: F401 - arrow keys and history for input()
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return None
        if line in ("/quit", "/exit"):
            return None
        if line:
            return line


def _seed(sampling: Sampling, turn: int) -> int:
    """Each turn draws anew, and a whole conversation repeats under its seed."""
    return (sampling.seed + turn) % 2**64


def _fit(
    model: Model, sampling: Sampling, system: str | None, said: list[Message]
) -> tuple[list[int], list[Message]]:
    """Ids of the conversation, and its messages; the oldest are left out until it fits."""
    begin = first_message(system, "")[:-1]
    room = max(model.config.max_positions - sampling.max_tokens, 1)
    kept = said
    while len(ids := wrap(model, [*begin, *kept])) > room and len(kept) > 2:
        kept = kept[2:]  # a question and its answer
    if len(kept) < len(said):
        left = len(said) - len(kept)
        print(
            f"(the model's {model.config.max_positions} positions are full: "
            f"the oldest {left} messages are left out)",
            file=sys.stderr,
        )
    return ids, kept


def _answer(model: Model, sampling: Sampling, ids: list[int], screen: Screen) -> str:
    """One answer, shown as it comes; Ctrl-C ends it early."""
    pieces: list[str] = []
    try:
        for _, token in model.generate_many([ids], [sampling]):
            screen.write(token.text)
            pieces.append(token.text)
    except KeyboardInterrupt:
        screen.write(" [stopped]")
    screen.end_line()
    return "".join(pieces)
