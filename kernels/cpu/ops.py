"""Members of an `Ops`, one kernel each: for models that no whole step of compiled code covers.

Each takes and gives what the definition does. float64 (the numerics `exact`) is the definition's
own work: kernels compute in float32, and `exact` is there to judge them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinymoe.cache_groups import GONE
from tinymoe.cards import RopeCard
from tinymoe.core import Array, Batch, Numerics, Run
from tinymoe.kernels.cpu import attention as kernels
from tinymoe.kernels.cpu import norm as norms
from tinymoe.kernels.cpu import rope as turning
from tinymoe.kernels.cpu.batch import Header, aligned
from tinymoe.kernels.cpu.blocks import row_bytes
from tinymoe.kernels.cpu.kernel import Kernel
from tinymoe.kernels.cpu.pages import TILE, tiled
from tinymoe.kernels.cpu.program import Program
from tinymoe.kernels.cpu.team import Team
from tinymoe.model import ops as definition
from tinymoe.model.attention import first_seen, read_pages


class CpuOps:
    """Ops that a team of threads runs. Arrays that are not contiguous float32 are copied."""

    def __init__(self, team: Team) -> None:
        self.team = team

    def rmsnorm(
        self,
        x: Array,
        weight: Array,
        eps: float,
        numerics: Numerics,
        *,
        rounds_before_weight: bool,
    ) -> Array:
        """`model.norm.rmsnorm`: x (..., N), weight (N,) or (heads, N)."""
        if numerics.accumulate == "float64":
            return definition.DEFINITION.rmsnorm(
                x, weight, eps, numerics, rounds_before_weight=rounds_before_weight
            )
        parts = weight.shape[0] if weight.ndim == 2 else 1
        rows, out = _given(x), np.empty(x.shape, np.float32)
        width = x.shape[-1]
        self._run(
            tokens_alone(rows.size // (parts * width)),
            norms.rmsnorm,
            x=rows,
            x_stride=parts * width,
            parts=parts,
            part_stride=width,
            width=width,
            weight=_given(weight),
            weight_stride=width,
            eps=float(eps),
            out=out,
            out_stride=parts * width,
            out_part_stride=width,
            rounding=numerics.storage == "bfloat16",
            rounds_before_weight=rounds_before_weight,
        )
        return out

    def rope(
        self, x: Array, tables: tuple[Array, Array], card: RopeCard, numerics: Numerics
    ) -> Array:
        """`model.rope.rope`: x (T, N, D), tables (T, 1, d/2) each."""
        if numerics.accumulate == "float64":
            return definition.DEFINITION.rope(x, tables, card, numerics)
        heads, out = _given(x), np.empty(x.shape, np.float32)
        cosine, sine = (_given(table) for table in tables)
        _, count, dim = x.shape
        self._run(
            tokens_alone(len(x)),
            turning.rope,
            x=heads,
            x_stride=count * dim,
            x_head=dim,
            out=out,
            out_stride=count * dim,
            out_head=dim,
            heads=count,
            dim=dim,
            rotary_dim=card.rotary_dim,
            interleaved=card.pairing == "interleaved",
            turns=np.array([cosine.ctypes.data, sine.ctypes.data], np.int64),
            rounding=numerics.storage == "bfloat16",
        )
        return out

    def attention_decode(
        self,
        q: Array,
        key_pages: Array,
        value_pages: Array,
        block_tables: list[Array],
        lengths: list[int],
        scale: float,
        numerics: Numerics,
        *,
        window: int | None = None,
        chunk: int | None = None,
        sinks: Array | None = None,
    ) -> Array:
        """`model.attention.attention_decode`: one new token of each sequence, (R, Nq, Dv)."""
        special = {"window": window, "chunk": chunk, "sinks": sinks}
        if numerics.accumulate == "float64":
            return definition.DEFINITION.attention_decode(
                q, key_pages, value_pages, block_tables, lengths, scale, numerics, **special
            )
        runs = tuple(
            Run(slice(r, r + 1), length - 1, (table,))
            for r, (table, length) in enumerate(zip(block_tables, lengths, strict=True))
        )
        positions = np.array(lengths, np.int64) - 1
        return self.look_back(
            q, (key_pages, value_pages), positions, runs, scale, numerics, special
        )

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
        """`model.attention.attention_prefill`: consecutive tokens of a sequence, (T, Nq, Dv)."""
        special = {"window": window, "chunk": chunk, "sinks": sinks}
        if numerics.accumulate == "float64":
            return definition.DEFINITION.attention_prefill(
                q, key_pages, value_pages, block_table, start, scale, numerics, **special
            )
        runs = (Run(slice(0, len(q)), start, (block_table,)),)
        positions = np.arange(start, start + len(q))
        return self.look_back(
            q, (key_pages, value_pages), positions, runs, scale, numerics, special
        )

    def look_back(
        self,
        q: Array,
        pages: tuple[Array, Array],
        positions: Array,
        runs: tuple[Run, ...],
        scale: float,
        numerics: Numerics,
        special: dict[str, Any],
    ) -> Array:
        """Any mix of runs at once: q (T, Nq, D), positions (T,) -> (T, Nq, Dv).

        special: "window", "chunk" and "sinks", each None where there is none.
        """
        tokens, heads, dim = q.shape
        kv_heads, value_dim = pages[0].shape[2], pages[1].shape[-1]
        keys, values, tables = _tiled(pages, positions, runs, special)
        out = np.empty((tokens, heads, value_dim), np.float32)
        batch = Batch(np.zeros(tokens, np.int64), positions, tables, np.zeros(0, np.int64))
        threads, longest = self.team.threads, int(positions.max(initial=0)) + 1
        room = kernels.record_rows(threads, heads, kv_heads, longest)
        named = {
            "q": _given(q),
            "q_stride": heads * dim,
            "heads": heads,
            "kv_heads": kv_heads,
            "dim": dim,
            "value_dim": value_dim,
            "key_pages": keys,
            "value_pages": values,
            "group": 0,
            "scale": float(scale),
            "window": special["window"],
            "chunk": special["chunk"],
            "sinks": None if special["sinks"] is None else _given(special["sinks"]),
            "out": out,
            "out_stride": heads * value_dim,
            "rounding": numerics.storage == "bfloat16",
            "records": aligned(room * int(row_bytes(value_dim)) // 4),
            "room": room,
            **kernels.helpers(keys.itemsize),
        }
        own = kernels.own_bytes(value_dim)
        self._run(batch, (kernels.attend, kernels.merge), pages=TILE, own=own, **named)
        return out

    def _run(
        self,
        batch: Batch,
        instructions: Any,
        *,
        pages: int = 1,
        own: int = 64,
        **named: Any,
    ) -> None:
        """A program of kernels that take the same arguments, as one step."""
        if isinstance(instructions, Kernel):
            instructions = (instructions,)
        threads = self.team.threads
        memory = aligned(-(-own // 64) * 16 * threads)
        header = Header(batch, 1, pages, memory, threads)
        program = Program()
        for instruction in instructions:
            program.add(instruction, **named)
        self.team.run(program.code, header.address)


def tokens_alone(count: int) -> Batch:
    """A batch of so many rows, numbered, of which nothing else is known."""
    numbers = np.arange(count)
    return Batch(numbers, numbers, (), numbers[:0])


def _given(x: Array) -> Array:
    """As kernels read it."""
    return np.ascontiguousarray(x, np.float32)


def _tiled(
    pages: tuple[Array, Array], positions: Array, runs: tuple[Run, ...], special: dict[str, Any]
) -> tuple[Array, Array, tuple[Run, ...]]:
    """What runs see of pages (pages, P, Nk, D), copied into tiles; runs with tables of these.

    A copy each time: who calls op by op has pages that the definition reads as well.
    """
    keys: list[Array] = []
    values: list[Array] = []
    tables: list[Run] = []
    count = 0
    for run in runs:
        (table,), last = run.pages, int(positions[run.rows.stop - 1]) + 1
        first = first_seen(run.start, special["window"], special["chunk"])
        seen = [read_pages(each, table, last, first) for each in pages]
        k, v = tiled(seen[0], seen[1], first)
        tiles = np.full(first // TILE, GONE)  # nobody reads these
        tables.append(run._replace(pages=(np.append(tiles, np.arange(count, count + len(k))),)))
        keys.append(k)
        values.append(v)
        count += len(k)
    return np.concatenate(keys), np.concatenate(values), tuple(tables)
