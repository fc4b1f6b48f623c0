"""Running the checkpoints of `low_precision.py` with inputs quantised as they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.low_precision import LAYOUTS, WEIGHT_ONLY
from tests.stored import Tensors, write
from tinymoe.core import NUMERICS, Numerics
from tinymoe.families import load_params, read_config
from tinymoe.formats import bf16
from tinymoe.model.params import Params
from tinymoe.model.weights import QuantisedInput
from tinymoe.oracle.trace import forward_alone

AS_STORED = NUMERICS["checkpoint"]
QUANTISED = [name for name in LAYOUTS if name not in WEIGHT_ONLY]  # inputs, too
IDS = [5, 6, 7, 31, 2]
# the static scale of the input, after the module's name
STATIC = {
    "modelopt NVFP4": ".input_scale",
    "ct NVFP4": ".input_global_scale",
    "modelopt FP8": ".input_scale",
    "ct FP8 tensor": ".input_scale",
}


def params_of(folder: Path, low: Tensors, config: Any, numerics: Numerics = AS_STORED) -> Params:
    checkpoint = write(folder, low, config)
    return load_params(checkpoint, read_config(config), numerics)


def run(folder: Path, low: Tensors, config: Any, numerics: Numerics = AS_STORED) -> np.ndarray:
    return forward_alone(
        params_of(folder, low, config, numerics), read_config(config), IDS, numerics
    )


def inputs_of(params: Params) -> list[QuantisedInput]:
    found = []
    for layer in params.layers:
        for part in (layer.attention, layer.ffn):
            values = [getattr(part, name) for name in part.__slots__]
            found += [value for value in values if isinstance(value, QuantisedInput)]
    return found


def activations(rows: int, columns: int, seed: int = 4) -> np.ndarray:
    """BF16 values with a few that are louder than INPUT was calibrated for."""
    x = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    x[::3, ::7] *= 12
    return bf16.round_to_bf16(x)
