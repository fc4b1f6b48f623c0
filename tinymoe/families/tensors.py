"""Checking a checkpoint's tensors against what a family expects, before anything is allocated."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeAlias

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import TinymoeError

Expected: TypeAlias = tuple[str, tuple[int, ...]]  # a tensor's name and its shape
_FLOATS = ("BF16", "F16", "F32", "F64")
_LISTED = 8  # names in a message


def check_tensors(
    checkpoint: Checkpoint, expected: Callable[[], Iterator[Expected]], num_layers: int
) -> None:
    """Every expected tensor is there, in its shape and a plain float type; others are named.

    Left alone without a word: layers past `num_layers` (multi-token prediction) and
    `rotary_emb.inv_freq`, a table that old exporters stored. Any other tensor that nothing uses
    is a warning.
    """
    used: set[str] = set()
    for name, shape in expected():
        if name not in checkpoint:
            missing = islice((n for n, _ in expected() if n not in checkpoint), _LISTED)
            raise TinymoeError(
                f"{checkpoint.path}: tensors are missing, the first of them: {', '.join(missing)}. "
                "Is a shard missing from the folder, or config.json another model's?"
            )
        entry = checkpoint.entry(name)
        if entry.shape != shape:
            raise TinymoeError(
                f"{entry.file}: tensor {name!r}: config.json makes its shape {shape}, found "
                f"{entry.shape}. Is config.json another model's?"
            )
        if entry.dtype not in _FLOATS:
            raise TinymoeError(
                f"{entry.file}: tensor {name!r}: expected {', '.join(_FLOATS)}, found "
                f"{entry.dtype}; this version of tinymoe does not read quantised checkpoints"
            )
        used.add(name)
    unused = [n for n in checkpoint.names() if n not in used and not _ignored(n, num_layers)]
    if unused:
        more = f" and {len(unused) - _LISTED} more" if len(unused) > _LISTED else ""
        warnings.warn(
            f"{checkpoint.path}: tensors that this model does not use: "
            f"{', '.join(unused[:_LISTED])}{more}",
            stacklevel=4,  # the caller of `load_params`
        )


def _ignored(name: str, num_layers: int) -> bool:
    layer = re.match(r"model\.layers\.(\d{1,9})\.", name)
    past = layer is not None and int(layer[1]) >= num_layers
    return past or name.startswith("mtp.") or name.endswith("rotary_emb.inv_freq")
