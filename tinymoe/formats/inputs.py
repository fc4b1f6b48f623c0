"""What becomes of a matrix product's input when its weight's checkpoint says it is quantised.

| kind | scales | who |
|---|---|---|
| nvfp4 | E4M3 for 16 values, found in each row; one float32 of the checkpoint over all | W4A4 |
| mxfp4 | E8M0 for 32 values, found in each row | compressed-tensors' MXFP4 with activations |
| fp8_tensor | one float32 of the checkpoint | FP8, static |
| fp8_token | float32 for a row, found in it | FP8, dynamic |
| fp8_group | float32 for 128 values of a row, found in them | DeepSeek, FP8 blocks |

`fake_quantise` gives float32 values on the format's grid: what the codes and scales stand for. A
row's result depends on the row alone, so a token's company in a batch changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tinymoe.core import Array, TinymoeError
from tinymoe.formats import fp8, mxfp4, nvfp4
from tinymoe.formats.activations import quantize_nvfp4
from tinymoe.formats.fp8 import PowerOfTwo

Kind = Literal["nvfp4", "mxfp4", "fp8_tensor", "fp8_token", "fp8_group"]
STATIC: tuple[Kind, ...] = ("nvfp4", "fp8_tensor")  # with a scale from calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFormat:
    """How one product's input is quantised."""

    kind: Kind
    convention: str  # a row of `formats/conventions.py`: whose arithmetic on the way in
    scale: np.floating[Any] | None = None  # float32, of the kinds in STATIC
    scale_is: Literal["multiplier", "divisor", "none"] = "none"
    power_of_two: PowerOfTwo = "no"  # of fp8_group (`scale_fmt: "ue8m0"`)


def fake_quantise(x: Array, form: InputFormat) -> Array:
    """x (T, K) float32 to the values that its codes stand for, (T, K) float32.

    NVFP4 values are E2M1 * (E4M3 * input_scale), or * (1 / input_global_scale): the kernel's
    reciprocal. Errors: those of the format's `encode`, as K not in whole blocks, or x not finite.
    """
    if form.kind == "mxfp4":
        return mxfp4.decode(mxfp4.encode(x, convention=form.convention))
    if form.kind == "nvfp4":
        return nvfp4.decode(
            quantize_nvfp4(
                x,
                _scale(form),
                meaning="divisor" if form.scale_is == "divisor" else "multiplier",
                convention=form.convention,
                source="float32",
            )
        )
    if form.kind == "fp8_tensor":
        s = float(_scale(form))
        return fp8.decode(fp8.encode_static(x, s, convention=form.convention, source="float32"))
    q = fp8.encode(
        x,
        convention=form.convention,
        granularity="channel" if form.kind == "fp8_token" else "group",
        source="float32",
        power_of_two=form.power_of_two,
    )
    return fp8.decode(q)


def shared_format(forms: Sequence[InputFormat]) -> InputFormat:
    """One format for matrices that meet the same quantised input: the loudest calibration's.

    The largest multiplier, the smallest divisor: the input is quantised once, and nothing that any
    of them was calibrated for is cut off. Exporters write equal ones for q/k/v and for gate/up.
    Where they differ, vLLM takes the largest multiplier too, but of compressed-tensors' divisors
    also the largest, which is the quietest calibration; it warns. Kinds must agree.
    """
    first = forms[0]
    for other in forms:
        if (other.kind, other.scale_is) != (first.kind, first.scale_is):
            raise TinymoeError(
                f"inputs: expected one format for matrices that share their input, got "
                f"{first.kind} and {other.kind}"
            )
    pick = min if first.scale_is == "divisor" else max
    return first if first.scale is None else pick(forms, key=lambda form: float(_scale(form)))


def _scale(form: InputFormat) -> np.floating[Any]:
    if form.scale is None:
        raise TinymoeError(f"inputs: {form.kind} needs the checkpoint's scale, which is not given")
    return form.scale
