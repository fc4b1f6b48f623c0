"""What lies between a stored tensor and the array it fills, where that is an order of rows.

A loader's changes are functions of values. This one says besides which row goes where, so that
codes can be put in order as they are, without becoming values first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinymoe.core import Array


@dataclass(frozen=True, slots=True)
class Turned:
    """A stack stored inputs first, (E, in, out), and kept (E, out, in).

    >>> Turned(gate_by_turns=True).order(6).tolist()
    [0, 2, 4, 1, 3, 5]
    """

    gate_by_turns: bool = False  # stored gate, up, gate, up, ...; kept: all of gate, all of up

    def __call__(self, stored: Array) -> Array:
        """By rows of the stack that is stored turned: they are moved as they lie."""
        rows = stored.swapaxes(1, 2)  # (E, out, in)
        if not self.gate_by_turns:
            return rows
        pairs = rows.reshape(len(rows), -1, 2, rows.shape[-1])
        return pairs.swapaxes(1, 2).reshape(rows.shape)

    def order(self, outputs: int) -> Array:
        """The stored output that each kept row is."""
        stored = np.arange(outputs)
        return halves(stored) if self.gate_by_turns else stored


def halves(turns: Array) -> Array:
    """(..., 2I) with gate and up by turns -> all gates, then all ups."""
    return turns.reshape(*turns.shape[:-1], -1, 2).swapaxes(-1, -2).reshape(turns.shape)
