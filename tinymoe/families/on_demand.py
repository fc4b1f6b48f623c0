"""A model whose weights are read when they are used, within a budget of bytes.

The loader of a family runs once more, and instead of arrays gets `Room`s: shapes, and notes which
tensors fill them. Then, as the model runs, what a step needs is read from the mapped file:

- an expert's matrices when a token is routed to it. They stay while there is room. Layers run in
  turn, so what is needed last is of the layer that ran last: room is made there, the longest
  unused first. Over all layers "longest unused" would find none again, where one token's experts
  are more than there is room for: each would go just before its layer comes round;
- a layer's other weights when the layer runs, the head when it is multiplied. Each token needs
  them all, so the first of them stay for good, within half of the budget, and the others are
  dropped after use;
- of the embedding, the rows of the tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any, cast

from tinymoe.core import Array, TinymoeError
from tinymoe.families.rooms import (
    STACKS,
    Fill,
    Make,
    Room,
    fills_by_expert,
    is_plain,
    read_expert,
    read_room,
    rooms_of,
    with_rooms_made,
)
from tinymoe.families.tensors import Reader
from tinymoe.model.on_demand import BLOCK_BYTES, OnDemand, Reads
from tinymoe.model.params import LayerParams, MoeParams, Params


class Shelf:
    """What is in memory of the weights, and the reading of the rest.

    At most `budget` bytes, the values of the layer that runs included; while a matrix is read,
    what its decoding takes comes on top.
    """

    def __init__(self, reader: Reader, budget: int, whole: int) -> None:
        self.reader, self.reads = reader, Reads(budget, whole)
        self._itemsize = reader.new(1).itemsize
        self._kept: dict[int, Any] = {}  # parts that stay, by the room's or the layer's identity
        self._experts: list[OrderedDict[tuple[int, int], Array]] = []  # by layer
        self._for_good = self._in_use = self._of_experts = 0  # bytes

    def bytes_of(self, rooms: Sequence[Room]) -> int:
        """Bytes of the arrays, in memory."""
        return sum(room.size for room in rooms) * self._itemsize

    def array(self, room: Room) -> Array:
        """Read all of it."""
        found = read_room(self.reader, room)
        self.reads.bytes_read = self.reader.bytes_read
        return found

    def part(self, key: int, size: int, keep: bool, read: Callable[[], Any], layer: int = 0) -> Any:
        """A part that each token needs, `size` bytes: kept since its first use, or for this use."""
        if key in self._kept:
            self._in_use = 0
            return self._kept[key]
        self._in_use = 0 if keep else size
        self._for_good += size if keep else 0
        self._make_room(0, layer)
        found = read()
        if keep:
            self._kept[key] = found
        return found

    def borrow(self, size: int) -> None:
        """Make room for something of `size` bytes that comes after the last layer."""
        self._in_use = size
        self._make_room(0)

    def expert(self, layer: int, room: Room, number: int, fills: Sequence[Fill]) -> Array:
        """One expert's matrix: still there, or read."""
        self._experts += [OrderedDict() for _ in range(len(self._experts), layer + 1)]
        there, key = self._experts[layer], (id(room), number)
        if key in there:
            there.move_to_end(key)
            self.reads.experts_found += 1
            return there[key]
        size = prod(room.shape[1:]) * self._itemsize
        self._make_room(size, layer)
        there[key] = out = read_expert(self.reader, room, number, fills)
        self._of_experts += size
        self.reads.experts_read += 1
        self.reads.bytes_read = self.reader.bytes_read
        return out

    def _make_room(self, size: int, layer: int = 0) -> None:
        """Drop experts until there is room for `size` bytes: of the layers before, then of this."""
        others = self._for_good + self._in_use + size
        for back in range(1, len(self._experts) + 1):
            there = self._experts[(layer - back) % len(self._experts)]
            while there and others + self._of_experts > self.reads.budget:
                _, dropped = there.popitem(last=False)
                self._of_experts -= dropped.nbytes
        self.reads.most_held = max(self.reads.most_held, others + self._of_experts)


