"""Finding and reading the corpus, and writing files that are either whole or absent."""

from __future__ import annotations

import lzma
import os
from collections.abc import Sequence
from pathlib import Path

from weights.recipe.shape import END_OF_TEXT

SPLITS = ("train", "valid", "test")

# Share of training windows drawn from each domain; normalised over the domains present.
SAMPLING_WEIGHTS = {
    "stories": 0.30,
    "tales": 0.27,
    # 180 k tokens in all. At 0.03 the model had seen each six times after 37 M tokens, and of the
    # stories that it began in this style by itself most lost their thread.
    "tinystories": 0.008,
    "fables": 0.045,
    "africanstories": 0.015,
    "plays": 0.08,
    "dictionary": 0.08,
    "code": 0.08,
    "arithmetic": 0.06,
    "wordproblems": 0.04,
    "facts": 0.03,
}
DOMAINS = tuple(SAMPLING_WEIGHTS)


def find_domains(roots: Sequence[Path]) -> dict[str, Path]:
    """The folder of every domain under `roots`; a later root replaces an earlier one's domain."""
    found: dict[str, Path] = {}
    for root in roots:
        for domain in DOMAINS:
            if (root / domain / "train.txt.xz").exists():
                found[domain] = root / domain
    if not found:
        raise FileNotFoundError(f"no DOMAIN/train.txt.xz under {', '.join(map(str, roots))}")
    return found


def read_documents(path: Path) -> list[str]:
    """The documents of one `.txt.xz` file, which a line `<|endoftext|>` separates."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        text = file.read()
    parts = text.split(f"\n{END_OF_TEXT}\n")
    return [part for part in parts if part.strip()]


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, flush to disk, rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
