"""A model without its arrays: rooms in their places, and notes on which tensors fill them.

A loader that runs with a `Recorder` makes the same parts as with a `Reader`, of `Room`s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from math import prod
from typing import Any, NamedTuple, cast

from tinymoe.core import Array
from tinymoe.families.layouts import Shape
from tinymoe.families.tensors import Change, Reader
from tinymoe.model.params import MoeParams

STACKS = ("gate_up", "down")  # of `MoeParams`: what is read by expert
# what x is multiplied with, by role; latent attention's `up` is no matrix but one for each head
MATRICES = frozenset((
    *("qkv", "out", "gate", "gate_up", "down", "router"),
    *("query_down", "query", "qkvz", "ba", "embed", "head"),
))  # fmt: skip

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


def read_room(reader: Reader, room: Room) -> Array:
    """All of an array; of a part (Qwen3-Next's gate, out of q_proj) the whole array first."""
    if room.where:
        part = read_room(reader, room.whole)
        for key in room.where:
            part = part[key]
        return part.copy()
    whole = reader.new(*room.shape)
    for fill in room.fills:
        _put(reader, whole, fill)
    return whole


def is_plain(reader: Reader, room: Room) -> bool:
    """One tensor fills it, as it is stored."""
    if room.where or len(room.fills) != 1:
        return False
    fill = room.fills[0]
    simple = not fill.where and fill.change is None and fill.stored in (None, room.shape)
    return simple and fill.name is not None and reader.is_plain(fill.name, room.shape)


def fills_by_expert(room: Room) -> list[list[Fill]]:
    """Of a stack: the fills that are each expert's own, or everybody's."""
    by_expert: list[list[Fill]] = [[] for _ in range(len(room))]
    for fill in room.fills:
        for own in [by_expert[fill.where[0]]] if fill.where else by_expert:
            own.append(fill)
    return by_expert


def read_expert(reader: Reader, room: Room, number: int, fills: Sequence[Fill]) -> Array:
    """One expert's matrix, from its `fills_by_expert`."""
    out = reader.new(*room.shape[1:])
    for fill in fills:
        if fill.where or fill.name is None:
            _put(reader, out, fill, skip=1)
        else:
            reader.fill_one(fill.name, out, number, fill.stored or room.shape, fill.change)
    return out


def _put(reader: Reader, out: Array, fill: Fill, skip: int = 0) -> None:
    for key in fill.where[skip:]:
        out = out[key]
    if fill.name is None:
        reader.ones(out)
    else:
        reader.fill(fill.name, out, fill.stored, fill.change)


def with_rooms_made(
    part: Any, make: Make, make_stack: Make, make_matrix: Make | None = None
) -> Any:
    """The same part of the model, with what `make` makes of its rooms.

    Stacks of experts are made by `make_stack`; matrices by `make_matrix`, if it is given.
    """
    if isinstance(part, Room):
        return make(part)
    if not is_dataclass(part) or isinstance(part, type):
        return part
    changed = {}
    for field in fields(part):
        old = getattr(part, field.name)
        own = make
        if isinstance(part, MoeParams) and field.name in STACKS:
            own = make_stack
        elif make_matrix is not None and field.name in MATRICES:
            own = make_matrix
        new = with_rooms_made(old, own, make_stack, make_matrix)
        if new is not old:
            changed[field.name] = new
    return replace(part, **changed) if changed else part
