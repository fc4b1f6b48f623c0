"""The Numba-CUDA twins on the PTX machine: the contracts, and the results of CUDA C."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels.model_kernels import keeps_contract
from tests.kernels.test_cuda_permute import many
from tests.kernels.test_cuda_routing import CASES, card_and_bias, device, grown
from tinymoe.core import NUMERICS, TinymoeError
from tinymoe.kernels.cuda import gemm_numba
from tinymoe.kernels.cuda.numba_launch import numba_kernel, numba_launch
from tinymoe.kernels.cuda.ops_numba import NumbaOps
from tinymoe.kernels.cuda.ops_routing import RoutingOps

pytestmark = pytest.mark.kernels
FP32 = NUMERICS["fp32"]


def stores_float32(case: dict[str, Any]) -> bool:
    if case.get("numerics", FP32).storage != "float32":
        return False
    # one thread a token sorts K weights: a long chain where all of 512 experts are chosen
    return "card" not in case or case["card"].experts * case["card"].top_k <= 2048


@pytest.mark.parametrize("op", ["linear", "route", "permute", "combine"])
def test_twins_keep_the_contracts(op: str) -> None:
    keeps_contract(op, getattr(NumbaOps(device("80")), op), 8, stores_float32)


@pytest.mark.parametrize("case", CASES)
def test_the_router_in_python_and_in_cuda_c_choose_alike(case: str) -> None:
    card, _ = card_and_bias(case)
    card = grown(card, 32)
    rng = np.random.default_rng(CASES.index(case))
    logits = rng.normal(size=(3, 32)).astype("f4")
    logits[0], logits[1] = np.round(logits[0]), np.nan
    bias = rng.normal(size=32).astype("f4") if card.selection_bias else None
    python = NumbaOps(device("80")).route_logits(logits, bias, card)
    c = RoutingOps(device("80")).route_logits(logits, bias, card)
    assert python.ids.tolist() == c.ids.tolist()
    # both are within the contract's bound of the exact weights; this one is for reading: a few
    # roundings of the sum over K and of e^x, relative
    np.testing.assert_allclose(python.weights, c.weights, rtol=(card.top_k + 32) * 2.0**-24)


def test_permutation_in_python_and_in_cuda_c() -> None:
    ids = many(300)
    python, c = NumbaOps(device("80")).permute(ids, 300), RoutingOps(device("80")).permute(ids, 300)
    assert all(np.array_equal(a, b) for a, b in zip(python, c, strict=True))
    with pytest.raises(TinymoeError, match="512 experts in shared memory, got 513"):
        NumbaOps(device("80")).permute(ids, 513)


@pytest.mark.parametrize("shape", [(1, 1, 1), (17, 33, 20), (16, 16, 16), (3, 40, 47)])
def test_the_tiled_product_has_the_bits_of_the_plain_one(shape: tuple[int, int, int]) -> None:
    # a lost tail of tokens, columns or the sum shows as other numbers, a wild one as a defect
    tokens, outs, width = shape
    rng = np.random.default_rng(0)
    x, weight = (rng.normal(size=s).astype("f4") for s in ((tokens, width), (outs, width)))
    tiled = NumbaOps(device("80")).linear(x, weight, FP32)
    plain = device("80").empty((tokens, outs), np.float32)
    kernel = numba_kernel(device("80"), gemm_numba.gemm, *["f32[:,:]"] * 3)
    numba_launch(kernel, (-(-outs // 16), -(-tokens // 16)), (16, 16), [plain, x, weight])
    assert plain.tobytes() == tiled.tobytes()


def test_other_storage_is_refused() -> None:
    with pytest.raises(TinymoeError, match="store float32, numerics 'bf16' bfloat16"):
        NumbaOps(device("80")).linear(np.ones((1, 1)), np.ones((1, 1)), NUMERICS["bf16"])
