"""In which form the compiled step holds a model's matrices, and in how many bytes: unread."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import numpy as np

from tinymoe.kernels.cpu.packed import order_of
from tinymoe.kernels.cpu.tiles import FORMATS, ROWS
from tinymoe.model.on_demand import OnDemand
from tinymoe.model.params import LatentParams, Params


class Held(NamedTuple):
    """Matrices of one form."""

    matrices: int  # a layer's experts count as one
    nbytes: int


def held(params: Params) -> dict[str, Held]:
    """By form of the tiles, of matrices that know how they are stored (`stored_matrices`).

    What is stored in float16 or float32 is counted as float32 tiles; where all of its values are
    BF16 values it becomes half of that. Latent attention's products for each head, whose values
    are computed, are counted as float32.
    """
    found: dict[str, Held] = {}
    tied = params.head is params.embed
    parts = [("embed", params.embed, False), *([] if tied else [("head", params.head, True)])]
    for layer in params.layers:
        parts += [part for half in (layer.attention, layer.ffn) for part in _matrices(half)]
    for name, weight, multiplied in parts:
        form, size = _size(weight, name == "gate_up", multiplied)
        before = found.get(form, Held(0, 0))
        found[form] = Held(before.matrices + 1, before.nbytes + size)
    return found


def _matrices(part: Any) -> list[tuple[str, Any, bool]]:
    """(role, matrix, whether codes will do) of a layer's part, the shared expert's too."""
    found: list[tuple[str, Any, bool]] = []
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, OnDemand):
            found.append((field.name, value, True))
        elif isinstance(part, LatentParams) and field.name == "up":
            found.append((field.name, value, False))
        elif is_dataclass(value):
            found += _matrices(value)
    return found


def _size(weight: Any, gate_up: bool, multiplied: bool) -> tuple[str, int]:
    *lead, rows, columns = weight.shape
    stored = getattr(weight, "stored", "")
    coded = multiplied and getattr(weight, "codes", None) is not None
    form = FORMATS[stored if coded or stored == "bf16" else "f32"]
    pairs = len(order_of(rows, gate_up)) // ROWS
    factors = 4 * pairs * ROWS if form.name == "nvfp4" else 0
    count = int(np.prod(lead, dtype=np.int64))
    return form.name, count * (pairs * form.pair_bytes(columns) + factors)
