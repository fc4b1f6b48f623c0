"""Which tensor of a checkpoint fills which role: written once a family, run twice.

A loader asks a `Source` for arrays by tensor name. The first source only looks: every tensor is
there, in its shape and a plain float type, and what nobody asked for is named. The second reads.
So a loader cannot read what was not checked, and nothing is allocated for a checkpoint that
contradicts its config.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import Array, Numerics, TinymoeError
from tinymoe.model.params import aligned_empty

_FLOATS = ("BF16", "F16", "F32", "F64")
_LISTED = 8  # names in a message

Shape = tuple[int, ...]
Change = Callable[[Array], Array]
Built = TypeVar("Built")


class Source(Protocol):
    """Where a loader takes its arrays from."""

    def new(self, *shape: int) -> Array:
        """An array to fill."""
        ...

    def ones(self, out: Array) -> None:
        """Fill an array that no tensor fills."""
        ...

    def fill(
        self, name: str, out: Array, stored: Shape | None = None, change: Change | None = None
    ) -> None:
        """A tensor into an array or a part of one.

        `stored`: the tensor's shape, if it is not the array's; `change` makes of the tensor what
        is then assigned, broadcast, to the array.
        """
        ...


def read(source: Source, name: str, *shape: int) -> Array:
    """A tensor as an array of its own."""
    out = source.new(*shape)
    source.fill(name, out)
    return out


class Listing:
    """A source that notes names and shapes: `seen` after the loader has run."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Shape]] = []

    def new(self, *shape: int) -> Array:
        """One zero, seen as an array of the shape."""
        return np.broadcast_to(np.zeros((), np.float32), shape)

    def ones(self, out: Array) -> None:
        """Nothing to note."""

    def fill(
        self, name: str, out: Array, stored: Shape | None = None, change: Change | None = None
    ) -> None:
        """Note what would be read."""
        self.seen.append((name, out.shape if stored is None else stored))


class _Check(Listing):
    """The source that looks: raises for what is wrong, collects what is missing."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self._checkpoint, self._missing = checkpoint, list[str]()

    def fill(
        self, name: str, out: Array, stored: Shape | None = None, change: Change | None = None
    ) -> None:
        """The tensor is there, in its shape and a float type."""
        super().fill(name, out, stored, change)
        shape = self.seen[-1][1]
        if name not in self._checkpoint:
            self._missing.append(name)
            if len(self._missing) == _LISTED:  # a config may ask for millions
                self.raise_missing()
            return
        entry = self._checkpoint.entry(name)
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

    def raise_missing(self) -> None:
        """An error with the names of what is missing, if anything is."""
        if self._missing:
            raise TinymoeError(
                f"{self._checkpoint.path}: tensors are missing, the first of them: "
                f"{', '.join(self._missing)}. "
                "Is a shard missing from the folder, or config.json another model's?"
            )


class _Reader:
    """The source that reads, each value exactly as stored."""

    def __init__(self, checkpoint: Checkpoint, dtype: np.dtype[Any]) -> None:
        self._checkpoint, self._dtype = checkpoint, dtype

    def new(self, *shape: int) -> Array:
        """Memory for an array."""
        return aligned_empty(shape, self._dtype)

    def ones(self, out: Array) -> None:
        """1 everywhere."""
        out[...] = 1

    def fill(
        self, name: str, out: Array, stored: Shape | None = None, change: Change | None = None
    ) -> None:
        """Straight into the array; through one of the tensor's shape where they differ."""
        if stored is None:
            self._checkpoint.read_into(name, out)
            return
        values = self._checkpoint.read(name, self._dtype)
        out[...] = values if change is None else change(values)


def load_checked(
    checkpoint: Checkpoint, num_layers: int, numerics: Numerics, build: Callable[[Source], Built]
) -> Built:
    """What `build` makes of the checkpoint, after all that it asks for was found to be there.

    Left alone without a word: layers past `num_layers` (multi-token prediction), a vision tower
    beside the text model, and `rotary_emb.inv_freq`, a table that old exporters stored. Any other
    tensor that nothing uses is a warning.
    """
    check = _Check(checkpoint)
    build(check)
    check.raise_missing()
    used = {name for name, _ in check.seen}
    unused = [n for n in checkpoint.names() if n not in used and not _ignored(n, num_layers)]
    if unused:
        more = f" and {len(unused) - _LISTED} more" if len(unused) > _LISTED else ""
        warnings.warn(
            f"{checkpoint.path}: tensors that this model does not use: "
            f"{', '.join(unused[:_LISTED])}{more}",
            stacklevel=3,  # the caller of `families.load_params`
        )
    return build(_Reader(checkpoint, numerics.dtype))


def _ignored(name: str, num_layers: int) -> bool:
    layer = re.match(r"(?:language_model\.)?model\.layers\.(\d{1,9})\.", name)
    past = layer is not None and int(layer[1]) >= num_layers
    other = name.startswith(("mtp.", "vision_model.", "multi_modal_projector."))
    return past or other or name.endswith("rotary_emb.inv_freq")
