"""Attention kernels on the PTX machine: contracts, cuts of a prompt, latent vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels.model_kernels import ARCHES, keeps_contract, machine
from tinymoe.core import NUMERICS, Array, TinymoeError
from tinymoe.kernels.contracts import contract
from tinymoe.kernels.cuda.ops_attention import AttentionOps
from tinymoe.model.attention import first_seen

pytestmark = pytest.mark.kernels
FP32 = NUMERICS["fp32"]
Case = dict[str, Any]


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("op", ["attention_decode", "attention_prefill"])
def test_fast_kernels_keep_their_contract(op: str, arch: str) -> None:
    keeps_contract(op, getattr(AttentionOps(machine(arch)), op), 30 if arch == "80" else 10)


def test_the_naive_kernel_keeps_its_contract() -> None:
    naive = AttentionOps(machine("80"), "naive")
    keeps_contract("attention_decode", naive.attention_decode, 10)
    keeps_contract("attention_prefill", naive.attention_prefill, 5)


def paged(
    length: int, kv_heads: int, size: int, value_size: int, page_size: int = 16, first: int = 0
) -> Case:
    """One sequence in scrambled pages; what is before `first` and past its end is NaN."""
    rng, pages = np.random.default_rng(length), -(-length // page_size)
    table = rng.permutation(pages + 1)[:pages].astype(np.int64)
    keys = np.full((pages + 1, page_size, kv_heads, size), np.nan, np.float32)
    values = np.full((pages + 1, page_size, kv_heads, value_size), np.nan, np.float32)
    for position in range(first, length):
        at = (table[position // page_size], position % page_size)
        keys[at] = rng.normal(size=(kv_heads, size))
        values[at] = rng.normal(size=(kv_heads, value_size))
    return {"key_pages": keys, "value_pages": values, "block_table": table}


def queries(tokens: int, heads: int, size: int) -> Array:
    return np.random.default_rng(9).normal(size=(tokens, heads, size)).astype(np.float32)


def one_by_one(ops: AttentionOps, case: Case) -> Array:
    """The same tokens, each as a decode of its own."""
    given = {k: v for k, v in case.items() if k not in ("q", "block_table", "start")}
    return np.concatenate(
        [
            ops.attention_decode(
                q=case["q"][t : t + 1],
                block_tables=[case["block_table"]],
                lengths=[case["start"] + t + 1],
                **given,
            )
            for t in range(len(case["q"]))
        ]
    )


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "value_size", "seen"),
    [
        (6, 2, 24, 24, {}),  # three query heads a key head: 8 warps hold parts of three tokens
        (4, 4, 40, 50, {"window": 33}),  # just over a tile, so both its ends move through one
        (5, 1, 100, 7, {"chunk": 24}),
        (2, 1, 200, 129, {"window": 20, "chunk": 48}),
    ],
)
def test_a_prompt_may_be_cut_anywhere(
    arch: str, heads: int, kv_heads: int, size: int, value_size: int, seen: dict[str, int]
) -> None:
    # vllm#26042: chunked prefill cost 28 points of GSM8K. Here every cut gives the same bits
    ops, start, tokens = AttentionOps(machine(arch)), 61, 13
    first = first_seen(start, seen.get("window"), seen.get("chunk"))
    case = {
        **paged(start + tokens, kv_heads, size, value_size, first=first),
        **seen,
        "q": queries(tokens, heads, size),
        "sinks": queries(1, heads, 1).reshape(-1),
        "start": start,
        "scale": size**-0.5,
        "numerics": FP32,
    }
    contract("attention_prefill").judge(ops.attention_prefill, case)
    whole = ops.attention_prefill(**case)
    assert whole.tobytes() == one_by_one(ops, case).tobytes()
    rest = ops.attention_prefill(**{**case, "q": case["q"][5:], "start": start + 5})
    assert whole[5:].tobytes() == rest.tobytes()


def latent_case(length: int, tokens: int, heads: int, rank: int, rope: int) -> Case:
    """Values are the first `rank` numbers of the keys: a view, as the cache has it."""
    pages = paged(length, 1, rank + rope, rank)
    pages["value_pages"] = pages["key_pages"][..., :rank]
    return {
        **pages,
        "q": queries(tokens, heads, rank + rope),
        "start": length - tokens,
        "scale": 0.1,
        "numerics": FP32,
    }


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize(
    ("length", "heads", "rank", "rope"),
    [(1, 1, 8, 4), (17, 10, 33, 5), (40, 3, 512, 64)],  # the last: DeepSeek's sizes
)
def test_latent_vectors_are_keys_and_values(
    arch: str, length: int, heads: int, rank: int, rope: int
) -> None:
    ops, tokens = AttentionOps(machine(arch)), min(2, length)
    case = latent_case(length, tokens, heads, rank, rope)
    got = ops.attention_prefill(**case)
    contract("attention_prefill").check(case, got)
    assert got.tobytes() == one_by_one(ops, case).tobytes()


def test_values_that_lie_elsewhere_are_not_taken_for_a_part_of_the_keys() -> None:
    # same shapes, same strides, another array: the kernel must read the one it was given
    ops, case = AttentionOps(machine("80")), latent_case(20, 1, 2, 8, 4)
    case["value_pages"] = (case["key_pages"] * 2)[..., :8]
    contract("attention_prefill").check(case, ops.attention_prefill(**case))


def test_heads_that_do_not_fit_are_refused() -> None:
    case = {**paged(3, 2, 260, 260), "q": queries(1, 2, 260), "start": 2, "scale": 1.0}
    with pytest.raises(TinymoeError, match="heads of up to 256 numbers.*got keys of 260"):
        AttentionOps(machine("80")).attention_prefill(**case, numerics=FP32)
