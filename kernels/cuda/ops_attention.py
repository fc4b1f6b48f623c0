"""Attention over paged keys, as launches of kernels. See `ops_model.py` for the other ops.

Heads of up to 256 numbers; latent attention, whose values are a part of its keys, up to 576.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinymoe.core import Array, Numerics, TinymoeError
from tinymoe.kernels.cuda.arguments import NULL, blocks_for, floats, rounds, whole_numbers
from tinymoe.kernels.cuda.calls import ints
from tinymoe.kernels.cuda.launch import Device, launch
from tinymoe.kernels.cuda.ops_model import Rung

WARPS = 8  # of a block, one a query, as in attention_prefill.cu and attention_latent.cu
SIZES = (32, 64, 128, 256)  # of heads, for each of which the kernels have an entry
LATENT_SIZE = 576  # attention_latent.cu


@dataclass(frozen=True)
class AttentionOps:
    """Kernels for `attention_decode` and `attention_prefill` on one device.

    Both give a token the same bits: the order of its sums depends on its own position alone. So
    latent attention, whose decode has tiles of another size, runs prompts by that kernel, too.
    """

    device: Device
    rung: Rung = "fast"

    def attention_decode(
        self,
        q: Array,
        key_pages: Array,
        value_pages: Array,
        block_tables: Sequence[Array],
        lengths: Sequence[int],
        scale: float,
        numerics: Numerics,
        *,
        window: int | None = None,
        chunk: int | None = None,
        sinks: Array | None = None,
    ) -> Array:
        """One new token of each of R sequences: q (R, Nq, D) -> (R, Nq, Dv). attention_decode.cu.

        Scores: lanes along D, then a tree of 32. Softmax and mix: tiles of 32 positions, of latent
        vectors 16 (attention_latent.cu).
        """
        pages = Pages.of(self.device, key_pages, value_pages)
        tables = padded(self.device, block_tables)
        positions = whole_numbers(self.device, np.asarray(lengths, np.int64) - 1)
        looks = Looks.of(self.device, window, chunk, sinks, scale, numerics)
        return self._as_decoded(q, pages, tables, positions, looks)

    def attention_prefill(
        self,
        q: Array,
        key_pages: Array,
        value_pages: Array,
        block_table: Array,
        start: int,
        scale: float,
        numerics: Numerics,
        *,
        window: int | None = None,
        chunk: int | None = None,
        sinks: Array | None = None,
    ) -> Array:
        """T consecutive tokens of one sequence: q (T, Nq, D) -> (T, Nq, Dv). attention_prefill.cu.

        Sums as in `attention_decode`, bit for bit; latent vectors by attention_latent.cu.
        """
        device = self.device
        pages = Pages.of(device, key_pages, value_pages)
        looks = Looks.of(device, window, chunk, sinks, scale, numerics)
        if self.rung == "naive" or (pages.latent and not looks.special):  # token by token
            tables = padded(device, [block_table] * len(q))
            positions = whole_numbers(device, np.arange(start, start + len(q)))
            return self._as_decoded(q, pages, tables, positions, looks)
        q = floats(device, q, "attention: q")
        tokens, heads, _ = q.shape
        out = device.empty((tokens, heads, pages.value_size), np.float32)
        group = heads // pages.kv_heads
        launch(
            device.kernel("attention_prefill", f"attention_prefill_{pages.entry_size()}"),
            (-(-tokens * group // WARPS), pages.kv_heads),
            32 * WARPS,
            [
                *(out, q, pages.keys, pages.values, whole_numbers(device, block_table)),
                *(looks.sinks, *ints(tokens, start, heads)),
                *(*pages.numbers(), *looks.sight, looks.scale, looks.bf16),
            ],
        )
        return out

    def _as_decoded(
        self, q: Array, pages: Pages, tables: Any, positions: Any, looks: Looks
    ) -> Array:
        """Rows of queries (R, Nq, D), each with a block table and a position of its own."""
        q = floats(self.device, q, "attention: q")
        out: Array = self.device.empty((*q.shape[:2], pages.value_size), np.float32)
        if len(q):
            run = decode if self.rung == "fast" else decode_naive
            run(self.device, out, q, pages, tables, positions, looks)
        return out


def decode(
    device: Device, out: Any, q: Any, pages: Pages, tables: Any, positions: Any, looks: Looks
) -> None:
    """One launch on arrays that are there: out (R, Nq, Dv), q (R, Nq, D).

    tables (R, width), positions (R,), int64. The grid is the same at every position, so that a
    graph may hold it.
    """
    rows, heads, _ = q.shape
    if pages.latent and not looks.special:
        source = entry = "attention_latent"
        warps, places = WARPS, [pages.keys, tables, positions]
        numbers = ints(heads, pages.size, pages.value_size, pages.page_size, tables.shape[1])
    else:
        source, warps = "attention_decode", min(4, heads)
        entry = f"{source}_{pages.entry_size()}"
        places = [pages.keys, pages.values, tables, positions, looks.sinks]
        numbers = [*ints(heads), *pages.numbers(), *ints(tables.shape[1]), *looks.sight]
    launch(
        device.kernel(source, entry),
        (rows, -(-heads // warps)),
        32 * warps,
        [out, q, *places, *numbers, looks.scale, looks.bf16],
    )


def decode_naive(
    device: Device, out: Any, q: Any, pages: Pages, tables: Any, positions: Any, looks: Looks
) -> None:
    """The same with one thread a head, of any size."""
    rows, heads, _ = q.shape
    launch(
        device.kernel("attention_decode", "attention_decode_naive"),
        blocks_for(rows * heads, WARPS * 32),
        WARPS * 32,
        [
            *(out, q, pages.keys, pages.values, tables, positions, looks.sinks),
            *(*ints(rows, heads), *pages.numbers(), *ints(tables.shape[1])),
            *(*looks.sight, looks.scale, looks.bf16),
        ],
    )


@dataclass(frozen=True)
class Pages:
    """Keys and values as the kernels see them."""

    keys: Any  # (pages, P, Nk, D)
    values: Any  # (pages, P, Nk, Dv), or the keys, whose first Dv numbers the values then are
    value_size: int
    value_step: int  # numbers from one value to the next

    @classmethod
    def of(cls, device: Device, keys: Any, values: Any) -> Pages:
        """From the cache's arrays: of latent attention, the values are a view of the keys."""
        size, value_size = keys.shape[-1], values.shape[-1]
        view = keys[..., :value_size]
        if value_size < size and _place(view) == _place(values):
            keys = floats(device, keys, "attention: keys")
            return cls(keys, keys, value_size, size)
        keys = floats(device, keys, "attention: keys")
        return cls(keys, floats(device, values, "attention: values"), value_size, value_size)

    @property
    def size(self) -> int:
        """D."""
        return int(self.keys.shape[-1])

    @property
    def page_size(self) -> int:
        """P."""
        return int(self.keys.shape[1])

    @property
    def kv_heads(self) -> int:
        """Nk."""
        return int(self.keys.shape[2])

    @property
    def latent(self) -> bool:
        """One key for all heads, which is their value as well."""
        return self.values is self.keys and self.kv_heads == 1 and self.size <= LATENT_SIZE

    def entry_size(self) -> int:
        """The smallest kernel that these heads fit in."""
        needed = max(self.size, self.value_size)
        for size in SIZES:
            if needed <= size:
                return size
        raise TinymoeError(
            f"attention kernels take heads of up to {SIZES[-1]} numbers (latent attention: "
            f"{LATENT_SIZE}), got keys of {self.size} and values of {self.value_size}: use the "
            "backend 'numpy'"
        )

    def numbers(self) -> list[np.int32]:
        """Nk, D, Dv, the step of values, P: in the order of the kernels."""
        return ints(self.kv_heads, self.size, self.value_size, self.value_step, self.page_size)


