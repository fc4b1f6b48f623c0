r"""Encode the corpus: one file of 16-bit token ids for each domain and split.

    python -m weights.recipe.prepare_data --corpus CORPUS [--corpus MORE] \
        --tokenizer FOLDER/tokenizer.json --out DATA

With several `--corpus`, a domain found in a later one replaces the earlier one's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from weights.recipe.corpus import SPLITS, find_domains, read_documents, write_atomically
from weights.recipe.shape import END_OF_TEXT_ID

BATCH = 2000  # documents encoded at once: bounds memory, and gives progress a beat


def encode(documents: Sequence[str], tokenizer: Tokenizer) -> NDArray[np.uint16]:
    """All documents in a row, with `<|endoftext|>` before each and after the last.

    The leading one makes every document, the first too, begin after the token that a reader
    of the model uses as its first.
    """
    ids: list[int] = [END_OF_TEXT_ID]
    for start in range(0, len(documents), BATCH):
        batch = list(documents[start : start + BATCH])
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            ids.extend(encoding.ids)
            ids.append(END_OF_TEXT_ID)
    return np.asarray(ids, dtype=np.uint16)


def prepare(roots: Sequence[Path], tokenizer_file: Path, out: Path) -> dict[str, dict[str, int]]:
    """Encode every domain under `roots` into `out`; return the token counts by domain."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    if tokenizer.get_vocab_size() > 1 << 16:
        raise ValueError("token ids do not fit 16 bits")
    counts: dict[str, dict[str, int]] = {}
    for domain, folder in find_domains(roots).items():
        counts[domain] = {}
        for split in SPLITS:
            documents = read_documents(folder / f"{split}.txt.xz")
            ids = encode(documents, tokenizer)
            write_atomically(out / f"{domain}.{split}.u16", ids.tobytes())
            counts[domain][split] = len(ids)
            letters = sum(map(len, documents))
            print(
                f"{domain:15s} {split:6s} {len(documents):7d} documents {len(ids):9d} tokens "
                f"{letters / max(len(ids), 1):.2f} characters a token",
                flush=True,
            )
    write_atomically(out / "counts.json", (json.dumps(counts, indent=1) + "\n").encode())
    return counts


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, action="append", required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    counts = prepare(options.corpus, options.tokenizer, options.out)
    print(f"{sum(c['train'] for c in counts.values())} training tokens in {options.out}")


if __name__ == "__main__":
    main()
