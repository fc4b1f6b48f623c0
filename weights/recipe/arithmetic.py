"""Arithmetic pages: one problem a line, 40 a page.

A hash of the problem decides its split, so that no problem is in two splits:
`python -m weights.recipe.arithmetic OUTDIR` writes train.txt.xz, valid.txt.xz and test.txt.xz.
"""

import argparse
import hashlib
import lzma
import random
from pathlib import Path

SPLITS = ("train", "valid", "test")
SEPARATOR = "\n<|endoftext|>\n"
LINES_PER_PAGE = 40
TRAIN_LINES = 220_000


def problem(rng: random.Random) -> str:
    """Draw a problem with its answer, as in "3+4=7"."""
    kind = rng.random()
    if kind < 0.38:
        first, second = rng.randint(0, 99), rng.randint(0, 99)
        return f"{first}+{second}={first + second}"
    if kind < 0.59:
        low, high = sorted((rng.randint(0, 99), rng.randint(0, 99)))
        return f"{high}-{low}={high - low}"
    if kind < 0.80:
        first, second = rng.randint(0, 12), rng.randint(0, 12)
        return f"{first}*{second}={first * second}"
    if kind < 0.91:
        divisor, quotient = rng.randint(1, 12), rng.randint(1, 12)
        return f"{divisor * quotient}/{divisor}={quotient}"
    first, second, third = (rng.randint(0, 20) for _ in range(3))
    partial = first + second
    return f"{first}+{second}+{third}={partial}+{third}={partial + third}"


def split_of(line: str) -> str:
    """Tell which split a problem belongs to."""
    bucket = hashlib.md5(line.encode(), usedforsecurity=False).digest()[0]
    if bucket < 12:
        return "test"
    return "valid" if bucket < 18 else "train"


def lines(split: str, seed: int = 7) -> list[str]:
    """Draw the problems of a split: training ones with repeats, held-out ones once each."""
    rng = random.Random(seed)
    train: list[str] = []
    held_out: dict[str, None] = {}
    while len(train) < TRAIN_LINES:
        line = problem(rng)
        where = split_of(line)
        if where == "train":
            train.append(line)
        elif where == split:
            held_out[line] = None
    if split == "train":
        return train
    found = list(held_out)
    random.Random(1).shuffle(found)
    return found


def documents(split: str, seed: int = 7) -> list[str]:
    """Make the pages of a split."""
    if split not in SPLITS:
        raise ValueError(f"no such split: {split}")
    found = lines(split, seed)
    starts = range(0, len(found), LINES_PER_PAGE)
    return ["\n".join(found[start : start + LINES_PER_PAGE]) for start in starts]


def main() -> None:
    """Write the three splits into a directory."""
    parser = argparse.ArgumentParser(prog="weights.recipe.arithmetic", description=__doc__)
    parser.add_argument("directory", type=Path, metavar="OUTDIR")
    directory: Path = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        path = directory / f"{split}.txt.xz"
        with lzma.open(path, "wt", preset=9, encoding="ascii") as stream:
            stream.writelines(page + SEPARATOR for page in documents(split))


if __name__ == "__main__":
    main()