@dataclass(frozen=True)
class Looks:
    """How a layer's queries look back."""

    sinks: Any  # (Nq,) or NULL
    sight: tuple[np.int32, np.int32]  # window and chunk, 0 for none
    scale: np.float32
    bf16: np.int32

    @classmethod
    def of(
        cls,
        device: Device,
        window: int | None,
        chunk: int | None,
        sinks: Array | None,
        scale: float,
        numerics: Numerics,
    ) -> Looks:
        """From the arguments of the ops."""
        return cls(
            NULL if sinks is None else floats(device, sinks, "attention: sinks"),
            (np.int32(window or 0), np.int32(chunk or 0)),
            np.float32(scale),
            rounds(numerics),
        )

    @property
    def special(self) -> bool:
        """Whether there is anything but the scale."""
        return self.sinks is not NULL or any(self.sight)


def padded(device: Device, tables: Sequence[Any]) -> Any:
    """Block tables of R sequences as one (R, longest) array.

    What is past a table's end is not read; it is left as the device makes it, which on the PTX
    machine is a page that is not there.
    """
    out = device.empty((len(tables), max(len(table) for table in tables)), np.int64)
    for row, table in zip(out, tables, strict=True):
        row[: len(table)] = whole_numbers(device, table)
    return out


def _place(array: Any) -> tuple[Any, ...]:
    """Where an array lies: two views with the same are one."""
    if isinstance(array, np.ndarray):
        return array.ctypes.data, array.shape, array.strides
    return array.data.ptr, array.shape, array.strides