class Layers(Sequence[LayerParams]):
    """The layers of a model, each read when it is asked for: hold no more than one at a time."""

    def __init__(self, shelf: Shelf, layers: Sequence[LayerParams], keep: Sequence[bool]) -> None:
        """`layers`: of rooms; `keep`: whose own weights stay in memory."""
        self._shelf, self._layers, self._keep = shelf, layers, keep

    def __len__(self) -> int:
        """L."""
        return len(self._layers)

    def __getitem__(self, index: Any) -> Any:
        """One layer; of a slice, the layers as they are asked for."""
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        shelf, layer, number = self._shelf, self._layers[index], range(len(self))[index]
        return shelf.part(
            id(layer),
            shelf.bytes_of(own_rooms(layer)),
            self._keep[index],
            lambda: with_rooms_made(layer, shelf.array, lambda room: stack_of(shelf, number, room)),
            number,
        )


def own_rooms(layer: LayerParams) -> list[Room]:
    """Rooms of all but the experts."""
    stacks = _stack_rooms(layer)
    return [room for room in rooms_of(layer) if all(room is not stack for stack in stacks)]


def _stack_rooms(layer: LayerParams) -> list[Room]:
    if not isinstance(layer.ffn, MoeParams):
        return []
    return [room for name in STACKS for room in rooms_of(getattr(layer.ffn, name))]


def stack_of(shelf: Shelf, layer: int, room: Room) -> OnDemand:
    """Experts (E, out, in), each with the fills that are its own or everybody's."""
    by_expert = fills_by_expert(room)
    return OnDemand(room.shape, lambda number: shelf.expert(layer, room, number, by_expert[number]))


def table_of(shelf: Shelf, room: Room, keep: bool) -> OnDemand:
    """The embedding or the head (V, H): rows by themselves, or all at once if quantised."""
    size, plain = shelf.bytes_of([room]), is_plain(shelf.reader, room)

    def read(rows: Any) -> Array:
        if plain and not keep:
            if isinstance(rows, slice):  # a block of the head; the rows of tokens are few
                shelf.borrow(size * len(range(*rows.indices(len(room)))) // len(room))
            found = shelf.reader.rows(str(room.fills[0].name), rows)
            shelf.reads.bytes_read = shelf.reader.bytes_read
            return found
        whole: Array = shelf.part(id(room), size, keep, lambda: shelf.array(room))
        return whole[rows]

    return OnDemand(room.shape, read, None if plain else len(room))


def spread(params: Params, reader: Reader, budget: int, whole: int) -> Params:
    """A model of rooms (what a loader makes of a `Recorder`) as one that is read on demand.

    Raises `TinymoeError` where not even one layer, one expert and a block of the head fit.
    """
    shelf = Shelf(reader, budget, whole)
    tables = list({id(room): room for room in rooms_of([params.embed, params.head])}.values())
    layers = list(params.layers)
    sizes = [shelf.bytes_of(own_rooms(layer)) for layer in layers]
    experts = [prod(room.shape[1:]) for layer in layers for room in _stack_rooms(layer)]
    at_once = [shelf.bytes_of([table]) for table in tables]
    at_once = [
        min(size, BLOCK_BYTES) if is_plain(shelf.reader, table) else size
        for size, table in zip(at_once, tables, strict=True)
    ]
    least = max(sizes) + max(experts, default=0) * shelf.bytes_of([Room((1,), [])]) + max(at_once)
    if least > budget:
        raise TinymoeError(
            f"memory: {budget:,} bytes for weights are too few for this model: one layer without "
            f"its experts, one expert and a block of the head take {least:,}; give it more"
        )
    keep, free = list[bool](), min(budget // 2, budget - least)
    for size in [*sizes, *map(shelf.bytes_of, ([table] for table in tables[-1:]))]:
        keep.append(size <= free)
        free -= size if keep[-1] else 0
    made = {id(t): table_of(shelf, t, keep[-1] and t is tables[-1]) for t in tables}
    top = with_rooms_made(replace(params, layers=()), _either(made, shelf), shelf.array)
    layered = Layers(shelf, layers, keep[:-1])
    return replace(cast(Params, top), layers=layered, reads=shelf.reads)


def _either(made: dict[int, OnDemand], shelf: Shelf) -> Make:
    """The table if it is one, or the array, which is small: the last norm's weight."""
    return lambda room: made[id(room)] if id(room) in made else shelf.array(room)
