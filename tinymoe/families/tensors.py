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
from tinymoe.families.layouts import Part, Shape, layout_of
from tinymoe.families.quantised import Scheme, scheme_of
from tinymoe.model.params import aligned_empty

_LISTED = 8  # names in a message
_TABLES = (  # of rope, and the decays of lightning attention
    *("rotary_emb.inv_freq", "self_attn.slope_rate"),
    *("self_attn.query_decay", "self_attn.key_decay", "self_attn.diagonal_decay"),
)

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

    def __init__(self, checkpoint: Checkpoint, scheme: Scheme) -> None:
        super().__init__()
        self._checkpoint, self._scheme = checkpoint, scheme
        self._missing = list[str]()
        self.used = set[str]()  # names of stored tensors
        self.unlike_the_list = list[str]()  # quantised, though config.json says they are not

    def fill(
        self, name: str, out: Array, stored: Shape | None = None, change: Change | None = None
    ) -> None:
        """The tensor is there, or the tensors that stand for it are, in shape and type."""
        super().fill(name, out, stored, change)
        layout = layout_of(self._scheme, self._checkpoint, *self.seen[-1])
        for part in layout.parts:
            self._look_at(part)
        if layout.read is not None and self._scheme.says_kept(name):
            self.unlike_the_list.append(name)

    def _look_at(self, part: Part) -> None:
        self.used.add(part.name)
        if part.name not in self._checkpoint:
            self._missing.append(part.name)
            if len(self._missing) == _LISTED:  # a config may ask for millions
                self.raise_missing()
            return
        entry = self._checkpoint.entry(part.name)
        if entry.dtype not in part.dtypes:
            raise TinymoeError(
                f"{entry.file}: tensor {part.name!r}: expected {', '.join(part.dtypes)}, found "
                f"{entry.dtype}; config.json's quantization_config, of quant_method "
                f"{self._scheme.method!r}, does not say how to read it"
            )
        if entry.shape != part.shape:
            raise TinymoeError(
                f"{entry.file}: tensor {part.name!r}: config.json makes its shape {part.shape}, "
                f"found {entry.shape}. Is config.json another model's?"
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

    def __init__(self, checkpoint: Checkpoint, scheme: Scheme, dtype: np.dtype[Any]) -> None:
        self._checkpoint, self._scheme, self._dtype = checkpoint, scheme, dtype

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
        shape = out.shape if stored is None else stored
        layout = layout_of(self._scheme, self._checkpoint, name, shape)
        if layout.read is None and stored is None:
            self._checkpoint.read_into(name, out)
            return
        read = layout.read
        values = (
            self._checkpoint.read(name, self._dtype)
            if read is None
            else read(self._checkpoint, self._dtype)
        )
        out[...] = values if change is None else change(values)


def load_checked(
    checkpoint: Checkpoint, num_layers: int, numerics: Numerics, build: Callable[[Source], Built]
) -> Built:
    """What `build` makes of the checkpoint, after all that it asks for was found to be there.

    Left alone without a word: layers past `num_layers` (multi-token prediction), a vision tower
    beside the text model, and tables that some exporters store and the config says. Any other
    tensor that nothing uses is a warning.
    """
    scheme = scheme_of(checkpoint)
    check = _Check(checkpoint, scheme)
    build(check)
    check.raise_missing()
    unused = [n for n in checkpoint.names() if n not in check.used and not _ignored(n, num_layers)]
    _warn(checkpoint, "tensors that this model does not use", unused)
    # vllm#45132: an lm_head listed as left alone was stored quantised. The bytes leave no doubt
    says = "tensors that config.json lists as not quantised are, and are read as stored"
    _warn(checkpoint, says, check.unlike_the_list)
    return build(_Reader(checkpoint, scheme, numerics.dtype))


def _warn(checkpoint: Checkpoint, says: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        warnings.warn(
            f"{checkpoint.path}: {says}: {', '.join(names[:_LISTED])}{more}",
            stacklevel=4,  # the caller of `families.load_params`
        )


def _ignored(name: str, num_layers: int) -> bool:
    layer = re.match(r"(?:language_model\.)?model\.layers\.(\d{1,9})\.", name)
    past = layer is not None and int(layer[1]) >= num_layers
    other = name.startswith(("mtp.", "vision_model.", "multi_modal_projector."))
    return past or other or name.endswith(_TABLES)
