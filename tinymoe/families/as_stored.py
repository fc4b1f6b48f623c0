"""A model whose matrices are read anew at each use: as values, or in the few bits of the file.

For a backend that lays weights out in a form of its own. It walks through the model once, one
matrix at a time, so that weights are in memory once: in that form. What is stored in NVFP4, MXFP4
or FP8 it gets as codes and scales, which are an eighth or a quarter of their values in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from tinymoe.checkpoint import Checkpoint
from tinymoe.core import Array, Numerics, QuantTensor
from tinymoe.families.changes import Turned
from tinymoe.families.layout_parts import Coded, Shape
from tinymoe.families.layouts import layout_of
from tinymoe.families.quantised import Scheme
from tinymoe.families.rooms import (
    Fill,
    Make,
    Room,
    fills_by_expert,
    is_plain,
    read_expert,
    read_room,
    with_rooms_made,
)
from tinymoe.families.tensors import Reader
from tinymoe.model.on_demand import CodedRows, OnDemand
from tinymoe.model.params import LayerParams, Params

PLAIN_TYPES = {"BF16": "bf16", "F16": "f16", "F32": "f32", "F64": "f64"}


class StoredReader(Reader):
    """The source that also reads codes and scales as they are."""

    def __init__(self, checkpoint: Checkpoint, scheme: Scheme, numerics: Numerics) -> None:
        super().__init__(checkpoint, scheme, numerics)
        # asked for several times of each tensor, of which there may be a hundred thousand
        self._layout = cache(lambda name, shape: layout_of(scheme, checkpoint, name, shape))

    def coded(self, name: str, shape: Shape) -> Coded | None:
        """How they are read; None: the tensor is not stored in few bits."""
        return self._layout(name, shape).coded

    def codes(self, name: str, shape: Shape, member: int | None) -> QuantTensor:
        """A copy of a matrix, or of one of the stack that lies in the tensor."""
        layout = self._layout(name, shape)
        assert layout.coded is not None
        found = layout.coded.read(self._checkpoint, member)
        copied = replace(found, codes=found.codes.copy(), scales=found.scales.copy())
        self._count(layout, share=1 if member is None else shape[0])
        self._release(layout)
        return copied

    def type_of(self, name: str, shape: Shape) -> str:
        """The format of a tensor: "nvfp4", "bf16"."""
        layout = self._layout(name, shape)
        if layout.coded is not None:
            return layout.coded.format
        return PLAIN_TYPES.get(self._checkpoint.entry(layout.parts[0].name).dtype, "")


class CodedFill(NamedTuple):
    """One tensor that fills rows of a matrix, in few bits."""

    name: str
    shape: Shape  # as the loader asks for it
    rows: Array  # of the matrix, where the tensor's rows go, in the tensor's order
    stacked: bool  # it holds every expert's
    format: Literal["nvfp4", "mxfp4", "fp8"]
    columns: int  # that share a scale


class Layers(Sequence[LayerParams]):
    """The layers of a model; each time one is asked for, its vectors are read anew."""

    def __init__(self, layers: Sequence[LayerParams], make: _Makers) -> None:
        """`layers`: of rooms."""
        self._layers, self._make = layers, make

    def __len__(self) -> int:
        """L."""
        return len(self._layers)

    def __getitem__(self, index: Any) -> Any:
        """One layer; of a slice, the layers as they are asked for."""
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        make = self._make
        return with_rooms_made(self._layers[index], make.array, make.stack, make.matrix)


class _Makers:
    """What becomes of rooms."""

    def __init__(self, reader: StoredReader, array: Make) -> None:
        self._reader, self.array = reader, array

    def matrix(self, room: Room) -> OnDemand:
        """(N, K); rows by themselves where the file has them so."""
        reader, plain = self._reader, is_plain(self._reader, room)

        def read(rows: Any) -> Array:
            if plain:
                return reader.rows(str(room.fills[0].name), rows)
            part: Array = read_room(reader, room)[rows]
            return part

        fills = [] if room.where else coded_fills(reader, room.fills, room.shape, None)

        def codes(_: int | None) -> list[CodedRows]:
            return [CodedRows(f.rows, reader.codes(f.name, f.shape, None)) for f in fills]

        block = None if plain else len(room)
        stored = type_of(reader, room)
        return OnDemand(room.shape, read, block, stored, codes if fills else None)

    def stack(self, room: Room) -> OnDemand:
        """(E, N, K), by expert."""
        reader, by_expert = self._reader, fills_by_expert(room)
        each = [
            coded_fills(reader, fills, room.shape, number) for number, fills in enumerate(by_expert)
        ]
        kinds = {(fill.format, fill.columns) for fills in each for fill in fills}
        alike = len(kinds) == 1 and all(each)

        def read(number: Any) -> Array:
            return read_expert(reader, room, number, by_expert[number])

        def codes(number: int | None) -> list[CodedRows]:
            assert number is not None
            return [
                CodedRows(f.rows, reader.codes(f.name, f.shape, number if f.stacked else None))
                for f in each[number]
            ]

        stored = type_of(reader, room)
        return OnDemand(room.shape, read, None, stored, codes if alike else None)


def type_of(reader: StoredReader, room: Room) -> str:
    """The one format of all tensors that fill an array, or ""."""
    if room.where:
        return ""
    found = set()
    for fill in room.fills:
        out = np.broadcast_to(np.zeros(()), room.shape)  # no memory: for the shape of its parts
        for key in fill.where:
            out = out[key]
        found.add("" if fill.name is None else reader.type_of(fill.name, fill.stored or out.shape))
    return found.pop() if len(found) == 1 else ""


def coded_fills(
    reader: StoredReader, fills: Sequence[Fill], whole: Shape, expert: int | None
) -> list[CodedFill]:
    """How a matrix (N, K), or an expert's of (E, N, K), is read in few bits; []: it cannot be.

    Not all of it is stored so, or not in one format, or it is changed on its way: a sum or another
    shape needs values. A stack that is stored turned (`Turned`) only has its rows in another order.
    """
    found = [_coded_fill(reader, fill, whole, expert) for fill in fills]
    coded = [fill for fill in found if fill is not None]
    if len(coded) != len(found) or len({(fill.format, fill.columns) for fill in coded}) != 1:
        return []
    rows = np.sort(np.concatenate([fill.rows for fill in coded]))
    return coded if np.array_equal(rows, np.arange(whole[-2])) else []


def _coded_fill(
    reader: StoredReader, fill: Fill, whole: Shape, expert: int | None
) -> CodedFill | None:
    """One tensor's part of it, or None."""
    stacked = expert is not None and not fill.where
    keys, turned = fill.where[0 if expert is None else 1 :], isinstance(fill.change, Turned)
    if fill.name is None or (fill.change is not None and not turned):
        return None
    if len(keys) > 1 or not all(isinstance(key, slice) for key in keys):
        return None
    rows = np.arange(whole[-2])[keys[0] if keys else slice(None)]
    asked = fill.stored or (whole if stacked else (len(rows), whole[-1]))
    coded = reader.coded(fill.name, asked)
    if coded is None or coded.turned is not turned:
        return None
    if isinstance(fill.change, Turned):
        rows = np.argsort(fill.change.order(len(rows)))  # where each stored row goes
    return CodedFill(fill.name, asked, rows, stacked, coded.format, coded.columns)


def as_stored(params: Params, reader: StoredReader, *, vectors: bool = True) -> Params:
    """A model of rooms (what a loader makes of a `Recorder`), to be read matrix by matrix.

    `vectors=False`: norms and biases stay rooms, and nothing is read.
    """

    def array(room: Room) -> Any:
        return read_room(reader, room) if vectors else room

    make = _Makers(reader, array)
    top = with_rooms_made(replace(params, layers=()), array, make.stack, make.matrix)
    made = replace(cast(Params, top), layers=Layers(params.layers, make))
    return replace(made, head=made.embed) if params.head is params.embed else made
