"""The page `tutorials/vectors.rst`: every golden vector, what it holds, and what it kills.

Made from the files, whose claims `tests/vectors/test_golden.py` proves; it also holds the page to
them. To write it again:

    python -m tests.vector_table
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tinymoe.oracle.vectors import COUNTED, Vector, read_vectors, survivors

ROOT = Path(__file__).parent / "vectors" / "golden"
PAGE = Path(__file__).parents[1] / "tutorials" / "vectors.rst"

HEAD = """\
.. Written by `python -m tests.vector_table`: change that, or the vectors, and not this page.

Golden vectors
==============

Inputs and right answers as plain files, for a test in any language: ``tests/vectors/golden`` in
the repository, or written anew by ``python -m tinymoe vectors DIR``. What is expected follows in
float64 or whole numbers from the definition of each step and format. None of it comes from an
engine, this one included.

A vector is two files:

``router/mixtral.safetensors``
   Every array, by name.
``router/mixtral.json``
   What is given, what is expected and how closely, where both come from, what decides among
   equals, and the mutants that the vector kills: wrong functions with a name, most of them a public
   bug of some engine, whose answers are outside the tolerance.

``index.json`` has the SHA-256 of both. A tolerance is 0, and the answer equal, or an array of the
expected one's shape: how far each number may be off in float32. NaN equals NaN, -0 equals 0.
``{"tensor": "x"}`` in a card stands for an array of that name.

A kernel in reach of Python needs no reader: ``python -m tinymoe conform route mykernels:route``
runs the vectors of an op with the other tests of it.

"""
READERS = """
Reading them
------------

In Python, with NumPy alone:

.. literalinclude:: ../tests/vectors/golden/read_vectors.py
   :language: python

In C++, with nothing but the standard library:

.. literalinclude:: ../tests/vectors/golden/read_vectors.cpp
   :language: cpp

The vectors
-----------

"""
MUTANTS = """
The mutants
-----------

How many vectors kill each, and one that does. ``python -m tinymoe mutants`` says what each gets
wrong.

"""


def page() -> str:
    """The whole page."""
    vectors = read_vectors(ROOT)
    rows = [["vector", "op", "what it holds", "kills"]]
    rows += [[v.name, v.op, v.holds, str(len(v.kills))] for v in vectors]
    return HEAD + score(vectors) + READERS + _table(rows) + MUTANTS + _table(_mutants(vectors))


def score(vectors: Sequence[Vector]) -> str:
    """How many mutants die, in a sentence."""
    alive = survivors(vectors)
    said = (
        f"**{len(vectors)} vectors kill {len(COUNTED) - len(alive)} of {len(COUNTED)} mutants.** "
        "A test runs every mutant on every\nvector that it could change, and compares the list "
        "with the card's.\n"
    )
    return said + (f"\nNo vector kills {', '.join(alive)}.\n" if alive else "")


def _mutants(vectors: Sequence[Vector]) -> list[list[str]]:
    rows = [["mutant", "public bug", "vectors", "for example"]]
    for mutant in COUNTED:
        by = [v.name for v in vectors if mutant.name in v.kills]
        rows.append([mutant.name, mutant.case or "-", str(len(by)), by[0] if by else "-"])
    return rows


def _table(rows: list[list[str]]) -> str:
    """Rows, the first of them the heads; no cell holds a quotation mark."""
    lines = [".. csv-table::", "   :header-rows: 1", ""]
    for row in rows:
        assert not any('"' in cell for cell in row), row
        first = row[0] if row is rows[0] else f"``{row[0]}``"
        lines.append("   " + ", ".join(f'"{cell}"' for cell in (first, *row[1:])))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(score(read_vectors(ROOT)).partition("\n")[0])
