"""Write a corpus of simulated stories: `python -m weights.recipe.stories --stories N --seed S`."""

import argparse
import lzma
import sys
from pathlib import Path

from .tell import SEPARATOR, documents


def main() -> None:
    """Parse the command line and write the corpus to a file or to standard output."""
    parser = argparse.ArgumentParser(prog="weights.recipe.stories", description=__doc__)
    parser.add_argument("--stories", type=int, required=True, help="number of documents")
    parser.add_argument("--seed", type=int, required=True, help="seed of the corpus")
    parser.add_argument("--out", type=Path, help="file to write, compressed if it ends in .xz")
    arguments = parser.parse_args()
    pieces = (text + SEPARATOR for text in documents(arguments.stories, arguments.seed))
    if arguments.out is None:
        sys.stdout.writelines(pieces)
    elif arguments.out.suffix == ".xz":
        with lzma.open(arguments.out, "wt", preset=3, encoding="ascii") as stream:
            stream.writelines(pieces)
    else:
        with arguments.out.open("w", encoding="ascii") as stream:
            stream.writelines(pieces)


if __name__ == "__main__":
    main()
