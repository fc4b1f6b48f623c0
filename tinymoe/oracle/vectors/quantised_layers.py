"""Experts' weights in four bits on which silu is exact, and the values that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinymoe.core import Array, QuantTensor
from tinymoe.formats import e2m1, e4m3
from tinymoe.oracle.vectors.formats import values_of

WIDTH = 32  # I


def quantised_weights(
    kind: str, rng: np.random.Generator, experts: int, hidden: int
) -> tuple[dict[str, list[QuantTensor]], tuple[Array, Array, Array]]:
    """gate, up and down of each expert as stored, and stacks of their values in float64.

    All scales are powers of two. A gate's last block has the number that opens or shuts it, 48 or
    96, -192 or -384; its other blocks and those of up have 0.5, 1 or 2 by turns.
    """
    block = 32 if kind == "mxfp4" else 16
    stored: dict[str, list[QuantTensor]] = {"gate": [], "up": [], "down": []}
    for e in range(experts):
        gate, gate_power = _drawn(rng, WIDTH, hidden, block, e)
        opened = (np.arange(WIDTH) * 5 + e) % 3 > 0
        gate[:, -block:] = 0
        gate[:, -2] = (np.arange(WIDTH) + e) % 3 - 1  # code 1 or 9: half a scale
        gate[:, -2] = np.where(gate[:, -2] < 0, 9, gate[:, -2])
        gate[:, -1] = np.where(opened, 7, 15)  # 6 or -6
        turn = (np.arange(WIDTH) + e) % 2
        gate_power[:, -1] = np.where(opened, 3, 5) + turn
        up, up_power = _drawn(rng, WIDTH, hidden, block, e + 1)
        down, down_power = _drawn(rng, hidden, WIDTH, block, e + 2)
        for place, (name, codes, power) in enumerate(
            (("gate", gate, gate_power), ("up", up, up_power), ("down", down, down_power))
        ):
            stored[name].append(_tensor(kind, codes, power, (e + place) % 3 - 1))
    values = tuple(np.stack([values_of(q) for q in held]) for held in stored.values())
    return stored, (values[0], values[1], values[2])


def _drawn(
    rng: np.random.Generator, rows: int, columns: int, block: int, turn: int
) -> tuple[Array, Array]:
    """Codes (rows, columns), most of them 0, and powers of two (rows, blocks), by turns."""
    codes = rng.choice([0, 0, 0, 0, 1, 2, 4, 9, 10, 12], (rows, columns))
    places = np.add.outer(2 * np.arange(rows), np.arange(columns // block)) + turn
    return codes, places % 3 - 1


def _tensor(kind: str, codes: Array, power: Array, shift: int) -> QuantTensor:
    """Codes times 2^power; in NVFP4 the tensor scale is 2^shift and the block scales give way."""
    packed = e2m1.pack(codes.astype(np.uint8))
    fields: dict[str, Any] = {"codes": packed}
    if kind == "mxfp4":
        return QuantTensor(
            format="mxfp4",
            convention="ocp_floor",
            scales=(127 + power).astype(np.uint8),
            block=(1, 32),
            tensor_scale=None,
            tensor_scale_is="none",
            **fields,
        )
    divisor = kind == "nvfp4-divisor"
    return QuantTensor(
        format="nvfp4",
        convention="ct" if divisor else "modelopt",
        scales=e4m3.saturated(np.exp2(power - shift).astype(np.float32)),
        block=(1, 16),
        tensor_scale=np.float32(2.0 ** (-shift if divisor else shift)),
        tensor_scale_is="divisor" if divisor else "multiplier",
        **fields,
    )
