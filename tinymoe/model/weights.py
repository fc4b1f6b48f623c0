"""A weight whose input is quantised on its way in: what a checkpoint's own scheme asks for.

Only numerics with `activations="checkpoint"` make such weights; elsewhere matrices are arrays. A
`QuantisedInput` is no array on purpose: an implementation of an op that does not know it fails,
where one that took its values alone would leave the activations unquantised and look right
(published tests with tolerances of 0.1 pass without the re-quantised intermediate).

The product emulates the engine's: fake-quantised input times dequantised weight, summed in
float32. Of each output at most K + 5 roundings: 3 in an input's value (1/G, times the block scale,
times the code), 2 in a weight's, 1 in their product, K - 1 in the sum. `emulation_bound` follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import numpy as np

from tinymoe.core import Array, TinymoeError
from tinymoe.formats.inputs import InputFormat, fake_quantise

UNIT = 2.0**-24  # the most that one float32 operation is off, relative to its result


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedInput:
    """A matrix (out, in), or a stack (E, out, in), and how the input of each is quantised."""

    values: Array  # dequantised; or anything that has a shape and gives an array for [expert]
    inputs: tuple[InputFormat, ...]  # one, or one for each expert

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the values."""
        shape: tuple[int, ...] = self.values.shape
        return shape

    def __len__(self) -> int:
        """E of a stack, out of a matrix."""
        return self.shape[0]

    def __getitem__(self, expert: int) -> QuantisedInput:
        """One expert of a stack. A row of a matrix is nothing that an op may ask for."""
        if len(self.shape) != 3 or not isinstance(expert, (int, np.integer)):
            self._refuse()
        form = self.inputs[expert if len(self.inputs) > 1 else 0]
        return QuantisedInput(self.values[expert], (form,))

    def __iter__(self) -> NoReturn:
        """Refused: rows without their input's format are not the weight."""
        self._refuse()

    def __array__(self, *args: Any, **named: Any) -> NoReturn:
        """Refused, as above."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise TinymoeError(
            f"a weight {self.shape} whose input is quantised ({self.inputs[0].kind}) was given to "
            "an op that does not quantise it; use an implementation that does, or the numerics "
            "'bf16', which leave activations as they are"
        )

    def matrix(self) -> QuantisedInput:
        """Its leading axes joined: (..., in) to (out, in), for the one format there is."""
        return QuantisedInput(self.values.reshape(-1, self.shape[-1]), self.inputs)

    def quantise(self, x: Array) -> Array:
        """The input (T, in) as this matrix (out, in) meets it."""
        if len(self.shape) != 2 or len(self.inputs) != 1:
            self._refuse()
        return fake_quantise(x, self.inputs[0])


Weight: TypeAlias = Array | QuantisedInput


def plain(weight: Weight) -> Array:
    """The values alone, for what is no product with a quantised input."""
    return weight.values if isinstance(weight, QuantisedInput) else weight


def emulation_bound(x: Array, weight: QuantisedInput) -> Array:
    """(T, out) float64: how far a float32 product of x (T, in) may be from the exact one.

    The exact product is of the values that codes and scales stand for, without any rounding; the
    emulated one is `linear_unrounded`, its sum in any order. |difference| <= n u / (1 - n u) *
    sum |x| |w| with n = K + 5. The sum is here of rounded values, each at most 5 u below its
    exact one, for which n = K + 10 makes up; one more 2^-149 a term for subnormal products.
    """
    values = plain(weight)
    terms = values.shape[1]
    share = (terms + 10) * UNIT / (1 - (terms + 10) * UNIT)
    size = np.abs(weight.quantise(x)).astype(np.float64) @ np.abs(values).astype(np.float64).T
    bound: Array = share * size + terms * 2.0**-149
    return bound
