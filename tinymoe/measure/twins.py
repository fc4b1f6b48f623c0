"""Numba-CUDA kernels on the PTX machine and on Numba's own simulator, launch for launch.

The simulator runs a kernel as Python, a thread of the operating system for each thread of a block.
It is chosen by an environment variable that counts when numba is imported, so it needs a process of
its own: `python -m tinymoe.measure.twins SIZE`, which reads a kernel's name a line, runs it, and
answers with seconds and a digest of what came out.

The kernels are those of kernels/cuda/*_numba.py that do without a warp's shuffles and votes, which
the simulator lacks. Inputs are small whole numbers: every sum is exact, and results must be equal.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from tinymoe.core import Array, TinymoeError

SIZES = {"tiny": 1, "small": 4}  # times 8 rows or tokens; the names are those of ptx_speed.py
Function = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Twin:
    """One launch: the function, blocks, threads of a block, arguments, and its size in words."""

    function: Function
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: tuple[Array, ...]
    size: str

    @property
    def threads(self) -> int:
        """Of all blocks."""
        return int(np.prod(self.grid) * np.prod(self.block))

    def fresh(self) -> list[Array]:
        """Arguments that a kernel may write into."""
        return [array.copy() for array in self.arguments]


def twins(size: str) -> dict[str, Twin]:
    """The launches by name; `size`: a key of `SIZES`."""
    from tinymoe.kernels.cuda import combine_numba, gemm_numba, permute_numba, route_numba

    n, rng = SIZES[size], np.random.default_rng(0)
    rows = 8 * n

    def whole(*shape: int) -> Array:
        return rng.integers(-4, 5, shape).astype(np.float32)

    product = (whole(rows, rows) * 0, whole(rows, rows), whole(rows, rows))
    tiles = (-(-rows // gemm_numba.TILE),) * 2
    tile = (gemm_numba.TILE,) * 2
    words = f"{rows} x {rows} x {rows}"
    blocks, experts = n, 64
    ids = rng.integers(0, experts, blocks * permute_numba.SLOTS)
    counts = np.stack([np.bincount(part, minlength=experts) for part in np.split(ids, blocks)])
    counts = counts.astype(np.int32)
    line = (np.zeros((rows, 64), np.float32), whole(4 * rows, 64), whole(rows, 4))
    biased = (np.zeros((rows, 64), np.float32), whole(rows, 64), whole(64))
    slots = f"{ids.size} slots, {experts} experts"
    return {
        "gemm": Twin(gemm_numba.gemm, tiles, tile, product, words),
        "gemm_tiled": Twin(gemm_numba.gemm_tiled, tiles, tile, product, words),
        "combine": Twin(
            combine_numba.combine, (rows // 2,), (128,), line, f"{rows} tokens of 64, K = 4"
        ),
        "add_bias": Twin(
            route_numba.add_bias, (rows // 2,), (128,), biased, f"{rows} tokens of 64"
        ),
        "histogram": Twin(
            permute_numba.histogram, (blocks,), (256,), (counts * 0, ids), slots
        ),
        "scan": Twin(
            permute_numba.scan, (1,), (512,), (np.zeros(experts + 1, np.int64), counts), slots
        ),
    }  # fmt: skip


def digest(arrays: list[Array]) -> str:
    """Of all bytes of all arguments after a launch; -0 counts as 0."""
    parts = [(a + 0).tobytes() for a in arrays]
    return hashlib.sha256(b"".join(parts)).hexdigest()


# ------------------------------------------------------------------------- the simulator's process


class Simulator:
    """The child process; a context manager, which ends it."""

    def __init__(self, size: str) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the child
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tinymoe.measure.twins", size],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        )

    def run(self, name: str) -> tuple[float, str]:
        """Seconds of a launch, and the digest of its results. TinymoeError if the child is lost."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        answer = ""
        try:
            self._child.stdin.write(name + "\n")
            self._child.stdin.flush()
            answer = self._child.stdout.readline()
        except BrokenPipeError:
            pass  # what it said before it left is below
        if not answer:
            self._child.wait()
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines() or ["nothing"]
            raise TinymoeError(f"Numba's simulator ended at {name}; it said last: {said[-1]}")
        seconds, found = json.loads(answer)
        return seconds, found

    def __enter__(self) -> Simulator:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.communicate()
        self._errors.close()


def serve(size: str) -> None:
    """What the child does: a name a line from stdin, an answer a line to stdout."""
    from numba import cuda

    every = twins(size)
    for line in sys.stdin:
        twin = every[line.strip()]
        kernel, arguments = cuda.jit(twin.function), twin.fresh()
        begin = perf_counter()
        kernel[twin.grid, twin.block](*arguments)
        seconds = perf_counter() - begin
        print(json.dumps([seconds, digest(arguments)]), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
