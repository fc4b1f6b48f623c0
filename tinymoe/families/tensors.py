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
from math import prod
from typing import Protocol

import numpy as np

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import Array, Numerics, TinymoeError
from tinymoe.families.inputs import CacheFormats, Groups, Inputs
from tinymoe.families.layout_parts import Layout, Part
from tinymoe.families.layouts import Shape, layout_of
from tinymoe.families.quantised import Scheme, scheme_of
from tinymoe.model.params import aligned_empty
from tinymoe.model.weights import Weight

_LISTED = 8  # names in a message
_TABLES = (  # of rope, and the decays of lightning attention
    *("rotary_emb.inv_freq", "self_attn.slope_rate"),
    *("self_attn.query_decay", "self_attn.key_decay", "self_attn.diagonal_decay"),
)

Change = Callable[[Array], Array]


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

    def weight(self, values: Array, groups: Groups) -> Weight:
        """A filled matrix or stack, with the format of its input if that is quantised.

        `groups`: names of the tensors that filled it, one group a matrix; of a stack one group
        an expert, or one for all. Only `values.shape` may be looked at.
        """
        ...

    def cached(self, attention: str) -> CacheFormats:
        """How this attention's keys and values are kept; (None, None): as they are."""
        ...


def read(source: Source, name: str, *shape: int) -> Array:
    """A tensor as an array of its own."""
    out = source.new(*shape)
    source.fill(name, out)
    return out


def read_weight(source: Source, name: str, *shape: int) -> Weight:
    """A matrix of a product, with its input's format if that is quantised."""
    return source.weight(read(source, name, *shape), [[name]])


class Listing:
    """A source that notes names and shapes: `seen` after the loader has run."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Shape]] = []
        self.values = 0  # in all arrays of the model

    def new(self, *shape: int) -> Array:
        """One zero, seen as an array of the shape."""
        self.values += prod(shape)
        return np.broadcast_to(np.zeros((), np.float32), shape)

    def ones(self, out: Array) -> None:
        """Nothing to note."""

    def fill(
        self, name: str, out: Array, stored: Shape | None = None, change: Change | None = None
    ) -> None:
        """Note what would be read."""
        self.seen.append((name, out.shape if stored is None else stored))

    def weight(self, values: Array, groups: Groups) -> Weight:
        """Nothing to note."""
        return values

    def cached(self, attention: str) -> CacheFormats:
        """Nothing to note."""
        return None, None


class _Check(Listing):
    """The source that looks: raises for what is wrong, collects what is missing."""

    def __init__(self, checkpoint: Checkpoint, scheme: Scheme, numerics: Numerics) -> None:
        super().__init__()
        self.inputs = Inputs(checkpoint, scheme, numerics, self._look_at)
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
        self.inputs.note(name, layout)
        for part in layout.parts:
            self._look_at(part)
        if layout.read is not None and self._scheme.says_kept(name):
            self.unlike_the_list.append(name)

    def weight(self, values: Array, groups: Groups) -> Weight:
        """Its input's scales are there, and are numbers."""
        self.inputs.weight(values, groups)
        return values

    def cached(self, attention: str) -> CacheFormats:
        """So are those of keys and values."""
        return self.inputs.cached(attention)

    def _look_at(self, part: Part) -> bool:
        """Whether it is there; an error if it is another than is expected."""
        self.used.add(part.name)
        if part.name not in self._checkpoint:
            self._missing.append(part.name)
            if len(self._missing) == _LISTED:  # a config may ask for millions
                self.raise_missing()
            return False
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
        return True

    def raise_missing(self) -> None:
        """An error with the names of what is missing, if anything is."""
        if self._missing:
            raise TinymoeError(
                f"{self._checkpoint.path}: tensors are missing, the first of them: "
                f"{', '.join(self._missing)}. "
                "Is a shard missing from the folder, or config.json another model's?"
            )


class Reader:
    """The source that reads, each value exactly as stored."""

    def __init__(self, checkpoint: Checkpoint, scheme: Scheme, numerics: Numerics) -> None:
        self._checkpoint, self._scheme, self._dtype = checkpoint, scheme, numerics.dtype
        self._inputs = Inputs(checkpoint, scheme, numerics, lambda part: part.name in checkpoint)
        self.bytes_read = 0  # as stored

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
        self._inputs.note(name, layout)
        self._count(layout)
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
        self._release(layout)

    def fill_one(
        self, name: str, out: Array, member: int, whole: Shape, change: Change | None
    ) -> None:
        """`fill` of one member of a stack that lies in one tensor of shape `whole`.

        `change` is given a stack of this member alone: it may not look at others.
        """
        layout = layout_of(self._scheme, self._checkpoint, name, whole)
        if layout.read is None:
            values = self._checkpoint.read_rows(name, slice(member, member + 1), self._dtype)
        elif layout.read_one is None:
            values = layout.read(self._checkpoint, self._dtype)[member : member + 1]
        else:
            values = layout.read_one(self._checkpoint, self._dtype, member)[None]
        self._count(layout, share=whole[0])
        out[...] = (values if change is None else change(values))[0]
        self._release(layout)

    def rows(self, name: str, rows: slice | Array) -> Array:
        """Some rows of a tensor that is stored as it is used."""
        values = self._checkpoint.read_rows(name, rows, self._dtype)
        entry = self._checkpoint.entry(name)
        self.bytes_read += entry.nbytes * len(values) // max(1, entry.shape[0])
        return values

    def is_plain(self, name: str, shape: Shape) -> bool:
        """Whether a tensor is stored as it is used, so that its rows can be read by themselves."""
        return layout_of(self._scheme, self._checkpoint, name, shape).read is None

    def _count(self, layout: Layout, share: int = 1) -> None:
        self.bytes_read += sum(self._checkpoint.entry(p.name).nbytes for p in layout.parts) // share

    def _release(self, layout: Layout) -> None:
        for part in layout.parts:
            self._checkpoint.release(part.name)

    def note_input(self, name: str, shape: Shape) -> None:
        """The tensor fills something: `weight` will ask for its input's format."""
        self._inputs.note(name, layout_of(self._scheme, self._checkpoint, name, shape))

    def weight(self, values: Array, groups: Groups) -> Weight:
        """The same values, with their input's format where numerics ask for it."""
        return self._inputs.weight(values, groups)

    def cached(self, attention: str) -> CacheFormats:
        """From the stored scales."""
        return self._inputs.cached(attention)


def check_tensors(
    checkpoint: Checkpoint, num_layers: int, numerics: Numerics, build: Callable[[Source], object]
) -> tuple[Scheme, int]:
    """All that `build` asks for is there: how it is quantised, and the bytes it takes in memory.

    Left alone without a word: layers past `num_layers` (multi-token prediction), a vision tower
    beside the text model, and tables that some exporters store and the config says. Any other
    tensor that nothing uses is a warning.
    """
    scheme = scheme_of(checkpoint)
    check = _Check(checkpoint, scheme, numerics)
    build(check)
    check.raise_missing()
    check.inputs.finish()
    unused = [n for n in checkpoint.names() if n not in check.used and not _ignored(n, num_layers)]
    _warn(checkpoint, "tensors that this model does not use", unused)
    # vllm#45132: an lm_head listed as left alone was stored quantised. The bytes leave no doubt
    says = "tensors that config.json lists as not quantised are, and are read as stored"
    _warn(checkpoint, says, check.unlike_the_list)
    return scheme, check.values * numerics.dtype.itemsize


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
