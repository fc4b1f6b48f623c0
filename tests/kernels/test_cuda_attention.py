"""Attention kernels on the PTX machine: contracts, cuts of a prompt, latent vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels.model_kernels import ARCHES, keeps_contract, machine, reaches_everything
from tinymoe.core import NUMERICS, Array, TinymoeError
from tinymoe.kernels.contracts import contract
from tinymoe.kernels.cuda.ops_attention import AttentionOps
from tinymoe.model.attention import first_seen
from tinymoe.model.precision import store

pytestmark = pytest.mark.kernels
FP32, BF16 = NUMERICS["fp32"], NUMERICS["bf16"]
Case = dict[str, Any]
COVERED = ("attention_decode", "attention_prefill", "attention_latent")


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("op", ["attention_decode", "attention_prefill"])
def test_fast_kernels_keep_their_contract(op: str, arch: str) -> None:
    keeps_contract(op, getattr(AttentionOps(machine(arch)), op), 20 if arch == "80" else 6)


@pytest.mark.parametrize("arch", ARCHES)
def test_the_naive_kernel_keeps_its_contract(arch: str) -> None:
    naive = AttentionOps(machine(arch), "naive")
    keeps_contract("attention_decode", naive.attention_decode, 12)
    keeps_contract("attention_prefill", naive.attention_prefill, 3)


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
    given = {k: v for k, v in case.items() if k not in ("block_table", "start")}
    tokens = range(len(case["q"]))
    return ops.attention_decode(
        block_tables=[case["block_table"] for _ in tokens],
        lengths=[case["start"] + t + 1 for t in tokens],
        **given,
    )


# heads, key heads, D, Dv, start, sight: three query heads a key head, so that the 8 warps of a
# block hold parts of three tokens; windows just over a tile, whose both ends move through one
PROMPTS = [
    (heads, kv_heads, size, value_size, start, seen)
    for heads, kv_heads, size, value_size in (
        (6, 2, 24, 24),
        (4, 4, 40, 50),
        (5, 1, 100, 128),
        (2, 1, 256, 250),
    )
    for start, seen in ((30, {}), (61, {"window": 33}), (61, {"window": 20, "chunk": 24}))
]


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize(("heads", "kv_heads", "size", "value_size", "start", "seen"), PROMPTS)
def test_a_prompt_may_be_cut_anywhere(
    arch: str,
    heads: int,
    kv_heads: int,
    size: int,
    value_size: int,
    start: int,
    seen: dict[str, int],
) -> None:
    # vllm#26042: chunked prefill cost 28 points of GSM8K. Here every cut gives the same bits
    ops, tokens = AttentionOps(machine(arch)), 3
    first = first_seen(start, seen.get("window"), seen.get("chunk"))
    case = {
        **paged(start + tokens, kv_heads, size, value_size, first=first),
        **seen,
        "q": queries(tokens, heads, size),
        "start": start,
        "scale": size**-0.5,
        "numerics": BF16 if len(seen) == 1 else FP32,
    }
    if seen:
        case["sinks"] = queries(1, heads, 1).reshape(-1)
    if case["numerics"] is BF16:
        for name in ("q", "key_pages", "value_pages", "sinks"):
            case[name] = store(case[name], "bfloat16")
    contract("attention_prefill").judge(ops.attention_prefill, case)
    whole = ops.attention_prefill(**case)
    assert whole.tobytes() == one_by_one(ops, case).tobytes()
    rest = ops.attention_prefill(**{**case, "q": case["q"][1:], "start": start + 1})
    assert whole[1:].tobytes() == rest.tobytes()


# the last but one: DeepSeek's sizes; the last: as long as the kernel takes
LATENT = [(1, 1, 8, 4), (17, 10, 33, 5), (40, 3, 512, 64), (18, 1, 575, 1)]


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
@pytest.mark.parametrize(("length", "heads", "rank", "rope"), LATENT)
def test_latent_vectors_are_keys_and_values(
    arch: str, length: int, heads: int, rank: int, rope: int
) -> None:
    ops, tokens = AttentionOps(machine(arch)), min(2, length)
    case = latent_case(length, tokens, heads, rank, rope)
    got = ops.attention_prefill(**case)
    contract("attention_prefill").check(case, got)
    assert got.tobytes() == one_by_one(ops, case).tobytes()
    for name in ("q", "key_pages"):
        case[name] = store(case[name], "bfloat16")
    case |= {"numerics": BF16, "value_pages": case["key_pages"][..., :rank]}
    contract("attention_prefill").check(case, ops.attention_prefill(**case))


def test_values_that_lie_elsewhere_are_not_taken_for_a_part_of_the_keys() -> None:
    # same shapes, same strides, another array: the kernel must read the one it was given
    ops, case = AttentionOps(machine("80")), latent_case(20, 1, 2, 8, 4)
    case["value_pages"] = (case["key_pages"] * 2)[..., :8]
    contract("attention_prefill").check(case, ops.attention_prefill(**case))


def test_heads_that_do_not_fit_are_refused() -> None:
    case = {**paged(3, 2, 260, 260), "q": queries(1, 2, 260), "start": 2, "scale": 1.0}
    with pytest.raises(TinymoeError, match="heads of up to 256 numbers.*got keys of 260"):
        AttentionOps(machine("80")).attention_prefill(**case, numerics=FP32)


@pytest.mark.parametrize("arch", ARCHES)
def test_the_examples_reach_every_instruction(arch: str) -> None:
    ops = ("attention_decode", "attention_prefill")
    reaches_everything(
        arch,
        COVERED,
        [
            *(lambda a, op=op: test_fast_kernels_keep_their_contract(op, a) for op in ops),
            test_the_naive_kernel_keeps_its_contract,
            *(lambda a, p=p: test_a_prompt_may_be_cut_anywhere(a, *p) for p in PROMPTS),
            *(lambda a, p=p: test_latent_vectors_are_keys_and_values(a, *p) for p in LATENT),
        ],
    )
