"""The limits of this machine, measured beside what runs under them: reading and computing.

All are compiled loops on the threads of the run. Reading: four forward streams, prefetched, each
thread its own share of an array far beyond the caches. Computing: chains of float32 fused
multiply-adds that need no memory, enough of them to hide the latency of one; how many that takes
depends on the CPU, so two numbers of chains are tried, and the better one counts. The same with
whole numbers, which is how four-bit weights are multiplied: `whole_peak.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tinymoe.core import TinymoeError
from tinymoe.kernels.cpu.kernel import Kernel, helper
from tinymoe.kernels.cpu.simd import LANES, fma, load, prefetch, splat, store
from tinymoe.measure.machine import Clock, free_memory, probe_bytes
from tinymoe.measure.whole_peak import WHOLE_CHAINS

STREAMS, LINE = 4, 64
ROUNDS = 6_000_000  # of the multiply-adds: 10 ms, beside which waking a thread is nothing
OWN = 1024  # bytes of a thread's own, where sums go, or the compiler would drop the loop


@helper
def read_streams(address: Any, size: Any, sink: Any) -> None:
    """Add up `size` bytes of float32 from `address`, a multiple of 256: four streams of a line."""
    quarter = size // STREAMS
    a, b, c, d = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    for at in range(address, address + quarter, LINE):
        prefetch(at + 2048)
        prefetch(at + quarter + 2048)
        prefetch(at + 2 * quarter + 2048)
        prefetch(at + 3 * quarter + 2048)
        a = a + load(at)
        b = b + load(at + quarter)
        c = c + load(at + 2 * quarter)
        d = d + load(at + 3 * quarter)
    store(sink, (a + b) + (c + d))


@helper
def five_chains(rounds: Any, sink: Any) -> None:
    """Ten registers of AVX2, and five of AVX512: what 16 registers hold."""
    half = splat(0.5)
    a = b = c = d = e = load(sink)
    for _ in range(rounds):
        a, b, c = fma(a, half, half), fma(b, half, half), fma(c, half, half)
        d, e = fma(d, half, half), fma(e, half, half)
    store(sink, (a + b) + (c + d) + e)


@helper
def ten_chains(rounds: Any, sink: Any) -> None:
    """For 32 registers of the full width."""
    half = splat(0.5)
    a = b = c = d = e = f = g = h = i = j = load(sink)
    for _ in range(rounds):
        a, b, c = fma(a, half, half), fma(b, half, half), fma(c, half, half)
        d, e, f = fma(d, half, half), fma(e, half, half), fma(f, half, half)
        g, h, i = fma(g, half, half), fma(h, half, half), fma(i, half, half)
        j = fma(j, half, half)
    store(sink, (a + b) + (c + d) + (e + f) + (g + h) + (i + j))


CHAINS = {five_chains: 2 * 5, ten_chains: 2 * 10}  # operations of each lane in a round


class Limits:
    """The probes, ready to be called between timed runs."""

    def __init__(self, threads: int, size: int | None = None) -> None:
        """`size`: bytes of the array; None: several times the last-level cache."""
        wanted = probe_bytes() if size is None else size
        free = free_memory()
        if free is not None and wanted > free // 2:
            raise TinymoeError(
                f"measuring the read bandwidth takes {wanted / 1e9:.1f} GB, {free / 1e9:.1f} GB "
                "are free: close other programs"
            )
        self.threads = threads
        self._share = wanted // threads // (STREAMS * LINE) * (STREAMS * LINE)
        # ones: pages of zeros that nobody has written may all be one page, and come from cache
        self._array = np.ones(self._share * threads // 4 + LINE, np.float32)
        self._sinks = np.zeros((threads, OWN // 4), np.float32)
        self._pool = ThreadPoolExecutor(threads)
        for kernel in (read_streams, *CHAINS, *WHOLE_CHAINS):
            kernel.address  # noqa: B018  compiled now, not inside the first measurement

    @property
    def array_bytes(self) -> int:
        """That `bandwidth` reads."""
        return self._share * self.threads

    def bandwidth(self, clock: Clock) -> float:
        """Bytes a second that all threads read together, once."""
        first = -(-self._array.ctypes.data // LINE) * LINE
        begin = clock()
        self._all(
            lambda i: read_streams(first + i * self._share, self._share, self._sink(i)),
            self.threads,
        )
        return self.array_bytes / (clock() - begin)

    def peak(self, clock: Clock) -> float:
        """Float32 operations a second of all threads, a multiply-add being two; the better loop."""
        return self._peak(CHAINS, self.threads, clock)

    def peak_whole(self, clock: Clock) -> float:
        """The same of whole numbers: 16-bit products, added by pairs, and the sums of these."""
        return self._peak(WHOLE_CHAINS, self.threads, clock)

    def peak_alone(self, clock: Clock) -> float:
        """The same of one thread: n that share a core, or a quota, do no more than it does."""
        return self._peak(CHAINS, 1, clock)

    def _peak(self, loops: dict[Kernel, int], threads: int, clock: Clock) -> float:
        return max(self._chained(loop, count, threads, clock) for loop, count in loops.items())

    def _chained(self, kernel: Kernel, operations: int, threads: int, clock: Clock) -> float:
        """Operations a second of a loop that does so many a round, of each lane."""
        begin = clock()
        self._all(lambda i: kernel(ROUNDS, self._sink(i)), threads)
        return threads * ROUNDS * operations * LANES / (clock() - begin)

    def _sink(self, thread: int) -> int:
        return int(self._sinks[thread].ctypes.data)

    def _all(self, work: Callable[[int], None], threads: int) -> None:
        list(self._pool.map(work, range(threads)))

    def close(self) -> None:
        """End the threads, free the array."""
        self._pool.shutdown()
        self._array = np.ones(0, np.float32)
