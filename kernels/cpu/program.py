"""A step as a list: which kernel, with which arguments. The threads walk through it together."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from tinymoe.core import Array
from tinymoe.kernels.cpu.kernel import Kernel


class Program:
    """Instructions in order, each a kernel and its arguments by name.

    Arrays are given as they are and kept alive; kernels see their addresses. A float is passed as
    the bits of a float64 (`simd.f64_of`), None as 0.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._kept: list[Any] = []
        self._code: list[tuple[int, int]] = []
        self._array: Array | None = None

    def add(self, kernel: Kernel, **named: Any) -> None:
        """One more instruction."""
        if set(named) != set(kernel.fields):
            raise TypeError(
                f"{kernel.name} takes {', '.join(kernel.fields)}; got {', '.join(named)}"
            )
        words = np.array([_word(named[field]) for field in kernel.fields], np.int64)
        self._kept += [words, named]
        self._code.append((kernel.address, words.ctypes.data))
        self.names.append(kernel.name)
        self._array = None

    def without_last(self) -> Program:
        """All instructions but the last, to be followed by others."""
        other = Program()
        other.names, other._code = self.names[:-1], self._code[:-1]
        other._kept = [self._kept]
        return other

    @property
    def code(self) -> Array:
        """(instructions, 2) int64, for `Team.run`."""
        if self._array is None:
            self._array = np.array(self._code, np.int64).reshape(-1, 2)
        return self._array


def _word(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return int(value.ctypes.data)
    if isinstance(value, float | np.floating):
        return int(struct.unpack("<q", struct.pack("<d", float(value)))[0])
    if isinstance(value, Kernel):
        return value.address
    return int(value or 0)
