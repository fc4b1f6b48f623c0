"""Saving and restoring a run: weights, optimiser, place in the data, place in the log."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weights.recipe.corpus import write_atomically
from weights.recipe.optimiser import Slot
from weights.recipe.schedule import Schedule
from weights.recipe.shape import Shape


@dataclass
class Progress:
    """How far a run has come."""

    tokens: int = 0
    updates: int = 0
    log_bytes: int = 0
    sampler: dict[str, Any] | None = None


def save_checkpoint(
    path: Path, slots: dict[str, Slot], progress: Progress, shape: Shape, schedule: Schedule
) -> None:
    """Write the whole state; a crash on the way leaves the former checkpoint in place."""
    content = {
        "shape": asdict(shape),
        "schedule": schedule.state(),
        "progress": asdict(progress),
        "weights": {name: slot.master for name, slot in slots.items()},
        "first": {name: slot.first for name, slot in slots.items()},
        "second": {n: slot.second for n, slot in slots.items() if slot.second is not None},
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def read_run(path: Path) -> tuple[dict[str, Any], Progress, Shape, Schedule]:
    """A checkpoint's content; the tensors are for `restore_slots`."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    progress = Progress(**content["progress"])
    return content, progress, Shape(**content["shape"]), Schedule(**content["schedule"])


def restore_slots(slots: dict[str, Slot], content: dict[str, dict[str, Tensor]]) -> None:
    """Put a checkpoint's tensors into the shared ones."""
    for name, slot in slots.items():
        slot.master.copy_(content["weights"][name])
        slot.working.copy_(slot.master)
        slot.first.copy_(content["first"][name])
        if slot.second is not None:
            slot.second.copy_(content["second"][name])
