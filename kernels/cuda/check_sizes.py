"""Cases that drawn ones do not come to: sizes for which a kernel has an entry of its own.

Drawn cases are small, and draw a convention or a head's size now and then. Who has a GPU once wants
every entry launched once: so each rung also gets these. Values are normal ones; the hard values are
in the strategies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tinymoe.core import NUMERICS, Array
from tinymoe.families.common import softmax_router
from tinymoe.formats import bf16, nvfp4
from tinymoe.formats.conventions import FP8, MXFP4, NVFP4
from tinymoe.kernels.contract import Case

FP32 = NUMERICS["fp32"]
PAGE, LENGTH = 16, 40  # of a page; keys of a sequence, which end within a page
PLAIN = replace(
    softmax_router(8, 2), renormalise=True, logits_dtype="float32", bias_dtype="float32"
)


def sizes(op: str, rung: str) -> list[Case]:
    """The cases, arguments by name; the same ones in every run."""
    if rung == "naive" and op.startswith("attention"):
        return []  # one kernel for all sizes of heads, and seconds a case on the PTX machine
    made = {
        "attention_decode": decode,
        "attention_prefill": prefill,
        "route": route,
        "combine": combine,
        "quantize_nvfp4": to_nvfp4,
        "quantize_mxfp4": to_mxfp4,
        "quantize_fp8": to_fp8,
    }.get(op)
    return list(made(np.random.default_rng(len(op)))) if made else []


def normal(rng: np.random.Generator, *shape: int) -> Array:
    """Float32."""
    return rng.normal(size=shape).astype(np.float32)


def pages(rng: np.random.Generator, size: int) -> Case:
    """A sequence of `LENGTH` keys and values in scrambled pages; the slots past its end are NaN."""
    count = -(-LENGTH // PAGE)
    table = rng.permutation(count).astype(np.int64)
    both = normal(rng, 2, count, PAGE, 1, size)
    both[:, table[-1], LENGTH % PAGE :] = np.nan
    return {"key_pages": both[0], "value_pages": both[1], "block_table": table}


def decode(rng: np.random.Generator) -> Iterator[Case]:
    """A head of each size that has a kernel."""
    for size in (64, 128, 256):
        made = pages(rng, size)
        where = {"block_tables": [made.pop("block_table")], "lengths": [LENGTH]}
        more = {"scale": size**-0.5, "numerics": FP32}
        yield {"q": normal(rng, 1, 2, size), **made, **where, **more}


def prefill(rng: np.random.Generator) -> Iterator[Case]:
    """As `decode`, the last three tokens of a prompt."""
    for size in (64, 128, 256):
        more = {"start": LENGTH - 3, "scale": size**-0.5, "numerics": FP32}
        yield {"q": normal(rng, 3, 2, size), **pages(rng, size), **more}


def route(rng: np.random.Generator) -> Iterator[Case]:
    """512 experts in groups, as of DeepSeek's size; more experts than a warp's registers hold."""
    limited: dict[str, Any] = {"groups": 8, "groups_kept": 4, "group_score": "top2_sum"}
    limited |= {"dropped_group": "-inf", "score": "sigmoid", "selection_bias": True}
    for experts, more in ((512, limited), (600, {})):
        card = replace(PLAIN, experts=experts, top_k=8, **more)
        yield {
            "x": normal(rng, 2, 32),
            "weight": normal(rng, experts, 32),
            "bias": normal(rng, experts) if card.selection_bias else None,
            "card": card,
            "numerics": FP32,
        }


def combine(rng: np.random.Generator) -> Iterator[Case]:
    """A width for loads of 16 bytes."""
    weights = rng.random((5, 8)).astype(np.float32)
    yield {"expert_out": normal(rng, 5, 8, 64), "weights": weights, "numerics": FP32}


def to_nvfp4(rng: np.random.Generator) -> Iterator[Case]:
    """Each convention under the tensor's own scale."""
    for convention in NVFP4:
        x = normal(rng, 16, 64)
        amax = float(np.abs(x).max())
        scale = nvfp4.tensor_scale(amax, convention=convention, source="float32")
        yield {
            "x": x,
            "tensor_scale": None if scale is None else float(scale),
            "convention": convention,
            "source": "float32",
        }


def to_mxfp4(rng: np.random.Generator) -> Iterator[Case]:
    """Each convention; BF16 values, which all of them take."""
    for convention in MXFP4:
        yield {"x": bf16.round_to_bf16(normal(rng, 4, 64)), "convention": convention}


def to_fp8(rng: np.random.Generator) -> Iterator[Case]:
    """Each convention, a scale a row."""
    for convention in FP8:
        yield {
            "x": bf16.round_to_bf16(normal(rng, 3, 130)),
            "convention": convention,
            "granularity": "channel",
            "source": "bfloat16",
            "power_of_two": "no",
        }
