"""Evaluation windows straight from the shipped test texts (`weights/test_splits`)."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from weights.recipe.corpus import DOMAINS, read_documents
from weights.recipe.data import Ids, evaluation_windows
from weights.recipe.prepare_data import encode

TEST_SPLITS = Path(__file__).parents[1] / "test_splits"


def text_windows(
    folder: Path, tokenizer_file: Path, context: int, count: int, domains: tuple[str, ...] = DOMAINS
) -> dict[str, Ids]:
    """Up to `count` windows [n, context + 1] of every domain that `folder` has a text of.

    The same windows as `evaluation_windows` cuts from a prepared split.
    """
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    windows: dict[str, Ids] = {}
    for domain in domains:
        path = folder / f"{domain}.txt.xz"
        if path.exists():
            windows[domain] = evaluation_windows(
                encode(read_documents(path), tokenizer), context, count
            )
    if not windows:
        raise FileNotFoundError(f"no DOMAIN.txt.xz in {folder}")
    return windows
