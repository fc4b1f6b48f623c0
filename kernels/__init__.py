"""Accelerations of named functions. Start at `contracts.py`: the table of ops and what each owes.

`ops(backend)` gives what `forward(..., ops=...)` takes: the definition, with the members that the
backend does faster replaced.
"""

from __future__ import annotations

from collections.abc import Callable

from tinymoe.core import TinymoeError
from tinymoe.model.ops import DEFINITION, Ops

BACKENDS: dict[str, Callable[[], Ops]] = {
    "numpy": lambda: DEFINITION,
}


def ops(backend: str) -> Ops:
    """The ops of a backend by name.

    >>> ops("numpy").route.__module__
    'tinymoe.model.router'
    """
    if backend not in BACKENDS:
        raise TinymoeError(
            f"unknown backend {backend!r}: expected one of {', '.join(map(repr, BACKENDS))}"
        )
    return BACKENDS[backend]()
