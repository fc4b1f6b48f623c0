"""Checkpoints written for a test, in types that NumPy has not, and all arrays of a loaded model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import NUMERICS
from tinymoe.families import load_params, read_config

ROOT = Path(__file__).parent / "vectors" / "parity"
Tensors = dict[str, tuple[str, np.ndarray]]  # dtype of the header, bits


def write(folder: Path, tensors: Tensors, config: dict[str, Any]) -> Checkpoint:
    """A checkpoint in types that NumPy has not."""
    header, end = {}, 0
    for name, (dtype, bits) in tensors.items():
        start, end = end, end + bits.nbytes
        header[name] = {"dtype": dtype, "shape": bits.shape, "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    data = [np.ascontiguousarray(bits).tobytes() for _, bits in tensors.values()]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(
        len(head).to_bytes(8, "little") + head + b"".join(data)
    )
    (folder / "config.json").write_text(json.dumps(config))
    return Checkpoint.open(folder)


def config_of(case: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((ROOT / case / "config.json").read_text("utf-8"))
    return config


def stored(case: str) -> Tensors:
    checkpoint = Checkpoint.open(ROOT / case)
    return {n: (checkpoint.entry(n).dtype, checkpoint.raw(n)) for n in checkpoint.names()}


def load(checkpoint: Checkpoint, preset: str = "fp32") -> list[np.ndarray]:
    """All arrays of the model, in order of its fields."""
    config = read_config(checkpoint.config)
    return list(arrays(load_params(checkpoint, config, NUMERICS[preset])))


def arrays(part: Any) -> Iterator[np.ndarray]:
    if isinstance(part, np.ndarray):
        yield part
    elif isinstance(part, tuple):
        for item in part:
            yield from arrays(item)
    elif is_dataclass(part):
        for field in fields(part):
            yield from arrays(getattr(part, field.name))
