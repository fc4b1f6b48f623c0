"""Where prompts come from: arguments, files, standard input, token ids."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tinymoe.cli.report import is_terminal
from tinymoe.core import TinymoeError

DEFAULT = "Once upon a time"
SHOWN = 60  # characters of a prompt in a label


class Prompt(NamedTuple):
    """Text, or token ids: one of the two."""

    text: str | None
    ids: list[int] | None

    @property
    def label(self) -> str:
        """A short name of it, in one line."""
        if self.text is None:
            whole = "ids " + ",".join(map(str, self.ids or []))
        else:
            whole = " ".join(self.text.split())
        return whole if len(whole) <= SHOWN else whole[: SHOWN - 3] + "..."


def collect(
    texts: Sequence[str] | None, files: Sequence[str] | None, ids: Sequence[str] | None
) -> list[Prompt]:
    """Prompts in the order arguments, files, ids; without any, what stdin holds.

    An empty list: nothing was given and nothing is piped in.
    """
    prompts = [Prompt(_valid(text), None) for text in texts or ()]
    prompts += [Prompt(_read(name), None) for name in files or ()]
    prompts += [Prompt(None, parse_ids(text)) for text in ids or ()]
    if not prompts and is_piped():
        prompts.append(Prompt(_read("-"), None))
    return prompts


def default() -> Prompt:
    """A prompt for who gave none; says so on stderr."""
    print(f'no prompt given, so here is one: "{DEFAULT}"', file=sys.stderr)
    return Prompt(DEFAULT, None)


def is_piped() -> bool:
    """Whether stdin is a pipe or a file: not a terminal, not /dev/null, not closed."""
    if sys.stdin is None or sys.stdin.closed or is_terminal(sys.stdin):
        return False
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):  # a stand-in without a file below it, as in tests
        return True
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def parse_ids(text: str) -> list[int]:
    """`5,6,7` or `5 6 7` or `[5, 6, 7]`, or `@FILE` with such a text, as numbers."""
    source = "--ids"
    if text.startswith("@"):
        source = text[1:]
        text = _read(source)
    words = text.strip().removeprefix("[").removesuffix("]").replace(",", " ").split()
    wrong = [word for word in words if not re.fullmatch(r"-?[0-9]{1,18}", word)]
    if wrong:
        raise TinymoeError(
            f"{source}: expected token ids, whole numbers like 5,6,7; got {wrong[0][:40]!r}"
        )
    if not words:
        raise TinymoeError(f"{source}: expected at least one token id, as in 5,6,7; got none")
    return [int(word) for word in words]


def _read(name: str) -> str:
    """A UTF-8 text without its last line break, which an editor or `echo` has put there."""
    if name == "-":
        name, data = "standard input", sys.stdin.buffer.read()
    else:
        path = Path(name)
        if not path.exists() or path.is_dir():  # a named pipe is welcome
            what = "this is a folder" if path.is_dir() else "there is none of this name"
            raise TinymoeError(f"{name}: expected a text file; {what}")
        data = path.read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise TinymoeError(
            f"{name}: expected UTF-8 text, byte {error.start} is {data[error.start]:#04x}; "
            "convert it, for example with iconv -t UTF-8"
        ) from None
    return text.removesuffix("\n").removesuffix("\r")


def _valid(text: str) -> str:
    """An argument as text; bytes that are none reach Python as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise TinymoeError(
            f"a prompt is not valid UTF-8: {text[:SHOWN]!a}; put it in a file and use --file"
        ) from None
    return text
