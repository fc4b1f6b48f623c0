"""What every op of the CUDA backend asks of its arguments."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinymoe.core import Numerics, TinymoeError
from tinymoe.kernels.cuda.launch import Device
from tinymoe.model.on_demand import OnDemand
from tinymoe.model.weights import QuantisedInput

NULL = np.uint64(0)  # a pointer to nothing: "there is no bias"


def blocks_for(work: int, threads: int) -> int:
    """Blocks that cover so much work, one thread each; a launch has one at least."""
    return max(1, -(-work // threads))


def rounds(numerics: Numerics) -> np.int32:
    """The kernels' `bf16`: whether results are rounded to BF16. They compute in float32 alone."""
    if numerics.accumulate != "float32":
        raise TinymoeError(
            f"the CUDA kernels compute in float32, numerics {numerics.name!r} asks for "
            f"{numerics.accumulate}: use numerics 'fp32' or 'bf16', or the backend 'numpy'"
        )
    return np.int32(numerics.storage == "bfloat16")


def floats(device: Device, array: Any, what: str) -> Any:
    """A float32 array on the device, C-contiguous."""
    if array.dtype != np.float32:
        raise TinymoeError(f"{what}: expected float32, got {array.dtype} {array.shape}")
    return device.asarray(array)


def whole_numbers(device: Device, array: Any) -> Any:
    """An int64 array on the device."""
    if device.is_array(array) and array.dtype == np.int64:
        return device.asarray(array)
    return device.asarray(np.asarray(array, np.int64))


def matrix(device: Device, weight: Any, what: str) -> Any:
    """A weight, or a stack of them, that the kernels can read: float32 values in memory."""
    if isinstance(weight, OnDemand):
        raise TinymoeError(
            f"{what}: the CUDA kernels take weights that are in memory, and this one "
            f"{weight.shape} is read when it is used: give the model more --memory, or use the "
            "backend 'numpy'"
        )
    if isinstance(weight, QuantisedInput):
        raise TinymoeError(
            f"{what}: this weight's input is quantised as the checkpoint says, which this kernel "
            "does not do: use numerics 'fp32' or 'bf16', or the backend 'numpy'"
        )
    return floats(device, weight, what)
