"""A model without its arrays: rooms in their places, and notes on which tensors fill them.

A loader that runs with a `Recorder` makes the same parts as with a `Reader`, of `Room`s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from math import prod
from typing import Any, NamedTuple, cast

from tinymoe.core import Array
from tinymoe.families.layouts import Shape
from tinymoe.families.tensors import Change, Reader
from tinymoe.model.params import MoeParams

STACKS = ("gate_up", "down")  # of `MoeParams`: what is read by expert

Make = Callable[["Room"], Any]


class Fill(NamedTuple):
    """One tensor's place in an array."""

    name: str | None  # None: ones
    where: tuple[Any, ...]  # the keys that lead from the array to the part
    stored: Shape | None
    change: Change | None


class Room:
    """An array, or a part of one, that is not there: its shape, and what fills the array."""

    def __init__(
        self,
        shape: Shape,
        fills: list[Fill],
        where: tuple[Any, ...] = (),
        whole: Room | None = None,
    ) -> None:
        self.shape, self.fills, self.where = shape, fills, where
        self.whole = self if whole is None else whole  # the array of which it is a part

    @property
    def size(self) -> int:
        """Values."""
        return prod(self.shape)

    def __len__(self) -> int:
        """Length of the first axis."""
        return self.shape[0]

    def __getitem__(self, key: int | slice) -> Room:
        """A part, along the first axis."""
        first = (len(range(*key.indices(len(self)))),) if isinstance(key, slice) else ()
        return Room((*first, *self.shape[1:]), self.fills, (*self.where, key), self.whole)


class Recorder(Reader):
    """The source that notes what would be read, and where to."""

    def new(self, *shape: int) -> Array:
        """Only a note; loaders ask arrays for shapes and parts alone, which it has too."""
        return cast(Array, Room(shape, []))

    def ones(self, out: Array) -> None:
        """Note it."""
        room = cast(Room, out)
        room.fills.append(Fill(None, room.where, None, None))

    def fill(
        self, name: str, out: Array, stored: Shape | None = None, change: Change | None = None
    ) -> None:
        """Note it."""
        room = cast(Room, out)
        self.note_input(name, room.shape if stored is None else stored)
        room.fills.append(Fill(name, room.where, stored, change))


def rooms_of(part: Any) -> Iterator[Room]:
    """All rooms in a part of the model, each as often as it is named."""
    if isinstance(part, Room):
        yield part
    elif isinstance(part, (list, tuple)):
        for item in part:
            yield from rooms_of(item)
    elif is_dataclass(part):
        for field in fields(part):
            yield from rooms_of(getattr(part, field.name))


def with_rooms_made(part: Any, make: Make, make_stack: Make) -> Any:
    """The same part of the model, with what `make` makes of its rooms, and of stacks of experts."""
    if isinstance(part, Room):
        return make(part)
    if not is_dataclass(part) or isinstance(part, type):
        return part
    changed = {}
    for field in fields(part):
        old = getattr(part, field.name)
        stacked = isinstance(part, MoeParams) and field.name in STACKS
        new = with_rooms_made(old, make_stack if stacked else make, make_stack)
        if new is not old:
            changed[field.name] = new
    return replace(part, **changed) if changed else part
