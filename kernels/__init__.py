"""Accelerations of named functions. Start at `contracts.py`: the table of ops and what each owes.

`ops(backend)` gives what `forward(..., ops=...)` takes: the definition, with the members that the
backend does faster replaced.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING

from tinymoe.core import TinymoeError
from tinymoe.model.ops import DEFINITION, Ops

if TYPE_CHECKING:
    from tinymoe.checkpoint import Checkpoint


def _ptx() -> Ops:
    from tinymoe.kernels.cuda.backend import ptx_ops

    return ptx_ops()


def _numba(threads: int | None = None, kept_beside: Checkpoint | None = None) -> Ops:
    from tinymoe.kernels.cpu.backend import numba_ops
    from tinymoe.kernels.cpu.repack_cache import RepackCache

    cache = None if kept_beside is None else RepackCache(kept_beside)
    return numba_ops(threads, repack_cache=cache)


def _cuda() -> Ops:
    from tinymoe.kernels.cuda.backend import cuda_ops

    return cuda_ops()


BACKENDS: dict[str, Callable[[], Ops]] = {
    "numpy": lambda: DEFINITION,
    "numba": _numba,  # compiled, on all cores
    "ptx": _ptx,  # the CUDA kernels on the CPU, every access checked: slow
    "cuda": _cuda,  # the same on a GPU
}


def ops(backend: str, threads: int | None = None, *, kept_beside: Checkpoint | None = None) -> Ops:
    """The ops of a backend by name.

    Of "numba" alone: `threads`; None: the cores that there are. `kept_beside`: the model beside
    which its packed weights are kept, and found the next time (`cpu/repack_cache.py`).

    >>> ops("numpy").route.__module__
    'tinymoe.model.router'
    """
    if backend not in BACKENDS:
        raise TinymoeError(
            f"unknown backend {backend!r}: expected one of {', '.join(map(repr, BACKENDS))}"
        )
    if backend == "numba":
        return _numba(threads, kept_beside)
    if threads is not None:
        raise TinymoeError(
            f"threads are chosen for the backend 'numba' alone, got {threads} for {backend!r}; "
            "NumPy takes those of its linear algebra (OPENBLAS_NUM_THREADS)"
        )
    if kept_beside is not None:
        raise TinymoeError(
            f"a repack cache (--repack-cache) is of the backend 'numba' alone, which packs "
            f"weights; got the backend {backend!r}: leave it out, or choose 'numba'"
        )
    return BACKENDS[backend]()


def ops_where(backend: str) -> dict[str, str]:
    """What computes each op of a backend: "the definition", or the backend and its source.

    >>> ops_where("numpy")["route"]
    'the definition'
    """
    made, where = ops(backend), {}
    for name in (field.name for field in fields(Ops) if field.name != "step"):
        member = getattr(made, name)
        if member is getattr(DEFINITION, name):
            where[name] = "the definition"
            continue
        sources = re.findall(r"\w+\.cu\b", member.__doc__ or "")  # CUDA wrappers name theirs
        where[name] = f"{backend}: {', '.join(sources) or member.__module__.rpartition('.')[2]}"
    return where
