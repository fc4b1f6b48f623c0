"""What a layout is made of, and scales read so that none is missing, NaN or of the wrong kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import Array, QuantTensor, TinymoeError
from tinymoe.formats.inputs import InputFormat

FLOATS = ("BF16", "F16", "F32", "F64")
SCALES = ("F32", "BF16", "F16")  # of FP8: compressed-tensors keeps the weights' own type
LARGEST = 2688.0  # 6 * 448: what a tensor scale of 1 gives NVFP4's largest value
LOUDEST_INPUT = 2.0**18  # no activations are; four times the largest of float16

Shape = tuple[int, ...]
Meaning = Literal["multiplier", "divisor"]


class Part(NamedTuple):
    """One stored tensor."""

    name: str
    shape: Shape
    dtypes: tuple[str, ...]  # any of these


class Input(NamedTuple):
    """How a weight's input is quantised: the tensors that say so, and what they say."""

    parts: tuple[Part, ...]  # of static scales; needed by numerics that quantise inputs
    read: Callable[[Checkpoint], tuple[InputFormat, ...]]  # one, or one for each expert


class Coded(NamedTuple):
    """An array in few bits, for whoever multiplies with the codes: as stored, not decoded."""

    format: Literal["nvfp4", "mxfp4", "fp8"]
    columns: int  # of a row that share a scale
    # the matrix (N, K), or of a stack the one of this number
    read: Callable[[Checkpoint, int | None], QuantTensor]
    turned: bool = False  # the stack is asked for as (E, K, N)


class Layout(NamedTuple):
    """The tensors that hold one array of the model."""

    parts: tuple[Part, ...]
    # the values, of the shape that was asked for; None where the one part holds them as they are
    read: Callable[[Checkpoint, np.dtype[Any]], Array] | None
    # of a stack: what `read` gives of one expert
    read_one: Callable[[Checkpoint, np.dtype[Any], int], Array] | None = None
    input: Input | None = None  # None: it stays as it is
    coded: Coded | None = None  # None: it is not stored in few bits, or in several tensors of them


def stacked(
    read_one: Callable[[Checkpoint, np.dtype[Any], int], Array],
    shape: Shape,
    turned: bool = False,
) -> Callable[[Checkpoint, np.dtype[Any]], Array]:
    """`read` of a stack, one expert at a time: a layer is gigabytes.

    turned: `read_one` gives transposed views. The stack is one too, as loaders turn it back: to
    move every value twice across memory takes longer than to decode it.
    """

    def read(checkpoint: Checkpoint, dtype: np.dtype[Any]) -> Array:
        experts, rows, columns = shape
        if turned:
            values = np.empty((experts, columns, rows), dtype).swapaxes(1, 2)
        else:
            values = np.empty(shape, dtype)
        for expert in range(experts):
            values[expert] = read_one(checkpoint, dtype, expert)
        return values

    return read


def scalar(
    checkpoint: Checkpoint, name: str, dtypes: tuple[str, ...], experts: int | None = None
) -> Part:
    """One number as () or (1,), exporters differ; of a stack also one for each expert."""
    allowed: set[Shape] = {(), (1,)}
    if experts is not None:
        allowed |= {(experts,), (experts, 1), (experts, 1, 1)}
    found = checkpoint.entry(name).shape if name in checkpoint else ()
    return Part(name, found if found in allowed else (), dtypes)


def scale_values(checkpoint: Checkpoint, name: str, dtype: np.dtype[Any] | type) -> Array:
    """Float scales, each finite and above zero. No convention writes another.

    A zero makes all values zero without a word (llama.cpp#23629, flashinfer#3398).
    """
    values = checkpoint.read(name, dtype)
    bad = int(np.count_nonzero(~(np.isfinite(values) & (values > 0))))
    if bad:
        raise TinymoeError(
            f"{checkpoint.entry(name).file}: tensor {name!r}: expected finite scales above zero, "
            f"found {bad} others of {values.size}; the exporter met a tensor of zeros or NaN"
        )
    return values


def tensor_scales(checkpoint: Checkpoint, name: str, meaning: Meaning, loudest: float) -> Array:
    """NVFP4's second-level scales, flat, float32: (1,), or one for each expert.

    modular#6600: a divisor read as a multiplier is off by its square, some 1e7. So is the tensor:
    its largest value would be above `loudest`.
    """
    values = scale_values(checkpoint, name, np.float32).reshape(-1)
    implied = LARGEST * values.astype(np.float64) if meaning == "multiplier" else LARGEST / values
    if implied.max(initial=0) > loudest:
        raise TinymoeError(
            f"{checkpoint.entry(name).file}: tensor {name!r} is read as a {meaning}, and would "
            f"make values as large as {implied.max():.3g}; it looks like the other convention's, "
            "ModelOpt's multiplier or compressed-tensors' divisor, under this one's name"
        )
    return values


def pick(values: Array, expert: int) -> Any:
    """The expert's own of flat scales, or the one for all."""
    return values[expert if len(values) > 1 else 0]


def refuse_nan(checkpoint: Checkpoint, name: str, bytes_: Array, kind: str) -> None:
    """Bytes that stand for no number: E4M3's 0x7f (sglang#22928), a scale's sign, E8M0's 255."""
    if kind == "E8M0 scales":
        wrong = bytes_ == 0xFF
    else:
        wrong = (bytes_ >= 0x7F) if kind == "E4M3 scales" else (bytes_ & 0x7F) == 0x7F
    if wrong.any():
        raise TinymoeError(
            f"{checkpoint.entry(name).file}: tensor {name!r}: expected {kind} that are numbers, "
            f"found {int(np.count_nonzero(wrong))} NaN (or negative scales) of {wrong.size}; "
            "exporters write them for a tensor of zeros"
        )
