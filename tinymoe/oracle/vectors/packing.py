"""Cards, weights and stored tensors as JSON, in which an array is named and lies elsewhere.

{"is": "RouterCard", "experts": 8, ...}    a card, its fields by name
{"tensor": "x"}                            an array of the vector's safetensors file
{"numerics": "fp32"}                       one of the presets
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from tinymoe import cards, core
from tinymoe.core import NUMERICS, Array, Numerics, TinymoeError
from tinymoe.model import params

_TYPES: dict[str, Any] = {
    found.__name__: found
    for found in (
        *(core.QuantTensor, core.Sampling),
        *(value for module in (cards, params) for value in vars(module).values()),
    )
    if isinstance(found, type) and is_dataclass(found)
}


def pack(value: Any, name: str, tensors: dict[str, Array]) -> Any:
    """JSON of a value; its arrays are put into `tensors`, under names that begin with `name`."""
    if isinstance(value, Numerics):
        return {"numerics": value.name}
    if isinstance(value, np.ndarray | np.generic):
        tensors[name] = np.asarray(value)
        return {"tensor": name}
    if is_dataclass(value):
        # what most have not and may leave out: a new field of that kind changes no vector
        held = {
            f.name: found
            for f in fields(value)
            if (found := getattr(value, f.name)) is not None or f.default is not None
        }
        return {
            "is": type(value).__name__,
            **{key: pack(item, f"{name}.{key}", tensors) for key, item in held.items()},
        }
    if isinstance(value, Mapping):
        return {str(key): pack(item, f"{name}.{key}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [pack(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TinymoeError(f"{name}: expected arrays, cards and numbers, got {type(value).__name__}")


def unpack(value: Any, tensors: Mapping[str, Array]) -> Any:
    """The way back. Lists come back as tuples, numbered keys as numbers."""
    if isinstance(value, list):
        return tuple(unpack(item, tensors) for item in value)
    if not isinstance(value, dict):
        return value
    if "numerics" in value and len(value) == 1:
        return NUMERICS[value["numerics"]]
    if "tensor" in value and len(value) == 1:
        if value["tensor"] not in tensors:
            raise TinymoeError(f"expected a tensor {value['tensor']!r} in the safetensors file")
        return tensors[value["tensor"]][()]  # of no dimensions: a number of its type
    inside: dict[Any, Any] = {
        int(key) if key.isdecimal() else key: unpack(item, tensors)
        for key, item in value.items()
        if key != "is"
    }
    if "is" not in value:
        return inside
    if value["is"] not in _TYPES:
        raise TinymoeError(f"unknown card {value['is']!r}; expected one of {', '.join(_TYPES)}")
    return _TYPES[value["is"]](**inside)
