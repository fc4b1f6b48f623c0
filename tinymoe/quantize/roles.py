"""What each tensor of a checkpoint does in the model: found by running its family's loader.

A loader asks for tensors by name and puts them into the arrays of `Params`. Run on a source that
holds nothing and remembers which array each name went into, it tells every name's role, for every
family, without a second list of names to keep in step with the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import numpy as np

from tinymoe.core import Array, ModelConfig
from tinymoe.families import FAMILIES
from tinymoe.families.layouts import Shape
from tinymoe.families.tensors import Change, Listing


class Role(NamedTuple):
    """One tensor of the checkpoint and where it belongs."""

    name: str
    shape: Shape  # as stored
    path: str  # the array of `Params` it is, or is a part of: "layers.3.ffn.gate_up"


class _Remembering(Listing):
    """A source of one zero for every array; its owner tells the arrays apart."""

    def __init__(self) -> None:
        super().__init__()
        self.filled: list[tuple[str, Shape, Array]] = []

    def fill(
        self, name: str, out: Array, stored: Shape | None = None, change: Change | None = None
    ) -> None:
        super().fill(name, out, stored, change)
        self.filled.append((*self.seen[-1], out))


def roles_of(config: ModelConfig) -> list[Role]:
    """Every tensor that a checkpoint of this config holds, in the order they are loaded."""
    source = _Remembering()
    params = FAMILIES[config.family].build(source, config)
    owners = {id(_owner(array)): path for path, array in arrays_of(params, "")}
    return [Role(name, shape, owners[id(_owner(out))]) for name, shape, out in source.filled]


def arrays_of(part: Any, path: str) -> Iterator[tuple[str, Array]]:
    """Every array of `Params` with its path: "layers.0.attention.qkv", "ffn.shared.down", ..."""
    if isinstance(part, np.ndarray):
        yield path, part
    elif isinstance(part, tuple):
        for number, item in enumerate(part):
            yield from arrays_of(item, f"{path}.{number}")
    elif is_dataclass(part):
        for field in fields(part):
            name = f"{path}.{field.name}" if path else field.name
            value = getattr(part, field.name)
            if name != "head" or value is not getattr(part, "embed", None):  # tied: the first name
                yield from arrays_of(value, name)


def _owner(array: Array) -> Array:
    """The array whose memory a view looks at."""
    return array if array.base is None else _owner(array.base)
