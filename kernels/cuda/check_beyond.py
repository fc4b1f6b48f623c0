"""What `conform --device` runs beyond the op table: kernels that no row of it asks for.

Latent attention, whose values are a view of its keys, which no drawn case can say; the draw by
Gumbel noise; and a layer of a decode step, whose small kernels have no row of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinymoe.core import NUMERICS, Array
from tinymoe.kernels import checks
from tinymoe.kernels.contract import Case, Contract, Implementation
from tinymoe.kernels.contracts import contract
from tinymoe.kernels.cuda import check_layer
from tinymoe.kernels.cuda.check_case import drawn
from tinymoe.kernels.cuda.check_sizes import LENGTH, normal, pages, sizes
from tinymoe.kernels.cuda.ops_attention import AttentionOps
from tinymoe.kernels.cuda.ops_sample import SampleOps
from tinymoe.kernels.cuda.table import KERNELS, Rung, on
from tinymoe.kernels.cuda.timed_devices import Timed
from tinymoe.kernels.gumbel import gumbel_draw, noise


@dataclass(frozen=True, slots=True)
class Beyond:
    """The two ops on one device."""

    device: Timed

    def latent_attention(self, rank: int, key_pages: Array, **case: Any) -> Any:
        """`attention_prefill`, values being the first `rank` numbers of each key."""
        values = key_pages[..., :rank]
        ops = AttentionOps(self.device)
        return ops.attention_prefill(key_pages=key_pages, value_pages=values, **case)

    def gumbel_draw(self, logits: Array, seeds: Array, steps: Array) -> Any:
        """A token for each row of logits (R, V)."""
        return SampleOps(self.device).gumbel(logits, seeds, steps)


def check_latent(case: Case, got: Any) -> None:
    """As prefill's."""
    given = {name: value for name, value in case.items() if name != "rank"}
    values = case["key_pages"][..., : case["rank"]]
    checks.check_attention_prefill({**given, "value_pages": values}, got)


def check_gumbel(case: Case, got: Any) -> None:
    """The token of the definition, but where two are closer than float32 can tell.

    `logf` is within one unit in its last place (2 u) of log u; that error, relative to log u, is
    absolute in the outer logarithm, which adds one of its own, and the sum a rounding: 2 u + 2 u
    |noise| + u |score|, for the token and for its rival.
    """
    u, rows = 2.0**-24, zip(case["logits"], case["seeds"], case["steps"], got, strict=True)
    for logits, seed, step, token in rows:
        scores = logits.astype(np.float64) + noise(int(seed), int(step), len(logits))
        bound = 2 * (2 * u + 3 * u * (np.abs(logits).max() + 17))  # noise is below 17
        assert scores[token] >= scores.max() - bound, (
            f"gumbel_draw: drew {token}, expected {gumbel_draw(logits, int(seed), int(step))}"
        )


ROWS = {
    "latent_attention": Contract(
        name="latent_attention",
        signature="rank, and attention_prefill's but value_pages -> (T, Nq, rank)",
        exactness="derived bound",
        promise="attention_prefill whose values are the first `rank` numbers of each key",
        check=check_latent,
        implementations={},
    ),
    "gumbel_draw": Contract(
        name="gumbel_draw",
        signature="logits (R, V) float32, seeds (R,), steps (R,) uint64 -> tokens (R,)",
        exactness="derived bound",
        promise="the token of kernels/gumbel.py, but for ties within rounding",
        check=check_gumbel,
        implementations={},
    ),
    "decode_layer": Contract(
        name="decode_layer",
        signature="rows, seed -> the step's hidden states and the ops' (R, H)",
        exactness="exact",
        promise="a recorded layer has the bits of its ops",
        check=check_layer.check,
        implementations={},
    ),
}


def _beyond(device: Any, rung: str) -> Any:
    return Beyond(device)


RUNGS = {
    "latent_attention": {"fast": Rung(_beyond, "attention_latent.cu")},
    "gumbel_draw": {"fast": Rung(_beyond, "sample.cu")},
    "decode_layer": {
        rung: Rung(
            check_layer.LayerSteps,
            "linear.cu rmsnorm.cu rope.cu write_pages.cu attention_decode.cu rows.cu route.cu "
            "permute.cu expert_ffn.cu combine.cu",
        )
        for rung in ("launches", "graph")
    },
}
SUITE = {**KERNELS, **RUNGS}  # everything that is run, by op and rung


def row_of(op: str) -> Contract:
    """What an op of the suite owes."""
    return ROWS[op] if op in ROWS else contract(op)


def suite_on(op: str, device: Timed) -> dict[str, Implementation]:
    """As `table.on`, for the whole suite."""
    if op not in RUNGS:
        return on(op, device)
    return {name: getattr(rung.make(device, name), op) for name, rung in RUNGS[op].items()}


def inputs_of(op: str, rung: str, cases: int, seed: int) -> list[Case]:
    """Drawn cases and those of certain sizes. The same call gives the same ones."""
    if op in BEYOND_CASES:
        return BEYOND_CASES[op](np.random.default_rng(seed))
    return drawn(contract(op), cases, seed, KERNELS[op][rung].takes) + sizes(op, rung)


def _latent(rng: np.random.Generator) -> list[Case]:
    """A small one, and DeepSeek's sizes."""
    found = []
    for rank, rope, heads in ((8, 4, 3), (512, 64, 2)):
        given = pages(rng, rank + rope)
        del given["value_pages"]
        q = normal(rng, 2, heads, rank + rope)
        more = {"rank": rank, "start": LENGTH - 2, "scale": 0.1, "numerics": NUMERICS["fp32"]}
        found.append({"q": q, **given, **more})
    return found


def _gumbel(rng: np.random.Generator) -> list[Case]:
    """A vocabulary below a warp's width, and one above a block's."""
    return [
        {
            "logits": normal(rng, 4, vocabulary),
            "seeds": rng.integers(0, 2**64, 4, np.uint64),
            "steps": rng.integers(0, 2**40, 4, np.uint64),
        }
        for vocabulary in (7, 300)
    ]


def _layers(rng: np.random.Generator) -> list[Case]:
    """One sequence, and nine: more than a tile of rows."""
    return [{"rows": rows, "seed": int(rng.integers(2**31))} for rows in (1, 9)]


BEYOND_CASES: dict[str, Callable[[np.random.Generator], list[Case]]] = {
    "latent_attention": _latent,
    "gumbel_draw": _gumbel,
    "decode_layer": _layers,
}
