"""Changes to a small checkpoint, from which the lint's planted faults are put together."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.lint_folders import Folder

Change = Callable[[Folder], None]


def add(name: str, value: tuple[str, np.ndarray]) -> Change:
    return lambda folder: folder.tensors.__setitem__(name, value)


def drop(*names: str) -> Change:
    def change(folder: Folder) -> None:
        for name in names:
            del folder.tensors[name]

    return change


def say(**fields: Any) -> Change:
    """Change config.json; None takes a field away."""

    def change(folder: Folder) -> None:
        whole = folder.config | fields
        folder.config = {name: value for name, value in whole.items() if value is not None}

    return change


def quant(**fields: Any) -> Change:
    return lambda folder: folder.config["quantization_config"].update(fields)


def times(ending: str, factor: float, within: str = "") -> Change:
    """Every F32 tensor of a name's ending, multiplied; 0 for inverted."""

    def change(folder: Folder) -> None:
        for name, (dtype, bits) in folder.tensors.items():
            if name.endswith(ending) and within in name:
                value = bits * np.float32(factor) if factor else 1 / bits
                folder.tensors[name] = (dtype, np.asarray(value, np.float32))

    return change


def poke(name: str, value: Any, where: Any = ...) -> Change:
    """Other bits in a tensor."""

    def change(folder: Folder) -> None:
        dtype, bits = folder.tensors[name]
        bits = bits.copy()
        bits[where] = value
        folder.tensors[name] = (dtype, bits)

    return change


def both(*changes: Change) -> Change:
    def change(folder: Folder) -> None:
        for each in changes:
            each(folder)

    return change


def edit(file: str, change: Callable[[dict[str, Any]], Any]) -> Change:
    """A JSON file beside the weights."""

    def edited(folder: Folder) -> None:
        whole = json.loads(str(folder.files[file]))
        change(whole)
        folder.files[file] = whole

    return edited


def index_of(**changes: Any) -> Change:
    def change(folder: Folder) -> None:
        for name, value in changes.items():
            setattr(folder, name, value)

    return change
