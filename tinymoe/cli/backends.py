"""Which backend a command computes with, and what its user is told while that is made ready."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from tinymoe.cli import progress
from tinymoe.core import TinymoeError

if TYPE_CHECKING:
    from tinymoe.api import Model

AUTO = "auto"
COMPILED = ("fp32", "bf16")  # numerics that the compiled kernels compute in
ROOM = 0.7  # of the memory available, for weights in the compiled kernels' own form


def choose(
    backend: str,
    model: Any,
    numerics: str,
    *,
    threads: int | None = None,
    memory: str | None = None,
    positions: int | None = None,
    repack_cache: bool = False,
) -> str:
    """What `auto` means here: numba if it is compiled and has kernels for the model, else numpy.

    Where it is not compiled yet it is from now on, in the background, and NumPy answers meanwhile.
    Asked for by name, a backend is taken as it is.
    """
    if backend != AUTO:
        return known(backend)
    if threads is not None or repack_cache:
        return "numba"
    if numerics not in COMPILED or memory is not None:
        return "numpy"
    from tinymoe.kernels.cpu import ready

    if not ready.is_ready():
        _say(f"computing with NumPy; {_begun()}")
    return "numba" if ready_now(model, numerics, positions) else "numpy"


def known(backend: str) -> str:
    """The same, or TinymoeError, which names `auto` as well."""
    from tinymoe.kernels import BACKENDS

    if backend not in BACKENDS:
        wanted = ", ".join(map(repr, (AUTO, *BACKENDS)))
        raise TinymoeError(f"unknown backend {backend!r}: expected one of {wanted}")
    return backend


def _begun() -> str:
    """Have the kernels compiled in the background, and say what becomes of them."""
    from tinymoe.kernels.cpu import disk, ready

    if disk.writable() is None:
        tried = " nor ".join(str(folder.parent) for folder in disk.folders())
        return (
            "the faster kernels cannot be kept, since neither "
            f"{tried} can be written to: set NUMBA_CACHE_DIR to a folder that can, or compile "
            "them at every start with --backend numba"
        )
    if not ready.start_compiling():
        return (
            "no process could be started that compiles the faster kernels: "
            "python -m tinymoe.kernels.cpu.ready does it"
        )
    return (
        "faster kernels are being compiled in the background, for next time "
        "(--backend numba waits for them)"
    )


def ready_now(model: Any, numerics: str, positions: int | None) -> bool:
    """All kernels are compiled, and they serve this model and its numerics."""
    from tinymoe.kernels.cpu import ready

    return numerics in COMPILED and ready.is_ready() and _fits(model, numerics, positions)


def _fits(model: Any, numerics: str, positions: int | None) -> bool:
    """The kernels cover all of the model, and there is memory for its weights."""
    from tinymoe.api import shipped_model
    from tinymoe.checkpoint import Checkpoint
    from tinymoe.core import NUMERICS
    from tinymoe.families import read_config
    from tinymoe.families.memory import available_memory
    from tinymoe.kernels.cpu.step import uncovered

    checkpoint = Checkpoint.open(model or shipped_model())
    if uncovered(read_config(checkpoint.config, positions), NUMERICS[numerics]) is not None:
        return False
    stored = sum(file.stat().st_size for file in checkpoint.path.glob("*.safetensors"))
    free = available_memory()
    return free is None or stored < ROOM * free


def make_ready(model: Model, backend: str) -> None:
    """Compile and lay out what the backend needs, with a word on stderr if that takes long."""
    if backend != "numba":
        return
    with progress.when_long() as report:
        model.prepare(report)
    _compile_the_rest()
    cache: Any = getattr(model.ops.step, "repack_cache", None)
    if cache is not None and cache.said:
        _say(cache.said)


def _compile_the_rest() -> None:
    """What was waited for is one model's kernels: have all others' compiled in the background."""
    from tinymoe.kernels.cpu import ready

    if not ready.is_ready():
        ready.start_compiling()


def check(backend: str, memory: str | None) -> None:
    """What does not go together."""
    if backend == "numba" and memory is not None:
        raise TinymoeError(
            "--memory is for weights that are read when they are used, which the backend numpy "
            "does: add --backend numpy, or leave --memory out"
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr)
