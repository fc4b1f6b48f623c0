"""Other engines beside ours: what one must be able to do to be compared, and who is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from tinymoe.core import TinymoeError
from tinymoe.measure.steps import Line

TIMEOUT = 600.0  # seconds for one answer of a peer

KNOWN = "llama.cpp=PROGRAM:MODEL.gguf, transformers, transformers=PYTHON"


class Peer(Protocol):
    """An engine that runs the lines of a comparison, its own way."""

    name: str  # for tables
    form: str  # the format of its matrices: a key of `stored.BYTES`
    counts: str  # what its tokens/s count, in a sentence
    versions: dict[str, str]
    warms: bool  # a round before the timed ones makes it faster in these

    def rates(self, lines: Sequence[Line]) -> list[float | None]:
        """Tokens a second of each line, once; None for a line that it has no measurement of."""
        ...

    def close(self) -> None:
        """End what runs."""
        ...


class Asked(NamedTuple):
    """One --peer."""

    kind: str  # "llama.cpp" or "transformers"
    program: str | None  # of llama.cpp: the benchmark, or the folder it is in; else a Python
    model: Path | None  # of llama.cpp


def parse(text: str) -> Asked:
    """One --peer as typed.

    >>> parse("llama.cpp=bin/llama-bench:small.gguf").program
    'bin/llama-bench'
    """
    kind, _, rest = text.partition("=")
    if kind == "transformers":
        return Asked(kind, rest or None, None)
    program, colon, model = rest.rpartition(":")
    if kind != "llama.cpp" or not (program and colon and model):
        raise TinymoeError(f"--peer must be one of {KNOWN}; got {text!r}")
    return Asked(kind, program, Path(model))
