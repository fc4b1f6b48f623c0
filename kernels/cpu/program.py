"""A step as a list: which kernel, with which arguments. The threads walk through it together."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np

from tinymoe.core import Array
from tinymoe.kernels.cpu.kernel import ALWAYS, NEVER, Kernel


class Code(NamedTuple):
    """Instructions as threads read them, three words each.

    A kernel's address; that of its arguments; and the number of tokens of a step up to which no
    barrier follows it.
    """

    address: int
    length: int
    words: Array  # (length, 3) int64, kept alive

    @classmethod
    def of(cls, words: Array) -> Code:
        """Those of an array (n, 3) int64."""
        return cls(int(words.ctypes.data), len(words), words)


class Program:
    """Instructions in order, each a kernel and its arguments by name.

    Arrays are given as they are and kept alive; kernels see their addresses. A float is passed as
    the bits of a float64 (`simd.f64_of`), None as 0.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._added: list[tuple[Kernel, dict[str, Any]]] = []
        self._kept: list[Array] = []
        self._code: Code | None = None

    def add(self, kernel: Kernel, **named: Any) -> None:
        """One more instruction. Nothing is compiled yet."""
        if set(named) != set(kernel.fields):
            raise TypeError(
                f"{kernel.name} takes {', '.join(kernel.fields)}; got {', '.join(named)}"
            )
        self._added.append((kernel, named))
        self.names.append(kernel.name)
        self._code = None

    def without_last(self) -> Program:
        """All instructions but the last, to be followed by others."""
        other = Program()
        other.names, other._added = self.names[:-1], self._added[:-1]
        return other

    @property
    def instructions(self) -> list[tuple[Kernel, dict[str, Any]]]:
        """Each kernel and its arguments by name."""
        return list(self._added)

    @property
    def kernels(self) -> list[Kernel]:
        """All that it calls, and those that they call, each once, in order."""
        called = (
            each
            for kernel, named in self._added
            for each in (kernel, *named.values())
            if isinstance(each, Kernel)
        )
        return list(dict.fromkeys(called))

    @property
    def code(self) -> Code:
        """For `Team.run`: now every kernel is needed."""
        if self._code is None:
            self._kept = [
                np.array([_word(named[field]) for field in kernel.fields], np.int64)
                for kernel, named in self._added
            ]
            lines = [
                (kernel.address, words.ctypes.data, free)
                for (kernel, _), words, free in zip(
                    self._added, self._kept, self.barrier_free, strict=True
                )
            ]
            self._code = Code.of(np.array(lines, np.int64).reshape(-1, 3))
        return self._code

    @property
    def barrier_free(self) -> list[int]:
        """Of each instruction, tokens of a step up to which no barrier need follow it.

        Both it and the next must then go token by token: each thread goes on with what it wrote
        itself. All threads wait for each other after the last, or a step would not be over.
        """
        kinds = [kernel.by_token for kernel, _ in self._added]
        return [min(pair) for pair in zip(kinds, [*kinds[1:], NEVER], strict=True)]

    @property
    def by_token(self) -> bool:
        """The last instruction goes token by token in every step."""
        return bool(self._added) and self._added[-1][0].by_token == ALWAYS


def _word(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return int(value.ctypes.data)
    if isinstance(value, float | np.floating):
        return int(struct.unpack("<q", struct.pack("<d", float(value)))[0])
    if isinstance(value, Kernel):
        return value.address
    return int(value or 0)
